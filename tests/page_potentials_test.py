"""Potentials on the page: units of the heads, published values, forces of frames."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from demetar.data import potentials
from demetar.data.potential_heads import Settings, make_heads
from demetar.train import checkpoint
from experiments.page import content, scenes
from experiments.protocols import published
from experiments.run import finished
from tests import potential_experiment_test as springs
from tests import report_test
from tests.support import trained

DATASET = "rmd17_ethanol"
SETTINGS = {
    "dataset": DATASET,
    "labels": "rmd17",
    "fold": 1,
    **{"num_train": 24, "num_valid": 50, "num_test": 6},
}
ERRORS = {
    "energy": {"unit": "meV", "mae": [2.0, 4.0], "rmse": [5.0, 5.0]},
    "forces": {"unit": "meV/Å", "mae": [7.0, 9.0], "rmse": [9.0, 9.0]},
}


def record_of(**changes: Any) -> dict[str, Any]:
    of_task = {"dataset": DATASET, "target": "energy and forces", "unit": "meV/Å"}
    told = {"model": "schnet", "settings": SETTINGS, "test_errors": ERRORS}
    return {**of_task, **told, **changes}


def write_data(folder: pathlib.Path) -> None:
    folder.mkdir()
    for part, count in (("train", 74), ("test", 6)):
        arrays = springs.frames(count, seed=len(part))
        np.savez(folder / f"{DATASET}_{part}_01.npz", **arrays)


def test_frames_have_the_forces_of_the_data_and_of_each_model(tmp_path):
    write_data(tmp_path / "data")
    sets = potentials.load(DATASET, tmp_path / "data", Settings())
    own = record_of(fingerprint=sets.fingerprint)
    run = report_test.write_run(tmp_path / "runs/schnet", **own)
    task = potentials.make_task(
        DATASET, make_heads(Settings()), sets.parts["train"], None
    )
    made = trained.make("schnet", task)
    told = {**made.metadata, "settings": SETTINGS}
    made = dataclasses.replace(made, metadata=told)
    checkpoint.save_model(run / "best.npz", made)
    wanted = scenes.Wanted((), (4, 0), tmp_path / "data", tmp_path)
    (group,) = content.gather(finished.read_runs([str(tmp_path)]), wanted)["groups"]
    assert group["heads"] == {"energy": "meV", "forces": "meV/Å"}
    arrays = springs.frames(6, seed=len("test"))
    assert [scene["title"][-1] for scene in group["scenes"]] == ["4", "0"]
    for row, scene in zip((4, 0), group["scenes"], strict=True):
        true = springs.MEV * arrays["forces"][row]
        np.testing.assert_allclose(scene["forces"], true, atol=0.01)
        assert scene["symbols"] == ["O", "H", "H"] and len(scene["bonds"]) == 2
        (model,) = scene["models"]
        gap = np.abs(np.array(model["forces"]) - true).mean()
        assert model["error"] == pytest.approx(gap, rel=1e-3)
        assert np.abs(np.sum(model["forces"], axis=0)).max() < 0.1  # no net force


def test_other_frames_than_those_of_the_runs_show_nothing(tmp_path):
    write_data(tmp_path / "data")
    report_test.write_run(tmp_path / "runs", **record_of(fingerprint="another"))
    runs = finished.read_runs([str(tmp_path)])
    for place, words in (("data", "are others"), ("none", "are not there")):
        wanted = scenes.Wanted((), (), tmp_path / place, tmp_path)
        shown = content.gather(runs, wanted)
        (group,) = shown["groups"]
        assert not group["scenes"] and words in group["scenes_reason"]
        assert str(tmp_path) not in group["scenes_reason"]
        means = {name: own["mae"] for name, own in shown["runs"][0]["heads"].items()}
        assert means == {"energy": 3.0, "forces": 8.0}


def test_published_errors_are_of_the_same_frames_and_head():
    settings = SETTINGS | {"num_train": 950}
    record = record_of(model="nequip", settings=settings)
    found = published.find(record)
    assert found is not None and found.loss == 2.8
    assert found.by_head == {"energy": 0.4, "forces": 2.8}
    of_energy = published.find(record | {"unit": "meV"})
    assert of_energy is not None and of_energy.loss == 0.4
    assert published.find(record | {"model": "schnet"}) is None
    assert published.find(record | {"settings": SETTINGS}) is None
    names = [own.name for own in published.of_data(record)]
    assert names == ["NequIP, l = 3", "MACE", "PONITA"]
    assert published.of_data(record | {"settings": {"labels": "md17"}}) == []
