"""The commit of the project in whose checkout a command runs."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess

import demetar

ROOT = pathlib.Path(demetar.__file__).resolve().parents[1]
CHANGED = "+changes"  # ends the name of a commit whose files were altered
SECONDS = 10  # that git may take


@functools.cache
def commit(root: pathlib.Path = ROOT) -> str | None:
    """The commit of a checkout, with `CHANGED` if tracked files differ from it.

    None without git, without a commit, and for an installed copy, also one that lies in
    the checkout of another project.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    found = _git(root, "rev-parse", "--verify", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    if not top or not found or status is None:
        return None
    if pathlib.Path(top).resolve() != root.resolve():
        return None
    if not _git(root, "ls-files", "demetar/__init__.py"):
        return None
    return found + CHANGED * bool(status)


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
