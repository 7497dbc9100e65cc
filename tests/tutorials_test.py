"""The tutorials and the Python of the README, executed."""

import pathlib
import re
import runpy

import pytest

TUTORIALS = ("nbody", "molecules")


def test_every_tutorial_is_known(project_root):
    found = {path.stem for path in (project_root / "tutorials").glob("*.py")}
    assert found == {*TUTORIALS}


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_runs(name, project_root, tmp_path, monkeypatch, capsys):
    path = project_root / "tutorials" / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    told = capsys.readouterr().out
    assert "rotation" in told  # the table of symmetries is the last thing
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_has_cells(name, project_root):
    text = (project_root / "tutorials" / f"{name}.py").read_text()
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert cells[0] == "" and len(cells) > 8
    for cell in cells[1:]:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in cell.split("\n")[1:] if line)


def test_first_python_of_the_readme_runs(project_root, tmp_path, monkeypatch, capsys):
    text = (project_root / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "demetar.load" in code and len(code.strip().splitlines()) <= 8
    monkeypatch.chdir(tmp_path)
    script = pathlib.Path("first.py")
    script.write_text(code)
    namespace = runpy.run_path(str(script))
    assert namespace["ahead"].shape == (5, 3)
    assert "position" in capsys.readouterr().out
