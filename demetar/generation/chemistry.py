"""Which molecules are valid, unique and new, by RDKit, an optional package.

The measures of EDM (Hoogeboom et al. 2022, arXiv 2203.17003), taken as they are there:

- A molecule is its atoms, hydrogens included, with the bonds of the table
  (`generation.stability`) and no charges. It is valid if RDKit sanitises it. RDKit adds
  hydrogens to atoms with too few bonds, so only too many bonds make a molecule invalid:
  this says less than stability.
- A valid molecule in several pieces counts by its largest, whose canonical SMILES is
  taken. Bonds alone tell no chirality, so mirror images are equal.
- Uniqueness is the number of different SMILES per valid molecule, novelty the share of
  these SMILES that no training molecule has. SMILES of training molecules are made of
  their geometries in the same way, but of the whole molecule.

One thing differs: a molecule with a position that is not finite is not valid. Of QM9's
130,831 molecules 97.7 % are valid, as published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from demetar.data.bonds import Progress, silent
from demetar.generation import quiet_rdkit, stability
from demetar.generation.structures import Structures

_PURPOSE = "validity, uniqueness and novelty"
# What an atom adds to the number of a formula, with room for 4,095 of each element.
_IN_FORMULA = np.zeros(max(stability.VALENCES) + 1, np.int64)
_IN_FORMULA[list(stability.VALENCES)] = 2 ** (12 * np.arange(len(stability.VALENCES)))


@dataclasses.dataclass(frozen=True)
class Chemistry:
    """How many molecules are valid, unique and novel.

    Attributes:
      num: molecules that were looked at.
      num_valid: of these.
      num_unique: different SMILES of the valid ones.
      num_novel: of these, how many no training molecule has; None without training
        molecules.
      smiles: of each molecule, in order; '' if it is not valid.
    """

    num: int
    num_valid: int
    num_unique: int
    num_novel: int | None
    smiles: tuple[str, ...]

    @property
    def validity(self) -> float:
        """The share of valid molecules; NaN of no molecules."""
        return _share(self.num_valid, self.num)

    @property
    def uniqueness(self) -> float:
        """Different SMILES per valid molecule; NaN of no valid molecules."""
        return _share(self.num_unique, self.num_valid)

    @property
    def novelty(self) -> float | None:
        """The share of novel SMILES; None without training molecules."""
        if self.num_novel is None:
            return None
        return _share(self.num_novel, self.num_unique)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def assess(
    structures: Structures,
    training: Structures | Collection[str] | None = None,
    progress: Progress = silent,
) -> Chemistry:
    """Validity, uniqueness and novelty of molecules.

    Args:
      structures: the molecules.
      training: the molecules that a novel one is none of, or their SMILES
        (`training_smiles`). Of molecules only those are looked at whose formula a valid
        molecule has.
      progress: tells how many have gone.

    Raises:
      UserError: RDKit is not installed, or an element that the table does not know.
    """
    pieces = list(_pieces(structures, progress))
    valid = {piece.smiles: piece.formula for piece in pieces if piece.smiles}
    known: Collection[str] | None
    if isinstance(training, Structures):
        is_near = np.isin(_formulas(training), list(valid.values()))
        known = training_smiles(training.take(is_near), progress)
    else:
        known = training
    return Chemistry(
        num=len(pieces),
        num_valid=sum(bool(piece.smiles) for piece in pieces),
        num_unique=len(valid),
        num_novel=None if known is None else len(valid.keys() - set(known)),
        smiles=tuple(piece.smiles for piece in pieces),
    )


def training_smiles(
    training: Structures, progress: Progress = silent
) -> frozenset[str]:
    """Canonical SMILES of whole molecules, of those that are valid.

    Args:
      training: the molecules.
      progress: tells how many have gone.

    Raises:
      UserError: RDKit is not installed, or an element that the table does not know.
    """
    with quiet_rdkit.chem(_PURPOSE) as chem:
        molecules = _molecules(chem, training, progress, "training molecules")
        return frozenset(chem.MolToSmiles(own) for own in molecules if own is not None)


class _Piece(NamedTuple):
    """The largest piece of a molecule: '' if that is not valid."""

    smiles: str
    formula: int


def _pieces(structures: Structures, progress: Progress) -> Iterator[_Piece]:
    with quiet_rdkit.chem(_PURPOSE) as chem:
        for own in _molecules(chem, structures, progress, "molecules"):
            if own is None:
                yield _Piece("", 0)
            else:
                parts = chem.GetMolFrags(own, asMols=True)
                largest = max(parts, key=lambda part: part.GetNumAtoms())
                numbers = [atom.GetAtomicNum() for atom in largest.GetAtoms()]
                formula = int(_IN_FORMULA[numbers].sum())
                yield _Piece(chem.MolToSmiles(largest), formula)


def _formulas(structures: Structures) -> np.ndarray:
    """[M] a number for each formula."""
    if not len(structures.n_node):
        return np.zeros(0, np.int64)
    counted = _IN_FORMULA[structures.numbers]
    return np.asarray(np.add.reduceat(counted, structures.starts))


def _molecules(
    chem: Any, structures: Structures, progress: Progress, what: str
) -> Iterator[Any]:
    """Sanitised molecules of RDKit; None of one that is not valid."""
    bonds = stability.find(structures)
    stops = np.cumsum(bonds.n_bonds)
    rows = range(len(structures.n_node))
    molecules = zip(structures.split(), bonds.n_bonds, stops, strict=True)
    for own, count, stop in progress(molecules, what, len(rows)):
        if not np.isfinite(own.positions).all():
            yield None
            continue
        mine = slice(stop - count, stop)
        yield _molecule(chem, own.numbers, bonds.ends[mine], bonds.orders[mine])


def _molecule(
    chem: Any, numbers: np.ndarray, ends: np.ndarray, orders: np.ndarray
) -> Any:
    """One of them."""
    found = chem.RWMol()
    for number in numbers.tolist():
        found.AddAtom(chem.Atom(number))
    for (first, second), order in zip(ends.tolist(), orders.tolist(), strict=True):
        found.AddBond(first, second, chem.BondType.values[order])
    try:
        chem.SanitizeMol(found)
    except ValueError:  # of RDKit: too many bonds, or rings without Kekulé structure
        return None
    return found
