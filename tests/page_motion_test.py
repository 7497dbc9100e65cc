"""The motion on the page: the generator's own, the models' own, and none made up."""

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest

from demetar import files, predict
from demetar.data import nbody_files
from demetar.train import checkpoint
from experiments.page import content, motion, paths, scenes
from experiments.run import finished
from tests import report_test
from tests.support import trained
from tools import simulation

MADE = simulation.Settings(
    num_steps=300, sample_every=20, num_train=1, num_valid=1, num_test=5
)
START, TARGET = 3, 8  # frames
FRAMES = [START, 5, TARGET]
STEPS = 100  # of the simulator between them
NEWTON = {"hidden_size": 4, "num_layers": 1, "eval_substeps": 9, "horizon": 0.1}


@functools.cache
def simulated(**changes: Any) -> tuple[simulation.Settings, dict[str, np.ndarray]]:
    """The test systems of the generator, all frames."""
    made = dataclasses.replace(MADE, **changes)
    simulator = simulation.Simulator(made)
    for split, initial in simulation.chunks(made, simulator.lanes):
        if split == "test":
            return made, simulator(initial)[0]
    raise AssertionError


def states(arrays: dict[str, np.ndarray], kind: str = "charges") -> paths.States:
    real = np.arange(arrays[kind].shape[1]) < arrays["num_bodies"][:, None]
    return paths.States(
        positions=arrays["positions"][:, START],
        velocities=arrays["velocities"][:, START],
        sources=arrays[kind],
        real=real,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_bodies": (2, 5)},
        pytest.param({"clip": "radial"}, marks=pytest.mark.slow),
        pytest.param(
            {"system": "gravity", "softening": 0.1, "num_bodies": (7, 7)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["charged", "of any size", "radial", "gravity"],
)
def test_the_true_path_is_the_one_of_the_generator(changes):
    made, arrays = simulated(**changes)
    told = dataclasses.asdict(made)
    kind = "charges" if made.system == "charged" else "masses"
    begin = states(arrays, kind)
    times, found = paths.true_paths(told, begin, STEPS, count=STEPS)
    np.testing.assert_allclose(times, made.dt * np.arange(STEPS + 1))
    for frame in range(START, TARGET + 1):
        own = found[made.sample_every * (frame - START)]
        expected = arrays["positions"][:, frame]
        np.testing.assert_allclose(own[begin.real], expected[begin.real], atol=1e-9)

    least = paths.closest(told, begin, STEPS)
    for system, count in enumerate(arrays["num_bodies"]):
        pairs = itertools.combinations(range(count), 2)
        gaps = [found[:, system, i] - found[:, system, j] for i, j in pairs]
        expected = min(np.linalg.norm(gap, axis=-1).min() for gap in gaps)
        np.testing.assert_allclose(least[system], expected, rtol=1e-9)


def test_a_path_has_few_points_that_begin_and_end_with_the_motion():
    made, arrays = simulated()
    told = dataclasses.asdict(made)
    times, found = paths.true_paths(told, states(arrays), STEPS, count=7)
    assert len(times) == len(found) == 8 and times[0] == 0 and times[-1] == 0.1
    np.testing.assert_allclose(found[0], arrays["positions"][:, START])
    np.testing.assert_allclose(found[-1], arrays["positions"][:, TARGET], atol=1e-9)


def test_imported_data_have_no_known_motion():
    told = dataclasses.asdict(MADE)
    assert paths.is_known(told)
    assert not paths.is_known({"system": "charged"})
    assert not paths.is_known(told | {"system": "another"})


# --- What models predict ------------------------------------------------------------


@functools.cache
def model(name: str, **changes: Any) -> predict.Predictor:
    fields = {**trained.SMALL, **NEWTON, **changes}
    made = trained.make(name, trained.BODIES, fields=fields)
    return predict.Predictor(made)


@pytest.mark.parametrize("stretch", [4.0, 1.0])
def test_the_path_of_newton_ends_at_what_it_predicts(stretch):
    inputs = trained.bodies((3, 4))
    share = np.linspace(0, 1, 6)
    newton = model("newton", stretch=stretch)
    shifts = paths.path_of_model(newton, inputs, share)
    assert shifts is not None and shifts.shape == (6, 7, 3)
    start = np.concatenate(inputs["positions"])
    end = np.concatenate(newton(**inputs)["position"])
    np.testing.assert_array_equal(shifts[0], 0)
    np.testing.assert_allclose(start + shifts[-1], end, atol=1e-5)
    # In so short a time it is no straight line, but nearly.
    speeds = np.concatenate(inputs["velocities"])
    assert np.abs(shifts[-1] - 0.1 * speeds).max() > 1e-4
    halfway = np.abs(shifts[3] - 0.6 * shifts[-1]).max()
    assert 0 < halfway < 0.2 * np.abs(shifts[-1]).max()


def test_a_model_that_predicts_the_end_alone_has_no_path():
    inputs = trained.bodies((3,))
    assert paths.path_of_model(model("linear"), inputs, np.array([0.0, 1.0])) is None


# --- Together -----------------------------------------------------------------------


def save(folder: pathlib.Path, name: str) -> None:
    """Put a checkpoint into the folder of a record."""
    made = trained.make(name, trained.BODIES, fields={**trained.SMALL, **NEWTON})
    checkpoint.save_model(folder / "best.npz", made)


def write_data(folder: pathlib.Path) -> str:
    """A data set of three frames as the generator writes it; its fingerprint."""
    made, arrays = simulated()
    frames = {name: arrays[name][:, FRAMES] for name in ("positions", "velocities")}
    own: dict[str, Any] = {**frames, "charges": arrays["charges"]}
    folder.mkdir()
    for split in nbody_files.SPLITS:
        np.savez(folder / f"{split}.npz", **own)
    metadata = nbody_files.sealed(
        {
            "settings": dataclasses.asdict(made),
            "frames": FRAMES,
            "units": {"positions": "m", "velocities": "m / s"},
            "arrays": dict.fromkeys(
                nbody_files.SPLITS,
                {name: files.array_hash(array) for name, array in own.items()},
            ),
        }
    )
    checkpoint.write_json(folder / nbody_files.METADATA, metadata)
    return str(metadata["fingerprint"])


def test_scenes_have_the_truth_and_what_each_model_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = write_data(tmp_path / "data")
    errors = np.arange(1.0, 6.0)[None]
    common = {
        "dataset": "data",
        "fingerprint": mark,
        "settings": {"start_frame": START, "target_frame": TARGET},
        "test_loss_mean": 3.0,
    }
    for name in ("linear", "newton"):
        save(report_test.write_run(tmp_path / "runs" / name, errors, **common), name)
    report_test.write_run(tmp_path / "runs/record_alone", errors, **common)
    runs = finished.read_runs(["runs"])
    wanted = scenes.Wanted((), (4, 0), tmp_path, tmp_path)
    (group,) = content.gather(runs, wanted)["groups"]
    assert group["scenes_reason"] == "" and "closest" in group
    assert [own["title"] for own in group["scenes"]] == [
        "test system 4",
        "test system 0",
    ]
    _, arrays = simulated()
    scene = group["scenes"][0]
    path = np.array(scene["true"])
    np.testing.assert_allclose(path[0], arrays["positions"][4, START], atol=1e-4)
    np.testing.assert_allclose(path[-1], arrays["positions"][4, TARGET], atol=1e-4)
    assert scene["sources"] == arrays["charges"][4].tolist()
    assert set(scene["errors"].values()) == {5.0} and len(scene["errors"]) == 3
    linear, newton = scene["models"]
    assert linear["path"] is None
    np.testing.assert_allclose(newton["path"][-1], newton["end"], atol=2e-4)
    for own in scene["models"]:
        gap = np.array(own["end"]) - path[-1]
        np.testing.assert_allclose(own["error"], np.mean(gap**2), rtol=0.05)


def test_other_data_than_those_of_the_runs_show_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    settings = {"start_frame": START, "target_frame": TARGET}
    report_test.write_run(tmp_path / "runs", dataset="data", settings=settings)
    wanted = scenes.Wanted((), (), tmp_path, tmp_path)
    shown = motion.show(finished.read_runs(["runs"]), [], wanted)
    assert not shown.scenes and shown.closest is None
    assert shown.reason.endswith("the data set data that is there is another one")
