"""The README's model and data of one's own, as a person would use them elsewhere."""

import pathlib
import re
import shlex
import sys

import numpy as np
import pytest

from demetar import testing
from tests.support import nbody_folder

MODEL, DATA = "Your own model in ten minutes", "Your own data"
RIGHT, WRONG = "(messages) * vectors", "(messages) * jnp.abs(vectors)"


def section(root: pathlib.Path, title: str) -> str:
    text = (root / "README.md").read_text()
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(root: pathlib.Path, title: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", section(root, title), re.M | re.S)


def commands(root: pathlib.Path, title: str) -> list[list[str]]:
    """Modules with their arguments, each as a person would type it."""
    found = re.findall(r"^    python -m (.*)$", section(root, title), re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.fixture
def folder(project_root, tmp_path, monkeypatch):
    """A folder elsewhere with the README's model and a twin that is not equivariant."""
    code = blocks(project_root, MODEL)[0]
    assert code.count(RIGHT) == 1
    assert len(code.splitlines()) <= 45
    (tmp_path / "my_model.py").write_text(code)
    (tmp_path / "my_twin.py").write_text(code.replace(RIGHT, WRONG))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_model", "my_twin"):
        sys.modules.pop(name, None)


def test_the_model_of_the_readme_is_equivariant_and_its_twin_is_not(folder):
    testing.assert_symmetry(testing.Subject("my_model:Pull"))
    with pytest.raises(testing.BrokenPromise, match="outputs do not turn with the inp"):
        testing.assert_symmetry(testing.Subject("my_twin:Pull"))


@pytest.mark.slow
def test_the_model_of_the_readme_is_checked_trained_and_loaded(
    folder, run_module, project_root
):
    check, train = commands(project_root, MODEL)
    checked = run_module(*check, cwd=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "keeps all 19 promises" in checked.stdout
    twin = run_module("experiments.check_model", "my_twin:Pull", cwd=folder)
    assert twin.returncode == 1, twin.stdout + twin.stderr
    broken = re.findall(r"^  ([a-z ]+?) +BROKEN", twin.stdout, re.MULTILINE)
    assert broken == ["rotations", "reflections"] * 2
    nbody_folder.write(folder / "data" / "nbody_small")
    run = run_module(*train, "--dataset=data/nbody_small", cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    names: dict = {}
    exec(blocks(project_root, MODEL)[1], names)
    assert names["model"].model == "my_model:Pull"
    assert names["moved"]["position"].shape == (3, 3)
    assert np.isfinite(names["moved"]["position"]).all()


@pytest.mark.slow
def test_data_of_the_readme_are_trained_on(folder, run_module, project_root):
    names: dict = {}
    for block in blocks(project_root, DATA):
        exec(block, names)
    for module, *arguments in commands(project_root, DATA):
        if module.startswith("experiments."):
            arguments += ["--epochs=1", "--set=num_layers=1", "--set=hidden_size=8"]
        done = run_module(module, *arguments, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.glob("runs/*/*/record.json"))) == 2
    arguments = ["--data_dir=molecules.npz", "--target=energy", "--model=schnet"]
    smaller = ["--epochs=1", "--set=num_layers=1", "--set=hidden_size=8"]
    done = run_module(
        "experiments.qm9", *arguments, *smaller, "--workdir=npz", cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
