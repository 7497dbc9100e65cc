"""The generator of N-body data: physics, published data, files and bad input."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from demetar import files, integrators
from demetar.errors import UserError
from tools import folders, generate_nbody, output_folder, simulation, streams, systems

PROJECT_ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = simulation.Settings(
    num_steps=40, sample_every=10, num_train=5, num_valid=2, num_test=0
)
GRAVITY = simulation.PRESETS["gravity"]
SINKS = dict(overwrite=False, progress=False)


@pytest.fixture(autouse=True)
def float64():
    """Integrators and systems take the precision that they are given."""
    with jax.enable_x64(True):
        yield


def generate(settings, folder, **options):
    return generate_nbody.generate(settings, folder, **{**SINKS, **options})


def load(folder, split="train"):
    with np.load(folder / f"{split}.npz") as file:
        return dict(file)


def simulate(settings):
    """Arrays of the training split, and the initial conditions, without files."""
    simulator = simulation.Simulator(settings)
    chunks = simulation.chunks(settings, simulator.lanes)
    initials = [initial for _, initial in chunks]
    parts = [simulator(initial) for initial in initials]
    arrays = {k: np.concatenate([rows[k] for rows, _ in parts]) for k in parts[0][0]}
    return arrays, initials[0]


def literal_forces(positions, sources, softening):
    """Sum over j of s_i s_j (x_i - x_j) / |x_i - x_j|^3, (n, 3), in loops."""
    forces = np.zeros_like(positions)
    for i, here in enumerate(positions):
        for j, there in enumerate(positions):
            if i != j:
                offset = here - there
                cube = (offset @ offset + softening**2) ** 1.5
                forces[i] += sources[i] * sources[j] * offset / cube
    return forces


# Forces


@pytest.mark.parametrize("num_bodies", [1, 2, 5, 8, 9, 26, 126, 127])
def test_forces_are_those_of_the_formula(num_bodies):
    random = np.random.RandomState(num_bodies)
    positions = 3 * random.randn(num_bodies, 3)
    masses = random.rand(num_bodies) + 0.5
    masses[num_bodies // 2 :: 7] = 0.0  # padding
    charges = np.where(random.rand(num_bodies) < 0.5, -1.0, 1.0)
    batch = jnp.stack([positions, positions[::-1]], axis=-1).swapaxes(0, 1)  # [3, n, 2]

    def accelerations(system, sources, softening):
        sources = np.stack([sources, sources[::-1]], axis=-1)
        accelerate = systems.acceleration_fn(system, jnp.asarray(sources), softening)
        return np.asarray(jax.jit(accelerate)(batch))

    expected = np.clip(literal_forces(positions, charges, 0.0), -100, 100)
    found = accelerations("charged", charges, 0.0)
    np.testing.assert_allclose(found[..., 0].T, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[..., 1].T, expected[::-1], rtol=1e-12, atol=1e-12)

    expected = -literal_forces(positions, masses, 0.1)
    found = accelerations("gravity", masses, 0.1)[..., 0].T * masses[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_forces_of_charges_are_clipped_component_by_component():
    positions = jnp.array([[0.0, 0, 0], [0.01, 0.001, 0]]).T[..., None]
    accelerate = systems.acceleration_fn("charged", jnp.ones((2, 1)), 0.0)
    # 1 / r^2 is 9,900 here: x is clipped, y = 985 too, z is exactly zero.
    np.testing.assert_array_equal(
        accelerate(positions)[..., 0].T, [[-100, -100, 0], [100, 100, 0]]
    )
    accelerate = systems.acceleration_fn("charged", jnp.ones((2, 1)), 0.15)
    forces = np.asarray(accelerate(positions)[..., 0].T)
    assert abs(forces).max() < 3 and forces[1, 0] == pytest.approx(10 * forces[1, 1])


def test_a_radial_clip_keeps_the_direction():
    random = np.random.RandomState(3)
    turn = np.linalg.qr(random.randn(3, 3))[0]
    positions = random.randn(5, 3) * np.array([0.02, 0.02, 1, 1, 1])[:, None]
    charges = jnp.asarray([[1.0], [-1.0], [1.0], [1.0], [-1.0]])

    def forces(clip, positions):
        accelerate = systems.acceleration_fn("charged", charges, 0.0, clip)
        return np.asarray(accelerate(jnp.asarray(positions.T[..., None])))[..., 0].T

    free = literal_forces(positions, np.asarray(charges[:, 0]), 0.0)
    norms = np.linalg.norm(free, axis=1, keepdims=True)
    assert (norms[:2] > 200).all() and (norms[2:] < 100).all()
    expected = free * np.minimum(1, 100 / norms)
    np.testing.assert_allclose(forces("radial", positions), expected, rtol=1e-12)
    turned = forces("radial", positions @ turn.T)
    np.testing.assert_allclose(turned, expected @ turn.T, rtol=1e-10)
    broken = forces("component", positions @ turn.T)
    assert abs(broken - forces("component", positions) @ turn.T).max() > 1


def test_the_clip_is_an_option_of_the_charged_system():
    """It changes what is generated where it acts, and the metadata tell."""
    assert generate_nbody.settings_of(parse()).clip == "component"
    radial = generate_nbody.settings_of(parse("--clip=radial"))
    assert radial == dataclasses.replace(simulation.Settings(), clip="radial")
    assert generate_nbody._describe(radial)["clip"] == "radial"
    with pytest.raises(UserError, match="--clip: no value for gravity"):
        generate_nbody.settings_of(parse("--system=gravity", "--clip=radial"))
    close = streams.Initial(
        positions=np.array([[[0.01, 0.005, 0], [0, 0, 0]]]),
        velocities=np.zeros((1, 2, 3)),
        sources=np.ones((1, 2)),
        num_bodies=np.array([2]),
    )
    settings = dataclasses.replace(TINY, num_bodies=(2, 2))
    paths = {
        clip: simulation.Simulator(dataclasses.replace(settings, clip=clip))(close)[0]
        for clip in systems.CLIPS
    }
    moved = {clip: rows["positions"][0, 0, 0] for clip, rows in paths.items()}
    moved = {clip: place - close.positions[0, 0] for clip, place in moved.items()}
    assert moved["component"][0] == pytest.approx(moved["component"][1])
    assert moved["radial"][0] == pytest.approx(2 * moved["radial"][1])


# Integrators


def orbit(dt, num_steps, method, synchronised=True):
    """A softened two-body orbit: positions and velocities [3, 2] after the steps."""
    positions = jnp.array([[0.5, 0, 0], [-0.5, 0.1, 0.2]]).T[..., None]
    velocities = jnp.array([[0.1, 0.6, 0.1], [-0.1, -0.6, -0.1]]).T[..., None]
    accelerate = systems.acceleration_fn("gravity", jnp.ones((2, 1)), 0.1)
    if not synchronised:
        velocities = velocities - 0.5 * dt * accelerate(positions)
    motion = integrators.start(positions, velocities, accelerate)
    gaps = jnp.array([num_steps])
    last, _ = integrators.integrate(method(accelerate, dt), motion, gaps)
    return last, (positions, velocities)


def reference_orbit(duration):
    """The same orbit from an integrator of high order with a tight tolerance."""
    _, (positions, velocities) = orbit(0.1, 0, integrators.kick_drift)

    def change(_, state):
        place, speed = state.reshape(2, 2, 3)
        return np.concatenate([speed, -literal_forces(place, np.ones(2), 0.1)]).ravel()

    start = np.concatenate([positions[..., 0].T, velocities[..., 0].T]).ravel()
    solution = scipy.integrate.solve_ivp(
        change, (0, duration), start, method="DOP853", rtol=1e-12, atol=1e-12
    )
    return solution.y[:, -1].reshape(2, 2, 3)


def test_two_body_orbit_agrees_with_a_tight_reference():
    places, speeds = reference_orbit(3.0)
    last, _ = orbit(1e-4, 30_000, integrators.kick_drift_kick)
    np.testing.assert_allclose(last.positions[..., 0].T, places, atol=1e-6)
    np.testing.assert_allclose(last.velocities[..., 0].T, speeds, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "synchronised", "order"),
    [
        (integrators.kick_drift_kick, True, 2),
        (integrators.kick_drift, False, 2),  # velocities half a step old, as meant
        (integrators.kick_drift, True, 1),
    ],
)
def test_order_of_convergence(method, synchronised, order):
    places, _ = reference_orbit(1.0)
    errors = []
    for num_steps in (500, 1000, 2000):
        last, _ = orbit(1.0 / num_steps, num_steps, method, synchronised)
        errors.append(np.linalg.norm(last.positions[..., 0].T - places))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, order, atol=0.1)


def test_kick_drift_kick_runs_back_to_its_start():
    last, (positions, velocities) = orbit(1e-3, 2000, integrators.kick_drift_kick)
    assert abs(last.positions - positions).max() > 0.3
    accelerate = systems.acceleration_fn("gravity", jnp.ones((2, 1)), 0.1)
    step = integrators.kick_drift_kick(accelerate, 1e-3)
    back, _ = integrators.integrate(
        step, last._replace(velocities=-last.velocities), jnp.array([2000])
    )
    np.testing.assert_allclose(back.positions, positions, atol=1e-10)
    np.testing.assert_allclose(back.velocities, -velocities, atol=1e-10)


def test_kick_drift_runs_back_to_its_start():
    dt = 1e-3
    last, (positions, velocities) = orbit(dt, 2000, integrators.kick_drift)
    accelerate = systems.acceleration_fn("gravity", jnp.ones((2, 1)), 0.1)
    step = integrators.kick_drift(accelerate, dt)
    # The velocity from before the last drift, so that the first kick gives it back.
    turned = -last.velocities - dt * last.accelerations
    back, _ = integrators.integrate(
        step, last._replace(velocities=turned), jnp.array([2000])
    )
    np.testing.assert_allclose(back.positions, positions, atol=1e-10)
    kicked = back.velocities + dt * back.accelerations
    np.testing.assert_allclose(kicked, -velocities, atol=1e-10)


@pytest.mark.parametrize("system", ["charged", "gravity"])
def test_energy_and_momentum_are_conserved(system, tmp_path):
    drifts = []
    for dt, num_steps in ((0.004, 250), (0.002, 500)):
        settings = simulation.Settings(
            system=system,
            num_bodies=(3, 7),
            softening=0.3,
            dt=dt,
            num_steps=num_steps,
            sample_every=num_steps // 2,
            num_train=40,
            num_valid=0,
            num_test=0,
        )
        metadata = generate(settings, tmp_path / f"{system}{num_steps}")
        drifts.append(metadata["conserved"]["train"])
    coarse, fine = drifts
    assert 1e-9 < fine["energy_drift"]["max"] < 3e-4
    ratio = coarse["energy_drift"]["median"] / fine["energy_drift"]["median"]
    assert ratio == pytest.approx(4, rel=0.2)
    assert fine["momentum_drift"]["max"] < 1e-13


def test_energy_and_momentum_are_those_of_the_formulas():
    random = np.random.RandomState(0)
    positions, velocities = jnp.asarray(random.randn(2, 3, 7, 1))
    masses = random.rand(7, 1)
    motion = integrators.Motion(positions, velocities, jnp.zeros_like(positions))
    pairs = [(i, j) for i in range(7) for j in range(i)]
    for system, sign, inertia in (("charged", 1, 1.0), ("gravity", -1, masses)):
        real = jnp.ones((7, 1), bool)
        found = systems.conserved(system, motion, jnp.asarray(masses), real, 0.1)
        potential = sum(
            masses[i, 0] * masses[j, 0] / np.sqrt(np.sum(offset**2) + 0.01)
            for i, j in pairs
            for offset in [positions[:, i, 0] - positions[:, j, 0]]
        )
        kinetic = 0.5 * np.sum(inertia * velocities**2)
        assert found.energy[0] == pytest.approx(kinetic + sign * potential)
        assert found.energy_scale[0] == pytest.approx(kinetic + potential)
        momentum = np.sum(inertia * velocities, axis=1)
        np.testing.assert_allclose(found.momentum, momentum)


# Published data


def git_blob_id(array):
    """The id that git gives to the file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    data = buffer.getvalue()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def drawn_charges(settings):
    """Charges (S, n, 1) of each split, from the stream alone."""
    chunks: dict[str, list[np.ndarray]] = {}
    for split, initial in simulation.chunks(settings, 1000):
        chunks.setdefault(split, []).append(initial.sources)
    return {split: np.concatenate(parts)[..., None] for split, parts in chunks.items()}


def test_stream_gives_the_published_charges_and_edges():
    charges = drawn_charges(simulation.PRESETS["nbody_small"])
    assert {split: git_blob_id(array) for split, array in charges.items()} == {
        "train": "309bea06a033502ddda9589d83f0738c5a1b3372",
        "valid": "a067d1182f029efced057797bfeb0fbb132bd1d9",
        "test": "23ae26ebf4e86937a569d9932918f6c620aedd46",
    }
    edges = {split: array * array.swapaxes(1, 2) for split, array in charges.items()}
    assert {split: git_blob_id(array) for split, array in edges.items()} == {
        "train": "fceeaea8041d965b2a421bb9c4688c8d26deecc5",
        "valid": "a15039d171a73365bb134896c455662c13e716c5",
        "test": "94e798a5dd02026b6f08e0cbb788e3405e6bf61a",
    }


@pytest.mark.slow
def test_stream_gives_the_published_charges_of_the_large_set():
    charges = drawn_charges(simulation.PRESETS["nbody"])
    assert {split: git_blob_id(array) for split, array in charges.items()} == {
        "train": "93b62c95cadfa70dc0fb54e3c5fcb5d4e6e60c0b",
        "valid": "f63b7d89be04a8954b5323a37f9542fefae07a84",
        "test": "9f9345efbb790259a8d53b3ecf760889cdb2ee98",
    }


@pytest.mark.parametrize(
    ("name", "num_bodies", "count"),
    [("charged5_seed43_first32", 5, 32), ("charged20_seed43_first4", 20, 4)],
)
def test_charged_trajectories_agree_with_the_published_simulator(
    shared_dir, name, num_bodies, count
):
    settings = simulation.Settings(
        num_bodies=(num_bodies, num_bodies), num_train=count, num_valid=0, num_test=0
    )
    arrays, initial = simulate(settings)
    with np.load(shared_dir / "golden" / f"{name}.npz") as golden:
        np.testing.assert_array_equal(initial.positions, golden["initial_positions"])
        np.testing.assert_array_equal(initial.velocities, golden["initial_velocities"])
        np.testing.assert_array_equal(arrays["charges"], golden["charges"])
        for key in ("positions", "velocities"):
            error = abs(arrays[key] - golden[key])  # (S, F, n, 3)
            # Close encounters amplify the last bit of some systems, later or sooner.
            assert error[:, 0].max() < 1e-13
            assert np.median(error) < 1e-12
            assert np.median(error.max(axis=(1, 2, 3))) < 1e-4
            assert np.mean(error < 1e-6) > 0.95


@pytest.mark.slow
def test_gravity_trajectories_agree_with_the_published_simulator(shared_dir):
    settings = dataclasses.replace(
        GRAVITY, num_steps=1000, num_train=2, num_valid=0, num_test=0
    )
    arrays, _ = simulate(settings)
    path = shared_dir / "golden" / "gravity100_seed43_first2.npz"
    with np.load(path) as golden:
        for key, tolerance in (
            ("positions", 1e-11),
            ("velocities", 1e-10),
            ("forces", 1e-8),
        ):
            assert arrays[key].shape == golden[key].shape
            np.testing.assert_allclose(arrays[key], golden[key], rtol=0, atol=tolerance)
        np.testing.assert_array_equal(arrays["masses"], golden["masses"][..., 0])


def test_trajectories_agree_with_the_published_files(shared_dir):
    folder = shared_dir / "data" / "charged5_published"
    arrays, _ = simulate(simulation.Settings(num_train=250, num_valid=0, num_test=0))
    for key, prefix in (("positions", "loc"), ("velocities", "vel")):
        published = np.concatenate(
            [
                np.load(folder / f"{prefix}_{split}_charged5_initvel150train.npy")
                for split in ("train", "valid", "test")
            ]
        ).swapaxes(2, 3)  # (S, F, n, 3)
        error = abs(arrays[key] - published)
        assert np.median(error) < 1e-13
        assert np.mean(error < 1e-6) >= 0.95
        assert np.mean(error < 1e-3) >= 0.97


# Random streams


def test_bodies_start_inside_the_walls():
    positions = np.array([5.5, -6.0, 4.9, 5.5, -6.0, -4.9])
    velocities = np.array([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])
    positions, velocities = streams.reflect(positions, velocities)
    np.testing.assert_array_equal(positions, [4.5, -4.0, 4.9, 4.5, -4.0, -4.9])
    np.testing.assert_array_equal(velocities, [-0.1, 0.2, 0.3, -0.1, 0.2, -0.3])


def test_walls_act_at_the_start_of_a_simulation(monkeypatch):
    monkeypatch.setattr(streams, "WALL", 2.0)
    arrays, initial = simulate(dataclasses.replace(TINY, num_valid=0))
    outside = abs(initial.positions) > 2  # (S, n, 3)
    assert 0 < outside.mean() < 0.2
    first = arrays["positions"][:, 0]  # after 10 steps of 0.001
    reflected = 2 * 2 - abs(initial.positions[outside])
    np.testing.assert_allclose(abs(first[outside]), reflected, atol=0.02)


@pytest.mark.parametrize("system", ["charged", "gravity"])
def test_jax_stream_draws_by_simulation_and_split(system):
    stream = streams.make_stream("jax", system, (4, 6), 1, 7)
    whole, part = stream.draw(1, 0, 3000), stream.draw(1, 2000, 10)
    for field in dataclasses.fields(streams.Initial):
        chosen = getattr(whole, field.name)[2000:2010]
        np.testing.assert_array_equal(getattr(part, field.name), chosen)
    assert not np.array_equal(stream.draw(0, 0, 10).positions, whole.positions[:10])
    assert np.bincount(whole.num_bodies)[4:] == pytest.approx([1000] * 3, rel=0.15)
    real = whole.real
    assert not whole.positions[~real].any() and not whole.sources[~real].any()
    if system == "charged":
        speeds = np.linalg.norm(whole.velocities[real], axis=-1)
        np.testing.assert_allclose(speeds, 0.5)
        assert {*whole.sources[real]} == {-1.0, 1.0}
        assert abs(whole.sources[real].mean()) < 0.05
    else:
        np.testing.assert_allclose(whole.velocities.sum(axis=1), 0, atol=1e-12)
        assert {*whole.sources[real]} == {1.0}
    six = whole.num_bodies == 6
    expected = 1.0 if system == "gravity" else (6 / 5) ** (1 / 3)
    assert whole.positions[six].std() == pytest.approx(expected, rel=0.03)


def test_seeds_differ():
    draws = [
        streams.make_stream(kind, "charged", (5, 5), 1, seed).draw(0, 0, 1).positions
        for kind in ("numpy", "jax")
        for seed in (1, 2)
    ]
    assert len({array.tobytes() for array in draws}) == 4


# Files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small data set with everything in it, its settings and its metadata."""
    folder = tmp_path_factory.mktemp("generated") / "set"
    settings = dataclasses.replace(TINY, num_bodies=(3, 5), save_forces=True)
    return folder, settings, generate(settings, folder)


def test_files_hold_what_they_should(written):
    folder, settings, metadata = written
    assert sorted(path.name for path in folder.iterdir()) == [
        "metadata.json",
        "train.npz",
        "valid.npz",
    ]
    assert json.loads((folder / "metadata.json").read_text()) == metadata
    assert metadata["format"] == 2 and metadata["frames"] == [0, 1, 2]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        value = list(value) if isinstance(value, tuple) else value
        assert metadata["settings"][field.name] == value
    assert metadata["versions"]["jax"] == jax.__version__
    arrays = load(folder)
    assert {name: array.shape for name, array in arrays.items()} == {
        "positions": (5, 3, 5, 3),
        "velocities": (5, 3, 5, 3),
        "forces": (5, 3, 5, 3),
        "charges": (5, 5),
        "steps": (3,),
        "num_bodies": (5,),
    }
    np.testing.assert_array_equal(arrays["steps"], [10, 20, 30])
    assert {*arrays} <= {*metadata["units"], "num_bodies"}
    for name, array in arrays.items():
        whole = name in ("steps", "num_bodies")
        assert array.dtype == (np.int64 if whole else np.float64)


def test_hashes_are_those_that_the_reader_computes(written):
    folder, _, metadata = written
    lines = []
    for split in ("train", "valid"):
        for name, array in load(folder, split).items():
            assert metadata["arrays"][split][name] == files.array_hash(array)
            lines.append(f"{split}/{name}:{files.array_hash(array)}")
    text = "\n".join(sorted(lines)).encode()
    assert metadata["fingerprint"] == hashlib.sha256(text).hexdigest()


def test_systems_of_mixed_sizes_move_as_if_they_were_alone(written):
    folder, settings, _ = written
    arrays = load(folder)
    sizes = arrays["num_bodies"]
    assert {*sizes} == {3, 4, 5}
    stream = streams.make_stream("numpy", "charged", (3, 5), 3, settings.seed)
    initial = stream.draw(0, 0, 5)
    for row, size in enumerate(sizes):
        for name in ("positions", "velocities", "forces"):
            assert not arrays[name][row, :, size:].any()
        assert not arrays["charges"][row, size:].any()
        charges = arrays["charges"][row, :size]
        x, v = initial.positions[row, :size], initial.velocities[row, :size]
        for step in range(1, 31):
            v = v + 0.001 * np.clip(literal_forces(x, charges, 0.0), -100, 100)
            x = x + 0.001 * v
            if step % 10 == 0:
                forces = np.clip(literal_forces(x, charges, 0.0), -100, 100)
                expected = {"positions": x, "velocities": v, "forces": forces}
                for name, values in expected.items():
                    found = arrays[name][row, step // 10 - 1, :size]
                    np.testing.assert_allclose(found, values)


def test_saved_frames_are_those_of_the_whole(tmp_path):
    settings = dataclasses.replace(
        GRAVITY, num_bodies=(4, 4), num_steps=50, sample_every=10, num_train=3
    )
    settings = dataclasses.replace(settings, num_valid=0, num_test=0)
    generate(settings, tmp_path / "whole")
    some = dataclasses.replace(settings, save_frames=(1, 4), save_forces=False)
    metadata = generate(some, tmp_path / "some")
    assert metadata["frames"] == [1, 4]
    whole, some = load(tmp_path / "whole"), load(tmp_path / "some")
    np.testing.assert_array_equal(whole["steps"], [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(some["steps"], [10, 40])
    assert "forces" in whole and "forces" not in some
    np.testing.assert_allclose(some["positions"], whole["positions"][:, [1, 4]])
    np.testing.assert_allclose(some["velocities"], whole["velocities"][:, [1, 4]])


def test_chunks_and_threads_do_not_change_the_result(tmp_path, monkeypatch):
    settings = dataclasses.replace(TINY, num_train=21, num_valid=9)
    once = generate(settings, tmp_path / "once")
    monkeypatch.setattr(simulation, "LANES", ((5, 8),))
    threads = {
        generate(settings, tmp_path / f"{k}", num_workers=k)["fingerprint"]
        for k in (1, 3)
    }
    assert len(threads) == 1
    for split in ("train", "valid"):
        chunked, whole = load(tmp_path / "1", split), load(tmp_path / "once", split)
        for name, array in chunked.items():
            np.testing.assert_allclose(array, whole[name], rtol=1e-12, atol=1e-13)
    fewer = dataclasses.replace(settings, num_train=11, num_valid=0)
    generate(fewer, tmp_path / "fewer")
    first = load(tmp_path / "1")["positions"][:11]
    np.testing.assert_array_equal(load(tmp_path / "fewer")["positions"], first)
    assert once["arrays"]["train"]["charges"] == files.array_hash(
        load(tmp_path / "1")["charges"]
    )


def test_single_precision_is_close_and_leaves_the_process_alone(tmp_path):
    with jax.enable_x64(False):
        single = dataclasses.replace(TINY, dtype="float32", softening=0.5)
        generate(single, tmp_path / "single")
        generate(dataclasses.replace(single, dtype="float64"), tmp_path / "double")
        assert jnp.ones(1).dtype == jnp.float32
    single, double = load(tmp_path / "single"), load(tmp_path / "double")
    for name in ("positions", "velocities", "charges"):
        assert single[name].dtype == np.float32 and double[name].dtype == np.float64
        np.testing.assert_allclose(single[name], double[name], atol=1e-4)


def test_chunks_shrink_with_the_memory_of_their_frames():
    wide = dataclasses.replace(GRAVITY, num_steps=100_000, sample_every=1)
    lanes = simulation.num_lanes(wide)
    assert lanes == 1 and simulation.num_lanes(GRAVITY) == 16
    for bodies, expected in ((5, 128), (20, 64), (100, 16), (500, 2)):
        settings = dataclasses.replace(TINY, num_bodies=(2, bodies))
        assert simulation.num_lanes(settings) == expected


# Verification


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite(path, change):
    """Write an archive anew, with right checksums of its own, after a change."""
    arrays = load(path.parent, path.stem)
    change(arrays)
    np.savez(path, **arrays)


@pytest.fixture
def copied(written, tmp_path):
    generate(written[1], tmp_path / "copy")
    return tmp_path / "copy"


def test_intact_data_pass(written):
    assert folders.verify(written[0]) == []


def test_equal_settings_write_equal_files(written, copied):
    for name in ("train.npz", "valid.npz", "metadata.json"):
        assert (written[0] / name).read_bytes() == (copied / name).read_bytes()


def test_verification_finds_every_alteration(copied):
    written = {path: path.read_bytes() for path in copied.iterdir()}
    train, metadata = copied / "train.npz", copied / "metadata.json"

    def faults():
        found = folders.verify(copied)
        for path, data in written.items():
            path.write_bytes(data)
        assert found and not any("\n" in line for line in found)
        return " ".join(found)

    size = len(written[train])
    for position in range(200, size, size // 7):
        flip(train, position)
        faults()
    rewrite(train, lambda arrays: arrays["positions"].__setitem__((0, 0, 0, 0), 1.0))
    assert "SHA-256 of positions differs" in faults()
    rewrite(train, lambda arrays: arrays.update(steps=arrays["steps"].astype(np.int32)))
    assert "SHA-256 of steps differs" in faults()
    rewrite(train, lambda arrays: arrays.pop("charges"))
    assert "charges is missing" in faults()
    rewrite(train, lambda arrays: arrays.update(more=np.zeros(1)))
    assert "more is extra" in faults()
    train.write_bytes(written[train][:-100])
    assert "train.npz: it is damaged" in faults()
    train.unlink()
    assert "train.npz is missing" in faults()
    metadata.unlink()
    assert "not a finished data set" in faults()
    metadata.write_text("{")
    assert "cannot read" in faults()
    text = written[metadata].decode()
    altered = json.loads(text)
    altered["arrays"]["train"].pop("charges")
    metadata.write_text(json.dumps(altered))
    assert "its fingerprint is not that of its checksums" in faults()
    metadata.write_text(text.replace('"dt": 0.001', '"dt": 0.002'))
    assert "its checksum is not that of its entries" in faults()
    metadata.write_text(text.replace('"format": 2', '"format": 3'))
    assert "has format 3" in faults()
    assert folders.verify(copied) == []
    (copied / "test.npz").write_bytes(written[train])
    assert folders.verify(copied) == [f"{copied / 'test.npz'}: not in the metadata"]


# Finished or not there


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_data_sets_are_replaced_only_on_demand(tmp_path):
    folder = tmp_path / "set"
    before = generate(dataclasses.replace(TINY, num_test=1), folder)
    with pytest.raises(UserError, match="--overwrite"):
        generate(TINY, folder)
    assert json.loads((folder / "metadata.json").read_text()) == before
    generate(TINY, folder, overwrite=True)
    assert listing(folder) == ["metadata.json", "train.npz", "valid.npz"]
    assert folders.verify(folder) == []
    assert listing(tmp_path) == ["set"]


def test_folders_of_other_things_are_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="holds no data set"):
        generate(TINY, tmp_path / "photos", overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        generate(TINY, tmp_path / "photos" / "cat.jpg", overwrite=True)
    with pytest.raises(UserError, match="cannot write"):
        generate(TINY, tmp_path / "photos" / "cat.jpg" / "set")
    assert listing(tmp_path / "photos") == ["cat.jpg"]
    (tmp_path / "empty").mkdir()
    generate(TINY, tmp_path / "empty")
    assert folders.verify(tmp_path / "empty") == []


def test_failures_leave_nothing_behind(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    with pytest.raises(UserError, match="simulation 0 of train .* --dt"):
        generate(dataclasses.replace(TINY, dt=1e308), folder)
    small = shutil_usage(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", small)
    with pytest.raises(UserError, match="no space on the disk .* GB needed"):
        generate(TINY, folder)
    assert listing(tmp_path) == []


def shutil_usage(free):
    usage = type("Usage", (), {"free": free})
    return lambda path: usage


def start_long_run(folder):
    """A process in the middle of a generation that would take a minute or more."""
    code = (
        "import runpy, signal;"
        # Ignored, and so inherited, where the tests run in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('tools.generate_nbody', run_name='__main__', alter_sys=True)"
    )
    arguments = ("--num_train=1000000", "--save_frames=0", "--sample_every=2500")
    return subprocess.Popen(
        [sys.executable, "-c", code, f"--out={folder}", *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)


def test_interrupted_runs_leave_nothing_that_looks_finished(tmp_path):
    processes = {
        number: start_long_run(tmp_path / number.name)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    }
    try:
        for number, process in processes.items():
            raw = f".{number.name}.partial-*/train.positions.raw"
            wait_for(lambda raw=raw: any(p.stat().st_size for p in tmp_path.glob(raw)))
            process.send_signal(number)
        for number, process in processes.items():
            _, errors = process.communicate(timeout=60)
            assert process.returncode != 0
            assert "Traceback" not in errors
            if number != signal.SIGKILL:
                assert errors.splitlines()[-1] == (
                    "error: interrupted, nothing was written"
                )
    finally:
        for process in processes.values():
            process.kill()
    (leftover,) = listing(tmp_path)
    assert leftover.startswith(".SIGKILL.partial-")
    generate(TINY, tmp_path / "SIGKILL")
    assert listing(tmp_path) == ["SIGKILL"]


def test_runs_under_way_are_left_alone(tmp_path):
    other = output_folder.OutputFolder(tmp_path / "set", {}, overwrite=False)
    generate(TINY, tmp_path / "set")
    assert listing(tmp_path) == [other.partial.name, "set"]
    other.discard()
    assert listing(tmp_path) == ["set"]


def test_a_full_disk_is_one_clear_line(run_python, tmp_path):
    code = f"""
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tools import cli, generate_nbody
sys.argv = ["", "--out={tmp_path / "set"}", "--num_steps=200", "--num_train=1000"]
cli.run(generate_nbody.run, generate_nbody.LINE)
"""
    process = run_python(code)
    assert process.returncode == 2
    lines = process.stderr.strip().splitlines()
    assert lines[-1].startswith(f"error: cannot write {tmp_path / 'set'}: ")
    assert "Traceback" not in process.stderr and "ignored" not in process.stderr
    assert listing(tmp_path) == []


# The command


def parse(*arguments):
    given, _ = generate_nbody.LINE.parse(arguments)
    return given


def settings_of(*arguments):
    return generate_nbody.settings_of(parse(*arguments))


def test_presets_are_the_published_sets():
    assert settings_of() == settings_of("--preset=nbody_small")
    small = settings_of("--preset=nbody_small")
    assert (small.seed, small.num_frames) == (43, 49)
    assert small.sizes == (10_000, 2_000, 2_000)
    np.testing.assert_array_equal(small.steps, np.arange(100, 5000, 100))
    large = settings_of("--preset=nbody")
    assert (large.seed, large.num_frames, large.num_train) == (42, 9, 50_000)
    gravity = settings_of("--preset=gravity")
    assert gravity == settings_of("--system=gravity")
    assert gravity.num_bodies == (100, 100) and gravity.softening == 0.1
    np.testing.assert_array_equal(gravity.steps, np.arange(0, 5000, 100))


def test_flags_override_the_preset():
    settings = settings_of(
        "--preset=nbody",
        "--num_bodies=3-20",
        "--save_frames=2,5",
        "--save_forces",
        "--dt=0.01",
        "--dtype=float32",
        "--random_stream=jax",
        "--num_test=0",
    )
    assert settings.num_bodies == (3, 20) and settings.save_frames == (2, 5)
    assert settings.save_forces and settings.dt == 0.01
    assert settings.dtype == "float32" and settings.random_stream == "jax"
    assert settings.sizes == (50_000, 2_000, 0)
    assert settings_of("--system=gravity", "--nosave_forces").save_forces is False


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--preset=qm9", "nbody_small, nbody, nbody_blog, gravity"),
        ("--system=springs", "charged, gravity"),
        ("--random_stream=torch", "numpy, jax"),
        ("--dtype=float16", "float32, float64"),
        ("--num_bodies=0", "from 1"),
        ("--num_bodies=9-3", "LOW-HIGH"),
        ("--num_bodies=-3", "LOW-HIGH"),
        ("--num_bodies=few", "LOW-HIGH"),
        ("--num_steps=0", "at least 1"),
        ("--num_steps=-100", "at least 1"),
        ("--num_steps=150", "multiple of --sample_every=100"),
        ("--num_steps=100", "at least 200"),
        ("--sample_every=0", "at least 1"),
        ("--save_frames=49", "0 to 48"),
        ("--save_frames=-1", "0 to 48"),
        ("--save_frames=3,2", "ascending"),
        ("--save_frames=3,3", "ascending"),
        ("--save_frames=last", "numbers"),
        ("--dt=0", "positive"),
        ("--dt=nan", "positive"),
        ("--softening=-0.1", "at least 0"),
        ("--clip=cube", "component, radial"),
        ("--num_train=-1", "at least 0"),
        ("--seed=-1", "2^32"),
        ("--seed=4294967296", "2^32"),
    ],
)
def test_bad_flags_are_one_clear_line(argument, expected, tmp_path):
    name, _, value = argument.removeprefix("--").partition("=")
    with pytest.raises(UserError) as error:
        generate_nbody.run(parse(argument, f"--out={tmp_path / 'set'}"))
    message = str(error.value)
    assert f"--{name}" in message and expected in message and "\n" not in message
    assert value.split(",")[-1] in message
    assert not (tmp_path / "set").exists()


def test_sets_of_nothing_and_nowhere_are_refused(tmp_path):
    none = ("--num_train=0", "--num_valid=0", "--num_test=0")
    with pytest.raises(UserError, match="at least one simulation"):
        generate_nbody.run(parse(f"--out={tmp_path / 'set'}", *none))
    with pytest.raises(UserError, match="expected --out=DIR"):
        generate_nbody.run(parse())


@pytest.mark.parametrize("argument", ["--num_train=many", "--wings=2", "nbody_small"])
def test_bad_command_lines_are_one_clear_line(run_module, argument):
    process = run_module("tools.generate_nbody", argument)
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and argument.strip("-").split("=")[0] in line


def test_command_writes_and_verifies(run_module, tmp_path):
    tiny = ("--num_steps=200", "--num_train=3", "--num_valid=0", "--num_test=0")
    command = "tools.generate_nbody"
    process = run_module(command, "--out=here/set", *tiny)
    assert process.returncode == 0, process.stderr
    assert "simulations/s" in process.stdout and "energy drift" in process.stdout
    assert "3/3" in process.stderr
    (fingerprint,) = (
        json.loads(path.read_text())["fingerprint"]
        for path in tmp_path.glob("here/*/metadata.json")
    )
    assert process.stdout.splitlines()[-1].endswith(fingerprint)

    process = run_module(command, "--out=here/set", *tiny)
    assert process.returncode == 2
    assert process.stderr.startswith("error: --out=")
    assert len(process.stderr.splitlines()) == 1

    process = run_module(command, "--verify=here/set")
    assert (process.returncode, process.stderr) == (0, "")
    with zipfile.ZipFile(tmp_path / "here/set/train.npz") as archive:
        offset = archive.getinfo("positions.npy").header_offset
    flip(pathlib.Path(tmp_path / "here/set/train.npz"), offset + 300)
    process = run_module(command, "--verify=here/set")
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("error: ") and "damaged" in process.stderr
    assert len(process.stderr.splitlines()) == 1
