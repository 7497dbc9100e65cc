"""A run of 100,000 evaluations, watched from outside: memory, files, disk.

    python -m tests.attack.soak --out=soak.json --figure=soak.png

The last nine tenths of the run are held to: resident memory flat within 2 %, as many
open files at the end as at the start, and event files within a bound.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.support import nbody_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAT = 0.02  # of the memory
WARM = 0.1  # of the evaluations, which are left out
COLUMNS = ("seconds", "evaluations", "memory_mib", "open_files", "event_mib")


def watch(evaluations: int, every: float) -> dict[str, list[float]]:
    """Run so many evaluations and sample the process every so many seconds."""
    samples: dict[str, list[float]] = {name: [] for name in COLUMNS}
    with tempfile.TemporaryDirectory() as folder:
        cwd = pathlib.Path(folder)
        nbody_folder.write(cwd / "data", splits={"train": 8, "valid": 4, "test": 4})
        arguments = [
            *("-m", "experiments.nbody", "--model=linear", "--dataset=data"),
            *("--workdir=run", "--batch_size=8", "--eval_every=1", "--cpu_devices=1"),
            f"--epochs={evaluations}",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        with open(cwd / "errors", "w") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        began = time.monotonic()
        metrics = _Lines(cwd / "run" / "metrics.jsonl")
        while process.poll() is None:
            time.sleep(every)
            try:
                row = (metrics.count(), *_look(process.pid, cwd / "run"))
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                continue  # it has not begun, or has just ended
            values = (time.monotonic() - began, *row)
            for name, value in zip(COLUMNS, values, strict=True):
                samples[name].append(value)
        assert process.returncode == 0, (cwd / "errors").read_text()
        assert metrics.count() == evaluations
        assert (cwd / "run" / "record.json").exists()
    return samples


class _Lines:
    """Counts the lines of a file that grows, each once."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._offset = 0
        self._count = 0

    def count(self) -> int:
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            while chunk := file.read(2**20):
                self._count += chunk.count(b'"epoch"')
                self._offset += len(chunk)
        return self._count


def _look(process: int, workdir: pathlib.Path) -> tuple[float, int, float]:
    """Resident memory in MiB, open files, and MiB of event files."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    files = len(os.listdir(f"/proc/{process}/fd"))
    events = sum(path.stat().st_size for path in workdir.rglob("events.*"))
    return int(memory.split()[1]) / 1024, files, events / 2**20


def verdict(samples: dict[str, list[float]]) -> dict[str, float]:
    """Growth over the last nine tenths, by a straight line through the samples."""
    evaluations = np.array(samples["evaluations"])
    kept = evaluations >= WARM * evaluations[-1]
    memory = np.array(samples["memory_mib"])[kept]
    slope, start = np.polyfit(evaluations[kept], memory, 1)
    files = np.array(samples["open_files"])[kept]
    return {
        "evaluations": float(evaluations[-1]),
        "seconds": samples["seconds"][-1],
        "memory_mib": float(memory.mean()),
        "memory_growth": float(slope * np.ptp(evaluations[kept]) / memory.mean()),
        "open_files_growth": float(files[-1] - files[0]),
        "event_mib": samples["event_mib"][-1],
    }


def draw(samples: dict[str, list[float]]) -> Figure:
    """Memory, open files and event files over the evaluations."""
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    labels = ("resident memory / MiB", "open files", "event files / MiB")
    for axes, name, label in zip(
        figure.subplots(1, 3), COLUMNS[2:], labels, strict=True
    ):
        axes.plot(samples["evaluations"], samples[name])
        axes.set(xlabel="evaluations", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=2.0, help="seconds")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--figure", help="PNG file")
    given = parser.parse_args(arguments)
    samples = watch(given.evaluations, given.every)
    found = verdict(samples)
    print(json.dumps(found, indent=2))
    if given.out:
        content = json.dumps({"verdict": found, "samples": samples})
        pathlib.Path(given.out).write_text(content + "\n")
    if given.figure:
        draw(samples).savefig(given.figure)
    assert abs(found["memory_growth"]) < FLAT
    assert found["open_files_growth"] <= 0


if __name__ == "__main__":
    main(sys.argv[1:])
