"""Searches for files that a reader fails at, led by what its code covers.

    python -m pip install atheris        in an environment of its own; optional
    python -m tests.attack.fuzz --seconds=60 --target=xyz --out=fuzz.json

Where atheris is not installed, seeded damages of valid files take its place, without
coverage. What ends otherwise than `tests.attack.damage` allows is kept in
tests/attack/cases/, once for each place in the code, and `attack_test.py` reads it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

CASES = pathlib.Path(__file__).with_name("cases")
NAMES = ("xyz", "sdf", "npz", "json", "metadata", "split")
MOST_BYTES = 4096  # of a file that is tried
_PLACE = re.compile(r'File ".*/((?:demetar|experiments|tools)/[^"]*)", line (\d+)')
_FINAL = re.compile(r"number_of_executed_units: (\d+)")
_COVERED = re.compile(r"cov: (\d+)")


def make_readers(folder: pathlib.Path) -> dict[str, Callable[[bytes], str]]:
    """By target: reads bytes as a file; what is wrong with the end, or ''."""
    from tests.attack import damage, targets

    known = {
        **targets.of_bodies(folder / "bodies"),
        **targets.of_molecules(folder / "molecules"),
        **targets.of_qm9(folder / "qm9"),
    }
    chosen = {
        "xyz": known["own extended .xyz"],
        "sdf": known["gdb9.sdf"],
        "npz": known["own .npz"],
        "metadata": known["N-body metadata.json"],
        "split": known["split .npz"],
        "json": targets.of_json(folder / "any.json"),
    }

    def reader(target: targets.Target) -> Callable[[bytes], str]:
        expected = target.read()

        def read(content: bytes) -> str:
            target.path.write_bytes(content)
            found, told = damage.outcome(target, expected)
            return told if found == damage.FAULT else ""

        return read

    return {name: reader(target) for name, target in chosen.items()}


def make_seeds(folder: pathlib.Path, name: str) -> list[bytes]:
    """Contents of valid files to begin with."""
    files = {
        "xyz": ["molecules/mine.xyz", "molecules/extended.xyz"],
        "sdf": ["qm9/gdb9.sdf"],
        "npz": ["molecules/mine.npz"],
        "json": ["any.json", "bodies/imported/metadata.json"],
        "metadata": ["bodies/imported/metadata.json"],
        "split": ["molecules/split.npz"],
    }
    return [(folder / path).read_bytes() for path in files[name]]


class Finds:
    """Keeps one file for each place in the code that fails."""

    def __init__(self, name: str, read: Callable[[bytes], str], folder: pathlib.Path):
        self._name, self._read, self._folder = name, read, folder
        self.places: set[str] = set()

    def attempt(self, content: bytes) -> None:
        """Read the content, and keep it if its end is none that is allowed."""
        told = self._read(content)
        if not told:
            return
        found = _PLACE.findall(told)
        place = ":".join(found[-1]) if found else told[:40]
        if place in self.places:
            return
        self.places.add(place)
        digest = hashlib.sha256(content).hexdigest()[:10]
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self._name}-{digest}").write_bytes(content)
        print(f"FIND {place}: {told}", file=sys.stderr, flush=True)


def by_coverage(name: str, seconds: int, kept: pathlib.Path) -> dict[str, Any]:
    """Fuzz by atheris in a process of its own; executions, coverage and finds."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--target={name}", f"--seconds={seconds}", f"--cases={kept}"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.attack.fuzz", *arguments, "--inside", folder],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    finds = [line for line in done.stderr.splitlines() if line.startswith("FIND ")]
    executions = _FINAL.search(done.stderr)
    if executions is None:
        raise RuntimeError(done.stderr[-3000:])
    return {
        "engine": "atheris",
        "executions": int(executions[1]),
        "covered": int(_COVERED.findall(done.stderr)[-1]),
        "finds": finds,
    }


def inside(name: str, seconds: int, kept: pathlib.Path, folder: pathlib.Path) -> None:
    """The process of atheris, which ends it."""
    import atheris

    with atheris.instrument_imports(include=["demetar", "experiments", "tools"]):
        (folder / "files").mkdir()
        readers = make_readers(folder / "files")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(make_seeds(folder / "files", name)):
        (corpus / str(number)).write_bytes(content)
    finds = Finds(name, readers[name], kept)
    limits = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=60"]
    options = [*limits, "-print_final_stats=1", "-rss_limit_mb=4096", str(corpus)]
    atheris.Setup([sys.argv[0], *options], finds.attempt)
    atheris.Fuzz()


def by_damage(name: str, seconds: float, kept: pathlib.Path) -> dict[str, Any]:
    """Damage valid files again and again; executions and finds."""
    from tests.attack import mutations

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        readers = make_readers(folder)
        seeds = make_seeds(folder, name)
        finds = Finds(name, readers[name], kept)
        generator = random.Random(name)
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            content = generator.choice(seeds)
            for _ in range(generator.randint(1, 4)):
                _, content = mutations.damage(content, generator, ())
            finds.attempt(content)
            count += 1
    return {"engine": "damages", "executions": count, "finds": sorted(finds.places)}


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    parser.add_argument("--target", choices=NAMES, help="one; default: all")
    parser.add_argument("--cases", default=CASES, type=pathlib.Path)
    parser.add_argument("--out", help="JSON file of the counts")
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if given.inside:
        inside(given.target, given.seconds, given.cases, given.inside)
    has_atheris = importlib.util.find_spec("atheris") is not None
    fuzz = by_coverage if has_atheris else by_damage
    found = {}
    for name in [given.target] if given.target else NAMES:
        found[name] = fuzz(name, given.seconds, given.cases)
        print(name, json.dumps(found[name]), flush=True)
        if given.out:
            content = {"seconds": given.seconds, "targets": found}
            pathlib.Path(given.out).write_text(json.dumps(content, indent=2) + "\n")
    return int(any(own["finds"] for own in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
