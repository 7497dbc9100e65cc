"""What a finished run draws, in the folder `drawn` of its work directory."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from demetar import files
from demetar.train import checkpoint
from experiments.run import cli, records, run_files, workdir

FOLDER = "drawn"
SHARE_OF_MEMORY = 0.5


def memory() -> float:
    """What may be drawn at a time, in bytes: a part of what the machine has."""
    pages = os.sysconf("SC_PHYS_PAGES")
    return SHARE_OF_MEMORY * pages * os.sysconf("SC_PAGE_SIZE")


def told(
    folder: pathlib.Path,
    name: str,
    entry: str,
    asked: Any,
    draw: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What is said of what was drawn, which is drawn if it is not there.

    One start at a time has the work directory. What it says stands in a file of `drawn`
    and in the record.

    Args:
      folder: work directory of a finished run.
      name: of the file.
      entry: of the record.
      asked: settings of what is drawn, a dataclass.
      draw: draws it into `drawn`, and says what it is.

    Raises:
      UserError: another process has the work directory, or a file of it is damaged.
    """
    path = folder / FOLDER / name
    with workdir.locked(folder):
        record = run_files.read_record(folder / run_files.RECORD_FILE)
        run_id = record[run_files.RUN_ID]
        wanted = {**dataclasses.asdict(asked), run_files.RUN_ID: run_id}
        found = files.read_json(path) if path.exists() else {}
        if any(found.get(key) != value for key, value in wanted.items()):
            cli.make_folder(path.parent)
            # Whatever is interrupted is not taken for what was there before.
            path.unlink(missing_ok=True)
            checkpoint.write_json(path, {**wanted, **draw()})
            found = files.read_json(path)
        if record.get(entry) != found:
            record[entry] = found
            records.write(folder / run_files.RECORD_FILE, record)
    return found
