"""Several devices and several processes give what one device gives."""

import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from demetar.data.packing import in_sample_order
from demetar.distributed import launch, native_messages, shares
from demetar.errors import UserError
from tests.support import devices_script
from tools import generate_nbody, simulation

ROOT = pathlib.Path(__file__).resolve().parents[1]
EIGHT = "--xla_force_host_platform_device_count=8"

KINDS = ("bodies", "molecules")
VARIANTS: dict[str, dict[str, Any]] = {
    # An equivariant model would learn the same whatever the rotations.
    "still": {"kind": "bodies", "name": "linear_map"},
    "turned": {"kind": "bodies", "name": "linear_map", "augment": "rotation"},
    "still mixed": {"kind": "mixed", "name": "linear_map"},
    "turned mixed": {"kind": "mixed", "name": "linear_map", "augment": "rotation"},
    "seeds": {"kind": "molecules", "seeds": [1, 2]},
    "clipped": {"kind": "bodies", "clip_each": 0.1, "loss_transform": "log"},
    "averaged": {"kind": "molecules", "average_decay": 0.9},
}


def start(args: list[str], cwd: pathlib.Path, flags: str = "") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}"
    return subprocess.Popen(
        [sys.executable, *args],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def trained(
    folder: pathlib.Path,
    settings: dict[str, dict[str, Any]],
    num_processes: int = 1,
    flags: str = "",
) -> dict[str, dict[str, np.ndarray]]:
    """Results of `devices_script` by the label of the settings."""
    args = [
        "-m",
        "tests.support.devices_script",
        json.dumps(settings),
        str(folder / "out"),
    ]
    if num_processes > 1:
        args += [f"127.0.0.1:{free_port()}", str(num_processes)]
    processes = [
        start([*args, str(number)] if num_processes > 1 else args, folder, flags)
        for number in range(num_processes)
    ]
    for process in processes:
        code, _, errors = ended(process)
        assert code == 0, errors
    with np.load(folder / "out.npz") as file:
        return {
            label: {
                key: file[f"{label} {key}"]
                for key in ("params", "train_loss", "valid_loss", "errors", "steps")
            }
            for label in settings
        }


def on_devices(
    settings: dict[str, dict[str, Any]], numbers: tuple[int, ...], dtype: str
) -> dict[str, dict[str, Any]]:
    """The settings with each number of devices, which ends their label."""
    return {
        f"{label} {number}": {**own, "num_devices": number, "dtype": dtype}
        for label, own in settings.items()
        for number in numbers
    }


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory):
    """`in_one_process(kind)`: in float64, on one and on eight devices."""

    @functools.cache
    def results(kind: str) -> dict[str, dict[str, np.ndarray]]:
        settings = on_devices({kind: {"kind": kind}}, (1, 8), "float64")
        return trained(tmp_path_factory.mktemp(kind), settings, flags=EIGHT)

    return results


def assert_same(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float
) -> None:
    assert expected["steps"] >= 50 and found["steps"] == expected["steps"]
    for name in ("params", "train_loss", "valid_loss", "errors"):
        np.testing.assert_allclose(
            *(found[name], expected[name]), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize(
    "kind", ["bodies", pytest.param("molecules", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_eight_devices_train_the_same_parameters(in_one_process, kind):
    found = in_one_process(kind)
    expected = found[f"{kind} 1"]
    assert_same(found[f"{kind} 8"], expected, 1e-9)
    losses = expected["train_loss"].ravel()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "kind", ["bodies", pytest.param("molecules", marks=pytest.mark.slow)]
)
def test_two_processes_train_the_same_parameters(in_one_process, tmp_path, kind):
    own = {"kind": kind, "num_devices": None, "dtype": "float64"}
    found = trained(tmp_path, {kind: own}, num_processes=2)
    assert_same(found[kind], in_one_process(kind)[f"{kind} 1"], 1e-9)


@pytest.mark.slow
def test_every_variant_of_training_on_three_devices(tmp_path):
    settings = on_devices(VARIANTS, (1, 3), "float64")
    found = trained(tmp_path, settings, flags=EIGHT)
    for name in VARIANTS:
        assert_same(found[f"{name} 3"], found[f"{name} 1"], 1e-9)
    # Each variant does something, or nothing was tested.
    ends = {found[f"{name} 1"]["train_loss"].ravel()[-1] for name in VARIANTS}
    assert len(ends) == len(VARIANTS)


@pytest.mark.slow
def test_loss_curves_in_float32(tmp_path):
    settings = on_devices({kind: {"kind": kind} for kind in KINDS}, (1, 8), "float32")
    found = trained(tmp_path, settings, flags=EIGHT)
    for kind in KINDS:
        for name in ("train_loss", "valid_loss"):
            np.testing.assert_allclose(
                found[f"{kind} 8"][name], found[f"{kind} 1"][name], rtol=1e-3
            )


# --- Shares of a batch --------------------------------------------------------------


@pytest.mark.parametrize("num_shares", [2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_hold_the_graphs_of_the_batch(kind, num_shares):
    """The same samples in each batch, each once, and each with its own values."""
    dataset = devices_script.DATASETS[kind]("float32")
    whole = dataset.packing
    packing = shares.SharedPacking(whole, num_shares)
    order = np.random.default_rng(1).permutation(dataset.splits["train"])
    expected, plan = whole.plan(order), packing.plan(order)
    slots = packing.bucket.num_graphs
    assert plan["weight"].shape == (len(expected["weight"]), num_shares * slots)
    arrays = packing.arrays()
    for index in range(len(expected["weight"])):
        real, wanted = plan["weight"][index] > 0, expected["weight"][index] > 0
        samples, own = plan["sample"][index][real], expected["sample"][index]
        assert sorted(samples) == sorted(own[wanted])
        np.testing.assert_array_equal(own[plan[shares.SLOT][index][real]], samples)
        for share in range(num_shares):
            part = slice(share * slots, (share + 1) * slots)
            row = {name: values[index, part] for name, values in plan.items()}
            batch = packing.assemble(arrays, row)
            members = row["sample"][row["weight"] > 0]
            sizes = whole.samples.n_node[members]
            np.testing.assert_array_equal(batch.graph.n_node[: len(members)], sizes)
    numbers = np.broadcast_to(plan["sample"], plan["weight"].shape)
    np.testing.assert_array_equal(in_sample_order(numbers, plan), order)


def test_shares_of_complete_graphs_differ_by_one_graph_at_most():
    dataset = devices_script.some_molecules("float32")
    samples = dataset.packing.samples
    plan = shares.SharedPacking(dataset.packing, 3).plan(dataset.splits["train"])
    for counts in (samples.n_node, samples.n_edge):
        held = np.where(plan["weight"] > 0, counts[plan["sample"]], 0)
        held = held.reshape(len(held), 3, -1).sum(axis=2)
        assert np.ptp(held, axis=1).max() <= counts.max()


def test_a_batch_that_cannot_be_spread_is_refused(monkeypatch):
    dataset = devices_script.some_molecules("float32")
    packing = shares.SharedPacking(dataset.packing, 3)
    small = dict(vars(packing.bucket), max_nodes=5)
    monkeypatch.setattr(packing, "bucket", type(packing.bucket)(**small))
    with pytest.raises(UserError, match="use fewer devices or a larger --batch_size"):
        packing.plan(dataset.splits["train"])


@pytest.mark.parametrize(
    "environment, cores, asked, expected",
    [
        ({}, 2, None, 2),
        ({}, 64, None, 4),
        ({}, 64, 32, 32),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 2, None, None),
        ({"XLA_FLAGS": EIGHT}, 2, None, None),
        ({"XLA_FLAGS": "--xla_something_else"}, 2, None, 2),
    ],
)
def test_cores_become_devices(monkeypatch, environment, cores, asked, expected):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    told: dict[str, int] = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    launch.use_cores(asked)
    assert told.get("jax_num_cpu_devices") == expected


def test_cores_that_jax_was_told_of_already_are_not_asked_for(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", EIGHT)
    with pytest.raises(UserError, match="found both; leave one of them out"):
        launch.use_cores(2)


# --- The command --------------------------------------------------------------------


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    settings = simulation.Settings(
        num_steps=400, num_train=40, num_valid=16, num_test=17
    )
    generate_nbody.generate(settings, folder, progress=False)
    return folder


OFTEN = (
    "import functools, sys; from demetar.train import loop; "
    "loop.Settings = functools.partial(loop.Settings, checkpoint_seconds=0.0); "
    "from experiments import nbody; from experiments.run import cli; "
    "cli.run(nbody.main, nbody.LINE)"
)


def command(cwd, systems, epochs, *args, flags=""):
    return start(
        [
            *("-c", OFTEN, "--model=linear_map", f"--dataset={systems}"),
            *("--batch_size=10", f"--epochs={epochs}", "--eval_every=1"),
            *("--workdir=run", "--dtype=float64", *args),
        ],
        cwd,
        flags,
    )


def together(cwd, systems, epochs):
    """Two processes of one run."""
    place = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        command(
            *(cwd, systems, epochs, place, "--num_processes=2"),
            f"--process_id={number}",
        )
        for number in range(2)
    ]


def wait_for_lines(path: pathlib.Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_stops_the_others_and_the_run_resumes(systems, tmp_path, victim):
    """On another number of devices, with the numbers of a run of one."""
    processes = together(tmp_path, systems, 400)
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 3)
    os.kill(processes[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    code, _, errors = ended(processes[1 - victim], 60)
    assert time.monotonic() - killed < 60
    ended(processes[victim], 60)
    assert code != 0
    assert len(errors.splitlines()) == 1, errors
    line = errors
    assert "error: another process of this run has stopped; start all" in line

    done = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert done["epoch"] < 400, "it was finished before: no test"
    resumed = ended(command(tmp_path, systems, 400, flags=EIGHT))
    assert resumed[0] == 0, resumed
    assert "8 x cpu" in resumed[1]
    (tmp_path / "whole").mkdir()
    whole = ended(command(tmp_path / "whole", systems, 400))
    assert whole[0] == 0, whole
    records = [
        json.loads((tmp_path / place / "record.json").read_text())
        for place in ("run", "whole/run")
    ]
    for name in ("test_loss", "valid_loss"):
        np.testing.assert_allclose(records[0][name], records[1][name], rtol=1e-9)
    assert records[0]["best_epoch"] == records[1]["best_epoch"]


@pytest.mark.slow
def test_two_processes_leave_one_record(systems, tmp_path):
    (_, output, _), (_, silent, _) = [
        ended(process) for process in together(tmp_path, systems, 2)
    ]
    assert "record: run/record.json" in output and "record" not in silent
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert "2 x cpu" in record["device"] and "in 2 processes" in record["device"]
    assert "coordinator" not in record["command"]
    assert len(list((tmp_path / "run").glob("events*"))) == 1


@pytest.mark.parametrize(
    "args, message",
    [
        (["--process_id=1"], "found no --coordinator and no --num_processes"),
        (["--coordinator=a:1"], "found no --num_processes and no --process_id"),
        (
            ["--coordinator=a", "--num_processes=2", "--process_id=0"],
            "expected --coordinator=HOST:PORT, found 'a'",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "below --num_processes, found 2 and 2",
        ),
        (["--coordinator=cluster", "--process_id=0"], "leave out --num_processes"),
    ],
)
def test_flags_that_do_not_go_together(run, args, message):
    run("--model=linear", *args).refused(message)


# --- The filter of messages ---------------------------------------------------------

STAMP = b"1124 08:29:20.803238    6437"


def filtered(*parts: bytes) -> bytes:
    messages = native_messages.Filter("a process is gone")
    return b"".join(map(messages.feed, parts)) + messages.end()


def test_the_end_of_a_process_becomes_one_line():
    found = filtered(
        b"E" + STAMP + b" coordination_service_agent.cc:289] Polled an error\n",
        b":UNKNOWN:Error received\nF" + STAMP[:9],
        STAMP[9:] + b" client.h:80] Terminating process\n*** Check failure\n",
        b"    @ 0x7fe7 absl\n",
    )
    assert found == b"error: a process is gone\n"


def test_the_command_s_own_line_is_not_told_twice():
    own = b"error: a process is gone (Connection closed)\n"
    assert filtered(own, b"F" + STAMP + b" client.h:80] Terminating\nmore\n") == own


def test_other_messages_pass():
    other = b"W" + STAMP + b" compiler.cc:12] slow compilation\nsecond line\n"
    bar = b"test: 10%|#   \rtest: 100%|####"
    assert filtered(b"[Gloo] Rank 0 is connected\n", other, bar) == other + bar
    assert (
        filtered(b"E11", b"24 no header after all\n") == b"E1124 no header after all\n"
    )
