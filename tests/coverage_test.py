"""Bond graphs, root mean square deviations of conformers, and COV and MAT."""

import numpy as np
import pytest

from demetar.data.bonds import TYPES
from demetar.errors import UserError
from demetar.generation import bond_graphs, coverage

ISOBUTANOL = "CC(C)CO"  # its two methyl groups are equal


def shapes(smiles, count=6, seed=1):
    """Conformers as they are embedded."""
    return bond_graphs.embed(smiles, count, seed, relaxed=False).positions


def rotation(seed=0):
    """A random one, [3, 3]."""
    found, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return found * np.linalg.det(found)


# --- By hand ------------------------------------------------------------------------


def test_measures_of_a_matrix_by_hand():
    distances = np.array([[0.1, 0.9, 2.0], [0.7, 0.5, 3.0]])  # 2 references, 3 samples
    found = coverage.of_matrix(distances)
    assert found.cov_recall == 1.0  # 0.1, and 0.5 is near too
    assert found.mat_recall == pytest.approx((0.1 + 0.5) / 2)
    assert found.cov_precision == pytest.approx(2 / 3)
    assert found.mat_precision == pytest.approx((0.1 + 0.5 + 2.0) / 3)
    tight = coverage.of_matrix(distances, threshold=0.4)
    assert (tight.cov_recall, tight.cov_precision) == (0.5, pytest.approx(1 / 3))


def test_a_molecule_without_samples_covers_nothing():
    found = coverage.of_matrix(np.zeros((4, 0)))
    assert found.cov_recall == found.cov_precision == 0.0
    assert np.isnan(found.mat_recall) and np.isnan(found.mat_precision)
    both = coverage.joined([found, coverage.of_matrix(np.zeros((1, 1)))])
    assert both.cov_recall.tolist() == [0.0, 1.0]


# --- Of molecules -------------------------------------------------------------------


def test_a_bond_graph_of_a_molecule():
    pytest.importorskip("rdkit")
    found = bond_graphs.parse("OC/C=C/[N+](=O)[O-]")
    assert found.smiles == "O=[N+]([O-])C=CCO"  # canonical, without stereochemistry
    assert found.numbers.tolist() == [8, 7, 8, 6, 6, 6, 8, *[1] * 5]
    assert found.charges.tolist() == [0, 1, -1, *[0] * 9]
    assert found.bonds[:4].tolist() == [[0, 1, 2], [1, 2, 1], [1, 3, 1], [3, 4, 2]]
    ring = bond_graphs.parse("c1ccccc1").bonds
    assert (ring[:, 2] == 1 + TYPES.index("aromatic")).sum() == 6
    hands = [bond_graphs.parse(text).smiles for text in ("C[C@H](O)F", "C[C@@H](O)F")]
    assert hands == ["CC(O)F", "CC(O)F"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("CCO.CC", "in one piece, found 'CCO.CC'"),
        ("C(", "expected a SMILES, found 'C[(]'"),
        ("", "expected a SMILES, found ''"),
        ("CO", "3 heavy atoms or more and at most 255 atoms in all, found 2 and 6"),
        (100 * "C", "found 100 and 302"),
        ("C[Pt]C", "elements and bonds that MMFF94 knows, found 'C.Pt.C'"),
    ],
)
def test_what_is_no_molecule_is_refused(text, message, capfd):
    pytest.importorskip("rdkit")
    with pytest.raises(UserError, match=message):
        bond_graphs.parse(text)
    assert capfd.readouterr().err == ""  # RDKit says nothing beside it


def test_rmsds_know_rotations_and_equal_atoms_but_no_mirror_images():
    pytest.importorskip("rdkit")
    own = shapes(ISOBUTANOL)
    moved = own @ rotation().T + 5.0
    exchanged = own[:, [2, 1, 0, 3, 4, *range(5, 15)]]  # the carbons of the methyls
    noise = own.copy()
    noise[:, 5:] += 1.0  # hydrogens do not count
    for other in (moved, exchanged, noise):
        found = coverage.matrix(ISOBUTANOL, own, other)
        assert np.diag(found).max() < 1e-5
        assert coverage.of_matrix(found).mat_recall < 1e-5
    wrong = own[:, [1, 0, 2, 3, 4, *range(5, 15)]]  # unlike carbons
    assert np.diag(coverage.matrix(ISOBUTANOL, own, wrong)).min() > 0.1
    chiral = shapes("CC(O)(F)C=O", 1)
    assert coverage.matrix("CC(O)(F)C=O", chiral, -chiral)[0, 0] > 0.1
    assert not bond_graphs.is_bounded(ISOBUTANOL)


def test_rmsds_are_those_of_the_best_alignment():
    """Against the singular values of Kabsch, without symmetry."""
    pytest.importorskip("rdkit")
    smiles = "CCOC=O"
    own = shapes(smiles, 3)
    heavy = own[:, :5] - own[:, :5].mean(axis=1, keepdims=True)
    found = bond_graphs.rmsds(smiles, own)
    for i in range(3):
        for j in range(3):
            product = heavy[i].T @ heavy[j]
            values = np.linalg.svd(product, compute_uv=False)
            values[-1] *= np.sign(np.linalg.det(product))
            squares = (heavy[i] ** 2).sum() + (heavy[j] ** 2).sum() - 2 * values.sum()
            assert found[i, j] == pytest.approx(np.sqrt(max(squares, 0) / 5), abs=1e-4)


def test_samples_that_are_not_finite_are_far():
    pytest.importorskip("rdkit")
    own = shapes(ISOBUTANOL, 3)
    broken = own.copy()
    broken[1, 3, 0] = np.nan
    found = coverage.matrix(ISOBUTANOL, own, broken)
    assert np.isinf(found[:, 1]).all() and np.isfinite(found[:, [0, 2]]).all()
    assert coverage.of_matrix(found).cov_precision == pytest.approx(2 / 3)


def test_distinct_conformers_are_those_of_lowest_energy():
    pytest.importorskip("rdkit")
    found = bond_graphs.embed(ISOBUTANOL, 20, 3, relaxed=True)
    kept = bond_graphs.distinct(ISOBUTANOL, found, 0.1)
    assert len(kept.energies) == 3 and (np.diff(kept.energies) >= 0).all()
    assert kept.energies[0] == found.energies.min()
    apart = bond_graphs.rmsds(ISOBUTANOL, kept.positions) + np.eye(3)
    assert apart.min() > 0.1
    own = coverage.of_matrix(
        coverage.matrix(ISOBUTANOL, kept.positions, kept.positions)
    )
    assert own.cov_recall == own.cov_precision == 1 and own.mat_precision < 1e-6
    every = bond_graphs.distinct(ISOBUTANOL, found, 0.0)
    assert len(every.energies) > 10  # the negative control: numbers alone


def test_conformers_follow_from_the_seed():
    pytest.importorskip("rdkit")
    first, again, other = (shapes("CCOC=O", 2, seed) for seed in (4, 4, 5))
    assert (first == again).all() and (first != other).any()
    seeds = [bond_graphs.seed_of(0, "data", name) for name in ("CCO", "CCC")]
    assert seeds[0] != seeds[1] != bond_graphs.seed_of(1, "data", "CCC")
    assert not len(shapes("CN1C(=N)C23CC(O2)C13", 5))  # a cage that is not embedded


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(UserError, match=r"pip install '\.\[generation\]'"):
        bond_graphs.parse("CCO")
