"""A trained model as an interatomic potential: energies in eV, forces in eV/Å.

    import demetar
    from ase.build import molecule

    atoms = molecule("CH3CH2OH")
    atoms.calc = demetar.calculator("runs/xtb_ethanol/nequip")
    atoms.get_potential_energy(), atoms.get_forces()

Molecular dynamics, relaxation and vibrations call it once per step. It compiles as
`Predictor` does, in few fixed shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from demetar import committees, models
from demetar.data.potentials import ENERGY, FORCES, LENGTH_UNIT, unit_of
from demetar.errors import UserError
from demetar.predict import Function, Predictor
from demetar.types import Head, TaskSpec

# `engine(positions)` of [n, 3] in Å gives an energy in eV and forces [n, 3] in eV/Å.
Engine = Callable[[np.ndarray], tuple[float, np.ndarray]]


def calculator(
    run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    seed: int | str | None = None,
    dtype: str | None = None,
) -> Any:
    """A trained potential as a calculator of ASE: energies in eV, forces in eV/Å.

    A step of dynamics compiles nothing, unless it has more pairs within the cutoff
    than the largest shape so far has room for.

    Args:
      run, seed, dtype: of `demetar.load`, or runs as of `demetar.committee`. For
        relaxation and vibrations take 'float64'.

    Returns:
      An `ase.calculators.calculator.Calculator`.

    Raises:
      UserError: ASE is not installed, there is no such file, model or seed, the model
        has no energy and forces, or its energy jumps as atoms come and go. When it is
        called: an element is unknown, or a cell is periodic.
    """
    from demetar import ase  # an optional dependency

    runs = [run] if isinstance(run, str | os.PathLike) else run
    return ase.Calculator(Potential(committees.load(runs, seed, dtype)))


class Potential:
    """Energies and forces of molecules by a trained model.

    Args:
      model: with a head 'energy' and forces, as `experiments.potential` trains it, or a
        committee of such.

    Attributes:
      model: the same.
      is_conservative: whether forces are the gradient of the energy.

    Raises:
      UserError: the model has no energy or no forces or reads no positions, its lengths
        are not in Å, or its energy jumps as atoms come and go.
    """

    def __init__(self, model: Function):
        self.model = model
        self._energy, self._forces = heads_of(model.task)
        own = [heads_of(member.task)[1] for member in model.members]
        self.is_conservative = all(forces.gradient_of for forces in own)
        self._units = [unit_of(head) for head in (self._energy, self._forces)]
        for member in model.members:
            if not models.has_forces(member.model):
                raise UserError(
                    f"{member.model} reads no positions, so it has no forces; train "
                    "another model with: python -m experiments.potential"
                )
        if model.task.length_unit != LENGTH_UNIT:
            raise UserError(
                f"expected a model of lengths in {LENGTH_UNIT}, found "
                f"{model.task.length_unit or 'no unit'}"
            )
        for member in model.members:
            check_smooth(member)

    def __call__(self, numbers: Any, positions: Any) -> tuple[float, np.ndarray]:
        """The energy in eV, and forces [n, 3] in eV/Å.

        Args:
          numbers: [n] atomic numbers or symbols.
          positions: [n, 3] in Å.

        Raises:
          UserError: the model does not know an element, or a position is not finite.
        """
        found = self.model(positions=positions, species=numbers)
        energy, forces = self._units
        return (
            energy * float(found[self._energy.name]),
            forces * np.asarray(found[self._forces.name]),
        )

    def engine(self, numbers: np.ndarray) -> Engine:
        """The same of one molecule, as a function of its positions alone."""
        return lambda positions: self(numbers, positions)


def heads_of(task: TaskSpec) -> tuple[Head, Head]:
    """The heads of energy and forces.

    Raises:
      UserError: one is missing.
    """
    known = {head.name: head for head in task.heads}
    forces, energy = known.get(FORCES), known.get(ENERGY)
    if forces is None or energy is None:
        raise UserError(
            f"expected a model with the heads {ENERGY} and {FORCES}, found "
            f"{', '.join(known)}; train one with: python -m experiments.potential"
        )
    return energy, forces


def check_smooth(model: Predictor) -> None:
    """Make sure that the energy has no jump as atoms come and go.

    Raises:
      UserError: it has.
    """
    joined = model.task.connectivity
    fades = models.model_class(model.model).fades(model.fields)
    if joined == "complete" or (model.task.cutoff is not None and fades):
        return
    fading = [name for name, cls in models.REGISTRY.items() if cls.fades({})]
    raise UserError(
        f"the energy of {model.model} on graphs of connectivity {joined!r} jumps as "
        "atoms come and go, so that dynamics would not conserve it; train on complete "
        f"graphs (without --cutoff), or one of {', '.join(fading)}"
    )
