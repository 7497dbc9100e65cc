"""Folders that one process at a time writes to.

A lock is a hidden file of the folder that its process holds with `flock`, so that the
system takes the lock of a process that is gone. The file says who holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import os
import pathlib
import socket
import time

from demetar import files, places
from demetar.errors import UserError

FILE = ".lock"
# What file systems say that know no locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
_TRIES = 50  # while another process is about to write or to leave
_PAUSE_SECONDS = 0.02
_MOST_BYTES = 10_000
_ELSEWHERE = "give another folder, or mend that"


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds, or held, a lock."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def may_live(self) -> bool:
        """Whether it may still run: unknown of other machines."""
        if not self.is_here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return self.pid != os.getpid()


@dataclasses.dataclass
class FolderLock:
    """A lock that this process holds.

    Attributes:
      path: its file.
      earlier: who left the lock without giving it back, killed perhaps; or None.
    """

    path: pathlib.Path
    earlier: Owner | None
    _handle: int
    _made: list[pathlib.Path]

    def release(self) -> None:
        """Give the lock back. Folders that were made for it go if they are empty."""
        with contextlib.suppress(OSError):
            if _is_at(self._handle, self.path):
                self.path.unlink()
                for folder in self._made:
                    folder.rmdir()
        os.close(self._handle)


def acquire(folder: pathlib.Path, hint: str) -> FolderLock:
    """The lock of a folder, which is made if it is missing.

    Args:
      folder: to lock.
      hint: ends the error about another process: what to do.

    Raises:
      UserError: another process holds the lock, or the folder cannot be written.
    """
    path = folder / FILE
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    for _ in range(_TRIES):
        handle = _open(folder, path)
        if handle is None:
            continue  # another process has just removed the folder
        if not _is_free(handle):
            owner = _wait_for_owner(handle) or "another process"
            os.close(handle)
            raise UserError(f"{folder} is in use by {owner}; {hint}")
        if _is_at(handle, path):
            break
        os.close(handle)  # the earlier owner has just removed the file
    else:
        raise UserError(f"cannot lock {folder}: it comes and goes; {hint}")
    earlier = read_owner(handle)
    _write_owner(handle, path)
    return FolderLock(path, earlier, handle, made)


def try_lock(handle: int) -> bool:
    """Take the lock of an open file or folder, unless another process holds it.

    Raises:
      OSError: the file system knows no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_owner(handle: int) -> Owner | None:
    """Who an open lock file names; None if nobody."""
    content = os.pread(handle, _MOST_BYTES, 0)
    try:
        found = files.parse_json(content, FILE)
        return Owner(int(found["pid"]), str(found["host"]), str(found["since"]))
    except (UserError, KeyError, TypeError, ValueError, OverflowError):
        return None


def _open(folder: pathlib.Path, path: pathlib.Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = places.not_a_folder(folder, error)
        raise UserError(f"cannot make {folder}: {reason}; {_ELSEWHERE}") from None
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror or files.one_line(error)
        raise UserError(f"cannot write to {folder}: {reason}; {_ELSEWHERE}") from None


def _is_free(handle: int) -> bool:
    try:
        return try_lock(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    # All that is known is what the owner wrote.
    owner = read_owner(handle)
    return owner is None or not owner.may_live


def _wait_for_owner(handle: int) -> Owner | None:
    for _ in range(_TRIES):
        owner = read_owner(handle)
        if owner is not None:
            return owner
        time.sleep(_PAUSE_SECONDS)
    return None


def _write_owner(handle: int, path: pathlib.Path) -> None:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    host = socket.gethostname().replace("\\", "/").replace('"', "'")
    text = f'{{"pid": {os.getpid()}, "host": "{host}", "since": "{now}"}}\n'
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
    except OSError as error:
        os.close(handle)
        reason = error.strerror or files.one_line(error)
        raise UserError(f"cannot write {path}: {reason}; free space there") from None


def _is_at(handle: int, path: pathlib.Path) -> bool:
    """Whether the open file is the one that has this path now."""
    try:
        there, own = os.stat(path), os.fstat(handle)
    except OSError:
        return False
    return (there.st_ino, there.st_dev) == (own.st_ino, own.st_dev)
