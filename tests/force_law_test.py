"""The figure of a learned law of force: what it shows is what the model does."""

import csv
from typing import Any

import jax
import numpy as np
import pytest

from demetar import models, testing
from demetar.data import nbody
from demetar.train import checkpoint
from experiments import force_law
from tests import newton_test
from tests.support import nbody_folder

SIMULATED = {"system": "charged", "softening": 0.0}


def trained(name: str, **fields: Any) -> checkpoint.ModelCheckpoint:
    """A model of two seeds with random parameters."""
    task = testing.TASK
    own = testing.Subject(name, "float32", {**newton_test.FIELDS, **fields}, task)
    batch = testing.regular_batch(testing.systems((5, 5, 5)))
    model = models.build(name, task, own.small)
    params = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(model.init(jax.random.key(k), batch.graph, True) for k in (1, 2)),
    )
    return checkpoint.ModelCheckpoint(name, own.small, task, params, {})


def trained_egnn() -> checkpoint.ModelCheckpoint:
    return checkpoint.ModelCheckpoint(
        "egnn", {}, testing.TASK, {"m": {"w": jax.numpy.ones((1, 2))}}, {}
    )


@pytest.mark.slow
@pytest.mark.parametrize("saturation", ["pair", "component"])
def test_the_law_is_that_of_plain_loops(saturation):
    own = trained("newton", saturation=saturation)
    distances = np.array([0.11, 0.7, 3.1])
    for product in (1.0, -1.0):
        found = force_law.learned_acceleration(own, distances, product)
        assert found.shape == (2, 3)
        for seed, row in enumerate(found):
            params = jax.tree.map(lambda leaf, k=seed: np.asarray(leaf[k]), own.params)
            expected = [
                newton_test.plain_acceleration(
                    params,
                    own.fields,
                    np.array([1.0, product]),
                    np.array([[distance, 0.0, 0.0], [0.0, 0.0, 0.0]]),
                )[0, 0]
                for distance in distances
            ]
            np.testing.assert_allclose(row, expected, rtol=1e-4)
        assert not np.allclose(found[0], found[1], rtol=1e-3), "the seeds differ"


def test_true_laws():
    r = np.array([0.5, 2.0])
    np.testing.assert_allclose(
        force_law.true_acceleration(r, -1.0, SIMULATED), [-4.0, -0.25]
    )
    gravity = {"system": "gravity", "softening": 0.5}
    found = force_law.true_acceleration(r, 1.0, gravity)
    np.testing.assert_allclose(found, [-0.5 / 0.5**1.5, -2 / 4.25**1.5])


@pytest.mark.slow
def test_the_command_draws_what_it_names(run_module, tmp_path):
    folder = tmp_path / "data"
    nbody_folder.write(folder)
    settings = {"system": "charged", "softening": 0.0}
    nbody_folder.edit_metadata(folder, settings=settings)
    settings = {
        **dict.fromkeys(("num_train", "num_neighbors", "num_bodies", "data_seed")),
        **{"dataset": str(folder), "start_frame": 10, "target_frame": 20},
        **{"full_data": False, "target": "position", "cues": "velocity"},
        **{"connectivity": "complete", "batch_size": 4, "dtype": "float32"},
    }
    own = trained("newton")
    own.metadata["settings"] = settings
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        checkpoint.save_model(tmp_path / name / "best.npz", own)
    done = run_module("experiments.force_law", "one", "two", "--out=figure")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        *("one, like", "one, unlike", "two, like", "two, unlike")
    ]
    assert (tmp_path / "figure" / "force_law.png").stat().st_size > 10_000
    with open(tmp_path / "figure" / "force_law.csv") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 4 * force_law.NUM_DISTANCES
    one = written[17]
    distance = float(one["distance"])
    found = force_law.learned_acceleration(own, np.array([distance]), 1.0)
    assert float(one["lowest"]) == pytest.approx(found.min(), rel=1e-4)
    assert float(one["true"]) == pytest.approx(distance**-2, rel=1e-4)


def test_distances_are_those_of_the_training_samples(tmp_path):
    arrays = nbody_folder.write(tmp_path / "data")
    dataset = nbody.load(tmp_path / "data", nbody.Settings(10, 20))
    found = force_law.pair_distances(dataset)
    positions = arrays["train"]["positions"][:, 0]
    expected = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    expected = expected[expected > 0]
    assert len(found) >= len(expected)  # a slot that is left over repeats a sample
    # A pair is there twice, and its distance may differ in the last bit.
    ends = np.sort(found)[[0, -1]], np.sort(expected)[[0, -1]]
    np.testing.assert_allclose(*ends, rtol=1e-6)
    assert len(np.unique(found.round(4))) == len(np.unique(expected.round(4)))


def test_what_has_no_law_is_refused(run_module, tmp_path):
    none = run_module("experiments.force_law")
    assert none.returncode == 2 and "at least one run of newton" in none.stderr
    (tmp_path / "run").mkdir()
    checkpoint.save_model(tmp_path / "run" / "best.npz", trained_egnn())
    other = run_module("experiments.force_law", "run")
    assert other.returncode == 2
    (line,) = other.stderr.splitlines()
    assert "holds a trained egnn, which has no law of force" in line
