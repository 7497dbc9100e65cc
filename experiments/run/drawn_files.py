"""What a finished run draws, in the folder `drawn` of its work directory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from demetar import files, places
from demetar.errors import UserError
from demetar.train import checkpoint
from experiments.run import cli, records, run_files, workdir

FOLDER = "drawn"
PRODUCTS = "files"  # {name: SHA-256} of what was drawn
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
    and in the record, with the checksums of all that was drawn: what is missing or
    damaged is drawn again.

    Args:
      folder: work directory of a finished run.
      name: of the file.
      entry: of the record.
      asked: settings of what is drawn, a dataclass.
      draw: draws it into `drawn`, and says what it is.

    Raises:
      UserError: another process has the work directory, or its record is damaged.
    """
    path = folder / FOLDER / name
    with workdir.locked(folder):
        record = run_files.read_record(folder / run_files.RECORD_FILE)
        run_id = record[run_files.RUN_ID]
        wanted = {**dataclasses.asdict(asked), run_files.RUN_ID: run_id}
        found = _whole(path)
        if any(found.get(key) != value for key, value in wanted.items()):
            cli.make_folder(path.parent)
            # Whatever is interrupted is not taken for what was there before.
            places.remove(path)
            before = _products(path.parent)
            drawn = draw()
            after = _products(path.parent)
            own = [each for each in after if after[each] != before.get(each)]
            hashes = {each: _hash(path.parent / each) for each in own}
            checkpoint.write_json(path, {**wanted, **drawn, PRODUCTS: hashes})
            found = files.read_json(path)
        if record.get(entry) != found:
            record[entry] = found
            records.write(folder / run_files.RECORD_FILE, record)
    return found


def _whole(path: pathlib.Path) -> dict[str, Any]:
    """What is said of what was drawn; {} if it or a file of that is not as it was."""
    if not path.exists():
        return {}
    try:
        found = files.read_json(path)
    except UserError:
        bad = [path.name]
    else:
        products = found.get(PRODUCTS, {}).items()
        bad = [name for name, digest in products if _hash(path.parent / name) != digest]
    if bad:
        told = ", ".join(str(path.parent / name) for name in bad)
        print(f"note      {told}: missing or damaged, and drawn again", flush=True)
    return {} if bad else found


def _products(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """What tells the files of a folder from others of their names."""
    known = {path.name: path.stat() for path in folder.iterdir() if path.is_file()}
    return {name: (each.st_ino, each.st_mtime_ns) for name, each in known.items()}


def _hash(path: pathlib.Path) -> str:
    """SHA-256 of a file; '' if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
