"""Validity, uniqueness and novelty of molecules by RDKit."""

import math
import sys

import numpy as np
import pytest

from demetar.data import qm9
from demetar.errors import UserError
from demetar.generation import chemistry
from demetar.generation.structures import Structures
from tests import stability_test as known

TOO_MANY = "CHHHHH", np.concatenate([known.METHANE[1], [[0.0, 0.0, 1.09]]])
MIRRORED = known.METHANE[0], -known.METHANE[1]
FAR_APART = "NNO", [[0, 0, 0], [0, 0, 1.1], [9, 9, 9]]


@pytest.fixture(autouse=True)
def needs_rdkit():
    pytest.importorskip("rdkit")


def smiles_of(*molecules):
    return chemistry.assess(known.together(*molecules)).smiles


def test_smiles_of_known_molecules():
    molecules = known.METHANE, known.CARBON_DIOXIDE, known.NITROGEN, known.HYDROGEN
    expected = "[H]C([H])([H])[H]", "O=C=O", "N#N", "[HH]"
    assert smiles_of(*molecules) == expected


def test_too_many_bonds_are_not_valid_and_too_few_are(capfd):
    molecules = TOO_MANY, known.BROKEN, known.FAR
    assert smiles_of(*molecules) == ("", "[H]C([H])[H]", "")
    assert capfd.readouterr() == ("", "")


def test_of_several_pieces_the_largest_counts():
    assert smiles_of(FAR_APART) == smiles_of(known.NITROGEN) == ("N#N",)


def test_shares():
    found = known.together(known.METHANE, MIRRORED, TOO_MANY, FAR_APART)
    alone = chemistry.assess(found)
    assert (alone.num, alone.num_valid, alone.num_unique) == (4, 3, 2)
    assert alone.validity == 3 / 4 and alone.uniqueness == 2 / 3
    assert alone.num_novel is None and alone.novelty is None
    training = known.together(known.CARBON_DIOXIDE, known.NITROGEN, TOO_MANY)
    assert chemistry.assess(found, training).novelty == 1 / 2
    texts = chemistry.training_smiles(training)
    assert texts == {"O=C=O", "N#N"}
    assert chemistry.assess(found, texts).num_novel == 1
    assert chemistry.assess(found, frozenset()).num_novel == 2
    nothing = chemistry.assess(found.take([]), training)
    assert nothing.num == nothing.num_novel == 0 and math.isnan(nothing.validity)


def test_only_training_molecules_of_like_formulas_are_looked_at():
    training = known.together(*[known.METHANE] * 3, known.CARBON_DIOXIDE, known.BROKEN)
    told = []

    def progress(items, description, total):
        told.append((description, total))
        return items

    found = known.together(MIRRORED, known.NITROGEN)
    assert chemistry.assess(found, training, progress).num_novel == 1
    assert told == [("molecules", 2), ("training molecules", 4)]


def test_rdkit_must_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match="expected RDKit .*generation"):
        smiles_of(known.METHANE)


@pytest.mark.slow
def test_molecules_of_qm9(tmp_path):
    pytest.importorskip("qm9pack")
    read, _ = qm9.cached(None, tmp_path, with_bonds=False)
    whole = Structures(read.numbers, read.positions, read.n_atoms)
    rows = np.random.default_rng(0).permutation(len(read.n_atoms))
    found = chemistry.assess(whole.take(rows[:3000]), whole.take(rows[3000:50_000]))
    assert found.validity == pytest.approx(0.977, abs=0.006)  # published
    assert found.uniqueness > 0.999
    assert found.novelty is not None and found.novelty > 0.998
    again = chemistry.assess(whole.take(rows[:3000]), whole.take(rows[:3000]))
    assert again.num_novel == 0
