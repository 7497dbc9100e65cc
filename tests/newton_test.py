"""Newton: its roll-out against plain loops, what it conserves, what it bounds."""

import dataclasses
import functools
import itertools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import integrators, models, pairs, testing
from demetar.errors import UserError
from demetar.models import newton
from demetar.nn import capture
from demetar.types import Head
from experiments import force_law

FIELDS: dict[str, Any] = {
    "hidden_size": 5,
    "num_substeps": 6,
    "eval_substeps": 9,
    "eta": 0.5,
    "eval_eta": 0.3,
    "horizon": 1.25,
    "stretch": 1.4,
}
BOTH = dataclasses.replace(
    testing.TASK,
    heads=(
        *testing.TASK.heads,
        Head("velocity", "node_vector", base="velocity", scale=2.0),
    ),
)


@functools.cache
def subject(saturation="pair", dtype="float32", task=testing.TASK, **fields):
    name = "newton_octahedral" if saturation == "component" else "newton"
    fields = {**FIELDS, "saturation": saturation, **fields}
    return testing.Subject(name, dtype, fields, task)


# --- Against loops ------------------------------------------------------------------


def plain_acceleration(params, fields, charges, positions):
    """Accelerations (n, 3) of one system, one pair after the other."""
    params = {
        path.removeprefix("newton_octahedral").removeprefix("newton"): values
        for path, values in params.items()
    }
    own = params[""]
    bound, power = np.exp(own.get("log_bound", np.inf)), own["power"]

    def bounded(vector):
        if fields["saturation"] == "component":
            return vector * (1 + abs(vector / bound) ** 8) ** (-1 / 8)
        size = np.linalg.norm(vector)
        return vector * (1 + (size / bound) ** 8) ** (-1 / 8)

    total = np.zeros_like(positions)
    for i, here in enumerate(positions):
        for j, there in enumerate(positions):
            if i == j:
                continue
            offset = here - there
            r = np.sqrt(offset @ offset + 0.01**2)
            product = charges[i] * charges[j]
            values = np.array([np.log(r), product, np.log(r) * product])
            for layer in range(3):
                weights = params[f"/force/linear_{layer}"]
                values = values @ weights["w"] + weights["b"]
                if layer < 2:
                    values = values / (1 + np.exp(-values))
            pull = values[0] * r**-power * offset / r
            total[i] += bounded(pull) if fields["saturation"] == "pair" else pull
    if fields["saturation"] in ("radial", "component"):
        total = np.stack([bounded(vector) for vector in total])
    return total


def plain_roll_out(params, fields, system, is_training):
    """Displacements and velocities (n, 3) of one system."""
    count = fields["num_substeps" if is_training else "eval_substeps"]
    eta = fields["eta" if is_training else "eval_eta"]
    accelerate = functools.partial(plain_acceleration, params, fields, system.charges)
    x, remaining = system.positions.copy(), fields["horizon"]
    acceleration = accelerate(x)
    (lag,) = (values["lag"] for values in params.values() if "lag" in values)
    age = 1e-3 * fields["horizon"] * lag
    v = system.velocities + age * acceleration
    for left in range(count, 0, -1):
        gaps = [
            np.sqrt(np.sum((a - b) ** 2) + 0.01**2)
            for k, a in enumerate(x)
            for b in x[:k]
        ]
        wanted = eta * min(gaps, default=np.inf) ** 1.5
        wanted = min(wanted, fields["stretch"] * fields["horizon"] / count)
        dt = min(max(wanted, remaining / left), remaining)
        v = v + dt / 2 * acceleration
        x = x + dt * v
        acceleration = accelerate(x)
        v = v + dt / 2 * acceleration
        remaining -= dt
    assert remaining == pytest.approx(0, abs=1e-12)
    return x - system.positions, v - age * acceleration


@pytest.mark.parametrize("saturation", newton.SATURATIONS)
@pytest.mark.parametrize("is_training", [True, False])
def test_roll_out_is_that_of_plain_loops(saturation, is_training):
    """Both heads, ragged and regular, in training's steps and in evaluation's."""
    with jax.enable_x64(True):
        own = subject(saturation, "float64", BOTH)
        params = jax.tree.map(np.array, own.params)
        members = testing.systems((5, 5, 5))
        found = []
        for batch in (testing.make_batch(members, "float64"), regular(members)):
            outputs = jax.jit(own.model.apply, static_argnums=3)(
                params, None, batch.graph, is_training
            )
            found.append({name: outputs[name][:15, 0] for name in outputs})
    expected = [
        plain_roll_out(params, own.small, system, is_training) for system in members
    ]
    shifts, velocities = (
        np.concatenate(parts) for parts in zip(*expected, strict=True)
    )
    before = np.concatenate([system.velocities for system in members])
    for outputs in found:
        np.testing.assert_allclose(outputs["position"], shifts, atol=1e-10)
        velocity = before + 2.0 * np.asarray(outputs["velocity"])
        np.testing.assert_allclose(velocity, velocities, atol=1e-10)


@pytest.mark.parametrize("is_training", [True, False])
def test_equal_steps_are_those_of_plain_loops(is_training):
    """Also for systems with so close a pair that others would shorten the steps."""
    fields = {"stretch": 1.0, "learned_lag": False}
    with jax.enable_x64(True):
        own = subject("none", "float64", **fields)
        params = jax.tree.map(np.array, own.params)
        assert not any("lag" in values for values in params.values())
        known = {**params, "newton": {**params["newton"], "lag": np.zeros(())}}
        members = testing.systems((5, 5, 5))
        graph = regular(members).graph
        outputs = jax.jit(own.model.apply, static_argnums=3)(
            params, None, graph, is_training
        )
    fields = {**own.small, **fields}
    expected = [
        plain_roll_out(known, fields, system, is_training)[0] for system in members
    ]
    np.testing.assert_allclose(
        outputs["position"][:, 0], np.concatenate(expected), atol=1e-10
    )


def test_the_separable_law_is_its_formula():
    """Of two bodies at rest, whatever the sign of their charges; it bends the power."""
    own = subject("none", law="separable", num_layers=1, num_bumps=3)
    params = jax.tree.map(np.array, own.params)
    heights, smoothing, power = np.array([0.5, -0.7, 0.3]), 0.4, 1.5
    params["newton"] |= {
        "heights": np.float32(heights),
        "log_smoothing": np.float32(np.log(smoothing)),
        "power": np.float32(power),
    }
    first, last = (params[f"newton/force/linear_{layer}"] for layer in (0, 1))
    r = np.geomspace(1e-2, 9, 7)
    own_r = np.sqrt(r**2 + 0.01**2)
    d = np.sqrt(own_r**2 + smoothing**2)
    off = np.log(own_r[:, None] / own.task.radial_extent * 1.7 ** np.arange(3))
    bumps = np.exp(-((off / (0.7 * np.log(1.7))) ** 2) / 2) @ heights
    for product in (1.0, -1.0):
        hidden = product * first["w"][0] + first["b"]
        hidden = hidden / (1 + np.exp(-hidden))
        amplitude = hidden @ last["w"][:, 0] + last["b"]
        graph = force_law.pairs(own.task, r, product)
        with capture.recording() as found:
            own.model.apply(params, None, graph, False)
        accelerations = np.asarray(found["acceleration"])[::2, 0]
        expected = amplitude * d ** -(power + 1) * np.exp(bumps) * r
        np.testing.assert_allclose(accelerations, expected, rtol=1e-5)


def test_the_separable_law_is_finite_where_bodies_meet():
    testing.assert_finite(subject("none", law="separable", stretch=1.0))


def regular(members, dtype="float64"):
    return testing.regular_batch(members, dtype)


def test_saturation_acts_in_these_tests():
    """A bound that nothing reaches would make the variants the same."""
    members = testing.systems()
    batch = testing.make_batch(members)
    results = [
        subject(saturation).displacements(batch) for saturation in newton.SATURATIONS
    ]
    for index, one in enumerate(results):
        for other in results[:index]:
            assert testing.relative_error(one, other) > 1e-3


# --- Symmetries and conservation ----------------------------------------------------


@pytest.mark.parametrize("saturation", newton.SATURATIONS)
def test_momentum(saturation):
    """Exact where pairs are bounded, or nothing; not where totals are."""
    task = dataclasses.replace(BOTH, heads=BOTH.heads[1:])
    own = subject(saturation, task=task)
    members = testing.systems((5, 5, 5))
    batch = testing.regular_batch(members)
    change = np.asarray(own.outputs(batch)["velocity"]).reshape(3, 5, 3)
    size = np.abs(change).sum()
    assert size > 1
    left = np.abs(change.sum(axis=1)).max() / size
    if saturation in ("pair", "none"):
        assert left < 1e-6
    else:
        assert left > 1e-4, "negative control"


def test_actions_are_reactions():
    """Of two bodies alone, whatever bounds the norm of their acceleration."""
    for saturation in ("pair", "radial", "component", "none"):
        own = subject(saturation)
        still = [
            dataclasses.replace(system, velocities=np.zeros((2, 3)))
            for system in testing.systems((2, 2, 2))
        ]
        moves = own.displacements(testing.make_batch(still)).reshape(3, 2, 3)
        assert np.abs(moves).max() > 1e-2
        np.testing.assert_allclose(moves[:, 0], -moves[:, 1], rtol=1e-5, atol=1e-6)


def test_a_step_and_its_reverse_are_nothing():
    """With a time step of each simulation, and of the nodes of a batch."""

    def accelerate(positions):
        return -positions / (0.1 + jnp.sum(positions**2, axis=0)) ** 1.5

    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, v = jnp.asarray(random.normal(size=(2, 3, 4, 7)))
        start = integrators.start(x, v, accelerate)
        dt = jnp.linspace(0.01, 0.2, 7)
        there = integrators.kick_drift_kick(accelerate, dt)(start)
        assert float(abs(there.positions - x).max()) > 0.1
        back = integrators.kick_drift_kick(accelerate, -dt)(there)
        for found, expected in zip(back, start, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-13)
        for index in (0, 6):
            one = jax.tree.map(lambda leaf, k=index: leaf[..., k : k + 1], start)
            step = integrators.kick_drift_kick(accelerate, float(dt[index]))
            np.testing.assert_allclose(
                step(one).positions[..., 0], there.positions[..., index], rtol=1e-14
            )


def test_bodies_that_feel_nothing_move_by_the_horizon():
    own = subject()
    members = testing.systems((1, 1, 1))
    moves = own.displacements(testing.make_batch(members))[:, 0]
    expected = 1.25 * np.concatenate([system.velocities for system in members])
    np.testing.assert_allclose(moves, expected, rtol=1e-5)


def test_averages_over_frames_forget_the_axes():
    """A turned or mirrored system has turned predictions; in one frame it has not."""
    with jax.enable_x64(True):
        own = subject("component", "float64", num_frames=8)
        alone = subject("component", "float64")
        batch = own.batch(testing.systems((2, 5, 5)))
        for matrix in (testing.rotation(), -testing.rotation()):
            for each in (own, alone):
                error = testing.transformation_error(each, matrix, testing.SHIFT)
                assert (error < 1e-9) == (each is own)
        assert testing.relative_error(
            own.displacements(batch), alone.displacements(batch)
        ) > (1e-3)


def test_averages_over_frames_are_those_of_turned_systems():
    """In one fixed frame after the other, by the model that knows no frames."""
    with jax.enable_x64(True):
        own = subject("component", "float64", num_frames=8)
        alone = subject("component", "float64")
        (system,) = testing.systems((5,))
        centred = system.positions - system.positions.mean(axis=0)
        moments = centred.T @ centred + system.velocities.T @ system.velocities
        axes = np.linalg.eigh(moments)[1].T  # in rows
        shifts = []
        signs = [np.diag(signs) for signs in itertools.product((1, -1), repeat=3)]
        for fixed, sign in itertools.product(newton._fixed_rotations(2), signs):
            frame = fixed @ sign @ axes
            turned = dataclasses.replace(
                system,
                positions=system.positions @ frame.T,
                velocities=system.velocities @ frame.T,
            )
            moved = alone.displacements(alone.batch([turned]))[:, 0]
            shifts.append(moved @ frame)
        found = own.displacements(own.batch([system]))[:, 0]
    assert np.abs(shifts[0] - shifts[-1]).max() > 1e-3
    np.testing.assert_allclose(found, np.mean(shifts, axis=0), atol=1e-9)


def test_frames_are_rotations():
    found = newton._fixed_rotations(5)
    identity = np.broadcast_to(np.eye(3), (5, 3, 3))
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), identity, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1)


def test_training_is_in_the_frame_of_the_data():
    own, alone = (subject("component", num_frames=frames) for frames in (8, 0))
    batch = testing.regular_batch(testing.systems((5, 5, 5)))
    trained = [
        each.model.apply(alone.params, None, batch.graph, True) for each in (own, alone)
    ]
    np.testing.assert_array_equal(trained[0]["position"], trained[1]["position"])


# --- Settings -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["egnn", "segnn"])
def test_another_model_as_the_acceleration(name):
    """It keeps the promises, and a third body changes what two do to each other."""
    fields = {"acceleration": name, "num_layers": 2, "saturation": "radial"}
    own = subject(**fields)
    testing.assert_shapes(own)
    testing.assert_symmetry(own)
    testing.assert_finite(own)
    testing.assert_inputs_matter(own, ("velocity", "position", "edge feature"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"saturation": "cubic"}, "saturation expects one of pair, radial, component"),
        ({"acceleration": "gnn"}, "acceleration expects one of pair, egnn, segnn"),
        ({"acceleration": "egnn"}, "acceleration=egnn has none; set saturation=rad"),
        ({"eval_substeps": 0}, "eval_substeps expects at least 1, found 0"),
        ({"num_frames": 4}, "forgets axes, and saturation=pair knows none; set"),
        ({"num_frames": 6}, "num_frames expects 0 or a positive multiple of 4, found"),
        ({"stretch": 0.5}, "stretch expects at least 1, found 0.5"),
        ({"law": "cubic"}, "law expects one of network, separable, found 'cubic'"),
        ({"smoothing": 0.0}, "expects a smoothing above 0 and num_bumps of at least"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, message):
    model = models.build("newton", testing.TASK, fields)
    batch = testing.make_batch(testing.systems())
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), batch.graph, True)


def test_defaults_have_few_parameters():
    model = models.build("newton", testing.TASK, {"num_substeps": 1})
    batch = testing.make_batch(testing.systems())
    shapes: hk.Params = jax.eval_shape(
        lambda key: model.init(key, batch.graph, True), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_220


# --- Pairs --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 6, 18, 19, 20])
def test_pairs_of_regular_and_ragged_batches_are_the_same(size):
    members = testing.systems((size, size, size))
    random = np.random.default_rng(1)
    values = random.normal(size=(3 * size, 2)).astype(np.float32)
    sums, least = [], []
    for batch in (testing.make_batch(members), testing.regular_batch(members)):
        graph = batch.graph
        bucket = graph.bucket
        padded = np.zeros((bucket.max_nodes, 2), np.float32)
        padded[: len(values)] = values
        differences = pairs.differences(padded, graph)
        features = pairs.features(graph.edges, graph)
        assert len(features) == len(differences)
        pulls = differences * jnp.cos(features) + differences**3
        sums.append(pairs.sum_to_nodes(pulls, graph)[: len(values)])
        sizes = jnp.abs(differences).sum(axis=-1)
        least.append(pairs.least(sizes, graph)[: len(values)])
    if bucket.nodes_per_graph:
        assert len(differences) == 3 * size * (size // 2)
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(least[0], least[1])
    assert np.isinf(least[0]).all() == (size == 1)
