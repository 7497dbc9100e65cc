"""Data sets that are generated on first use, by a command in a process of its own."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from demetar.errors import UserError


def run(module: str, arguments: Sequence[str], folder: pathlib.Path) -> None:
    """Generate a data set in a folder, which appears when it is whole.

    Args:
      module: 'tools.generate_nbody' or another one.
      arguments: its flags, without --out.
      folder: of the data set.

    Raises:
      UserError: the generator failed.
    """
    command = [sys.executable, "-m", module, *arguments, f"--out={folder}"]
    process = subprocess.run(command, check=False)
    if process.returncode:
        raise UserError(
            f"the data could not be generated (exit code {process.returncode}); "
            "the reason stands above; --data_dir chooses another place"
        )
