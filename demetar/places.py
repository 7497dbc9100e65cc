"""Paths that are written to: what stands there already, and why it cannot be."""

from __future__ import annotations

import os
import pathlib

from demetar.errors import UserError
from demetar.files import PathLike, one_line


def remove(path: pathlib.Path) -> None:
    """Remove a file that is made anew; none is as well.

    Raises:
      UserError: it is a folder, whose content may be somebody's, or it cannot be
        removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror
        raise UserError(
            f"cannot replace {path}: {reason}; move it elsewhere and run the same "
            "command again"
        ) from None


def unwritten(path: PathLike, error: OSError) -> UserError:
    """The error of a file that cannot be written, with the way out."""
    if isinstance(error, IsADirectoryError):
        return UserError(
            f"cannot write {os.fspath(path)}: it is a folder; move it elsewhere and "
            "run the same command again"
        )
    return UserError(
        f"cannot write {os.fspath(path)}: {error.strerror or error}; free space there "
        "or choose a folder that can be written, and run the same command again"
    )


def not_a_folder(path: pathlib.Path, error: OSError) -> str:
    """Why a folder cannot be made, read or filled: what is a file, or a folder."""
    if isinstance(error, IsADirectoryError):
        return f"{error.filename} is a folder"
    for part in (path, *path.parents):
        if os.path.exists(part) and not os.path.isdir(part):
            return f"{part} is no folder"
    return error.strerror or one_line(error)


def settled(path: pathlib.Path) -> pathlib.Path:
    """The path of a file to write, without links and '..'.

    What is there can then be told before the folders above it are made: 'a/../b' is
    missing until there is an `a`, although `b` is there.
    """
    return pathlib.Path(os.path.realpath(path))
