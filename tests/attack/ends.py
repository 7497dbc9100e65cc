"""What a run or a generated data set ends with, without what clocks say."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from demetar.train import checkpoint

# All that an interrupted run may differ in: what clocks say, how often it was started,
# and the checksum of a record, which is over these too.
TIMES = {
    *("compile_seconds", "wall_seconds", "steps_per_second", "graphs_per_second"),
    *("data_share", "python_share", "num_compiles", "checksum"),
}


def of_run(workdir: pathlib.Path) -> dict[str, Any]:
    """Record, metrics, checkpoints and test errors of a finished run, bit by bit."""
    record = json.loads((workdir / "record.json").read_text())
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    end: dict[str, Any] = {
        "record": _timeless(record),
        "metrics": [_timeless(json.loads(line)) for line in lines],
    }
    for name in ("best.npz", "last.npz"):
        arrays, _ = checkpoint.read(workdir / name)
        end |= {f"{name} {leaf}": _digest(array) for leaf, array in arrays.items()}
    with np.load(workdir / "test_errors.npz") as file:
        end |= {f"errors {key}": _digest(file[key]) for key in file.files}
    return end


def of_table(folder: pathlib.Path) -> dict[str, Any]:
    """The ends of all rows of a table."""
    rows = sorted(path.parent for path in folder.glob("*/record.json"))
    return {row.name: of_run(row) for row in rows}


def of_data(folder: pathlib.Path) -> dict[str, Any]:
    """The checksums that the metadata of a generated data set list."""
    metadata = json.loads((folder / "metadata.json").read_text())
    found: dict[str, Any] = {"fingerprint": metadata["fingerprint"]}
    for split in metadata["arrays"]:
        with np.load(folder / f"{split}.npz") as file:
            for name in file.files:
                found[f"{split} {name}"] = _digest(file[name])
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return sorted(
        name for name in {*found, *expected} if found.get(name) != expected.get(name)
    )


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in TIMES}


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
