"""What a potential predicts: the heads of energy and forces, fitted to training frames.

The energy is a sum over atoms. What each species accounts for is found by least squares
on the training frames, or given, and subtracted in double precision (`heads.fit`). What
remains is in multiples of the root mean square of the force components, the protocol of
Batzner et al. 2022, arXiv 2101.03164, or of the energy's own deviation per atom.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from demetar import elements, heads
from demetar.data import potentials
from demetar.data.dataset import Dataset
from demetar.data.frames import Frames
from demetar.data.potentials import ENERGY, FORCES, Sets
from demetar.errors import UserError
from demetar.settings import DATA, NOT_NEGATIVE, TRAINING, setting
from demetar.types import ERRORS, Head, TaskSpec

UNIT = "meV"  # of energies; forces are in this per Å
MEV = 1e-3  # in eV
MODES = ("conservative", "direct")
SCALES = ("forces", "energy")
_MOST_LEFT = 30.0  # eV per atom; bonds are some 5


@dataclasses.dataclass(frozen=True)
class Settings(potentials.Settings):
    """What is read of the frames, and what is predicted and trained on."""

    forces: str = setting(
        "conservative",
        "conservative: minus the gradient of the energy; direct: vectors that the "
        "model predicts beside it.",
        DATA,
        choices=MODES,
    )
    energy_scale: str = setting(
        "forces",
        "In what the energy is measured while training: the root mean square of the "
        "force components, or the mean deviation of the energy per atom.",
        DATA,
        choices=SCALES,
    )
    offsets: str = setting(
        "species",
        "What is subtracted of the energies beforehand: a number per species, or the "
        "mean, either by the training frames.",
        DATA,
        choices=heads.OFFSETS,
    )
    reference_energies: tuple[str, ...] = setting(
        (),
        "SYMBOL=eV, what is subtracted for each atom of an element in place of what "
        "the training frames say; for all elements of the frames or none.",
        DATA,
        repeatable=True,
    )
    energy_weight: float = setting(
        0.02, "Weight of the energies in the loss.", TRAINING, NOT_NEGATIVE
    )
    force_weight: float = setting(
        1.0, "Weight of the forces in the loss.", TRAINING, NOT_NEGATIVE
    )
    training_error: str = setting(
        "squared",
        "What is trained on: squared or absolute errors, in multiples of the scales.",
        TRAINING,
        choices=ERRORS,
    )


def load(name: str, sets: Sets, settings: Settings) -> Dataset:
    """The data set of some frames, whose heads know what the training frames say.

    Args:
      name: of the data set.
      sets: of `potentials.load`.
      settings: of the same.

    Raises:
      UserError: of `fit`, or of `potentials.assemble`.
    """
    train = sets.parts["train"]
    made = potentials.make_task(name, make_heads(settings), train, settings.cutoff)
    task = fit(made, train, settings)
    task = dataclasses.replace(task, judged_by=judge(settings))
    return potentials.assemble(sets, task, settings, _identity(settings))


def make_heads(settings: Settings) -> tuple[Head, Head]:
    """Energy and forces, of which nothing is known yet.

    Raises:
      UserError: neither has a weight.
    """
    if not settings.energy_weight + settings.force_weight:
        raise UserError(
            "expected --energy_weight or --force_weight above 0, found both at 0"
        )
    shared: dict[str, Any] = {
        "error": "absolute",
        "training_error": settings.training_error,
    }
    energy = Head(
        *(ENERGY, "graph_scalar"),
        unit=UNIT,
        extensive=True,
        weight=settings.energy_weight,
        **shared,
    )
    forces = Head(
        *(FORCES, "node_vector"),
        unit=f"{UNIT}/Å",
        gradient_of=ENERGY if settings.forces == "conservative" else "",
        weight=settings.force_weight,
        **shared,
    )
    return energy, forces


def judge(settings: Settings) -> str:
    """The head whose error selects the best epoch: the forces, if they are trained."""
    return FORCES if settings.force_weight else ENERGY


def fit(task: TaskSpec, train: Frames, settings: Settings) -> TaskSpec:
    """The task whose heads know their offsets and scales by the training frames.

    Raises:
      UserError: all forces are zero, or the references are malformed, incomplete or
        far from what the energies say.
    """
    energy, forces = task.heads
    counts = composition(task, train)
    fitted = heads.fit(energy, train.energies / MEV, counts, settings.offsets)
    if settings.reference_energies:
        if settings.offsets != "species":
            raise UserError(
                "expected --reference_energies or --offsets=mean, found both; leave "
                "one out"
            )
        offsets = references(task, settings.reference_energies)
        fitted = dataclasses.replace(fitted, mean=0.0, offsets=offsets, unknown=())
        _check_references(fitted, train, counts)
    size = float(np.sqrt(np.mean(np.square(train.forces)))) / MEV
    if not size:
        raise UserError(
            "expected forces of the training frames that are not all zero, found zeros "
            "alone; give data with forces"
        )
    if settings.energy_scale == "forces":
        fitted = dataclasses.replace(fitted, scale=size)
    forces = dataclasses.replace(forces, scale=size)
    return dataclasses.replace(task, heads=(fitted, forces))


def composition(task: TaskSpec, frames: Frames) -> np.ndarray:
    """Number of atoms of each species in each frame, [F, Z] float64."""
    frame = np.repeat(np.arange(len(frames)), frames.n_node)
    columns = [
        np.bincount(frame[frames.numbers == elements.NUMBERS[name]], None, len(frames))
        for name in task.species
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def references(task: TaskSpec, given: tuple[str, ...]) -> tuple[float, ...]:
    """Energies of the atoms in the unit of the task, in the order of its species.

    Raises:
      UserError: one is malformed, or of no element, or an element has none.
    """
    found: dict[str, float] = {}
    for text in given:
        symbol, _, number = text.partition("=")
        if symbol in found:
            raise UserError(
                f"expected one of --reference_energies per element, found {symbol} "
                "twice; leave one out"
            )
        try:
            found[symbol] = float(number) / MEV
        except ValueError:
            found[symbol] = np.nan
        if symbol not in elements.NUMBERS or not np.isfinite(found[symbol]):
            raise UserError(
                f"expected --reference_energies=SYMBOL=eV, as H=-13.6, found {text!r}"
            )
    others = [name for name in found if name not in task.species]
    if others:
        raise UserError(
            f"expected --reference_energies of the elements of the training frames, "
            f"{', '.join(task.species)}, found those of {', '.join(others)} too; leave "
            "them out"
        )
    missing = [name for name in task.species if name not in found]
    if missing:
        raise UserError(
            f"expected --reference_energies of {', '.join(task.species)}, found none "
            f"of {', '.join(missing)}"
        )
    return tuple(found[name] for name in task.species)


def _check_references(head: Head, train: Frames, counts: np.ndarray) -> None:
    """Refuse references that leave more of the energies than bonds account for.

    Raises:
      UserError: they do.
    """
    values = train.energies[:, None] / MEV
    left = heads.residual(head, values, counts)[:, 0] * MEV / counts.sum(axis=1)
    typical = float(np.median(left))
    if abs(typical) > _MOST_LEFT:
        raise UserError(
            f"expected --reference_energies in eV that leave at most {_MOST_LEFT:g} eV "
            f"per atom of the energies, found ones that leave {typical:.4g} eV; they "
            "may be in another unit, or of another method than the energies"
        )


def _identity(settings: Settings) -> dict[str, Any]:
    """How the heads came to know what they know."""
    return {
        name: getattr(settings, name)
        for name in ("energy_scale", "offsets", "reference_energies")
    }
