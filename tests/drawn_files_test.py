"""What a finished run has drawn: drawn once, and again what is missing or damaged."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from experiments.run import drawn_files, records, run_files


@dataclasses.dataclass(frozen=True)
class Asked:
    number: int = 3


class Drawing:
    """Draws two files into a folder and counts how often."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.times = folder / drawn_files.FOLDER, 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        (self.folder / "samples.xyz").write_text("one")
        (self.folder / "samples_seed2.xyz").write_text("two")
        return {"energy": 1.5}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The work directory of a finished run, as far as it is looked at here."""
    monkeypatch.setattr(
        run_files, "read_record", lambda path: json.loads(path.read_text())
    )
    records.write(tmp_path / run_files.RECORD_FILE, {run_files.RUN_ID: "a"})
    return tmp_path


def told(folder: pathlib.Path, drawing: Drawing, asked: Asked | None = None) -> Any:
    return drawn_files.told(folder, "told.json", "drawn", asked or Asked(), drawing)


def test_it_is_drawn_once_for_what_is_asked(folder):
    drawing = Drawing(folder)
    (folder / "drawn").mkdir()
    (folder / "drawn" / "notes.txt").touch()  # of somebody else
    found = told(folder, drawing)
    assert found == told(folder, drawing) and drawing.times == 1
    assert {*found["files"]} == {"samples.xyz", "samples_seed2.xyz"}
    (folder / "drawn" / "notes.txt").unlink()
    told(folder, drawing)
    assert drawing.times == 1
    told(folder, drawing, Asked(4))
    assert drawing.times == 2
    record = json.loads((folder / run_files.RECORD_FILE).read_text())
    assert record["drawn"]["number"] == 4


@pytest.mark.parametrize("name", ["samples.xyz", "samples_seed2.xyz", "told.json"])
@pytest.mark.parametrize("content", [None, b"", b"t"])
def test_what_is_missing_or_damaged_is_drawn_again(folder, capsys, name, content):
    drawing = Drawing(folder)
    told(folder, drawing)
    path = folder / "drawn" / name
    before = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    told(folder, drawing)
    assert drawing.times == 2 and path.read_bytes() == before
    is_told = content is not None or name != "told.json"
    assert (f"{path}: missing or damaged" in capsys.readouterr().out) == is_told
