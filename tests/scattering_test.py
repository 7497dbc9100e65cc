"""Wavelet scattering: closed forms, a slow reference, invariance and placement."""

import dataclasses
import functools
import math

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest

from demetar import geometry
from demetar.data import molecules
from demetar.errors import UserError
from demetar.scattering import coefficients, harmonics, placement, ridge
from demetar.scattering.coefficients import Grid
from tests import qm9_test

WATER = (qm9_test.WATER * 4.4, np.array([[8.0, 1, 1], [6, 1, 1], [2, 0, 0]]))
COARSE = placement.Settings(spacing=2.0, margin=2.0)


def cube(half_length, spacing):
    count = 2 * math.ceil(half_length / spacing) + 1
    return Grid(spacing, (count, count, count))


def known_molecules(*symbols_and_positions):
    """Molecules of given atomic numbers and positions in Å."""
    return molecules.build(
        [
            molecules.Record(
                *("here", row + 1, numbers, np.ravel(positions).tolist(), [0.0], "")
            )
            for row, (numbers, positions) in enumerate(symbols_and_positions)
        ],
        *(["gap"], ["eV"], "own"),
        with_bonds=False,
    )


def by_e3nn(degree, points):
    """Solid harmonics [D, 2 l + 1] of points [D, 3], another basis of the same."""
    irreps = f"{degree}{'oe'[degree % 2 == 0]}"
    with jax.enable_x64(True):
        found = e3nn.spherical_harmonics(irreps, points, False, "norm")
    return np.asarray(found.array)


# --- Harmonics ----------------------------------------------------------------------


@pytest.mark.parametrize("degree", coefficients.DEGREES)
def test_harmonics_are_orthonormal_over_m(degree):
    points = np.random.default_rng(degree).normal(size=(200, 3))
    terms = np.array(
        [np.prod(points**powers, axis=-1) for powers in harmonics.monomials(degree)]
    )
    found = harmonics.mixing(degree) @ terms
    radii = np.linalg.norm(points, axis=-1)
    np.testing.assert_allclose((found**2).sum(axis=0), radii ** (2 * degree))
    own = by_e3nn(degree, points)
    # The same space: another basis of it is an orthogonal matrix away.
    change = np.linalg.lstsq(own, found.T, rcond=None)[0]
    np.testing.assert_allclose(change @ change.T, np.eye(2 * degree + 1), atol=1e-6)
    np.testing.assert_allclose(own @ change, found.T, atol=1e-5)


@pytest.mark.parametrize("degree", coefficients.DEGREES)
def test_the_modulus_of_a_wavelet_has_integral_one(degree):
    radii = np.linspace(0, 20, 20_001)
    shells = 4 * np.pi * radii ** (degree + 2) * np.exp(-(radii**2) / 2)
    found = harmonics.norm(degree) * shells.sum() * (radii[1] - radii[0])
    np.testing.assert_allclose(found, 1, rtol=1e-6)


# --- Closed forms -------------------------------------------------------------------


def integral_of_one_atom(degree, scale, power):
    """Of |a Gaussian of weight 1 * a wavelet| to a power, over all space."""
    wide = math.sqrt(1 + 4**scale)
    height = harmonics.norm(degree) / wide**3 * (2**scale / wide) ** degree
    order = (degree * power + 3) / 2
    radial = (2 / power) ** order * math.gamma(order) / 2
    return 4 * math.pi * wide**3 * height**power * radial


@pytest.mark.parametrize("degree, scale", [(0, 0), (1, 1), (2, 0), (3, 2)])
def test_first_order_of_one_atom(degree, scale):
    grid = cube(6 * coefficients.width(scale), 0.7 * coefficients.width(scale))
    weights = np.array([[8.0], [6.0], [2.0]])
    atom = np.array([[0.13, -0.2, 0.31]]), weights
    terms = coefficients.first_order(atom, grid, degree, scale)
    found = coefficients.integrals(coefficients.modulus(terms, degree), grid)
    expected = [
        [weight**power * integral_of_one_atom(degree, scale, power) for power in powers]
        for (weight,) in weights
        for powers in [coefficients.POWERS]
    ]
    np.testing.assert_allclose(found, expected, rtol=6e-3)
    # Exact where the integrand is smooth and decays soon.
    np.testing.assert_allclose(found[:, 2], np.array(expected)[:, 2], rtol=3e-5)


def test_second_order_of_one_atom_of_degree_zero():
    """A Gaussian that is convolved twice is one of width sqrt(1 + 1 + 16)."""
    grids = cube(9, 1.0), cube(24, 2.4)
    atom = np.array([[0.2, 0.1, -0.3]]), np.array([[6.0], [4.0], [2.0]])
    field = coefficients.modulus(coefficients.first_order(atom, grids[0], 0, 0), 0)
    found = coefficients.second_order(field, grids, 0, 2)[0]
    axes = np.meshgrid(*grids[1].axes(), indexing="ij")
    squares = sum((axis - x) ** 2 for axis, x in zip(axes, atom[0][0], strict=True))
    expected = atom[1][:, :, None, None] * np.exp(-squares / 36) / (36 * np.pi) ** 1.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


def transformed(field, spacing, degree, wide):
    """|field * wavelets| over m by FFT in a periodic box, in float64.

    In Fourier space a wavelet is (2 pi)^3/2 (-i)^l N_l (s k)^l Y_lm exp(-s² k² / 2).
    """
    waves = [2 * np.pi * np.fft.fftfreq(size, spacing) for size in field.shape]
    k = wide * np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1)
    own = by_e3nn(degree, k.reshape(-1, 3))
    shaped = np.moveaxis(own.reshape(*field.shape, -1), -1, 0)
    factor = (2 * np.pi) ** 1.5 * (-1j) ** degree * harmonics.norm(degree)
    gaussian = factor * np.exp(-(k**2).sum(axis=-1) / 2)
    found = np.fft.ifftn(np.fft.fftn(field) * gaussian * shaped, axes=(1, 2, 3))
    return np.sqrt((np.abs(found) ** 2).sum(axis=0))


@pytest.mark.parametrize(
    "degree, pair",
    [
        pytest.param(1, (0, 1), marks=pytest.mark.slow),
        pytest.param(2, (1, 2), marks=pytest.mark.slow),
        (3, (0, 2)),
    ],
)
def test_orders_equal_those_by_fourier_transforms(degree, pair):
    positions, weights = WATER
    spacing, size = 0.9, 64
    axes = np.meshgrid(*cube(spacing * size / 2, spacing).axes(), indexing="ij")
    near = [axis[:-1, :-1, :-1] for axis in axes]
    density = (
        sum(
            z * np.exp(-sum((a - x) ** 2 for a, x in zip(near, place, strict=True)) / 2)
            for z, place in zip(weights[0], positions, strict=True)
        )
        / (2 * np.pi) ** 1.5
    )
    first = transformed(density, spacing, degree, 2.0 ** pair[0])
    second = transformed(first, spacing, degree, 2.0 ** pair[1])
    expected = [
        [spacing**3 * (field**power).sum() for power in coefficients.POWERS[1:]]
        for field in (first, second)
    ]

    grids = placement.make_grids(np.array([0.1, 7.0, 3.0]), placement.Settings())
    ends = grids.scales[pair[0]], grids.scales[pair[1]]
    terms = coefficients.first_order((positions, weights), ends[0], degree, pair[0])
    field = coefficients.modulus(terms, degree)
    again = coefficients.second_order(field, ends, degree, pair[1])
    found = [
        coefficients.integrals(field, ends[0])[0],
        coefficients.integrals(coefficients.modulus(again, degree), ends[1])[0],
    ]
    # The root of what a Fourier transform leaves far away is too large to compare.
    np.testing.assert_allclose(np.array(found)[:, 1:], expected, rtol=3e-3)


# --- Invariance and convergence -----------------------------------------------------


def first_integrals(positions, over_all=True):
    """Of the first order of degree 1 and scale 0: [3, 4]."""
    grid = cube(12, 1.0)
    terms = coefficients.first_order((positions, WATER[1]), grid, 1, 0)
    return np.asarray(
        coefficients.integrals(coefficients.modulus(terms, 1, over_all), grid)
    )


def test_the_modulus_over_m_makes_it_invariant():
    (turn,) = np.asarray(geometry.random_rotations(jax.random.key(4), (1,)))
    moved = WATER[0] @ turn.T + [0.4, -0.3, 0.2]
    np.testing.assert_allclose(
        first_integrals(moved), first_integrals(WATER[0]), rtol=5e-3
    )
    # One m alone does depend on the orientation.
    alone = [first_integrals(each, over_all=False) for each in (moved, WATER[0])]
    assert np.abs(alone[0] / alone[1] - 1).max() > 0.05


@pytest.mark.slow
def test_invariance_and_convergence_of_all_coefficients():
    """Rotations and translations change no coefficient by more than 1 %."""
    turn, other = np.asarray(geometry.random_rotations(jax.random.key(1), (2,)))
    first = qm9_test.BENZENE * 4.4 @ other.T
    weights = placement.densities(np.array([[6] * 6 + [1] * 6]))[0]
    positions = np.stack([first, first @ turn.T, first + [0.5, 1.1, -0.7]])
    lengths = np.full(3, 26.0)

    def all_of(settings, over_all=True):
        grids = placement.make_grids(lengths, settings)
        one = functools.partial(
            coefficients.coefficients,
            weights=weights,
            grids=grids,
            over_all=over_all,
        )
        return np.asarray(jax.jit(functools.partial(jax.lax.map, one))(positions))

    default = all_of(placement.Settings())
    changes = np.abs(default[1:] / default[:1] - 1)
    assert changes.max() < 1e-2 and np.median(changes) < 5e-4
    fine = all_of(placement.Settings(spacing=0.6, margin=7.0))
    coarse = all_of(placement.Settings(spacing=1.5, margin=4.0))
    errors = [np.abs(found / fine - 1).max() for found in (default, coarse)]
    assert errors[0] < 1e-2 and errors[0] < errors[1] / 2
    alone = all_of(placement.Settings(), over_all=False)
    assert np.abs(alone[1] / alone[0] - 1).max() > 0.2


# --- Placement ----------------------------------------------------------------------


def test_densities_are_those_of_the_shells():
    found = placement.densities(np.array([[1, 6, 9, 14, 0], [2, 3, 10, 18, 0]]))
    assert found.tolist() == [
        [[1, 6, 9, 14, 0], [1, 4, 7, 4, 0], [0, 2, 2, 10, 0]],
        [[2, 3, 10, 18, 0], [2, 1, 8, 8, 0], [0, 2, 2, 10, 0]],
    ]


def test_molecules_lie_in_boxes_whatever_their_orientation():
    known = qm9_test.make_molecules(1_500)
    placed = placement.place(known, COARSE)
    assert len(placed.boxes) == 4 and {*placed.box} == {0, 1, 2, 3}
    for row in range(0, 1_500, 77):
        grid = placed.boxes[placed.box[row]].density
        ends = np.array([axis[-1] for axis in grid.axes()])
        assert (np.abs(placed.positions[row]) + COARSE.margin <= ends + 1e-5).all()
    smallest = placement.smallest_distance(known)
    np.testing.assert_allclose(placed.scale * smallest, math.sqrt(8 * math.log(10)))
    rows = np.arange(1, 1_500, 5)  # methane is a spherical top, the others are none
    rows = rows[known.n_atoms[rows] != 5]
    turns = np.asarray(geometry.random_rotations(jax.random.key(0), (len(rows),)))
    turned = placement.turned(known, placed, rows, turns)
    np.testing.assert_allclose(
        np.abs(turned.positions), np.abs(placed.positions[rows]), atol=1e-4
    )


def test_a_box_is_the_cheapest_that_holds_a_molecule():
    extents = np.random.default_rng(0).uniform(1, 30, (400, 3))
    boxes, box = placement.choose_boxes(extents, 3, COARSE)
    costs = [float(placement.num_points(lengths, COARSE)) for lengths in boxes]
    for lengths, own in zip(extents, box, strict=True):
        holding = [k for k in range(3) if (lengths <= boxes[k]).all()]
        assert own == min(holding, key=lambda k: costs[k])


@pytest.mark.parametrize(
    "atoms, settings, message",
    [
        (([19, 1], [[0, 0, 0], [0, 0, 2.2]]), COARSE, "H to Ar"),
        (([1, 1], [[0, 0, 0], [0, 0, 0]]), COARSE, "two at one place in number 1"),
        (([2], [[0, 0, 0]]), COARSE, "no molecule of two atoms"),
        (
            ([1] * 5, [[0, 0, 0], [0, 0, 0.7], [30, 0, 0], [0, 30, 0], [0, 0, 30]]),
            dataclasses.replace(COARSE, spacing=0.5),
            "number 1, is 36.7 x 42.4 x ",
        ),
    ],
)
def test_molecules_that_cannot_be_placed(atoms, settings, message):
    with pytest.raises(UserError) as caught:
        placement.place(known_molecules(atoms), settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# --- Regression ---------------------------------------------------------------------


def test_ridge_finds_the_map_and_its_strength():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(400, 8)) * 10.0 ** np.arange(8) + 5
    inputs[:, 3] = 7.0  # constant
    slopes = 1 / 10.0 ** np.arange(8)
    clean = inputs @ slopes + 3
    noisy = clean + random.normal(size=400)
    parts = slice(0, 200), slice(200, 300), slice(300, 400)

    def fitted(values):
        train, valid, test = parts
        regression = ridge.Ridge(inputs[train])
        model, error = regression.fit(values[train], (inputs[valid], values[valid]))
        return model, error, np.abs(model(inputs[test]) - values[test]).mean()

    exact, error, test = fitted(clean)
    assert exact.strength < 1e-9 and max(error, test) < 1e-6
    assert exact.num_params == 8
    model, _, test = fitted(noisy)
    assert model.strength > exact.strength and test < 1
    with pytest.raises(UserError, match="at least 3 training molecules"):
        ridge.Ridge(inputs[:2])


def test_products_of_components_find_a_quadratic_map(monkeypatch):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(5_000, 4)) * [1, 2, 5, 0] + 3
    values = inputs[:, 0] * inputs[:, 1] - 2 * inputs[:, 2] ** 2 + inputs[:, 0]
    valid = inputs[4_500:], values[4_500:]

    def error(num_products):
        model, _ = ridge.Ridge(inputs[:4_500], num_products).fit(values[:4_500], valid)
        return np.abs(model(inputs) - values).mean() / values.std()

    assert error(3) < 1e-6 < 0.1 < error(0)
    whole = error(2)
    monkeypatch.setattr(ridge, "_BLOCK", 700)  # blocks change nothing
    np.testing.assert_allclose(error(2), whole, rtol=1e-6)
