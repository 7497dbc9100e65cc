"""The cores of a processor as devices, and several processes that train one run.

Each process is started with the same command but for --process_id. jax's distributed
runtime connects them; when one of them stops, it ends the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pathlib
import subprocess
import sys
from typing import Any, NoReturn

import jax

from demetar.distributed import processes
from demetar.errors import UserError

CLUSTER = "cluster"  # --coordinator of a cluster's own environment
PEER_LOST = 3  # exit code
HEARTBEAT_SECONDS = 20  # without a sign of life a process counts as dead
START_SECONDS = 300  # within which all processes are started
SHUTDOWN_SECONDS = 60

LOST = (
    "another process of this run has stopped; start all of them again with the same "
    "commands, and the run continues from its last checkpoint"
)

MOST_CORES = 4  # that share a batch unless more are asked for
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # as malloc.h numbers them
_XLA_COUNT = "--xla_force_host_platform_device_count"

FLAGS = ("coordinator", "num_processes", "process_id")


def use_cores(num_devices: int | None) -> None:
    """Make devices of the cores, before anything computes; GPUs are as they are.

    A core that computes its share of a batch waits for the others once per update; what
    jax spreads over cores itself, kernel by kernel, makes them wait in each.

    Args:
      num_devices: None: one per core up to `MOST_CORES`, or what the environment says.

    Raises:
      UserError: the environment says it in a way that jax lets nobody change.
    """
    said = _XLA_COUNT in os.environ.get("XLA_FLAGS", "")
    if num_devices is not None and said:
        raise UserError(
            f"expected --cpu_devices or {_XLA_COUNT} in XLA_FLAGS, found both; "
            "leave one of them out"
        )
    if num_devices is None:
        if said or "JAX_NUM_CPU_DEVICES" in os.environ:
            return
        num_devices = min(len(os.sched_getaffinity(0)), MOST_CORES)
    jax.config.update("jax_num_cpu_devices", num_devices)


def keep_memory() -> None:
    """Let the process keep what it frees, before anything computes.

    XLA asks for the temporary memory of a program at every call. What the C library
    then gets from Linux anew is made of empty pages, and a page that is touched for the
    first time takes longer than most of what is computed on it. Kept memory is what was
    freed last; the process never holds more than it once needed. Without glibc nothing
    happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # one heap for all threads: another is small
        mallopt(_MMAP_MAX, 0)  # nothing apart from it
        mallopt(_TRIM_THRESHOLD, -1)  # none of it goes back


def start(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes, if there are any; before anything computes.

    All but the main one print errors and nothing else.

    Args:
      coordinator, num_processes, process_id: the flags; all None for one process.

    Raises:
      UserError: they do not go together, or not all processes came.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        return
    settings = _settings(*given)
    _filter_native_messages()
    # CPUs have no collective operations of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Which proxies and clusters there are is no news to a user.
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the processes did not come together at {coordinator} ({reason}); "
            "start each of them with the same flags but --process_id"
        ) from None
    if not processes.is_main():
        sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115


def _settings(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`."""
    if coordinator == CLUSTER:
        if (num_processes, process_id) != (None, None):
            raise UserError(
                f"--coordinator={CLUSTER} asks the environment for the processes: "
                "leave out --num_processes and --process_id"
            )
        return {}
    if coordinator is None or num_processes is None or process_id is None:
        given = zip(FLAGS, (coordinator, num_processes, process_id), strict=True)
        missing = [f"--{name}" for name, value in given if value is None]
        raise UserError(
            "expected --coordinator, --num_processes and --process_id together, "
            f"found no {' and no '.join(missing)}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"expected --coordinator=HOST:PORT, found {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise UserError(
            "expected a --process_id of at least 0 and below --num_processes, found "
            f"{process_id} and {num_processes}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }


def leave(code: int) -> NoReturn:
    """Exit. A failed process of several does not wait for the others, so they hear."""
    if code and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def tells_of_a_loss(error: Exception) -> bool:
    """Whether it comes of a process that is gone, and then say so.

    A collective operation fails without it.
    """
    if not jax.distributed.is_initialized():
        return False
    text = " ".join(str(error).split())
    # A computation that fails while it is started raises a ValueError.
    is_runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in text
    if not is_runtime or "RESOURCE_EXHAUSTED" in text:
        return False
    # Through the filter, which lets one such line pass.
    os.write(2, f"error: {LOST} ({text[:200]})\n".encode())
    return True


def _filter_native_messages() -> None:
    """Let what the runtime's own code says to stderr pass through a filter.

    It ends a process with a page of messages; a person gets one line instead.
    """
    real = os.dup(2)
    script = pathlib.Path(__file__).with_name("native_messages.py")
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", str(script), LOST],
        stdin=subprocess.PIPE,
        stdout=real,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a person's Ctrl-C is not for it
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    sys.stderr = os.fdopen(real, "w", buffering=1, closefd=False)
