"""Pretrained weights: each gives the errors that its record tells."""

import json
import pathlib

import jax
import numpy as np
import pytest

import demetar
from demetar import models, predict
from demetar.train import checkpoint
from tests.support import pretrained_cases

FOLDER = pathlib.Path(predict.__file__).parent / "pretrained"
NAMES = [name.partition(":")[2] for name in predict.pretrained()]
MOST_BYTES = 5_000_000  # of all
NBODY = [name for name in NAMES if name.endswith("-nbody_small")]


def record_of(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def stored():
    with np.load(pretrained_cases.PATH) as file:
        return dict(file)


def stored_systems(arrays, data):
    """Inputs and targets of the stored systems of a data set, by name."""
    own = {
        name.partition("/")[2]: value
        for name, value in arrays.items()
        if name.startswith(f"{data}/")
    }
    if "n_node" in own:
        stops = np.cumsum(own.pop("n_node"))[:-1]
        for name in ("positions", "species"):
            own[name] = np.split(own[name], stops)
    return own


def errors_of(model, systems):
    """Errors of each system, as the head of the model measures them: [D]."""
    (head,) = model.task.heads
    inputs = {name: value for name, value in systems.items() if name != head.name}
    difference = model(**inputs)[head.name] - systems[head.name]
    if head.error == "absolute":
        return np.abs(difference)
    return np.mean(difference**2, axis=(1, 2))


def test_the_weights_are_small_and_there():
    assert {"newton-nbody_small", "newton_octahedral-nbody_small"} <= {*NAMES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    assert {path.stem for path in FOLDER.glob("*.json")} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_of_its_weights(name):
    trained = checkpoint.load_model(FOLDER / f"{name}.npz")
    record = record_of(name)
    assert name == f"{record['model']}-{name.partition('-')[2]}"
    assert trained.metadata["run_id"] == record["run_id"]
    assert (trained.model, trained.fields) == (record["model"], record["fields"])
    leaves = jax.tree.leaves(trained.params)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert {len(leaf) for leaf in leaves} == {len(record["seeds"])} == {1}
    assert sum(leaf[0].size for leaf in leaves) == record["num_params"]
    assert trained.model in models.REGISTRY


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_stored_systems_are_those_of_the_run(name):
    arrays = stored()
    systems = stored_systems(arrays, name.partition("-")[2])
    expected = arrays[f"{name}/errors"]
    found = errors_of(demetar.load(f"pretrained:{name}"), systems)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-5)


def test_other_weights_have_other_errors():
    """The negative control."""
    arrays = stored()
    systems = stored_systems(arrays, "nbody_small")
    model = demetar.load("pretrained:newton_octahedral-nbody_small")
    expected = arrays["newton-nbody_small/errors"]
    assert not np.allclose(errors_of(model, systems), expected, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NBODY)
def test_error_of_the_test_set_is_that_of_the_record(name, shared_dir):
    """On 2,000 systems that differ from those of the run in some close encounters."""
    path = shared_dir / "data" / "nbody_small_frames20_30_40_f32.npz"
    with np.load(path) as arrays:
        systems = {
            "positions": arrays["loc_test"][:, 1],
            "velocities": arrays["vel_test"][:, 1],
            "charges": arrays["charges_test"],
            "position": arrays["loc_test"][:, 2],
        }
    low, high = record_of(name)["test_loss_interval"]
    assert low < errors_of(demetar.load(f"pretrained:{name}"), systems).mean() < high


def readme_row(name):
    record = record_of(name)
    low, high = (f"{value:.3g}" for value in record["test_loss_interval"])
    unit = " meV" if record["unit"] == "meV" else ""
    error = f"{record['test_loss_mean']:.3g} ({low} to {high}){unit}"
    command = record["command"].removeprefix("python -m ")
    return f"| `{name}` | `{command}` | {error} |"


def test_the_readme_has_a_row_for_each(project_root):
    text = (project_root / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    found = {row for row in rows if "-nbody_small`" in row or "-qm9_" in row}
    assert found == {readme_row(name) for name in NAMES}
