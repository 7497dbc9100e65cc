"""Files that a command may not write over: what it reads, and what others rely on."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping

from demetar import locks
from demetar.data import nbody_files
from demetar.errors import UserError
from demetar.train import writers
from experiments.run import drawn_files, run_files, workdir

# That tell a work directory, and what else a run keeps there.
_OF_RUNS = (workdir.CONFIG_FILE, workdir.BEST, run_files.RECORD_FILE)
_IN_RUNS = frozenset(
    {
        *(*_OF_RUNS, workdir.LAST, run_files.ERRORS_FILE),
        *(writers.METRICS_FILE, locks.FILE),
    }
)
_EVENTS = "events.out."  # of TensorBoard, with which their names begin
_OF_SETS = frozenset(
    {nbody_files.METADATA, *(f"{split}.npz" for split in nbody_files.SPLITS)}
)


def check(
    flag: str,
    path: pathlib.Path,
    kept: Mapping[str, Iterable[pathlib.Path]] | None = None,
) -> None:
    """Refuse to write a file in the place of one that would be lost.

    Such are files of a work directory or of a generated data set, of any of them, and
    what else the command names. Links and other spellings of a path count as the file.

    Args:
      flag: that names the file, without dashes.
      path: of the file to write.
      kept: other files, by what they are.

    Raises:
      UserError: it is one of these.
    """
    for what, others in (kept or {}).items():
        if any(is_same(path, other) for other in others):
            raise refusal(flag, path, what)
    for place in (path, pathlib.Path(os.path.realpath(path))):
        what = _owner(place)
        if what:
            raise refusal(flag, path, what)


def refusal(flag: str, path: pathlib.Path, what: str) -> UserError:
    """The error about a file that may not be written."""
    return UserError(
        f"expected another --{flag} than {path}, which is {what}; give a new file"
    )


def is_same(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two paths are of one file, which need not be there yet."""
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        return first.samefile(second)
    except OSError:  # one of them is not there
        return False


def _owner(path: pathlib.Path) -> str:
    """What relies on a file by its name; '' if nothing does."""
    folder, name = path.parent, path.name
    if _is_run(folder) and (name in _IN_RUNS or name.startswith(_EVENTS)):
        return f"a file of the run in {folder}"
    if folder.name == drawn_files.FOLDER and _is_run(folder.parent):
        return f"in the folder of what the run in {folder.parent} drew"
    if name in _OF_SETS and (folder / nbody_files.METADATA).is_file():
        return f"a file of the data set in {folder}"
    return ""


def _is_run(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in _OF_RUNS)
