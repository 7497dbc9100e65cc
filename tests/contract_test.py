"""The contract over the whole registry, and its negative controls."""

import copy
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from demetar import geometry, graphs, models, testing
from demetar.models import base
from demetar.nn import steerable
from demetar.types import HEAD_KINDS

MODELS = tuple(models.REGISTRY)
# Models of both, tried on N-body first.
ALSO_MOLECULAR = tuple(
    name
    for name in MODELS
    if {"node_vector", "graph_scalar"} <= models.model_class(name).supports
)
EQUIVARIANT = tuple(
    name for name in MODELS if models.model_class(name).symmetry != "S(n)"
)


# Compiled for long. A layer of each is compared in float64 in its own tests, and the
# gradients are those of N-body.
COMPILED_FOR_LONG = frozenset(
    [
        "tfn",
        "se3_transformer",
        "nequip",
        "simple_network",
        "equiformer",
        "torchmd_et",
        "segnn",
        "demetar",
        "demetar_free",
        "cormorant",
        "graphormer",
        "graphormer_3d",
    ]
)
# Another head on the layers of another model; its symmetry is tried in its own tests.
VARIANTS = frozenset(["graphormer_3d_untied"])


def grouped(name: str, once_more: bool = False) -> Any:
    """A model whose tests share a process, and so its compiled programs.

    Where they compile `once_more`, some are slow. Variants always are.
    """
    marks = [pytest.mark.xdist_group(name)]
    if name in VARIANTS or (once_more and name in COMPILED_FOR_LONG):
        marks.append(pytest.mark.slow)
    return pytest.param(name, marks=marks)


@functools.cache
def subject(name: str, dtype: str = "float32") -> testing.Subject:
    return testing.Subject(name, dtype, task=testing.home_task(name))


@functools.cache
def molecular_subject(name: str) -> testing.Subject:
    return testing.Subject(name, task=testing.MOLECULES)


@pytest.mark.parametrize("name", [grouped(name) for name in MODELS])
class TestEveryModel:
    def test_shapes_and_dtypes(self, name):
        testing.assert_shapes(subject(name))

    def test_symmetry(self, name):
        testing.assert_symmetry(subject(name))

    def test_permutation(self, name):
        testing.assert_permutation(subject(name))

    def test_padding_and_batch_mates_change_nothing(self, name):
        testing.assert_alone(subject(name))

    def test_values_and_gradients_are_finite(self, name):
        testing.assert_finite(subject(name))

    def test_one_trace_per_bucket(self, name):
        testing.assert_one_trace(subject(name))

    def test_loss_falls_on_eight_samples(self, name):
        testing.assert_learns(subject(name))

    def test_every_input_matters(self, name):
        testing.assert_every_input_matters(subject(name))

    def test_saves_and_loads(self, name):
        testing.assert_saves_and_loads(subject(name))

    def test_states_its_symmetry_and_heads(self, name):
        cls = models.model_class(name)
        assert cls.symmetry in base.SYMMETRIES
        assert cls.supports <= {*HEAD_KINDS}
        assert dataclasses.is_dataclass(cls)


@pytest.mark.slow
@pytest.mark.parametrize("name", [grouped(name) for name in MODELS])
def test_initial_values(name):
    """The other tests draw parameters without the initialisers, which compile long."""
    testing.assert_initial_values(subject(name))


@pytest.mark.parametrize("name", [grouped(name) for name in ALSO_MOLECULAR])
def test_promises_hold_for_molecules(name):
    """No vectors, no edge features, species and a scalar of each graph."""
    own = molecular_subject(name)
    testing.assert_shapes(own)
    testing.assert_symmetry(own)
    testing.assert_permutation(own)
    testing.assert_mates_change_nothing(own)
    testing.assert_one_trace(own)
    testing.assert_inputs_matter(own, testing.inputs_of(own.task))


@pytest.mark.parametrize(
    "name", [grouped(name, once_more=True) for name in ALSO_MOLECULAR]
)
def test_gradients_are_finite_for_molecules(name):
    testing.assert_finite(molecular_subject(name))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "cormorant" else pytest.mark.slow)
        for name in MODELS
    ],
)
def test_much_padding_leaves_gradients_finite(name):
    """All padding edges end at one node, whose sum grows with them layer by layer."""
    task = testing.home_task(name)
    deep = {"num_layers": 5} if "num_layers" in models.fields(name) else {}
    members = testing.systems()
    own = testing.Subject(name, fields=deep, task=task)
    batch = testing.make_batch(members, extra=1_000, task=task)
    size = max(len(system.charges) for system in members)
    # Attention within graphs pads to the largest one, not to the whole batch.
    bucket = dataclasses.replace(
        batch.graph.bucket,
        max_nodes_per_graph=size,
        max_edges_per_graph=size * (size - 1),
    )
    graph = dataclasses.replace(batch.graph, bucket=bucket)
    batch = dataclasses.replace(batch, graph=graph)
    params, _ = jax.flatten_util.ravel_pytree(own.params)
    loss, gradients = own.loss_and_gradients(params, batch.graph.nodes, batch)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", [grouped(name, once_more=True) for name in MODELS])
def test_promises_hold_in_float64(name):
    with jax.enable_x64(True):
        precise = subject(name, "float64")
        testing.assert_shapes(precise)
        testing.assert_symmetry(precise)
        testing.assert_permutation(precise)
        testing.assert_alone(precise)


# --- Potentials -----------------------------------------------------------------------


POTENTIALS = [name for name in MODELS if models.has_forces(name)]
FADING = [name for name in POTENTIALS if models.model_class(name).fades_at_cutoff]


def quick(name: str, *few: str) -> Any:
    """A model whose test is slow unless it is one of a few."""
    marks = [pytest.mark.xdist_group(name)]
    return pytest.param(
        name, marks=marks if name in few else [pytest.mark.slow, *marks]
    )


@functools.cache
def potential(name: str) -> testing.Subject:
    return testing.Subject(name, "float64", task=testing.potential_task(name))


@pytest.mark.parametrize("name", [quick(name, "schnet") for name in POTENTIALS])
def test_forces_follow_from_the_energy(name):
    with jax.enable_x64(True):
        testing.assert_slopes(potential(name))
        testing.assert_at_rest(potential(name))


@pytest.mark.parametrize("name", [quick(name, "schnet") for name in FADING])
def test_energies_have_no_jump_at_the_cutoff(name):
    with jax.enable_x64(True):
        testing.assert_fades(potential(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [grouped(name) for name in POTENTIALS])
def test_gradients_of_forces_are_finite(name):
    with jax.enable_x64(True):
        testing.assert_finite(potential(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [grouped(name) for name in POTENTIALS])
def test_second_derivatives_agree_in_both_modes(name):
    with jax.enable_x64(True):
        testing.assert_both_modes(potential(name))


@pytest.mark.parametrize("name", [quick(name, "linear", "egnn") for name in MODELS])
def test_derivatives_agree_in_both_modes(name):
    testing.assert_both_modes(subject(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [grouped("schnet"), grouped("nequip")])
def test_hessians(name):
    """jax.hessian, jax.linearize of a gradient, and forces' slopes are the same."""
    with jax.enable_x64(True):
        own = potential(name)
        batch = own.batch(testing.systems((3, 2)), None)

        def energy(positions):
            nodes = batch.graph.nodes._replace(positions=positions)
            graph = dataclasses.replace(batch.graph, nodes=nodes)
            return own.apply(own.params, graph)["energy"][:2].sum()

        positions = batch.graph.nodes.positions
        hessian = jax.hessian(energy)(positions)  # [N, 3, N, 3]
        _, change = jax.linearize(jax.grad(energy), positions)
        direction = np.random.default_rng(0).normal(size=positions.shape)
        found = change(direction)
        expected = np.einsum("iajb,jb->ia", hessian, direction)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(hessian, hessian.transpose(2, 3, 0, 1), atol=1e-10)


@pytest.mark.slow
def test_jumps_at_the_cutoff_would_be_noticed():
    """Models without an envelope have them, and so are marked."""
    with jax.enable_x64(True):
        for name in ("egnn", "nmp"):
            own = testing.Subject(name, "float64", task=testing.SHORT_RANGED)
            with pytest.raises(AssertionError, match="jumps as an atom crosses"):
                testing.assert_fades(own)
        hard = testing.Subject(
            "torchmd_et", "float64", {"vector_cutoff": False}, testing.SHORT_RANGED
        )
        with pytest.raises(AssertionError, match="jumps as an atom crosses"):
            testing.assert_fades(hard)


def test_wrong_forces_would_be_noticed():
    """Of the wrong sign, as a data set with gradients for forces would have them."""
    with jax.enable_x64(True):
        own: Any = copy.copy(potential("schnet"))
        right = own.apply
        own.apply = lambda params, graph: {
            key: -value if key == "forces" else value
            for key, value in right(params, graph).items()
        }
        with pytest.raises(AssertionError, match="not minus the slope"):
            testing.assert_slopes(own)


# --- Negative controls ----------------------------------------------------------------


def test_centring_over_coordinates_breaks_rotations(monkeypatch):
    """The fault of two published SEGNN codes; a test that misses it is no test."""

    def wrong(graph):
        positions = graph.nodes.positions
        return positions - positions.mean(axis=1, keepdims=True)

    monkeypatch.setattr(geometry, "centred_positions", wrong)
    broken = testing.Subject("segnn")
    error = testing.transformation_error(broken, testing.rotation(), testing.NO_SHIFT)
    assert error > testing.BROKEN


def test_wrong_gate_breaks_rotations(monkeypatch):
    """A nonlinearity on components, as a careless layer would have."""
    right = steerable.gate

    def broken_gate(features):
        gated = right(features)
        return {irrep: jax.nn.silu(values) for irrep, values in gated.items()}

    monkeypatch.setattr(steerable, "gate", broken_gate)
    error = testing.transformation_error(
        testing.Subject("segnn"), testing.rotation(), testing.NO_SHIFT
    )
    assert error > testing.BROKEN


def test_clipped_components_break_rotations():
    """EGNN clips messages by component: harmless at 100, not where it acts."""
    broken = testing.Subject("egnn", fields={"coordinate_clip": 0.01})
    error = testing.transformation_error(broken, testing.rotation(), testing.NO_SHIFT)
    assert error > testing.BROKEN


def test_absolute_positions_break_translations():
    """The S(n) models read raw positions."""
    for name in set(MODELS) - set(EQUIVARIANT):
        error = testing.transformation_error(
            subject(name), testing.IDENTITY, testing.SHIFT
        )
        assert error > testing.BROKEN


def test_the_fixture_notices_self_loops():
    batch = testing.make_batch(testing.systems())
    looped = dataclasses.replace(
        batch, graph=dataclasses.replace(batch.graph, senders=batch.graph.receivers)
    )
    testing.assert_not_degenerate(batch)
    with pytest.raises(AssertionError):
        testing.assert_not_degenerate(looped)


def test_batch_mates_would_be_noticed(monkeypatch):
    """A centroid over the whole batch instead of each graph fails the promise."""

    def wrong(graph):
        return graph.nodes.positions - graph.nodes.positions.mean(axis=0)

    monkeypatch.setattr(geometry, "centred_positions", wrong)
    with pytest.raises(AssertionError):
        testing.assert_alone(testing.Subject("segnn"))


def test_padding_that_leaks_would_be_noticed(monkeypatch):
    """Padding edges that reach a real node fail the promise."""
    right = graphs.sum_to_receivers

    def leaking(values, graph):
        moved = dataclasses.replace(
            graph, receivers=graph.receivers % (graph.bucket.max_nodes - 1)
        )
        return right(values, moved)

    monkeypatch.setattr(graphs, "sum_to_receivers", leaking)
    with pytest.raises(AssertionError):
        testing.assert_alone(testing.Subject("gnn"))
