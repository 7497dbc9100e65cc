"""QM9, or molecules of one's own: one scalar per molecule.

Targets are those of `demetar.data.targets`, splits those of `demetar.data.splits`. What
is known of a target, and the scale of what remains, follow from the training molecules
alone (`heads.fit`); it is subtracted in float64, before anything is rounded.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, doi 10.1038/sdata.2014.22.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
from typing import Any

import numpy as np

from demetar import files, heads
from demetar.data import bonds, edges, molecule_files, molecules, targets
from demetar.data.atom_features import NODE_FEATURES, node_features, species_of
from demetar.data.dataset import Dataset, identify
from demetar.data.packing import make_packing
from demetar.data.samples import (
    Samples,
    average_neighbors,
    centred,
    radial_extent,
    to_dtype,
)
from demetar.data.splits import (
    PARTS,
    SPLITS,
    counted,
    first_rows,
    numbered,
    split_rows,
)
from demetar.errors import UserError
from demetar.settings import DATA, setting
from demetar.types import Head, Nodes, TaskSpec

# Of targets and of their scales, in any unit: far from the ends of float32.
LEAST_VALUE, MOST_VALUE = 1e-30, 1e30

CONNECTIVITY = ("complete", "radius", "bonds")
CUTOFF = 5.0  # in Å, where a radius graph is asked for without one


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is read of the molecules.

    Attributes:
      cutoff: None for `CUTOFF` with radius graphs; other graphs have none.
      num_train, num_valid: None for all of the split's.
      batch_size: molecules per batch, on average.
      dtype: 'float32' or 'float64', of everything that the model sees.
    """

    target: str = setting(
        "homo",
        f"What is predicted: {', '.join(targets.TARGETS)}, or a property of own "
        "molecules.",
        DATA,
    )
    target_kind: str = setting(
        "auto",
        "Whether the target is a sum over atoms (extensive) or a mean (intensive). "
        "auto: known of QM9's targets; by its name (energy, U0, alpha, ...) of own "
        "molecules'.",
        DATA,
        choices=targets.TARGET_KINDS,
    )
    offsets: str = setting(
        "species",
        "What is subtracted of an extensive target beforehand: a number per species, "
        "or the mean, either by the training molecules.",
        DATA,
        choices=heads.OFFSETS,
    )
    split: str = setting(
        "egnn",
        f"{', '.join(SPLITS)}, or a .npz of the row numbers train, valid and test.",
        DATA,
        default_words="egnn for QM9, random for own molecules",
    )
    num_train: int | None = counted("Training")
    num_valid: int | None = counted("Validation")
    connectivity: str = setting(
        "complete",
        "Edges of the graphs: between all atoms, all within the cutoff, or the bonds.",
        DATA,
        choices=CONNECTIVITY,
    )
    cutoff: float | None = setting(
        None,
        "In Å, of radius graphs, envelopes and bases alike. It makes radius graphs of "
        "complete ones.",
        DATA,
    )
    node_features: str = setting(
        "species",
        "Features of the atoms: one-hot species, or these times 1, Z/9 and (Z/9)^2 as "
        "egnn's paper has them.",
        DATA,
        choices=NODE_FEATURES,
    )
    bond_features: bool = setting(
        False,
        "Whether edges know their bond: one-hot of its type, zero if there is none.",
        DATA,
    )
    batch_size: int = 96
    dtype: str = "float32"


def cached(
    place: pathlib.Path | None,
    folder: pathlib.Path,
    progress: bonds.Progress = bonds.silent,
    with_bonds: bool = True,
) -> tuple[molecules.Molecules, pathlib.Path]:
    """The molecules of a source, from a cache that is written on first use.

    Args:
      place: of `molecule_files.find`; None for the wheel.
      folder: where the cache is kept; made if there is none.
      progress: tells a person of the first use.
      with_bonds: whether the bonds are needed (`needs_bonds`); else they are searched
        on the first use that needs them.

    Returns:
      The molecules, and where they were read.

    Raises:
      UserError: the source cannot be read, or the cache not be written.
    """
    kind, paths = molecule_files.find(place)
    if kind == "file":
        known = molecules.read(paths[0])
        if with_bonds and known.bonds is None:
            raise UserError(
                f"expected bonds in {paths[0]}, found none; make it anew with "
                "python -m tools.prepare_qm9"
            )
        return known, paths[0]
    identity = [kind]
    for path in paths:
        status = path.stat()
        # A file may be written anew with its old size and time of modification.
        when = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        where = "" if kind == "wheel" else f"{path.resolve()} {when}"
        identity.append(f"{path.name} {status.st_size} {where}")
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    cache = folder / f"molecules-{kind}-{key[:12]}-v{molecules.VERSION}.npz"
    if cache.exists():
        with contextlib.suppress(UserError):  # damaged: made anew
            known = molecules.read(cache, key)
            if known.bonds is not None or not with_bonds:
                return known, cache
    known = molecule_files.load(kind, paths, progress, with_bonds)
    molecules.write(cache, known, key)
    return molecules.read(cache, key), cache


def needs_bonds(connectivity: str, bond_features: bool) -> bool:
    """Whether such graphs need bonds: fields of `Settings`."""
    return connectivity == "bonds" or bond_features


def load(known: molecules.Molecules, settings: Settings) -> Dataset:
    """The data set of one target.

    Raises:
      UserError: no such target, connectivity or split, or fewer molecules than are
        asked for.
    """
    _check(settings)
    values, unit = targets.target_values(known, settings.target)
    wanted = {"train": settings.num_train, "valid": settings.num_valid}
    rows = first_rows(split_rows(settings.split, len(known.index)), wanted)
    chosen = np.concatenate([rows[part] for part in PARTS])
    targets.check_finite(known, settings.target, values, chosen)
    _check_size(values[chosen], settings.target)
    splits = numbered(rows)
    samples = centred(_samples(known, chosen, settings), ())
    task = _task(known, settings, unit, samples, len(rows["train"]))
    counts = heads.composition(task, samples.nodes.scalars, samples.n_node)
    (head,) = task.heads
    train = splits["train"]
    head = heads.fit(head, values[chosen][train], counts[train], settings.offsets)
    task = dataclasses.replace(task, heads=(head,))
    residuals = {head.name: heads.residual(head, values[chosen][:, None], counts)}
    _check_size(head.scale, settings.target)
    samples = dataclasses.replace(samples, targets=residuals)
    samples = to_dtype(samples, settings.dtype)
    packing = make_packing(samples, task, settings.batch_size)
    identity = identify(known.fingerprint, _described(known, settings, unit), rows)
    return Dataset(task, packing, splits, known.fingerprint, identity)


def _check_size(values: Any, target: str) -> None:
    """Refuse values that float32 does not hold well; zeros are no such values.

    Raises:
      UserError: there are such values.
    """
    sizes = np.abs(np.atleast_1d(values))
    bad = (sizes > MOST_VALUE) | ((sizes > 0) & (sizes.max() < LEAST_VALUE))
    if bad.any():
        raise UserError(
            f"expected a {target} whose values and their spread are of "
            f"{LEAST_VALUE:g} to {MOST_VALUE:g}, found {sizes[bad][0]:.3g}; give it in "
            "another unit"
        )


def _described(
    known: molecules.Molecules, settings: Settings, unit: str
) -> dict[str, Any]:
    """What decides the numbers beside the molecules and the rows of the splits."""
    ignored = ("split", "num_train", "num_valid", "batch_size")
    read = dataclasses.asdict(settings)
    references = targets.ATOMIC_REFERENCES.get(settings.target, {})
    return {
        **{name: value for name, value in read.items() if name not in ignored},
        "source": known.source,
        "names": known.names,
        "unit": unit,
        "references": {
            str(number): energy
            for number, energy in references.items()
            if known.source == "qm9"
        },
        **_hashed_bonds(known, settings),
    }


def _hashed_bonds(known: molecules.Molecules, settings: Settings) -> dict[str, str]:
    """Hashes of the bonds, if the graphs need them."""
    if not needs_bonds(settings.connectivity, settings.bond_features):
        return {}
    assert known.bonds is not None and known.n_bonds is not None
    return {
        "bonds": files.array_hash(known.bonds),
        "n_bonds": files.array_hash(known.n_bonds),
    }


def _check(settings: Settings) -> None:
    for name, options in (
        ("connectivity", CONNECTIVITY),
        ("node_features", NODE_FEATURES),
        ("target_kind", targets.TARGET_KINDS),
        ("offsets", heads.OFFSETS),
    ):
        found = getattr(settings, name)
        if found not in options:
            raise UserError(
                f"expected --{name} of {', '.join(options)}, found {found!r}"
            )
    if settings.cutoff is not None and not 0 < settings.cutoff < math.inf:
        raise UserError(f"expected a --cutoff above 0 Å, found {settings.cutoff}")


# --- Graphs -------------------------------------------------------------------------


def _samples(
    known: molecules.Molecules,
    rows: np.ndarray,
    settings: Settings,
) -> Samples:
    """The molecules of some rows, in that order, without targets."""
    n_node, atoms = known.n_atoms[rows], known.atoms(rows)
    numbers, positions = known.numbers[atoms], known.positions[atoms]
    found = _edges(known, rows, positions, settings)
    features, _ = node_features(numbers, settings.node_features, species_of(known))
    return Samples(
        nodes=Nodes(positions, features, np.zeros((len(atoms), 0, 3))),
        edges=bonds.features(found, settings.bond_features),
        senders=found.senders,
        receivers=found.receivers,
        n_node=n_node.astype(np.int32),
        n_edge=found.n_edge.astype(np.int32),
        targets={},
    )


def _edges(
    known: molecules.Molecules,
    rows: np.ndarray,
    positions: np.ndarray,
    settings: Settings,
) -> edges.Edges:
    sizes = known.n_atoms[rows]
    with_bonds = needs_bonds(settings.connectivity, settings.bond_features)
    if settings.connectivity == "complete" and not with_bonds:
        return edges.complete(sizes)

    def types(members: np.ndarray, size: int) -> np.ndarray:
        return molecules.bond_matrix(known, rows[members], size)

    return edges.chosen(
        positions,
        sizes,
        _cutoff(settings),
        types if with_bonds else None,
        settings.connectivity == "bonds",
    )


def _cutoff(settings: Settings) -> float | None:
    """In Å, of radius graphs alone."""
    return (settings.cutoff or CUTOFF) if settings.connectivity == "radius" else None


def _task(
    known: molecules.Molecules,
    settings: Settings,
    unit: str,
    samples: Samples,
    num_train: int,
) -> TaskSpec:
    """The task, of whose target nothing is known yet."""
    joined = settings.connectivity
    cutoff = _cutoff(settings)
    if cutoff is not None:
        extent = cutoff
        joined = f"radius {cutoff:g}"
    else:
        extent = radial_extent(samples, num_train)
    _, names = node_features(
        np.zeros(0, int), settings.node_features, species_of(known)
    )
    source = "QM9" if known.source == "qm9" else "molecules"
    head = Head(
        settings.target,
        "graph_scalar",
        unit=unit,
        error="absolute",
        extensive=targets.is_extensive(known, settings.target, settings.target_kind),
        quantity=targets.TARGETS[settings.target].quantity
        if known.source == "qm9"
        else "",
    )
    return TaskSpec(
        name=f"{source} {settings.target}",
        heads=(head,),
        scalars=names,
        edge_features=bonds.TYPES if settings.bond_features else (),
        length_unit="Å",
        connectivity=joined,
        radial_extent=extent,
        average_neighbors=average_neighbors(samples, num_train),
        species=tuple(name for name in names if "*" not in name),
        cutoff=cutoff,
    )
