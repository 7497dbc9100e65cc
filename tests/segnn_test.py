"""SEGNN as on molecules: layers, norm and readout against the paper in loops."""

import functools

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest

from demetar import testing
from demetar.errors import UserError
from demetar.models import segnn
from demetar.nn import steerable
from tests.models_test import num_params
from tests.support import plain, plain_molecules, plain_steerable

SCALAR = plain_steerable.SCALAR
LMAX, LMAX_ATTRIBUTES = 1, 2
FIELDS = {
    "hidden_units": 6,
    "num_layers": 2,
    "lmax_hidden": LMAX,
    "lmax_attributes": LMAX_ATTRIBUTES,
}


def product(params, name, features, attribute):
    """All couplings of all channels with the attribute, times one matrix per irrep."""
    outputs: dict = {}
    for key, w in params[name].items():
        if not key.startswith("w_"):
            continue
        out = e3nn.Irrep(key.removeprefix("w_"))
        rows = [
            plain_steerable.couple(channel, attribute[second], first, second, out)
            for first in sorted(features)
            for second in sorted(attribute)
            if out in first * second
            for channel in features[first]
        ]
        outputs[out] = np.zeros((w.shape[1], out.dim))
        for weights, row in zip(w, rows, strict=True):
            outputs[out] += np.outer(weights, row)
    outputs[SCALAR] = outputs[SCALAR] + params[name]["b_0e"][:, None]
    return outputs


def concatenate(*parts):
    return {
        irrep: np.concatenate([part[irrep] for part in parts if irrep in part])
        for irrep in parts[0]
    }


class Loops:
    """The equations for one batch: features[i] are {irrep: [C, 2l + 1]}."""

    def __init__(self, case, fields):
        self.case = case
        self.fields = fields
        self.params = case.params
        self.node_attribute = {i: self.mean_harmonics(i) for i in case.nodes}

    def harmonics(self, vector):
        """From receiver to sender; by default the mean square of all is 1 / 4 pi."""
        values = plain_steerable.harmonics(-vector, LMAX_ATTRIBUTES)
        if self.fields.get("component_harmonics"):
            return values
        return {irrep: value / np.sqrt(4 * np.pi) for irrep, value in values.items()}

    def mean_harmonics(self, i):
        edges = self.case.neighbors[i]
        total: dict = {}
        for j, edge in edges:
            values = self.harmonics(self.case.edge(i, j, edge)[0])
            total = plain_steerable.add(total, values)
        mean = {irrep: value / len(edges) for irrep, value in total.items()}
        return {**mean, SCALAR: np.ones(1)}

    def embedding(self, i):
        given = {SCALAR: self.case.scalars[i][:, None]}
        return product(self.params, "embedding", given, self.node_attribute[i])

    def layer(self, layer, features):
        return {i: self.update(layer, features, i) for i in self.case.nodes}

    def update(self, layer, features, i):
        received: dict = {}
        for j, edge in self.case.neighbors[i]:
            vector, own = self.case.edge(i, j, edge)
            attribute = self.harmonics(vector)
            power = 2 if self.fields.get("squared_lengths") else 1
            length = np.linalg.norm(vector) ** power
            given = {SCALAR: np.array([length, *own])[:, None]}
            message = concatenate(features[i], features[j], given)
            for step in range(2):
                message = plain_steerable.gate(
                    product(self.params, f"message_{layer}_{step}", message, attribute)
                )
            received = plain_steerable.add(received, message)
        attribute = self.node_attribute[i]
        joined = concatenate(features[i], received)
        hidden = product(self.params, f"update_{layer}_0", joined, attribute)
        hidden = plain_steerable.gate(hidden)
        step = product(self.params, f"update_{layer}_1", hidden, attribute)
        return plain_steerable.add(features[i], step)

    def instance_norm(self, layer, features):
        """Over the nodes of a graph, channel by channel."""
        own = self.params[f"norm_{layer}"]
        outputs: dict = {i: {} for i in features}
        for members in self.case.members():
            for irrep in features[0]:
                for_graph = np.array([features[i][irrep] for i in members])
                if irrep == SCALAR:
                    for_graph = for_graph - for_graph.mean(axis=0)
                square = (for_graph**2).mean(axis=(0, 2))  # over nodes and components
                scale = own[f"scale_{irrep}"] / np.sqrt(square + 1e-5)
                for i, values in zip(members, for_graph, strict=True):
                    outputs[i][irrep] = values * scale[:, None]
                    if irrep == SCALAR:
                        outputs[i][irrep] += own["offset"][:, None]
        return outputs

    def readout(self, features, i, head):
        """Before the nodes are pooled."""
        attribute = self.node_attribute[i]
        hidden = product(self.params, "readout_0", features[i], attribute)
        hidden = plain_steerable.gate(hidden)
        return product(self.params, f"readout_{head}", hidden, attribute)[SCALAR][:, 0]


@pytest.mark.parametrize(
    "changed",
    [{}, {"component_harmonics": True, "squared_lengths": True, "pooling": "sum"}],
)
def test_the_network_is_the_papers(changed):
    fields = {**FIELDS, **changed}
    with jax.enable_x64(True):
        # The loops too: the scales of activations are e3nn's, in float64.
        compare(plain_molecules.Case("segnn", fields), fields)


def compare(case, fields):
    loops = Loops(case, fields)
    features = {i: loops.embedding(i) for i in case.nodes}
    for layer in range(2):
        features = loops.instance_norm(layer, loops.layer(layer, features))
        for i in case.nodes:
            found = plain_steerable.node_features(case.recorded, f"features_{layer}", i)
            difference = plain_steerable.largest_difference(found, features[i])
            assert difference < plain_molecules.TOLERANCE
    for i in case.nodes:
        charge = loops.readout(features, i, "charge")
        plain_molecules.assert_close(case.outputs["charge"][i], charge)
    for graph, members in enumerate(case.members()):
        rows = [loops.readout(features, i, "energy") for i in members]
        # As many scalars as channels of all degrees, for each of two outputs.
        assert len(rows[0]) == 2 * sum(len(values) for values in features[0].values())
        pooled = sum(rows) / (1 if fields.get("pooling") == "sum" else len(rows))
        energy = plain.mlp(case.params, "readout_energy_graph", pooled)
        plain_molecules.assert_close(case.outputs["energy"][graph], energy)


@functools.cache
def subject():
    fields = {"num_layers": 1, "hidden_units": 6}
    return testing.Subject("segnn", fields=fields, task=testing.MOLECULES)


@pytest.mark.parametrize(
    "module, part, replacement",
    [
        (segnn.InstanceNorm, "__call__", lambda self, features, *_: features),
        (steerable, "gate", plain_steerable.without_gate),
    ],
)
@pytest.mark.slow
def test_no_part_is_idle(monkeypatch, module, part, replacement):
    plain_molecules.assert_not_idle(monkeypatch, subject(), module, part, replacement)


def test_every_layer_is_read():
    plain_molecules.assert_layers_read(
        subject(), "embedding", "message_0_0", "norm_0", "readout_0", "readout_energy"
    )


@pytest.mark.slow
def test_the_papers_degrees_keep_the_symmetry():
    """Hidden features up to degree 2, attributes up to 3."""
    fields = {"hidden_units": 9, "lmax_hidden": 2, "lmax_attributes": 3}
    testing.assert_symmetry(
        testing.Subject("segnn", fields=fields, task=testing.MOLECULES)
    )


def test_every_kind_of_head():
    plain_steerable.assert_heads("segnn", FIELDS)


def test_fields_shape_the_model():
    fields: dict = {**FIELDS, "node_inputs": ("all",)}
    base = num_params("segnn", testing.MOLECULES, **fields)
    for changed, fewer in (
        ({"read_positions": False}, True),
        ({"instance_norm": True}, False),
    ):
        found = num_params("segnn", testing.MOLECULES, **{**fields, **changed})
        assert (found < base) == fewer and found != base


@pytest.mark.slow
def test_the_size_on_molecules_follows_from_the_paper():
    """It states no count; 7 layers of 128 balanced units, degrees 2 and 3, give one."""

    def weights(inputs, outputs):
        """Of a tensor product: channels in times out for each coupling, and a bias."""
        count = sum(
            num * outputs[target]
            for source, num in inputs.items()
            for target in outputs
            for degree in range(4)
            if abs(source - degree) <= target <= source + degree
            and (source + degree + target) % 2 == 0
        )
        return count + outputs[0]

    channels = 36  # the least whose layer has the weights of 128 x 128
    hidden = dict.fromkeys(range(3), channels)
    for num, enough in ((channels - 1, False), (channels, True)):
        units = dict.fromkeys(range(3), num)
        assert (weights(units, units) - num >= 128**2) == enough
    gated = {**hidden, 0: 3 * channels}
    twice = {degree: 2 * num for degree, num in hidden.items()}
    layer = weights({**twice, 0: 2 * channels + 1}, gated) + weights(hidden, gated)
    layer += weights(twice, gated) + weights(hidden, hidden) + 4 * channels
    pooled = 3 * channels
    readout = weights(hidden, gated) + weights(hidden, {0: pooled})
    readout += pooled**2 + pooled + pooled + 1
    fields = {
        "hidden_units": 128,
        "num_layers": 7,
        "lmax_hidden": 2,
        "lmax_attributes": 3,
        "node_inputs": ("all",),
        "read_positions": False,
        "instance_norm": True,
        "component_harmonics": True,
        "squared_lengths": True,
    }
    expected = weights({0: 5}, hidden) + 7 * layer + readout
    found = num_params("segnn", testing.MOLECULES, **fields)
    assert found == expected == 1_033_525


def test_degrees_out_of_reach_are_refused():
    fields = {"node_inputs": ("all",), "read_positions": False, "lmax_hidden": 2}
    with pytest.raises(UserError, match="cannot make hidden features of degree 2 from"):
        num_params("segnn", testing.MOLECULES, **fields)
