"""Folders of the generators: what others write there is not lost, nor are the data."""

import json
import os
import pathlib
from collections.abc import Callable

import pytest

from demetar.errors import UserError
from tools import output_folder


class Filling:
    """Writes a small data set, does something else before it ends, and counts."""

    def __init__(self, content: str, meanwhile: Callable[[], object] = lambda: None):
        self.content, self.meanwhile, self.times = content, meanwhile, 0

    def __call__(self, folder: pathlib.Path) -> dict[str, str]:
        self.times += 1
        (folder / "train.npz").write_text(self.content)
        (folder / "metadata.json").write_text(json.dumps({"says": self.content}))
        self.meanwhile()
        return {"says": self.content}


def make(path: pathlib.Path, filling: Filling, overwrite: bool = False) -> str:
    described = {"content": filling.content}
    return output_folder.make(path, described, filling, overwrite)["says"]


def listing(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SET = ["metadata.json", "train.npz"]


@pytest.mark.parametrize("start", ["missing", "empty", "a data set"])
@pytest.mark.parametrize("late", ["notes.txt", "train.npz"])
def test_what_comes_meanwhile_stays_and_so_do_the_data(tmp_path, start, late):
    path = tmp_path / "set"
    if start == "a data set":
        make(path, Filling("old"))
    elif start == "empty":
        path.mkdir()

    def write():
        path.mkdir(exist_ok=True)
        (path / late).write_text("precious")

    filling = Filling("new", write)
    overwrite = start == "a data set"
    with pytest.raises(UserError, match=f"{late}, other than at the start") as caught:
        make(path, filling, overwrite)
    assert (path / late).read_text() == "precious"
    (kept,) = tmp_path.glob(".set.finished-*")
    assert str(kept) in str(caught.value) and listing(kept) == SET
    if not overwrite:
        with pytest.raises(UserError, match="elsewhere for the finished one in"):
            make(path, filling)
    (path / late).rename(tmp_path / "moved")
    assert make(path, filling, overwrite) == "new" and filling.times == 1
    assert listing(path) == SET and (path / "train.npz").read_text() == "new"
    assert listing(tmp_path) == ["moved", "set"]


def test_a_file_that_comes_in_its_place_stays(tmp_path):
    path = tmp_path / "set"
    filling = Filling("new", lambda: path.write_text("precious"))
    with pytest.raises(UserError, match="is a file, other than at the start"):
        make(path, filling)
    assert path.read_text() == "precious"
    path.unlink()
    assert make(path, filling) == "new" and filling.times == 1


def test_other_data_do_not_take_up_what_was_finished(tmp_path):
    path = tmp_path / "set"
    with pytest.raises(UserError):
        make(path, Filling("one", lambda: path.write_text("")))
    path.unlink()
    other = Filling("other")
    assert make(path, other) == "other" and other.times == 1


def test_files_beside_a_data_set_are_not_overwritten(tmp_path):
    path = tmp_path / "set"
    make(path, Filling("old"))
    (path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds notes.txt beside its data set"):
        make(path, Filling("new"), overwrite=True)
    assert listing(path) == [*SET[:1], "notes.txt", *SET[1:]]
    (path / "notes.txt").unlink()
    make(path, Filling("new"), overwrite=True)
    assert listing(path) == SET and listing(tmp_path) == ["set"]


def test_a_path_is_known_before_its_folders_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(pathlib.Path("set"), Filling("old"))
    with pytest.raises(UserError, match="pass --overwrite"):
        make(pathlib.Path("missing/../set"), Filling("new"))
    make(pathlib.Path("missing/../set"), Filling("new"), overwrite=True)
    os.symlink("set", "link")
    make(pathlib.Path("link"), Filling("newer"), overwrite=True)
    assert listing(tmp_path) == ["link", "set"]
    assert pathlib.Path("set/train.npz").read_text() == "newer"


def test_the_old_data_come_back_after_a_kill_between_the_two(tmp_path):
    path = tmp_path / "set"
    make(path, Filling("old"))
    left = tmp_path / ".set.partial-0"
    left.mkdir()
    path.rename(left / "replaced")
    with pytest.raises(UserError, match="pass --overwrite"):
        make(path, Filling("new"))
    assert listing(tmp_path) == ["set"] and (path / "train.npz").read_text() == "old"


def test_a_failure_leaves_nothing_that_is_empty(tmp_path):
    path, described = tmp_path / "a" / "b" / "set", {"x": 1}

    def fails(folder, *files):
        with output_folder.kept(path, described) as kept:
            for name in files:
                (kept / name).touch()
            raise UserError("refused")

    with pytest.raises(UserError, match="refused"):
        output_folder.make(path, described, fails)
    with pytest.raises(UserError, match="refused"):
        output_folder.make(path, described, lambda folder: fails(folder, ".x.tmp"))
    assert listing(tmp_path) == []
    with pytest.raises(UserError, match="refused"):
        output_folder.make(path, described, lambda folder: fails(folder, "chunk.npz"))
    (kept,) = path.parent.iterdir()  # the negative control: it is continued
    assert kept.name.startswith(".set.unfinished-") and listing(kept) == ["chunk.npz"]
    output_folder.forget(path, described)
    assert listing(path.parent) == []
