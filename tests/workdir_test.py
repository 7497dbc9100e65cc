"""A work directory: one id in every file, one process that writes, more epochs."""

import json
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from demetar import locks
from demetar.errors import UserError
from demetar.train import checkpoint
from experiments.run import records, run_files
from tests.support import nbody_folder
from tests.support.commands import Command

SHORT = ("--model=linear_map", "--dataset=data", "--eval_every=1", "--epochs=2")
HERE = (*SHORT, "--workdir=run")

# Holds the run for a moment, so that another start meets it.
SLOW = """
import time
from demetar.train import run
real = run.Run._interval

def interval(self, *args):
    time.sleep(0.3)
    return real(self, *args)

run.Run._interval = interval
"""


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a data set, and two finished runs that differ in their seed."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def finished(
    run: Callable[..., Command], finished_once: pathlib.Path, tmp_path: pathlib.Path
) -> pathlib.Path:
    """The work directory of a finished run, with that of another seed beside it."""
    if not (finished_once / "other").exists():
        nbody_folder.write(finished_once / "data")
        run(*HERE, cwd=finished_once).succeeded()
        other = ("--seed=2", "--workdir=other")
        run(*SHORT, *other, cwd=finished_once).succeeded()
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> None:
    nbody_folder.write(tmp_path / "data")


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def epochs_of(workdir: pathlib.Path) -> list[int]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


# --- The id -------------------------------------------------------------------------


def test_every_file_carries_the_id_of_its_settings(finished):
    config = read(finished / "config.json")
    own = config["run_id"]
    assert own == run_files.run_id(config) and len(own) == 64
    assert read(finished / "record.json")["run_id"] == own
    assert checkpoint.read(finished / "last.npz")[1]["run"] == own
    assert checkpoint.load_model(finished / "best.npz").metadata["run_id"] == own
    with np.load(finished / "test_errors.npz") as file:
        assert str(file["run_id"]) == own
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in lines} == {own}
    assert read(finished.parent / "other" / "config.json")["run_id"] != own
    # Whatever decides a number is in it; the length only if the rate depends on it.
    assert run_files.run_id(config | {"fingerprint": "x"}) != own
    assert run_files.run_id(config | {"epochs": 9}) == own
    cosine = config | {"schedule": "cosine"}
    assert run_files.run_id(cosine | {"epochs": 9}) != run_files.run_id(cosine)


@pytest.mark.parametrize(
    "name", ["last.npz", "best.npz", "record.json", "test_errors.npz", "config.json"]
)
def test_a_file_of_another_run_is_not_believed(run, finished, name):
    own, other = (
        read(folder / "config.json")["run_id"][:12]
        for folder in (finished, finished.parent / "other")
    )
    shutil.copy(finished.parent / "other" / name, finished / name)
    place = "run belongs to another run" if name == "config.json" else f"run/{name}"
    run(*HERE).refused(place, f"run {other}, expected", own)


@pytest.mark.parametrize("name", ["last.npz", "best.npz", "metrics.jsonl"])
def test_nor_by_an_unfinished_run(run, finished, name):
    for left in ("record.json", "test_errors.npz"):
        (finished / left).unlink()
    own = read(finished / "config.json")["run_id"][:12]
    other = read(finished.parent / "other" / "config.json")["run_id"][:12]
    shutil.copy(finished.parent / "other" / name, finished / name)
    run(*HERE).refused(f"run/{name} belongs to run {other}, expected run {own}")


DAMAGES = {
    "null": b"null",
    "an empty object": b"{}",
    "a list": b"[1, 2]",
    "nothing": b"",
    "half": b'{"model": "linear',
    "nested": b"[" * 100_000,
    "Latin-1": '{"model": "é"}'.encode("latin-1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "record.json", "metrics.jsonl"])
def test_damaged_files_end_in_one_line(run, finished, name, damage):
    if name == "metrics.jsonl":  # which a finished run does not read
        (finished / "record.json").unlink()
    end = b"\n" if name == "metrics.jsonl" and DAMAGES[damage] else b""
    (finished / name).write_bytes(DAMAGES[damage] + end)
    # Which is so: `test_a_start_says_where_it_begins`.
    advice = "remove it and run the command" if name == "record.json" else "run"
    run(*HERE).refused("run", advice)


def test_settings_of_another_program_are_told_in_short(run, finished):
    foreign = {f"x{number}": "y" * 999 for number in range(99)}
    (finished / "config.json").write_text(json.dumps(foreign))
    done = run(*HERE)
    done.refused("run belongs to another run", "and ", " more")
    assert len(done.errors) < 4_000


def test_a_record_and_errors_that_do_not_fit_are_refused(run, finished):
    path = finished / "record.json"
    record = read(path)
    path.write_text(json.dumps(record | {"test_loss_mean": 0.5}))
    run(*HERE).refused("run/record.json was altered: its checksum")
    del record["checksum"]  # as in earlier releases
    path.write_text(json.dumps(record | {"test_loss": [0.5]}))
    run(*HERE).refused("run/test_errors.npz is not of run/record.json", "[0.5]")
    path.write_text(json.dumps(record | {"test_loss_mean": 0.25}))
    run(*HERE).refused("run/record.json was altered: its test_loss_mean is 0.25")
    altered = record | {"settings": record["settings"] | {"batch_size": 7}}
    path.write_text(json.dumps(altered))
    run(*HERE).refused("run/record.json was altered")
    path.write_text(json.dumps(record | {"epochs": 1}))
    run(*HERE).refused("run/record.json is not of the run in run/config.json", "epochs")
    path.write_text(json.dumps(record | {"model": 3}))
    run(*HERE).refused("run/record.json is no record: 'model' is 3")


RESULTS = ("best.npz", "test_errors.npz")


def test_results_that_are_missing_are_written_anew(run, finished):
    before = {name: (finished / name).read_bytes() for name in RESULTS}
    path = finished / "record.json"
    records.write(path, read(path) | {"history": [{"epochs": 1}]})
    record = read(path)
    (finished / "best.npz").write_bytes(before["best.npz"][:200])
    run(*HERE).refused("run/best.npz is truncated", "remove it and train again")
    (finished / "best.npz").unlink()
    (finished / "test_errors.npz").write_bytes(before["test_errors.npz"][:200])
    told = "remove it, and the same command writes it anew"
    run(*HERE).refused("cannot read run/test_errors.npz", told)
    (finished / "test_errors.npz").unlink()
    done = run(*HERE).succeeded()
    assert "2 of 2; writes what is missing: test_errors.npz, best.npz" in done.output
    assert {name: (finished / name).read_bytes() for name in RESULTS} == before
    again = read(path)
    for name in ("history", "test_loss", "seeds", "run_id", "delta_eq"):
        assert again[name] == record[name], name
    assert epochs_of(finished) == [1, 2]


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_nothing_can_write_anew_are_told(run, finished, name):
    for own in (name, "last.npz"):
        (finished / own).unlink()
    told = f"run lacks {name}, and has no last.npz to write it anew from; restore it"
    run(*HERE).refused(told, "or remove record.json there")


@pytest.mark.usefixtures("finished")
def test_a_path_with_a_part_that_is_missing_is_the_same_run(run, tmp_path):
    done = run(*SHORT, "--workdir=missing/../run").succeeded()
    assert "already finished" in done.output and not (tmp_path / "missing").exists()


@pytest.mark.slow
def test_metrics_that_are_lost_are_told(run, finished):
    (finished / "record.json").unlink()
    path = finished / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    run(*HERE).refused("run/metrics.jsonl ends after epoch 1", "remove it to go on")
    path.unlink()
    done = run(*HERE).succeeded()
    assert "continues after epoch 2 of 2; metrics.jsonl is missing" in done.output


def forget_ids(workdir: pathlib.Path) -> None:
    """As a release that had no ids left it."""
    for name in ("config.json", "record.json"):
        content = read(workdir / name)
        del content["run_id"]
        for later in ("identity", "checksum"):
            content.pop(later, None)
        content.get("settings", {}).pop("identity", None)
        (workdir / name).write_text(json.dumps(content))
    with np.load(workdir / "test_errors.npz") as file:
        errors = file["squared_errors"]
    np.savez(workdir / "test_errors.npz", squared_errors=errors)


def test_what_earlier_releases_left(run, finished):
    forget_ids(finished)
    assert "already finished" in run(*HERE).succeeded().output
    run(*HERE, "--seed=2").refused("seed was 1 and is now 2")
    run(*HERE[:-2], "--epochs=5", "--workdir=run").refused("epochs was 2 and is now 5")
    (finished / "record.json").unlink()
    run(*HERE).refused("holds an unfinished run of an earlier release")


def test_a_record_that_is_not_finite_says_so(run, finished):
    path = finished / "record.json"
    record = read(path)
    del record["checksum"]
    bad = {"test_loss": [None], "test_loss_mean": None}
    bad["test_loss_interval"] = [None, None]
    path.write_text(json.dumps(record | bad | {"not_finite": sorted(bad)}))
    with np.load(finished / "test_errors.npz") as file:
        errors = {
            **file,
            "squared_errors": np.full_like(file["squared_errors"], np.nan),
        }
    np.savez(finished / "test_errors.npz", **errors)
    output = run(*HERE).succeeded().output
    assert "test error not finite" in output
    assert "not finite: test_loss, test_loss_interval, test_loss_mean" in output


# --- One process that writes --------------------------------------------------------


@pytest.mark.usefixtures("dataset")
def test_a_start_in_a_directory_in_use_is_told_by_whom(run, tmp_path):
    lock = locks.acquire(tmp_path / "run", "wait")
    run(*HERE).refused(f"run is in use by process {os.getpid()} on", "since")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    lock.release()
    assert not (tmp_path / "run").exists()  # nothing was in it
    locks.acquire(tmp_path / "runs" / "data" / "egnn", "wait").release()
    assert not (tmp_path / "runs").exists()
    run(*HERE).succeeded()
    # Nor does another start disturb a lock that somebody else has.
    again = locks.acquire(tmp_path / "run", "wait")
    assert again.earlier is None
    with pytest.raises(UserError, match="in use by process"):
        locks.acquire(tmp_path / "run", "wait")
    again.release()


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_of_two_starts_in_one_new_directory_one_runs(run_python, tmp_path):
    """Two seeds at once, in processes of their own."""
    code = SLOW + "\nfrom experiments import nbody\nfrom experiments.run import cli\n"
    code += "cli.run(nbody.main, nbody.LINE)\n"
    (tmp_path / "slow.py").write_text(code)
    both = """
import json, subprocess, sys
start = lambda seed: subprocess.Popen(
    [sys.executable, "slow.py", *sys.argv[1:], f"--seed={seed}"],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
pair = [start(seed) for seed in (1, 2)]
ends = [p.communicate() for p in pair]
print(json.dumps([[p.returncode, *end] for p, end in zip(pair, ends)]))
"""
    done = run_python(["-c", both, *HERE])
    ends = json.loads(done.stdout)
    codes = [code for code, _, _ in ends]
    assert sorted(codes) == [0, 2], ends
    seed = 1 + codes.index(0)
    (line,) = ends[codes.index(2)][2].splitlines()
    assert line.startswith("error: run is in use by process ") and "since" in line
    record = read(tmp_path / "run" / "record.json")
    assert record["seeds"] == [seed]
    assert read(tmp_path / "run" / "config.json")["seed"] == seed
    assert epochs_of(tmp_path / "run") == [1, 2]
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.usefixtures("dataset")
@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(start, run, tmp_path):
    command = start(*HERE, setup=SLOW)
    while not (tmp_path / "run" / "last.npz").exists():
        time.sleep(0.01)
    os.kill(command.process, signal.SIGKILL)
    command.wait()
    owner = read(tmp_path / "run" / ".lock")
    assert owner["pid"] == command.process
    done = run(*HERE).succeeded()
    assert f"note      process {command.process} on {owner['host']}" in done.output
    assert "continues after epoch 1 of 2" in done.output
    assert epochs_of(tmp_path / "run") == [1, 2]


# --- What a start says --------------------------------------------------------------


@pytest.mark.usefixtures("dataset")
@pytest.mark.slow
def test_a_start_says_where_it_begins(run, tmp_path):
    first = run(*HERE).succeeded().output
    assert "start     begins at epoch 0 of 2\n" in first
    assert "compiling ..." in first and "\r" not in first
    run_id = read(tmp_path / "run" / "config.json")["run_id"]
    assert f"workdir   run, run {run_id[:12]}\n" in first
    (tmp_path / "run" / "record.json").unlink()
    assert "continues after epoch 2 of 2\n" in run(*HERE).succeeded().output
    for name in ("record.json", "last.npz"):
        (tmp_path / "run" / name).unlink()
    again = run(*HERE).succeeded().output
    assert "begins at epoch 0 of 2, from nothing: run has best.npz, metrics" in again
    assert "but no last.npz; they are replaced" in again


# --- More epochs --------------------------------------------------------------------


def arrays_of(path: pathlib.Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in checkpoint.read(path)[0].items()}


def longer(epochs: int, workdir: str = "run") -> tuple[str, ...]:
    return (*SHORT[:-1], f"--epochs={epochs}", f"--workdir={workdir}")


@pytest.mark.slow
def test_a_finished_run_goes_on_as_if_it_had_been_longer(run, finished, tmp_path):
    before = read(finished / "record.json")
    done = run(*longer(5)).succeeded()
    assert "continues after epoch 2 of 5" in done.output
    run(*longer(5, "straight")).succeeded()
    for name in ("last.npz", "best.npz"):
        assert arrays_of(finished / name) == arrays_of(tmp_path / "straight" / name)
    assert epochs_of(finished) == [1, 2, 3, 4, 5]
    record = read(finished / "record.json")
    straight = read(tmp_path / "straight" / "record.json")
    assert record["test_loss"] == straight["test_loss"]
    assert (record["epochs"], record["run_id"]) == (5, before["run_id"])
    (earlier,) = record["history"]
    assert earlier["epochs"] == 2 and earlier["test_loss"] == before["test_loss"]
    assert "already finished" in run(*longer(5)).succeeded().output
    run(*HERE).refused(
        "run holds a run of 5 epochs already, more than --epochs=2",
        "give at least --epochs=5",
    )
    path = finished / "config.json"
    path.write_text(json.dumps(read(path) | {"epochs": "5"}))
    run(*longer(5)).refused("epochs was '5' and is now 5; choose another")


@pytest.mark.slow
def test_an_extension_that_is_killed_goes_on(start, run, finished):
    command = start(*longer(5), setup=SLOW)
    while len(epochs_of(finished)) < 4:
        time.sleep(0.01)
    os.kill(command.process, signal.SIGKILL)
    command.wait()
    assert read(finished / "record.json")["epochs"] == 2
    run(*longer(5)).succeeded()
    assert read(finished / "record.json")["epochs"] == 5


def test_what_cannot_go_on_says_why(run, finished):
    (finished / "last.npz").unlink()
    run(*longer(5)).refused("run has no last.npz to go on from")
    cosine = ("--schedule=cosine",)
    run(*SHORT, *cosine, "--workdir=cosine").succeeded()
    run(*longer(5, "cosine"), *cosine).refused(
        "holds a run of 2 epochs, which cannot go on to 5",
        "--schedule=cosine depends on the length of the run",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_an_interrupted_interval_goes_on_in_a_longer_run(run, tmp_path):
    """The first stop falls within an interval that the end had cut short."""
    stop = """
from demetar.train import loop
import functools
loop.Settings = functools.partial(loop.Settings, max_steps_per_call=2)
from experiments.run import cli
asked = iter(range(99))
cli.StopSignal.__call__ = lambda self: next(asked) == 0
"""
    few = "from demetar.train import loop\nimport functools\n"
    few += "loop.Settings = functools.partial(loop.Settings, max_steps_per_call=2)\n"
    base = ("--model=linear_map", "--dataset=data", "--batch_size=4", "--eval_every=4")
    assert run(*base, "--epochs=3", "--workdir=run", setup=stop).code == 128
    done = run(*base, "--epochs=8", "--workdir=run", setup=few).succeeded()
    assert "continues after epoch 0 of 8, within an interval" in done.output
    run(*base, "--epochs=8", "--workdir=straight", setup=few).succeeded()
    for name in ("last.npz", "best.npz"):
        found, expected = tmp_path / "run" / name, tmp_path / "straight" / name
        assert arrays_of(found) == arrays_of(expected)
    assert epochs_of(tmp_path / "run") == [4, 8]
