"""Small sets of conformers, made without RDKit."""

import numpy as np

from demetar.data import conformer_files
from demetar.data.conformer_files import Ensembles
from tools import folders

# SMILES, atomic numbers of the heavy atoms, their bonds and the hydrogens of each.
PROPANOL = ("CCCO", (6, 6, 6, 8), ((0, 1, 1), (1, 2, 1), (2, 3, 1)), (3, 2, 2, 1))
FORMAMIDE = ("NC=O", (7, 6, 8), ((0, 1, 1), (1, 2, 2)), (2, 1, 0))
ETHER = ("COC", (6, 8, 6), ((0, 1, 1), (1, 2, 1)), (3, 0, 3))


def molecule(described, num_conformers=2, seed=0):
    """One molecule, whose shapes are random but for the lengths of its bonds."""
    smiles, heavy, joined, hydrogens = described
    owners = np.repeat(np.arange(len(heavy)), hydrogens)
    attached = [(own, len(heavy) + row, 1) for row, own in enumerate(owners)]
    bonds = np.array([*joined, *attached], np.uint8)
    numbers = np.array([*heavy, *[1] * len(owners)], np.uint8)
    random = np.random.default_rng([seed, len(smiles)])
    positions = random.normal(size=(num_conformers, len(numbers), 3))
    for first, second, _ in bonds:
        vector = positions[:, second] - positions[:, first]
        vector /= np.linalg.norm(vector, axis=1, keepdims=True)
        positions[:, second] = positions[:, first] + 1.4 * vector
    return Ensembles(
        smiles=(smiles,),
        n_atoms=np.array([len(numbers)], np.int32),
        numbers=numbers,
        charges=np.zeros(len(numbers), np.int8),
        n_bonds=np.array([len(bonds)], np.int32),
        bonds=bonds,
        n_conformers=np.array([num_conformers], np.int32),
        positions=positions.reshape(-1, 3),
        energies=np.arange(num_conformers, dtype=np.float64),
    )


def sets():
    """The molecules of each split."""
    return {
        "train": conformer_files.joined([molecule(PROPANOL, 5), molecule(FORMAMIDE)]),
        "valid": molecule(ETHER, 3),
        "test": conformer_files.joined([molecule(ETHER), molecule(FORMAMIDE, 1)]),
    }


def write(folder, parts):
    """A folder of conformers."""
    folder.mkdir()
    arrays = {}
    for split, part in parts.items():
        content = conformer_files.to_arrays(part)
        np.savez(folder / f"{split}.npz", **content)  # type: ignore[arg-type]
        arrays[split] = {
            name: folders.files.array_hash(array) for name, array in content.items()
        }
    described = {"kind": conformer_files.KIND, "arrays": arrays}
    return folders.write_metadata(folder, described)
