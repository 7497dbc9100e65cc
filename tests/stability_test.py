"""Molecules as flat arrays, their bonds by the table of EDM, and what is stable."""

import numpy as np
import pytest

from demetar import elements
from demetar.data import qm9
from demetar.errors import UserError
from demetar.generation import stability
from demetar.generation.structures import Structures

TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
METHANE = "CHHHH", np.concatenate([np.zeros((1, 3)), 1.09 * TETRAHEDRON])
BROKEN = "CHHHH", METHANE[1] * np.array([1, 1, 1, 1, 1.4])[:, None]
CARBON_DIOXIDE = "OCO", [[-1.165, 0, 0], [0, 0, 0], [1.165, 0, 0]]
NITROGEN = "NN", [[0, 0, 0], [0, 0, 1.1]]
HYDROGEN = "H", [[4.0, 5.0, 6.0]]
FAR = "CHHHH", np.full((5, 3), np.nan)


def together(*molecules):
    """Molecules of symbols and positions as `Structures`."""
    numbers = [elements.NUMBERS[symbol] for text, _ in molecules for symbol in text]
    positions = np.concatenate([np.asarray(own, float) for _, own in molecules])
    n_node = np.array([len(text) for text, _ in molecules])
    return Structures(np.array(numbers), positions, n_node)


def pair(symbols, distance):
    return symbols, [[0, 0, 0], [0, 0, distance]]


def test_molecules_can_be_taken_and_split():
    found = together(METHANE, NITROGEN, HYDROGEN)
    taken = found.take([2, 0])
    assert taken.numbers.tolist() == [1, 6, 1, 1, 1, 1]
    assert taken.n_node.tolist() == [1, 5]
    np.testing.assert_array_equal(taken.positions[0], HYDROGEN[1][0])
    parts = found.split()
    for part, row in zip(parts, range(3), strict=True):
        for one, other in zip(part, found.take([row]), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(found.take([]).n_node) == len(found.take([]).numbers) == 0
    mask = np.array([False, True, False])
    assert found.take(mask).numbers.tolist() == [7, 7]


def test_what_is_stable_among_known_molecules():
    found = together(METHANE, BROKEN, CARBON_DIOXIDE, NITROGEN, HYDROGEN, FAR)
    stable = stability.measure(found)
    assert stable.molecules.tolist() == [True, False, True, True, False, False]
    starts = np.cumsum(found.n_node)[:-1]
    by_molecule = [part.tolist() for part in np.split(stable.atoms, starts)]
    assert by_molecule == [
        [True] * 5,
        [False, True, True, True, False],
        *([True] * 3, [True] * 2, [False], [False] * 5),
    ]


def test_bonds_come_molecule_after_molecule():
    found = stability.find(together(HYDROGEN, NITROGEN, CARBON_DIOXIDE, BROKEN))
    assert found.n_bonds.tolist() == [0, 1, 2, 3]
    assert found.orders.tolist() == [3, 2, 2, 1, 1, 1]
    ends = [[0, 1], [0, 1], [1, 2], [0, 1], [0, 2], [0, 3]]
    assert found.ends.tolist() == ends
    empty = stability.find(together(HYDROGEN).take([]))
    assert len(empty.n_bonds) == len(empty.orders) == 0


@pytest.mark.parametrize(
    ("symbols", "distance", "order"),
    [
        *(("CC", 1.641, 0), ("CC", 1.639, 1), ("CC", 1.391, 1), ("CC", 1.389, 2)),
        *(("CC", 1.231, 2), ("CC", 1.229, 3), ("CC", 0.0, 3)),
        *(("HH", 0.839, 1), ("HH", 0.841, 0), ("HH", 0.1, 1)),
        *(("ON", 1.259, 2), ("NO", 1.261, 1), ("NO", 1.0, 2)),
        *(("OC", 1.159, 3), ("CO", 1.161, 2), ("OO", 0.9, 2), ("FF", 1.519, 1)),
    ],
)
def test_the_highest_order_whose_length_and_margin_exceed_the_distance(
    symbols, distance, order
):
    found = together(pair(symbols, distance))
    (orders,) = stability.orders(found.numbers[None], found.positions[None])
    assert orders.tolist() == [[0, order], [order, 0]]


def test_other_elements_are_refused():
    found = together(METHANE, pair("HH", 1.3))
    chlorine = found._replace(numbers=np.array([6, 1, 1, 1, 1, 1, 17]))
    with pytest.raises(UserError, match=r"of H, C, N, O, F, .* found 17 \(Cl\); leave"):
        stability.measure(chlorine)


@pytest.mark.slow
def test_the_published_shares_of_qm9(tmp_path):
    pytest.importorskip("qm9pack")
    known, _ = qm9.cached(None, tmp_path, with_bonds=False)
    structures = Structures(known.numbers, known.positions, known.n_atoms)
    stable = stability.measure(structures)
    assert round(100 * stable.atoms.mean(), 3) == 99.358
    assert round(100 * stable.molecules.mean(), 3) == 95.276
    shaken = np.random.default_rng(0).normal(0, 0.1, known.positions.shape)
    worse = stability.measure(structures._replace(positions=known.positions + shaken))
    assert worse.molecules.mean() < 0.5
