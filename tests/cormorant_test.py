"""Cormorant: its layers against the equations of the paper in loops.

That the real form holds the complex one is tested in
`support/author_cases/cormorant.py`.
"""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models, testing
from demetar.errors import UserError
from demetar.models import cormorant
from tests.models_test import num_params
from tests.support import plain, plain_molecules, plain_steerable

SIZE, LMAX, HARD_CUTOFF = 3, 2, 2.5
IRREPS = [e3nn.Irrep(degree, (-1) ** degree) for degree in range(LMAX + 1)]
FIELDS = {
    "hidden_size": SIZE,
    "lmax": LMAX,
    "num_layers": 2,
    "num_frequencies": 2,
    "num_powers": 2,
    "hard_cutoff": HARD_CUTOFF,
    "soft_cutoff": 3.0,
    "soft_width": 1.0,
    "decoder_size": 5,
    "summed_size": 4,
}


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Loops:
    """For one batch: features[i] are {irrep: [C, 2l + 1]}, network[pair] is
    {irrep: [C]}.
    """

    def __init__(self, case):
        self.case = case
        self.params = case.params
        scope = case.subject.params["cormorant"]
        self.own = {name: np.asarray(value) for name, value in scope.items()}

    def pairs(self, i):
        """Neighbours of i, and i itself, under a key of their own."""
        for j, edge in self.case.neighbors[i]:
            vector, features = self.case.edge(i, j, edge)
            yield j, edge, vector, np.linalg.norm(vector), features
        yield i, f"self {i}", np.zeros(3), 0.0, np.zeros(1)

    def radial(self, name, length, features):
        """sin(2 pi k r + phase) / r^n for all k and n, and 0 of a node with itself."""
        frequencies, phases = self.own[f"waves_{name}"]
        values = [
            np.sin(2 * np.pi * k * length + phase) / length**n if length else 0.0
            for k, phase in zip(frequencies, phases, strict=True)
            for n in range(2)
        ]
        return np.array([*values, *features])

    def mask(self, name, length):
        radius = 3.0 * self.own[f"scale_radius_{name}"]
        width = 1.0 * self.own[f"scale_width_{name}"]
        return sigmoid((abs(radius) - length) / abs(width))

    def input(self, i):
        total = np.zeros(len(self.case.scalars[i]))
        for j, _, _, length, features in self.pairs(i):
            if length < HARD_CUTOFF:
                values = self.radial("input", length, features)
                filters = plain.linear(self.params, "input_filters", values)
                total += self.case.scalars[j] * filters * sigmoid((3.0 - length) / 1.0)
        values = np.concatenate([total, self.case.scalars[i]])
        return {IRREPS[0]: plain.mlp(self.params, "input", values, leaky)[:, None]}

    def pair_network(self, layer, before, features):
        """Mask (g, F_i . F_j, eta(r)) W for each degree."""
        outputs: dict = {}
        for i in self.case.nodes:
            for j, pair, _, length, own in self.pairs(i):
                products = [
                    (features[i][irrep] * features[j][irrep]).sum(axis=1)
                    for irrep in sorted(features[i])
                ]
                radial = self.radial(str(layer), length, own)
                outputs[pair] = {}
                for irrep in IRREPS:
                    given = [before[pair][irrep]] if before else []
                    if irrep in features[i]:
                        given.extend(products)
                    mixed = plain.linear(
                        self.params,
                        f"edges_{layer}_{irrep}",
                        np.concatenate([*given, radial]),
                    )
                    outputs[pair][irrep] = self.mask(str(layer), length) * mixed
        return outputs

    def layer(self, layer, features, network):
        """(sum_j G_ij x F_j, F_i, F_i x F_i) W, channel by channel."""
        outputs = {}
        for i in self.case.nodes:
            received: dict = {}
            for j, pair, vector, length, _ in self.pairs(i):
                harmonics = solid_harmonics(vector, length)
                for a, b, out in paths(features[j], IRREPS):
                    rows = [
                        network[pair][b][c]
                        * plain_steerable.couple(x, harmonics[b], a, b, out)
                        for c, x in enumerate(features[j][a])
                    ]
                    received[a, b, out] = received.get((a, b, out), 0) + np.array(rows)
            parts: dict = {irrep: [] for irrep in IRREPS}
            for (_, _, out), rows in received.items():
                parts[out].append(rows)
            for irrep, rows in features[i].items():
                parts[irrep].append(rows)
            for a, b, out in paths(features[i], features[i]):
                if a.l < b.l or (a == b and out.l % 2 == 0):
                    both = zip(features[i][a], features[i][b], strict=True)
                    parts[out].append(
                        [plain_steerable.couple(x, y, a, b, out) for x, y in both]
                    )
            joined = {ir: np.concatenate(rows) for ir, rows in parts.items() if rows}
            outputs[i] = plain_steerable.mix(self.params, f"mix_{layer}", joined)
        return outputs


def solid_harmonics(vector, length):
    """Harmonics times r^l, the sum of whose squares over components is r^(2 l)."""
    values = plain_steerable.harmonics(vector, LMAX)
    return {
        irrep: value * length**irrep.l / np.sqrt(irrep.dim)
        for irrep, value in values.items()
    }


def paths(first, second):
    return [
        (a, b, IRREPS[degree])
        for a in sorted(first)
        for b in sorted(second)
        for degree in range(abs(a.l - b.l), min(a.l + b.l, LMAX) + 1)
    ]


def test_the_network_is_the_papers():
    with jax.enable_x64(True):
        case = plain_molecules.Case("cormorant", FIELDS)
    loops = Loops(case)
    features = {i: loops.input(i) for i in case.nodes}
    network: dict = {}
    invariants: dict = {i: [] for i in case.nodes}
    for layer in range(2):
        network = loops.pair_network(layer, network, features)
        features = loops.layer(layer, features, network)
        for i in case.nodes:
            found = plain_steerable.node_features(case.recorded, f"features_{layer}", i)
            difference = plain_steerable.largest_difference(found, features[i])
            assert difference < plain_molecules.TOLERANCE
            invariants[i].append(features[i][IRREPS[0]][:, 0])
            invariants[i].extend((features[i][ir] ** 2).sum(axis=1) for ir in IRREPS)
    nodes = {
        i: plain.mlp(case.params, "node_decoder", np.concatenate(rows), leaky)
        for i, rows in invariants.items()
    }
    for i in case.nodes:
        charge = plain.mlp(case.params, "decoder_charge", nodes[i], leaky)
        plain_molecules.assert_close(case.outputs["charge"][i], charge)
    for graph, members in enumerate(case.members()):
        total = sum(nodes[i] for i in members)
        energy = plain.mlp(case.params, "decoder_energy", total, leaky)
        plain_molecules.assert_close(case.outputs["energy"][graph], energy)


def test_products_that_are_left_out_vanish_or_are_copies():
    """Of features with themselves; those that are kept do neither."""
    generator = np.random.default_rng(0)
    vector, tensor = IRREPS[1], IRREPS[2]
    with jax.enable_x64(True):
        features = jnp.asarray(generator.normal(size=(3, 5, 1)))
        second = jnp.asarray(generator.normal(size=(5, 5, 1)))
        for out in IRREPS:
            path = (vector, vector, out)
            values = cormorant.couple_channels(features, features, path)
            assert (np.abs(values).max() > 0.1) == cormorant.is_new_square(path)
        for out in (vector, tensor):
            found = cormorant.couple_channels(features, second, (vector, tensor, out))
            other = cormorant.couple_channels(second, features, (tensor, vector, out))
            sign = (-1) ** (1 + 2 + out.l)
            assert np.abs(found - sign * other).max() < 1e-12 < np.abs(found).max()
    assert cormorant.is_new_square((vector, tensor, vector))
    assert not cormorant.is_new_square((tensor, vector, vector))


@functools.cache
def subject():
    return testing.Subject("cormorant", task=testing.MOLECULES)


def no_waves(self, name, pairs):
    size = 2 * self.num_frequencies * self.num_powers + pairs.features.shape[1]
    return jnp.zeros((len(pairs.lengths), size))


def no_mask(self, name, lengths):
    return jnp.ones((len(lengths), self.hidden_size))


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (cormorant, "solid_harmonics", plain_steerable.without_directions),
        (cormorant, "is_new_square", lambda path: path[0].l < 0),
        (cormorant.Cormorant, "_radial", no_waves),
        (cormorant.Cormorant, "_mask", no_mask),
    ],
)
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    own = subject()
    expected = plain_molecules.energies(own)
    monkeypatch.setattr(module, part, replacement)
    broken = testing.Subject("cormorant", fields=own.small, task=own.task)
    params = own.params
    if part == "is_new_square":  # fewer channels are mixed
        shapes = broken.params
        params = jax.tree.map(lambda leaf, like: leaf[-len(like) :], params, shapes)
    found = plain_molecules.energies(broken, params)
    assert testing.relative_error(found, expected) > 1e-3


def test_every_layer_is_read():
    plain_molecules.assert_layers_read(
        subject(), "input_filters", "input/", "edges_0_1o", "edges_1_0e", "mix_0"
    )


def test_reflections_are_not_kept():
    """Some couplings of vectors with vectors are cross products."""
    error = testing.transformation_error(
        subject(), -testing.rotation(), testing.NO_SHIFT
    )
    assert error > 1e-3


@pytest.mark.slow
def test_the_papers_degrees_keep_the_symmetry():
    fields = {"lmax": 3, "hidden_size": 3}
    testing.assert_symmetry(
        testing.Subject("cormorant", fields=fields, task=testing.MOLECULES)
    )


def test_fields_shape_the_model():

    def count(**changed):
        return num_params("cormorant", testing.MOLECULES, **{**FIELDS, **changed})

    for changed in (
        {"hidden_size": 2},
        {"lmax": 1},
        {"num_layers": 1},
        {"num_frequencies": 1},
        {"num_powers": 1},
        {"decoder_size": 4},
        {"summed_size": 3},
    ):
        assert count(**changed) < count(), changed
    with pytest.raises(UserError, match="cormorant needs lmax >= 0, found -1"):
        num_params("cormorant", testing.MOLECULES, lmax=-1)
    with pytest.raises(UserError, match="cormorant has no head of kind node_vector"):
        models.build("cormorant", testing.TASK)
