"""Bond graphs from SMILES, and their conformers by RDKit, an optional package.

Conformers are embedded by ETKDGv3 (Riniker, Landrum 2015, doi 10.1021/acs.jcim.5b00654;
Wang, Witek, Landrum, Riniker 2020, doi 10.1021/acs.jcim.0c00025) and relaxed in the
force field MMFF94 (Halgren 1996; as RDKit has it: Tosco, Stiefl, Landrum 2014, doi
10.1186/s13321-014-0037-3).

A bond graph is what a network of the project is told of a molecule. It has no
stereochemistry: what a SMILES says of that is left out, so that a molecule's conformers
are of all its stereoisomers, and stereoisomers are one molecule.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any, NamedTuple

import numpy as np

from demetar import elements
from demetar.data.bonds import TYPES
from demetar.errors import UserError
from demetar.generation import quiet_rdkit

_PURPOSE = "bond graphs and their conformers"
METHOD = "ETKDGv3"
FORCE_FIELD = "MMFF94"
MOST_ATOMS = 255  # atoms of a bond are numbered in uint8
LEAST_HEAVY = 3  # atoms other than H: fewer have one shape
MOST_MATCHES = 10_000  # permutations of equal atoms that an RMSD is the least of
_STEPS, _ROUNDS = 500, 20  # of a minimisation, at most
_TRIALS = 3  # embeddings, before a molecule is given up
_SEEDS = 2**31 - 1


class BondGraph(NamedTuple):
    """A molecule without its shape. Hydrogens follow the n heavy atoms.

    Attributes:
      smiles: canonical, in the order of the heavy atoms, without stereochemistry.
      numbers: [n] uint8 atomic numbers.
      charges: [n] int8 formal charges.
      bonds: [b, 3] uint8: two atoms, and 1 + the place of its type in `bonds.TYPES`.
    """

    smiles: str
    numbers: np.ndarray
    charges: np.ndarray
    bonds: np.ndarray


class Conformers(NamedTuple):
    """Shapes of one molecule.

    Attributes:
      positions: [K, n, 3] float64 in Å.
      energies: [K] of MMFF94 in kcal/mol; NaN if they were not relaxed.
    """

    positions: np.ndarray
    energies: np.ndarray

    def take(self, rows: np.ndarray) -> Conformers:
        """Those of some rows, in that order."""
        return Conformers(self.positions[rows], self.energies[rows])


def version() -> str:
    """The version of RDKit.

    Raises:
      UserError: it is not installed.
    """
    return quiet_rdkit.version(_PURPOSE)


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """RDKit's module of molecules."""
    return quiet_rdkit.chem(_PURPOSE)


def parse(text: str) -> BondGraph:
    """The bond graph of a SMILES.

    Raises:
      UserError: RDKit is not installed, or the text is none of a molecule in one piece
        of at most `MOST_ATOMS` atoms, at least `LEAST_HEAVY` of them heavy, whose
        elements and bonds MMFF94 knows.
    """
    with _quiet() as Chem:
        from rdkit.Chem import rdForceFieldHelpers

        if "." in text:
            raise UserError(f"expected a molecule in one piece, found {text[:60]!r}")
        read = Chem.MolFromSmiles(text)
        if read is None or not text.strip():
            raise UserError(f"expected a SMILES, found {text[:60]!r}")
        Chem.RemoveStereochemistry(read)
        smiles = Chem.MolToSmiles(read)
        molecule = molecule_of(smiles)
        heavy, total = read.GetNumHeavyAtoms(), molecule.GetNumAtoms()
        if heavy < LEAST_HEAVY or total > MOST_ATOMS:
            raise UserError(
                f"expected {LEAST_HEAVY} heavy atoms or more and at most {MOST_ATOMS} "
                f"atoms in all, found {heavy} and {total} in {text[:60]!r}"
            )
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            raise UserError(
                f"expected elements and bonds that {FORCE_FIELD} knows, found "
                f"{text[:60]!r}"
            )
        return _graph(smiles, molecule)


def _graph(smiles: str, molecule: Any) -> BondGraph:
    atoms, bonds = molecule.GetAtoms(), molecule.GetBonds()
    codes = [
        (*sorted((one.GetBeginAtomIdx(), one.GetEndAtomIdx())), _code(one))
        for one in bonds
    ]
    return BondGraph(
        smiles,
        np.array([atom.GetAtomicNum() for atom in atoms], np.uint8),
        np.array([atom.GetFormalCharge() for atom in atoms], np.int8),
        np.array(sorted(codes), np.uint8).reshape(-1, 3),
    )


def _code(bond: Any) -> int:
    name = str(bond.GetBondType()).lower()
    if name not in TYPES:
        raise UserError(f"expected bonds that are {', '.join(TYPES)}, found a {name}")
    return 1 + TYPES.index(name)


def molecule_of(smiles: str, numbers: np.ndarray | None = None) -> Any:
    """RDKit's molecule, with its hydrogens, of the canonical SMILES of a bond graph.

    Args:
      smiles: of `BondGraph`.
      numbers: [n] atomic numbers that it must have, in this order; None for any.

    Raises:
      UserError: RDKit is not installed, or reads the SMILES otherwise.
    """
    with _quiet() as Chem:
        read = Chem.MolFromSmiles(smiles)
        if read is None:
            raise UserError(f"expected a SMILES, found {smiles[:60]!r}")
        molecule = Chem.AddHs(read)
    found = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    if numbers is not None and found != numbers.tolist():
        names = [elements.name(int(number)) for number in numbers[:20]]
        raise UserError(
            f"expected RDKit to read {smiles[:60]!r} as {', '.join(names)}, found "
            "another order; generate the data set with this version of RDKit"
        )
    return molecule


# --- Conformers ---------------------------------------------------------------------


def seed_of(seed: int, purpose: str, smiles: str) -> int:
    """RDKit's seed of a molecule: that of no other, whatever the order of molecules."""
    digest = hashlib.sha256(f"{seed} {purpose} {smiles}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % _SEEDS


def embed(smiles: str, count: int, seed: int, relaxed: bool) -> Conformers:
    """Conformers of a molecule as ETKDGv3 embeds them.

    Args:
      smiles: of `BondGraph`.
      count: how many are tried.
      seed: from 0 to 2^31 - 2.
      relaxed: whether MMFF94 relaxes them. Those that do not come to rest in
        `_ROUNDS * _STEPS` steps are left out.

    Returns:
      At most `count` of them; none if the first `_TRIALS` embeddings all failed, which
      takes seconds.

    Raises:
      UserError: RDKit is not installed.
    """
    molecule = molecule_of(smiles)
    from rdkit.Chem import rdDistGeom

    settings: Any = rdDistGeom.ETKDGv3()  # whose stubs have wrong types
    settings.randomSeed = seed
    with _quiet():
        found = list(
            rdDistGeom.EmbedMultipleConfs(molecule, min(count, _TRIALS), settings)
        )
        if found and count > _TRIALS:
            found = list(rdDistGeom.EmbedMultipleConfs(molecule, count, settings))
        energies, at_rest = np.full(len(found), np.nan), np.ones(len(found), bool)
        if relaxed and found:
            energies, at_rest = _relax(molecule)
    shapes = [conformer.GetPositions() for conformer in molecule.GetConformers()]
    positions = np.array(shapes).reshape(len(found), molecule.GetNumAtoms(), 3)
    return Conformers(positions, energies).take(np.flatnonzero(at_rest))


def _relax(molecule: Any) -> tuple[np.ndarray, np.ndarray]:
    """Relax the conformers of a molecule of RDKit, in place.

    Returns:
      Energies [K] in kcal/mol, and whether each came to rest [K].
    """
    from rdkit.Chem import rdForceFieldHelpers

    for _ in range(_ROUNDS):
        rows = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
            molecule, maxIters=_STEPS, mmffVariant=FORCE_FIELD
        )
        if all(flag == 0 for flag, _ in rows):
            break
    flags, energies = np.array(rows).T
    return energies, flags == 0


def rmsds(smiles: str, positions: np.ndarray) -> np.ndarray:
    """Root mean square deviations of the heavy atoms between conformers: [K, K] in Å.

    The least over rotations, translations and permutations of equal heavy atoms; ends
    of conjugated groups, as in NO2 and COO-, are equal too. Reflections count: a mirror
    image is another conformer. Of more than `MOST_MATCHES` permutations the first are
    tried alone, and the values are upper bounds (`is_bounded`).

    Args:
      smiles: of `BondGraph`.
      positions: [K, n, 3] in Å.
    """
    count = len(positions)
    found = np.zeros((count, count))
    if count < 2:
        return found
    heavy = heavy_atoms(smiles)
    from rdkit.Chem import rdMolAlign

    rows = [atom.GetAtomicNum() > 1 for atom in molecule_of(smiles).GetAtoms()]
    with _quiet() as Chem:
        heavy.RemoveAllConformers()
        for one in positions[:, rows].astype(np.float64):
            conformer = Chem.Conformer(len(one))
            conformer.SetPositions(np.ascontiguousarray(one))
            heavy.AddConformer(conformer, assignId=True)
        values = rdMolAlign.GetAllConformerBestRMS(
            heavy, numThreads=1, maxMatches=MOST_MATCHES
        )
    found[np.tril_indices(count, -1)] = values  # (1, 0), (2, 0), (2, 1), ...
    return found + found.T


def heavy_atoms(smiles: str) -> Any:
    """RDKit's molecule of the heavy atoms alone, in the order of the bond graph."""
    with _quiet() as Chem:
        heavy = Chem.RemoveAllHs(molecule_of(smiles))
    return heavy


def is_bounded(smiles: str) -> bool:
    """Whether a molecule has more permutations than `rmsds` tries."""
    heavy = heavy_atoms(smiles)
    matches = heavy.GetSubstructMatches(
        heavy, uniquify=False, maxMatches=MOST_MATCHES + 1
    )
    return len(matches) > MOST_MATCHES


def distinct(smiles: str, found: Conformers, least: float) -> Conformers:
    """The conformers of lowest energy that differ by more than `least` Å.

    They are gone through from the lowest energy on; one that is no farther than `least`
    from one that was kept is left out.

    Args:
      smiles: of `BondGraph`.
      found: relaxed conformers.
      least: root mean square deviation of the heavy atoms in Å.
    """
    ordered = found.take(np.argsort(found.energies, kind="stable"))
    matrix = rmsds(smiles, ordered.positions)
    kept: list[int] = []
    for row in range(len(matrix)):
        if (matrix[row, kept] > least).all():
            kept.append(row)
    return ordered.take(np.array(kept, int))
