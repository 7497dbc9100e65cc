"""Orders of bonds, and the matchings that they come from."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from demetar.data import bonds, matching

RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)]


def test_every_nitro_group_has_its_charges():
    groups = [(0, 6), (2, 7), (6, 8), (6, 9), (7, 10), (7, 11)]
    hydrogens = [(1, 12), (3, 13), (4, 14), (5, 15)]
    pairs = sorted([*RING, *groups, *hydrogens])
    numbers = [6] * 6 + [7, 7] + [8] * 4 + [1] * 4
    codes, right = bonds.codes(numbers, pairs)
    assert right
    found = dict(zip(pairs, codes, strict=True))
    assert [found[pair] for pair in RING] == [bonds.AROMATIC] * 6
    assert sorted(found[pair] for pair in groups) == [1, 1, 1, 1, 2, 2]
    for nitrogen in (6, 7):
        orders = [found[pair] for pair in groups if pair[0] == nitrogen]
        assert sorted(orders) == [1, 2]


def test_an_oxygen_is_the_anion_sooner_than_a_carbon():
    """The N-oxide of pyridine, and diazomethane."""
    pairs = sorted([*RING, (0, 6), *((atom, atom + 6) for atom in range(1, 6))])
    codes, right = bonds.codes([7, *[6] * 5, 8, *[1] * 5], pairs)
    assert right
    assert [codes[pairs.index(pair)] for pair in RING] == [bonds.AROMATIC] * 6
    assert codes[pairs.index((0, 6))] == 1
    pairs = [(0, 1), (0, 3), (0, 4), (1, 2)]
    assert bonds.codes([6, 7, 7, 1, 1], pairs) == ([2, 1, 1, 2], True)


def test_elements_without_one_valence_have_single_bonds():
    assert bonds.codes([16, 8, 8], [(0, 1), (0, 2)]) == ([1, 1], False)
    assert bonds.codes([6, 8, 17, 17], [(0, 1), (0, 2), (0, 3)]) == ([2, 1, 1], True)


def test_a_large_sheet_of_carbon_takes_no_time():
    """All of its double bonds, in an order that a search would be lost in."""
    columns, rows = 16, 15
    places = [(x, y) for y in range(rows) for x in range(columns)]
    numbering = dict(
        zip(places, np.random.default_rng(0).permutation(len(places)), strict=True)
    )
    pairs = []
    for x, y in places:
        for other in ((x + 1, y), (x, y + 1)):
            if other in numbering and (other[1] == y or (x + y) % 2 == 0):
                ends = int(numbering[x, y]), int(numbering[other])
                pairs.append((min(ends), max(ends)))
    degrees = np.bincount(np.ravel(pairs), minlength=len(places)).tolist()
    hydrogens = [atom for atom, degree in enumerate(degrees) for _ in range(3 - degree)]
    numbers = [6] * len(places) + [1] * len(hydrogens)
    bonded = [(atom, len(places) + row) for row, atom in enumerate(hydrogens)]
    codes, right = bonds.codes(numbers, sorted(pairs) + bonded)
    assert right and codes.count(1) > len(bonded)


# --- Matchings ----------------------------------------------------------------------


def by_hand(needs, pairs):
    """The first solution of a search through all of them."""
    if not pairs:
        return None if any(needs) else []
    first, second = pairs[0]
    for count in range(min(needs[first], needs[second]), -1, -1):
        left = list(needs)
        left[first] -= count
        left[second] -= count
        rest = by_hand(left, pairs[1:])
        if rest is not None:
            return [count, *rest]
    return None


@st.composite
def needs_and_pairs(draw):
    size = draw(st.integers(2, 7))
    every = [(a, b) for b in range(size) for a in range(b)]
    chosen = draw(st.lists(st.sampled_from(every), max_size=9, unique=True))
    needs = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    if chosen and draw(st.booleans()):  # one that has a solution
        needs = [0] * size
        for first, second in chosen[:: draw(st.integers(1, 2))]:
            needs[first] += 1
            needs[second] += 1
    return needs, chosen


@hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=100)
@hypothesis.given(needs_and_pairs())
def test_matchings_are_those_of_a_search(example):
    assert matching.fill(*example) == by_hand(*example)
