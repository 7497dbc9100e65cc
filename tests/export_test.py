"""Predictors that were exported, and run without the project."""

import dataclasses
import json
import sys
import textwrap

import numpy as np
import pytest

import demetar.export
from demetar.errors import UserError
from demetar.export import export
from demetar.predict import Predictor
from tests.support import trained

ATOMS = dataclasses.replace(
    trained.MOLECULES, connectivity="radius 2", cutoff=2.0, num_neighbors=None
)

# What a person needs to run an exported model: the function that the module shows.
SHOWN = textwrap.dedent(demetar.export.__doc__.partition("to run it:")[2])
LOADER = f"""
import json
import pathlib

import jax
import jax.export
import numpy as np
{SHOWN}"""
ALONE = """
import sys

for name in ("demetar", "experiments", "haiku", "e3nn_jax", "jraph", "optax"):
    sys.modules[name] = None  # cannot be imported
exec(sys.argv[1])
for number in range(int(sys.argv[2])):
    with np.load(f"inputs{number}.npz") as inputs:
        found = load(f"model{number}.demetar")(**inputs)
    np.savez(f"found{number}.npz", **found)
"""


def arrays(inputs):
    return {name: np.stack(own) for name, own in inputs.items()}


CASES = {
    "bodies": ("egnn", trained.BODIES, trained.bodies((5, 5), 1), 2),
    "nearest": (
        *(
            "egnn",
            dataclasses.replace(trained.BODIES, connectivity="knn", num_neighbors=2),
        ),
        *(trained.bodies((5, 5), 1), 1),
    ),
    "raw": ("gnn", trained.BODIES, trained.bodies((4,), 2), 1),
    "atoms": ("schnet", trained.MOLECULES, trained.molecules((5, 5), 3), 1),
    "radius": ("schnet", ATOMS, trained.molecules((6, 6), 4), 1),
}


def test_exported_models_run_without_the_project(tmp_path, run_python):
    pytest.importorskip("flatbuffers")
    expected = []
    for number, (name, task, inputs, num_seeds) in enumerate(CASES.values()):
        model = Predictor(trained.make(name, task, num_seeds), seed="mean")
        given = arrays(inputs)
        if name != "gnn":  # which reads raw positions
            # Far away, where single precision would lose everything.
            given["positions"] = given["positions"] + 1e5
        expected.append(model(**given))
        shape = given["positions"].shape
        header = export(model, tmp_path / f"model{number}.demetar", shape[1], shape[0])
        assert [own["name"] for own in header["inputs"]] == list(model.inputs)
        units = {own["name"]: own["unit"] for own in header["outputs"]}
        assert units == model.units
        np.savez(tmp_path / f"inputs{number}.npz", **given)
    done = run_python(["-c", ALONE, LOADER, str(len(CASES))])
    assert done.returncode == 0, done.stderr
    for number, (case, values) in enumerate(zip(CASES, expected, strict=True)):
        with np.load(tmp_path / f"found{number}.npz") as found:
            assert set(found) == set(values), case
            for name, own in values.items():
                assert found[name].dtype == np.float64
                np.testing.assert_allclose(found[name], own, rtol=1e-10, atol=2e-6)
    content = (tmp_path / "model0.demetar").read_bytes()
    header = json.loads(content.partition(b"\n")[0])
    assert (header["format"], header["version"]) == ("demetar exported model", 1)
    assert header["inputs"][0] == {
        "name": "positions",
        "shape": [2, 5, 3],
        "dtype": "float64",
        "unit": "m",
    }


def test_what_is_shown_is_what_works(project_root):
    """The docstring has the loader of this test."""
    text = (project_root / "demetar" / "export.py").read_text()
    shown = [line.strip() for line in text.partition('"""\n')[0].splitlines()]
    loader = LOADER.partition("def load")[2].strip().splitlines()[1:]
    for line in loader:
        assert line.strip() in shown


def test_unknown_species_are_no_numbers(tmp_path, run_python):
    pytest.importorskip("flatbuffers")
    model = Predictor(trained.make("schnet", trained.MOLECULES))
    export(model, tmp_path / "model0.demetar", 3, 2)
    positions = np.stack(trained.molecules((3, 3))["positions"])
    species = [[8, 1, 1], [8, 1, 17]]
    np.savez(tmp_path / "inputs0.npz", positions=positions, species=species)
    done = run_python(["-c", ALONE, LOADER, "1"])
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found0.npz") as found:
        assert np.isfinite(found["energy"]).tolist() == [True, False]


@pytest.mark.parametrize(
    "changes, size, message",
    [
        ({"connectivity": "bonds"}, 4, "made of bonds"),
        ({"connectivity": "knn", "num_neighbors": 3}, 3, "at least 4 nodes"),
        ({}, 0, "at least 1 nodes"),
        ({"connectivity": "own"}, 3, "cannot be built from positions"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, changes, size, message):
    task = dataclasses.replace(trained.MOLECULES, **changes)
    model = Predictor(trained.make("schnet", trained.MOLECULES))
    model.task = task
    with pytest.raises(UserError, match=message):
        export(model, tmp_path / "model.demetar", size)
    assert not list(tmp_path.iterdir())


def test_flatbuffers_is_asked_for_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    model = Predictor(trained.make("linear", trained.BODIES))
    with pytest.raises(UserError, match="pip install flatbuffers"):
        export(model, tmp_path / "model.demetar", 2)
    assert not list(tmp_path.iterdir())
