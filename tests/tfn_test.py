"""TFN: convolutions and nonlinearity against the equations of the papers in loops."""

import dataclasses
import functools
from typing import Any

import haiku as hk
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import geometry, models, testing
from demetar.errors import UserError
from demetar.nn import kernels, radial, steerable
from demetar.types import Head
from experiments.protocols import nbody as protocols
from tests.models_test import num_params
from tests.support import plain_kernels, plain_steerable

TOLERANCE = 1e-10
FIELDS = {"hidden_size": 3, "num_layers": 3, "radial_size": 4, "num_basis": 3}
BATCH_SIZES = (3, 2)
HIDDEN = {steerable.SCALAR: 3, steerable.VECTOR: 3}


def radial_inputs(num_basis, read_edges):
    """What radial functions read of an edge, as a function of length and features."""

    def values(length, features):
        basis = (
            plain_kernels.gaussians(length, num_basis, 6.0) if num_basis else [length]
        )
        return [*basis, *features] if read_edges else basis

    return values


def given(batch):
    """Charge and velocity of a node."""
    nodes = batch.graph.nodes
    return lambda i: {
        steerable.SCALAR: np.asarray(nodes.scalars)[i][:, None],
        steerable.VECTOR: np.asarray(nodes.vectors)[i],
    }


def recorded_features(recorded, layer):
    return lambda i: plain_steerable.node_features(recorded, f"features_{layer}", i)


@pytest.mark.parametrize(
    "num_basis, read_edges, shared", [(3, True, True), (0, False, False)]
)
def test_the_network_is_the_papers(num_basis, read_edges, shared):
    with jax.enable_x64(True):
        fields = {
            **FIELDS,
            "num_basis": num_basis,
            "read_edges": read_edges,
            "shared_radial": shared,
        }
        subject = testing.Subject("tfn", "float64", fields)
        batch = testing.make_batch(testing.systems(BATCH_SIZES), "float64", extra=1)
        params = jax.tree.map(np.asarray, subject.params)
        outputs, recorded = plain_steerable.forward(subject, batch)
        radial_fn = radial_inputs(num_basis, read_edges)
        features = given(batch)
        for layer in range(2):
            expected = plain_kernels.convolution(
                params,
                f"tfn/convolution_{layer}",
                batch,
                features,
                radial_fn,
                HIDDEN,
                shared,
            )
            features = recorded_features(recorded, layer)
            assert len(expected) == sum(BATCH_SIZES)
            for node, values in expected.items():
                wanted = plain_kernels.norm_nonlinearity(
                    params, f"tfn/nonlinearity_{layer}", values
                )
                error = plain_steerable.largest_difference(features(node), wanted)
                assert error < TOLERANCE
        expected = plain_kernels.convolution(
            params,
            "tfn/output",
            batch,
            features,
            radial_fn,
            {steerable.VECTOR: 1},
            shared,
        )
        for node, values in expected.items():
            found = outputs["position"][node]
            error = testing.relative_error(found, values[steerable.VECTOR])
            assert error < TOLERANCE


def test_kernel_bases_are_couplings_with_harmonics():
    """For degrees up to 2, whose harmonics go up to 4."""
    with jax.enable_x64(True):
        batch = testing.make_batch(testing.systems((3,)), "float64")
        steering = kernels.steer(batch.graph, testing.TASK, 2, 3, read_edges=True)
        vectors = geometry.edge_vectors(batch.graph)
        attribute = steerable.natural_attribute(
            geometry.spherical_harmonics(vectors, 4)
        )
        for target in range(3):
            column = 0
            for source in range(3):
                count = kernels.num_couplings(source, target)
                block = steering.bases[target][..., column:][
                    ..., : (2 * source + 1) * count
                ]
                block = block.reshape(*block.shape[:2], 2 * source + 1, count)
                column += (2 * source + 1) * count
                identity = jnp.broadcast_to(
                    jnp.eye(2 * source + 1)[:, None],
                    (2 * source + 1, len(vectors), 2 * source + 1),
                )
                irreps = [steerable.natural_irrep(l) for l in (source, 0, target)]
                for index in range(count):
                    irreps[1] = steerable.natural_irrep(abs(source - target) + index)
                    expected = steerable.couple(identity, attribute[irreps[1]], irreps)
                    expected /= (2 * target + 1) ** 0.5  # coefficients of norm 1
                    found = block[..., index].transpose(1, 0, 2)
                    assert np.abs(found - expected).max() < 1e-12
            assert column == steering.bases[target].shape[-1]


@functools.cache
def base_subject():
    return testing.Subject("tfn", fields=FIELDS)


def displacements(subject, params=None):
    """Outputs at all nodes, of the subject's own parameters unless given."""
    batch = testing.make_batch(testing.systems())
    params = subject.params if params is None else params
    return np.asarray(subject.apply(params, batch.graph)["position"])


def recompiled(subject):
    """The same model, traced again, so that replaced functions act."""
    return testing.Subject(subject.name, fields=subject.small)


def no_basis(lengths, num_basis, extent):
    return jnp.zeros((len(lengths), num_basis))


def only_scalars(vectors, lmax):
    found = right_harmonics(vectors, lmax)
    return {l: values if l == 0 else 0 * values for l, values in found.items()}


right_harmonics = geometry.spherical_harmonics


@pytest.mark.parametrize(
    "module, name, replacement",
    [
        (radial, "gaussian", no_basis),
        (geometry, "spherical_harmonics", only_scalars),
        (kernels.NormNonlinearity, "__call__", lambda self, features: features),
    ],
)
def test_no_part_is_idle(monkeypatch, module, name, replacement):
    expected = displacements(base_subject())
    monkeypatch.setattr(module, name, replacement)
    found = displacements(recompiled(base_subject()), base_subject().params)
    assert testing.relative_error(found, expected) > 1e-3


def without(subject, layer):
    """The subject's parameters with those of a layer at zero."""
    zeros = jax.tree.map(jnp.zeros_like, subject.params[layer])
    return {**subject.params, layer: zeros}


def test_the_self_interaction_is_read():
    subject = base_subject()
    found = displacements(
        subject, without(subject, "tfn/convolution_1/self_interaction")
    )
    assert testing.relative_error(found, displacements(subject)) > 1e-3


def test_kernels_commute_with_rotations_alone():
    """Some couplings of vectors with vectors are cross products."""
    subject = base_subject()
    for matrix, commutes in (
        (testing.rotation(), True),
        (-testing.rotation(), False),
    ):
        error = testing.transformation_error(subject, matrix, testing.NO_SHIFT)
        assert error < 1e-4 if commutes else error > testing.BROKEN


def test_other_degrees_keep_the_symmetry():
    fields = {**FIELDS, "num_layers": 2, "lmax": 2}
    testing.assert_symmetry(testing.Subject("tfn", fields=fields))


def test_fields_shape_the_model():
    base = num_params("tfn", **FIELDS)
    for changed in (
        {"hidden_size": 2},
        {"num_layers": 2},
        {"radial_size": 3},
        {"num_basis": 2},
        {"num_basis": 0},
        {"read_edges": False},
        {"shared_radial": True},
        {"node_inputs": ()},
    ):
        fields = {**FIELDS, **changed}
        smaller = num_params("tfn", **fields) < base
        # Without inputs a constant takes their place.
        assert smaller or not fields.get("node_inputs", True), changed
    two = num_params("tfn", **FIELDS, node_inputs=("charge", "|velocity|"))
    assert two > base
    assert num_params("tfn", **FIELDS, lmax=2) > base
    with pytest.raises(UserError, match=r"tfn needs lmax >= 1 .*, found 0"):
        num_params("tfn", lmax=0)


def authors_size():
    """Parameters of the authors' code with 16 channels, counted layer by layer."""

    def convolution(sources, targets):
        networks = sum(
            kernel_size(num_in, num_out, 2 * min(k, l) + 1)
            for k, num_in in enumerate(sources)
            for l, num_out in targets.items()
        )
        return networks + sum(sources[l] * num for l, num in targets.items())

    def kernel_size(num_in, num_out, num_couplings):
        """Layers from 1 to 32 to 32 values, normalised, and to the weights."""
        hidden = (2 * 32) + (32 * 32 + 32) + 2 * (2 * 32)
        return hidden + (32 + 1) * num_in * num_out * num_couplings

    hidden = {0: 16, 1: 16}
    nonlinearity = 2 * (2 * 16 + 16 * 16 + 16)
    return (
        convolution((1, 1), hidden)
        + 2 * convolution((16, 16), hidden)
        + convolution((16, 16), {1: 1})
        + 3 * nonlinearity
    )


def test_sizes_of_the_default_and_of_the_comparison():
    assert num_params("tfn") == 134_192
    fields = protocols.find("tfn", "paper").fields
    assert num_params("tfn", **fields) == authors_size()
    assert authors_size() == 127_024
    assert num_params("tfn", **{**fields, "shared_radial": True}) == 114_544


def test_weights_start_as_the_authors():
    """Kaiming uniform weights, biases within the root of the inputs, norms of one."""
    layer = hk.transform(lambda values: kernels.RadialHidden(3, 64)(values))
    params: Any = layer.init(jax.random.key(0), jnp.ones((2, 16)))
    found = params["radial_hidden"]
    for index, num_inputs in enumerate((16, 64)):
        for name, bound in (("w", np.sqrt(6)), ("b", 1)):
            largest = np.abs(found[f"{name}_{index}"]).max() * np.sqrt(num_inputs)
            assert 0.95 * bound < largest <= bound * (1 + 1e-6)
        norm = params[f"radial_hidden/norm_{index}"]
        assert (norm["scale"] == 1).all() and (norm["offset"] == 0).all()


@pytest.mark.parametrize("name", ["tfn", "se3_transformer"])
def test_systems_of_one_body(name):
    """Without neighbours the self-interaction is left; nothing is divided by zero."""
    fields = {"num_layers": 2, "hidden_size": 3, "shared_radial": True}
    subject = testing.Subject(name, fields=fields)
    batch = testing.regular_batch(testing.systems((1, 1)))
    assert batch.graph.bucket.max_edges == 0
    flat, _ = jax.flatten_util.ravel_pytree(subject.params)
    results = subject.loss_and_gradients(flat, batch.graph.nodes, batch)
    for leaf in jax.tree.leaves(results):
        assert np.isfinite(leaf).all()
    # Separate networks take the same shapes, but long to compile.
    subject = testing.Subject(name, fields={**fields, "shared_radial": False})
    outputs = jax.eval_shape(subject.apply, subject.params, batch.graph)
    assert outputs["position"].shape == (2, 1, 3)


HEADS = (
    Head("position", "node_vector", base="positions"),
    Head("modes", "node_vector", size=3),
    Head("charge", "node_scalar", size=2),
    Head("energy", "graph_scalar"),
)


def output_shapes(name, fields, task):
    """Shapes of the parameters and of the outputs, without a compilation."""
    model = models.build(name, task, fields)
    batch = testing.make_batch(testing.systems())

    def run(key):
        params = model.init(key, batch.graph, True)
        return params, model.apply(params, key, batch.graph, False)

    params, outputs = jax.eval_shape(run, jax.random.key(0))
    assert set(outputs) == {head.name for head in task.heads}
    sizes = {"node_vector": (18,), "node_scalar": (18,), "graph_scalar": (5,)}
    for head in task.heads:
        last = (head.size, 3) if head.kind == "node_vector" else (head.size,)
        assert outputs[head.name].shape == (*sizes[head.kind], *last)
    return params


def test_every_kind_of_head():
    for heads in (HEADS, HEADS[2:]):
        task = dataclasses.replace(testing.TASK, heads=heads)
        params = output_shapes("tfn", FIELDS, task)
        made = params["tfn/output/self_interaction"]
        assert ("w_1o" in made) == (heads == HEADS)  # nothing is made in vain


def test_vector_heads_are_the_channels_of_the_last_layer():
    heads = (HEADS[1], HEADS[0])
    task = dataclasses.replace(testing.TASK, heads=heads)
    assert kernels.output_channels(task, 5) == {steerable.VECTOR: 4}
    vectors = np.random.default_rng(0).normal(size=(3, 2, 4))
    batch = testing.regular_batch(testing.systems((2,)))
    found = kernels.output_heads(
        task, {steerable.VECTOR: jnp.asarray(vectors)}, batch.graph
    )
    expected = vectors.transpose(1, 2, 0).astype(np.float32)
    assert (found["modes"] == expected[:, :3]).all()
    assert (found["position"] == expected[:, 3:]).all()


def test_a_task_without_vectors():
    """Scalars in, vectors out."""
    task = dataclasses.replace(testing.TASK, vectors=())
    params = output_shapes("tfn", FIELDS, task)
    assert "w_1o" not in params["tfn/convolution_0/self_interaction"]
