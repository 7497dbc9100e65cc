"""Kills real commands at random moments and compares their ends with a twin's.

    python -m tests.attack.kills --kills=200 --out=kills.json

Victims: a training on N-body systems, one on molecules, one of two processes, the
generator of data, and the runner of tables. Each is started, killed at a random moment
by SIGKILL, SIGINT or SIGTERM (also between two checkpoints), started again by the same
command, up to six times, and then left to end. Allowed is one end: that of a twin
that nobody interrupted, to the bit. A command that was not killed outright may say one
line, never a traceback.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from demetar.data import molecules
from demetar.distributed.launch import SHUTDOWN_SECONDS, START_SECONDS
from tests import qm9_test
from tests.attack import ends
from tests.support import nbody_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
MOST_KILLS = 6  # of one run
# Seconds for a peer to leave: it waits for one that never came, and then shuts down.
MOST_WAIT = START_SECONDS + 2 * SHUTDOWN_SECONDS
_LOST = "Exception ignored in: <function _xla_gc_callback"
SMALL = ("--batch_size=8", "--eval_every=1", "--cpu_devices=1")


@dataclasses.dataclass(frozen=True)
class Victim:
    """A command that can be killed and started again.

    Attributes:
      arguments: of the interpreter, one list per process that belongs to the command;
        made anew at each start.
      end: of the folder in which it ran.
      finished: what a start may say where an earlier one came to the end, and refuse.
    """

    arguments: Callable[[], list[list[str]]]
    end: Callable[[pathlib.Path], dict[str, Any]]
    finished: str = ""


def victims(data: pathlib.Path) -> dict[str, Victim]:
    """All of them, on data that are written to a folder."""
    bodies, own = data / "bodies", data / "molecules.npz"
    nbody_folder.write(bodies, splits={"train": 40, "valid": 16, "test": 16})
    molecules.write(own, qm9_test.make_molecules(60))
    training = [*("-m", "experiments.nbody", f"--dataset={bodies}", "--workdir=run")]
    linear = [*training, "--model=linear_map", "--num_seeds=2", "--epochs=400"]
    egnn = ["--model=egnn", "--set=hidden_size=4", "--set=num_layers=1"]
    on_molecules = [
        *("-m", "experiments.qm9", *egnn, f"--data_dir={own}", "--split=random"),
        *("--target=gap", "--workdir=run", "--epochs=40"),
    ]
    generator = [
        *("-m", "tools.generate_nbody", "--out=run", "--num_steps=4000"),
        *("--num_train=400", "--num_valid=40", "--num_test=40"),
    ]
    table = [
        *("-m", "experiments.nbody_table", "--models=linear,linear_map"),
        *(f"--dataset={bodies}", "--epochs=40", "--workdir=run"),
    ]

    def several() -> list[list[str]]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        place = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
        return [
            [*training, *egnn, *SMALL, "--epochs=40", *place, f"--process_id={number}"]
            for number in range(2)
        ]

    return {
        "nbody": Victim(lambda: [[*linear, *SMALL]], _of_run),
        "qm9": Victim(lambda: [[*on_molecules, *SMALL]], _of_run),
        "generator": Victim(
            lambda: [generator],
            lambda cwd: ends.of_data(cwd / "run"),
            "holds a data set; pass --overwrite",
        ),
        "table": Victim(lambda: [table], lambda cwd: ends.of_table(cwd / "run")),
        "two processes": Victim(several, _of_run),
    }


def _of_run(cwd: pathlib.Path) -> dict[str, Any]:
    return ends.of_run(cwd / "run")


def start(victim: Victim, cwd: pathlib.Path) -> list[subprocess.Popen]:
    """All processes of the command."""
    cwd.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(cwd.parent / "cache"),
    }
    processes = []
    for number, arguments in enumerate(victim.arguments()):
        with open(cwd / f"errors_{number}", "w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=cwd,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    # A killed table runner leaves no row behind that trains on.
                    start_new_session=True,
                )
            )
    return processes


def run(victim: Victim, cwd: pathlib.Path) -> float:
    """Run the command to its end; seconds that it took.

    Raises:
      AssertionError: it failed.
    """
    began = time.monotonic()
    processes = start(victim, cwd)
    codes = [process.wait(600) for process in processes]
    is_finished = victim.finished and victim.finished in _errors(cwd)
    assert is_finished or codes == [0] * len(codes), (codes, _errors(cwd))
    return time.monotonic() - began


def kill(
    victim: Victim, cwd: pathlib.Path, seconds: float, generator: random.Random
) -> str:
    """Start the command and kill it after so many seconds; what happened."""
    processes = start(victim, cwd)
    time.sleep(seconds)
    process = generator.choice(processes)
    number = generator.choice(SIGNALS)
    if process.poll() is not None:
        for other in processes:
            other.wait(MOST_WAIT)
        return "had ended"
    os.killpg(process.pid, number)
    for other in processes:
        other.wait(MOST_WAIT)
    assert not has_traceback(_errors(cwd)), _errors(cwd)
    return signal.Signals(number).name


def has_traceback(errors: str) -> bool:
    """Whether a command died by one.

    While the interpreter itself starts, an interrupt is its own affair; and one that
    comes within a callback of its garbage collector is lost: the command goes on.
    """
    if errors.startswith(_LOST) and errors.count("Traceback") == 1:
        return False
    return "Traceback" in errors and (str(ROOT) in errors or "jax" in errors)


def _errors(cwd: pathlib.Path) -> str:
    return "\n".join(path.read_text() for path in sorted(cwd.glob("errors_*")))


def attack(
    victim: Victim,
    scratch: pathlib.Path,
    kills: int,
    seed: int,
    tell: Callable[[dict[str, int]], None] = lambda counts: None,
) -> dict[str, int]:
    """Kill runs of the command so many times; counts of what happened.

    Args:
      victim: to kill.
      scratch: an empty folder.
      kills, seed: their number, and of the choice of moments and signals.
      tell: is given the counts after each run.

    Raises:
      AssertionError: a run ended in another way than its twin.
    """
    generator = random.Random(seed)
    run(victim, scratch / "warm")  # what a first run compiles or writes is there now
    seconds = run(victim, scratch / "twin")
    expected = victim.end(scratch / "twin")
    counts: collections.Counter = collections.Counter()
    done = 0
    while done < kills:
        cwd = scratch / f"run_{counts['runs']}"
        for _ in range(min(generator.randint(1, MOST_KILLS), kills - done)):
            counts[kill(victim, cwd, generator.uniform(0, seconds), generator)] += 1
            done += 1
        run(victim, cwd)
        changed = ends.differences(victim.end(cwd), expected)
        assert not changed, (cwd, changed)
        counts["runs"] += 1
        tell({"kills": done, **counts})
        shutil.rmtree(cwd)
    return {"kills": done, **counts}


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one victim")
    parser.add_argument("--out", help="JSON file of the counts")
    given = parser.parse_args(arguments)
    shares = {
        "nbody": 0.25,
        "qm9": 0.25,
        "generator": 0.2,
        "table": 0.15,
        "two processes": 0.15,
    }
    if given.only:
        shares = {given.only: 1.0}
    found: dict[str, dict[str, int]] = {}

    def tell(name: str, counts: dict[str, int]) -> None:
        found[name] = counts
        print(name, counts, flush=True)
        if given.out:
            pathlib.Path(given.out).write_text(json.dumps(found, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        known = victims(scratch)
        for name, share in shares.items():
            own = scratch / name.replace(" ", "_")
            own.mkdir()
            count = max(1, round(given.kills * share))
            told = functools.partial(tell, name)
            told(attack(known[name], own, count, given.seed, told))


if __name__ == "__main__":
    main(sys.argv[1:])
