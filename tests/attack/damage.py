"""Damages every file that the program reads, in seeded ways, and reads it.

    python -m tests.attack.damage --count=1000 --seed=0 --out=damage.json

Allowed is the right result, one line that refuses the file, and, of files that no
checksum seals, another valid reading; within bounds of memory and time.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence

from demetar.errors import UserError
from tests.attack import mutations, targets

MOST_SECONDS = 20
MOST_BYTES = 2**31  # beyond what the process has when it begins
MOST_CHARACTERS = 4_000  # of an error
RIGHT, REFUSED, OTHER, UNREAD = "right", "refused", "other reading", "done without"
FAULT = "fault"
OUTCOMES = (RIGHT, REFUSED, OTHER, UNREAD, FAULT)


class TooSlow(BaseException):
    """A reading took longer than `MOST_SECONDS`."""


def _too_slow(*_: object) -> None:
    raise TooSlow


def bound_memory() -> None:
    """Let this process have `MOST_BYTES` more than it has."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def outcome(
    target: targets.Target, expected: str, others: Sequence[bytes] = ()
) -> tuple[str, str]:
    """What came of reading a file, and what is told of it.

    Args:
      target: that is read.
      expected: the right result.
      others: contents of other whole files.
    """
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = target.read()
    except UserError as error:
        text = str(error)
        is_line = text and "\n" not in text and len(text) <= MOST_CHARACTERS
        return (REFUSED if is_line else FAULT), text
    except (Exception, TooSlow):
        return FAULT, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found == expected:
        return RIGHT, ""
    if not found:
        return UNREAD, ""
    content = target.path.read_bytes()
    is_valid = (
        not target.is_sealed
        or target.is_unsealed(content)
        or (target.is_input and content in others)
    )
    return (OTHER if is_valid else FAULT), f"another result: {found[:2000]}"


def attack(
    name: str,
    target: targets.Target,
    others: Sequence[bytes],
    count: int,
    seed: int,
    kept: pathlib.Path | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Counts of the outcomes of so many damages of one file, and its faults.

    Args:
      name: of the target.
      target: to damage; it is whole again in the end.
      others: contents of other files.
      count, seed: of the damages.
      kept: folder for the files that made faults.
    """
    content = target.path.read_bytes()
    expected = target.read()
    assert expected
    counts: collections.Counter = collections.Counter(dict.fromkeys(OUTCOMES, 0))
    faults = []
    for number in range(count):
        generator = random.Random(f"{seed} {name} {number}")
        way, damaged = mutations.damage(content, generator, others)
        target.path.write_bytes(damaged)
        if damaged == content:
            continue
        found, told = outcome(target, expected, others)
        counts[found] += 1
        if found == FAULT:
            faults.append(f"{name}, number {number}, {way}: {told}")
            if kept is not None:
                (kept / f"{name.replace(' ', '_')}-{number}").write_bytes(damaged)
    target.path.write_bytes(content)
    assert target.read() == expected
    return dict(counts), faults


def attack_all(
    known: Mapping[str, targets.Target],
    count: int,
    seed: int,
    kept: pathlib.Path | None = None,
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Counts of outcomes by file, and all faults."""
    contents = {name: target.path.read_bytes() for name, target in known.items()}
    found, faults = {}, []
    for name, target in known.items():
        began = time.monotonic()
        others = [content for other, content in contents.items() if other != name]
        found[name], own = attack(name, target, others, count, seed, kept)
        faults += own
        for fault in own:
            print(f"{fault}\n", file=sys.stderr)
        seconds = time.monotonic() - began
        print(f"{name}: {found[name]}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return found, faults


def table(found: Mapping[str, Mapping[str, int]]) -> str:
    """The counts in Markdown."""
    lines = [f"| file | {' | '.join(OUTCOMES)} |", "|---" * (1 + len(OUTCOMES)) + "|"]
    for name, counts in found.items():
        cells = [str(counts[outcome]) for outcome in OUTCOMES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="per file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="files whose name has this")
    parser.add_argument("--out", help="JSON file of the counts")
    parser.add_argument("--keep", help="folder for the files that made faults")
    given = parser.parse_args(arguments)
    kept = None
    if given.keep:
        kept = pathlib.Path(given.keep).absolute()
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(folder) / "home")
        known = targets.all_targets(pathlib.Path(folder))
        if given.only:
            known = {name: own for name, own in known.items() if given.only in name}
        for target in known.values():
            target.read()  # what it imports and compiles is there now
        bound_memory()
        found, faults = attack_all(known, given.count, given.seed, kept)
    print(table(found))
    if given.out:
        content = {"seed": given.seed, "files": found}
        pathlib.Path(given.out).write_text(json.dumps(content, indent=2) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
