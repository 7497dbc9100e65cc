"""Steerable layers in plain NumPy loops: a node has {irrep: [C, 2l + 1]}."""

import dataclasses
import functools

import e3nn_jax as e3nn
import jax
import numpy as np

from demetar import graphs, models, testing
from demetar.nn import capture, depthwise
from demetar.types import Head

SCALAR, PSEUDOSCALAR = e3nn.Irrep("0e"), e3nn.Irrep("0o")


def harmonics(vector, lmax):
    """{irrep: [2l + 1]} up to degree 2, where the mean square of a component is 1."""
    length = np.sqrt(sum(vector**2))
    x, y, z = vector / length if length else vector
    values = [
        [1.0],
        [np.sqrt(3) * x, np.sqrt(3) * y, np.sqrt(3) * z],
        [
            np.sqrt(15) * x * z,
            np.sqrt(15) * x * y,
            np.sqrt(5) * (y**2 - (x**2 + z**2) / 2),
            np.sqrt(15) * y * z,
            np.sqrt(15) / 2 * (z**2 - x**2),
        ],
    ]
    return {e3nn.Irrep(l, (-1) ** l): np.array(values[l]) for l in range(lmax + 1)}


@functools.cache
def coupling(*degrees):
    """The Clebsch-Gordan coefficients that are not zero, with their indices."""
    coefficients = np.asarray(e3nn.clebsch_gordan(*degrees))
    return [(index, coefficients[*index]) for index in np.argwhere(coefficients)]


def couple(x, y, first, second, out):
    """sqrt(2 l3 + 1) sum_ij C_ijk x_i y_j."""
    total = np.zeros(out.dim)
    for (i, j, k), coefficient in coupling(first.l, second.l, out.l):
        total[k] += coefficient * x[i] * y[j]
    return np.sqrt(out.dim) * total


def tensor_product(features, attribute, wanted, weights=None):
    """Each channel with the attribute, one weight per path and channel."""
    outputs: dict = {}
    index = 0
    for first in sorted(features):
        for second in sorted(attribute):
            for out in first * second:
                if out not in wanted:
                    continue
                for channel in features[first]:
                    product = couple(channel, attribute[second], first, second, out)
                    if weights is not None:
                        product = weights[index] * product
                    index += 1
                    outputs.setdefault(out, []).append(product)
    assert weights is None or index == len(weights)
    return {out: np.array(rows) for out, rows in outputs.items()}


def mix(params, name, features):
    """Channels by a matrix for each irrep, and a bias for the scalars."""
    outputs = {}
    for irrep, channels in features.items():
        if f"w_{irrep}" not in params[name]:
            continue
        w = params[name][f"w_{irrep}"]
        outputs[irrep] = np.zeros((w.shape[1], irrep.dim))
        for row in range(w.shape[0]):
            for column in range(w.shape[1]):
                outputs[irrep][column] += w[row, column] * channels[row]
    if "b_0e" in params[name]:
        outputs[SCALAR] = outputs[SCALAR] + params[name]["b_0e"][:, None]
    return outputs


def add(*parts):
    """Sums by irrep, of parts that may lack some."""
    total: dict = {}
    for part in parts:
        for irrep, values in part.items():
            total[irrep] = total.get(irrep, 0.0) + values
    return total


@functools.cache
def scaled(activation):
    """The activation over its root mean square under a standard normal input."""
    constant = activation(1.0) / e3nn.normalize_function(activation)(1.0)
    return lambda x: np.asarray(activation(x)) / float(constant)


def gate(features, gate_fn=jax.nn.sigmoid, even_fn=jax.nn.silu, odd_fn=np.tanh):
    """Activations of scalars and pseudoscalars, the last scalars times the rest."""
    gated = [irrep for irrep in sorted(features) if irrep.l]
    scalars = features[SCALAR]
    start = len(scalars) - sum(len(features[irrep]) for irrep in gated)
    outputs = {SCALAR: scaled(even_fn)(scalars[:start])}
    if PSEUDOSCALAR in features:
        outputs[PSEUDOSCALAR] = scaled(odd_fn)(features[PSEUDOSCALAR])
    for irrep in gated:
        rows = []
        for channel in features[irrep]:
            rows.append(channel * scaled(gate_fn)(scalars[start, 0]))
            start += 1
        outputs[irrep] = np.array(rows)
    return outputs


def node_features(recorded, name, node):
    """What a pass recorded as `name`_irrep, for one node."""
    return {
        e3nn.Irrep(key.rsplit("_", 1)[1]): np.asarray(values)[:, node].T
        for key, values in recorded.items()
        if key.rsplit("_", 1)[0] == name
    }


def neighbors(batch):
    """(sender, edge) of each real edge, by receiver."""
    mask = np.asarray(graphs.edge_mask(batch.graph))
    found: dict = {}
    for edge in np.flatnonzero(mask):
        receiver = int(batch.graph.receivers[edge])
        found.setdefault(receiver, []).append((int(batch.graph.senders[edge]), edge))
    return found


def forward(subject, batch):
    """Outputs, and everything that the pass recorded."""

    def run(params):
        with capture.recording() as values:
            outputs = subject.model.apply(params, jax.random.key(0), batch.graph, False)
        return outputs, values

    return jax.device_get(jax.jit(run)(subject.params))


def largest_difference(found, expected):
    """Over all irreps, relative to the largest number of any."""
    assert set(found) == set(expected)
    size = max(np.abs(values).max() for values in expected.values())
    return max(np.abs(found[ir] - expected[ir]).max() for ir in expected) / size


def without_gate(features, *activations):
    """In place of `steerable.gate`: scalars pass, no gate acts."""
    del activations
    num_gates = sum(values.shape[-1] for irrep, values in features.items() if irrep.l)
    scalars = features[SCALAR]
    return {**features, SCALAR: scalars[..., : scalars.shape[-1] - num_gates]}


right_harmonics = depthwise.harmonics


def without_directions(vectors, lmax):
    """In place of `depthwise.harmonics`: only degree 0 is left."""
    attribute = right_harmonics(vectors, lmax)
    return {ir: values if ir.l == 0 else 0 * values for ir, values in attribute.items()}


@functools.cache
def unbroken(name, fields):
    """A model with disturbed parameters, and its displacements; fields as items."""
    subject = testing.Subject(name, fields=dict(fields))
    return subject, subject.displacements(testing.make_batch(testing.systems((3, 2))))


def assert_not_idle(monkeypatch, name, fields, module, part, replacement):
    """Taking a part out changes the displacements."""
    subject, expected = unbroken(name, tuple(fields.items()))
    monkeypatch.setattr(module, part, replacement)
    broken = testing.Subject(name, fields=fields)
    broken.params = subject.params
    found = broken.displacements(testing.make_batch(testing.systems((3, 2))))
    assert testing.relative_error(found, expected) > 1e-3


def assert_rotations_alone(subject):
    """Rotations and translations turn the output, reflections change it."""
    tolerance = testing.TOLERANCE[subject.dtype]
    for matrix, shift in (
        (testing.rotation(), testing.NO_SHIFT),
        (testing.IDENTITY, testing.SHIFT),
    ):
        error = testing.transformation_error(subject, matrix, shift)
        assert error < tolerance
    reflection = -testing.rotation()
    error = testing.transformation_error(subject, reflection, testing.NO_SHIFT)
    assert error > testing.BROKEN


HEADS = (
    Head("position", "node_vector", base="positions"),
    Head("modes", "node_vector", size=3),
    Head("charge", "node_scalar", size=2),
    Head("energy", "graph_scalar"),
)


def assert_heads(name, fields):
    """Every kind of head at once, then scalars alone; returns the last parameters."""
    batch = testing.make_batch(testing.systems((3, 2)))
    key = jax.random.key(0)
    rows, num_graphs = batch.graph.bucket.max_nodes, batch.graph.bucket.num_graphs
    expected = {
        "position": (rows, 1, 3),
        "modes": (rows, 3, 3),
        "charge": (rows, 2),
        "energy": (num_graphs, 1),
    }
    for heads in (HEADS, HEADS[2:]):
        task = dataclasses.replace(testing.TASK, heads=heads)
        model = models.build(name, task, fields)

        def run(model=model):
            params = model.init(key, batch.graph, True)
            return params, model.apply(params, key, batch.graph, True)

        params, outputs = jax.eval_shape(run)
        found = {head: values.shape for head, values in outputs.items()}
        assert found == {head.name: expected[head.name] for head in heads}
    return params
