"""A folder of data that appears when it is complete, and never takes what others wrote.

What was there at the start is replaced only if that was asked for; what came since is
left alone, and the finished data are kept beside it for the next start.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from demetar import files, locks, places
from demetar.data import nbody_files
from demetar.data.readers import text
from demetar.errors import UserError

_FILES = {nbody_files.METADATA, *(f"{split}.npz" for split in nbody_files.SPLITS)}
_REPLACED = "replaced"  # of a folder that is being put in place of another
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class OutputFolder:
    """A folder that appears at `path` only when it is complete.

    It is built under a hidden name beside it, `.NAME.partial-*`, and locked while its
    process lives, so that leftovers of a killed process can be told and removed. What
    is complete and cannot take its place is kept as `.NAME.finished-*`, by what decides
    its content, and the next start puts it there.

    Attributes:
      path: of the folder, without links and '..'.
      partial: where it is built.
      is_complete: whether nothing is left to write.
    """

    def __init__(
        self, path: pathlib.Path, described: Mapping[str, Any], overwrite: bool
    ):
        self.path = path = places.settled(path)
        self._finished = _beside(path, "finished", described)
        prefix = f".{path.name}.partial-"
        for leftover in path.parent.glob(f"{glob.escape(prefix)}*/"):
            self._remove_if_dead(leftover)
        self._check(overwrite)
        self._before = _content(path)
        self._made = [one for one in path.parents if not one.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        self.is_complete = self._finished.is_dir()
        self.partial = path.parent / (prefix + secrets.token_hex(4))
        if self.is_complete:
            self.partial = self._finished
        else:
            self.partial.mkdir()
        self._lock = os.open(self.partial, os.O_RDONLY)
        # Nobody else knows the folder yet, but one that was finished earlier.
        if not locks.try_lock(self._lock):
            os.close(self._lock)
            raise _busy(path)

    def _check(self, overwrite: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"--out={self.path} is a file; name a folder")
        names = sorted(path.name for path in self.path.iterdir())
        if not names:
            return
        if not (self.path / nbody_files.METADATA).is_file():
            advice = "name another"
            if self._finished.is_dir():
                advice = f"move that elsewhere for the finished one in {self._finished}"
            raise UserError(
                f"--out={self.path} is not empty and holds no data set; {advice}"
            )
        if not overwrite:
            raise UserError(
                f"--out={self.path} holds a data set; pass --overwrite to replace it"
            )
        others = [name for name in names if name not in _FILES]
        if others:
            raise UserError(
                f"--out={self.path} holds {text.listed(others)} beside its data set, "
                "which --overwrite would remove; move that elsewhere, or name another "
                "--out"
            )

    def _remove_if_dead(self, leftover: pathlib.Path) -> None:
        handle = os.open(leftover, os.O_RDONLY)
        try:
            if not locks.try_lock(handle):
                return
        finally:
            os.close(handle)
        replaced = leftover / _REPLACED
        if replaced.exists() and not self.path.exists():
            replaced.rename(self.path)  # killed between the two
        shutil.rmtree(leftover)

    def finish(self) -> None:
        """Put the folder in its place.

        Raises:
          UserError: what is there now was not there at the start. It stays, and so does
            the finished folder.
        """
        replaced = self.partial / _REPLACED
        if self._before and self.path.exists():
            self.path.rename(replaced)
            found = _content(replaced)
            if found != self._before:
                replaced.rename(self.path)
                raise self._occupied(found)
        try:  # only if nothing is there, as the system says
            self.partial.rename(self.path)
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
            raise self._occupied(_content(self.path)) from None
        shutil.rmtree(self.path / _REPLACED, ignore_errors=True)
        os.close(self._lock)

    def _occupied(self, found: Mapping[str, Any]) -> UserError:
        new = [name for name in found if found[name] != self._before.get(name)]
        what = f"has {text.listed(sorted(new))}" if new else "lacks files"
        if self.path.is_file():
            what = "is a file"
        return UserError(
            f"--out={self.path} {what}, other than at the start, and is left as it is; "
            "move that elsewhere and give the same command again, which puts the "
            f"finished data set there from {self._finished}"
        )

    def discard(self) -> None:
        """Remove all that was written, unless it is complete: then keep it."""
        if self.is_complete:
            with contextlib.suppress(OSError):
                self.partial.rename(self._finished)
        if not self.is_complete or self.partial != self._finished:
            shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()  # if nothing is in it
        os.close(self._lock)


def _content(folder: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    """What tells files apart, of all in a folder, by their names in it."""
    found = {}
    for path in folder.rglob("*"):
        known = path.lstat()
        name = str(path.relative_to(folder))
        found[name] = (known.st_ino, known.st_size, known.st_mtime_ns)
    return found


def _beside(
    path: pathlib.Path, purpose: str, described: Mapping[str, Any]
) -> pathlib.Path:
    """A hidden folder beside a data set, by what decides the content of that."""
    return path.parent / f".{path.name}.{purpose}-{files.json_hash(described)[:12]}"


def _busy(path: pathlib.Path) -> UserError:
    return UserError(
        f"another process is generating {path}; wait for it, or name another --out"
    )


def make(
    path: pathlib.Path,
    described: Mapping[str, Any],
    fill: Callable[[pathlib.Path], dict[str, Any]],
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make a data set, which is at `path` if all went well.

    Args:
      path: of the data set.
      described: what decides its content, as JSON can hold it. If an earlier start has
        finished it and could not put it in its place, it is put there now.
      fill: writes it into a folder, and returns its metadata.
      overwrite: whether to replace a data set that is there.

    Returns:
      Its metadata.

    Raises:
      UserError: as `OutputFolder`, or it cannot be written. Nothing is left behind but
        what is complete.
    """
    folder = None
    try:
        folder = OutputFolder(path, described, overwrite)
        if folder.is_complete:
            metadata = files.read_json(folder.partial / nbody_files.METADATA)
        else:
            metadata = fill(folder.partial)
            folder.is_complete = True
        folder.finish()
        return metadata
    except BaseException as error:
        if folder is not None:
            folder.discard()
        if isinstance(error, OSError):
            reason = places.not_a_folder(places.settled(path).parent, error)
            raise UserError(f"cannot write {path}: {reason}") from None
        raise


@contextlib.contextmanager
def kept(path: pathlib.Path, described: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    """The folder of what an interrupted run leaves, for this process alone.

    It is not left if nothing was finished in it.

    Args:
      path: of the data set.
      described: what decides its content, as JSON can hold it.

    Raises:
      UserError: another process has it.
    """
    folder = _beside(places.settled(path), "unfinished", described)
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not locks.try_lock(handle):
            raise _busy(path)
        try:
            yield folder
        finally:
            if all(map(files.is_temporary, folder.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def forget(path: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Remove what `kept` left, if it did."""
    folder = _beside(places.settled(path), "unfinished", described)
    shutil.rmtree(folder, ignore_errors=True)
