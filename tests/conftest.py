"""What every test shares: the CPU, a quiet matplotlib, shared data and subprocesses."""

import gc
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.support import xla_flags
from tests.support.commands import Command

# Before anything imports jax or matplotlib; subprocesses inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# One device; more than one have tests of their own, and programs that compile longer.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
# The tests compile much and compute little: unoptimised they take half the time.
if "XLA_FLAGS" not in os.environ:  # the processes of pytest-xdist inherit them
    os.environ["XLA_FLAGS"] = " ".join(
        xla_flags.known(
            "--xla_backend_optimization_level=0",
            "--xla_llvm_disable_expensive_passes=true",
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        )
    )

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Releases of jax before 0.8 have this elsewhere."""
    import jax
    import jax.experimental

    if not hasattr(jax, "enable_x64"):
        earlier: Any = jax.experimental
        vars(jax)["enable_x64"] = earlier.enable_x64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module's tests share a process, and so what they compile."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """What a module has compiled is of no use to the next one, and takes memory."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def project_root() -> pathlib.Path:
    """The folder that holds setup.cfg."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of published data and golden outputs; without it the test skips.

    `.ci/run` finds these skips by their first word.
    """
    path = pathlib.Path(os.environ.get("DEMETAR_SHARED") or ROOT.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"shared: no folder {path}; DEMETAR_SHARED names another one")
    return path


@pytest.fixture
def run_python(
    tmp_path: pathlib.Path,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, away from the project's root.

    `run_python(code)` runs source code and `run_python(['-m', 'module', ...])` a
    command, in `cwd` (by default the test's temporary folder) with the project on the
    path. Other keywords become environment variables, as in `JAX_ENABLE_X64='1'`.
    Returns the completed process, with its output as text, whatever its exit code.
    """

    def run(
        code_or_args: str | Sequence[str],
        *,
        cwd: pathlib.Path = tmp_path,
        timeout: float = 300.0,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        if isinstance(code_or_args, str):
            code_or_args = ["-c", code_or_args]
        environment = {**os.environ, **environment}
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return subprocess.run(
            [sys.executable, *code_or_args],
            cwd=cwd,
            env=environment,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def server(project_root: pathlib.Path) -> Iterator[subprocess.Popen]:
    """The process of `tests/support/command_server.py`."""
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    process = subprocess.Popen(
        [sys.executable, str(project_root / "tests/support/command_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    yield process
    process.communicate(timeout=60)


@pytest.fixture
def start(server: subprocess.Popen, tmp_path: pathlib.Path) -> Callable[..., Command]:
    """`start(*args, cwd=, setup=, module=)` starts a command with these arguments."""

    def begin(
        *args: str,
        cwd: pathlib.Path = tmp_path,
        setup: str = "",
        module: str = "nbody",
    ) -> Command:
        cwd.mkdir(exist_ok=True)
        request = {
            "module": module,
            "args": list(args),
            "cwd": str(cwd),
            "setup": setup,
            "output": str(cwd / "output.txt"),
            "errors": str(cwd / "errors.txt"),
        }
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return Command(server, int(server.stdout.readline()), cwd)

    return begin


@pytest.fixture
def run_module(
    start: Callable[..., Command], tmp_path: pathlib.Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_module('pack.command', *args, cwd=)`: as `python -m` would run it.

    It takes a tenth of the time of `run_python`, in whose process everything is
    imported anew. It leaves what it prints in `cwd` too.
    """

    def run(
        module: str, *args: str, cwd: pathlib.Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        command = start(*args, module=module, cwd=cwd).wait()
        assert command.code is not None
        return subprocess.CompletedProcess(
            [module, *args], command.code, command.output, command.errors
        )

    return run


@pytest.fixture
def run(start: Callable[..., Command]) -> Callable[..., Command]:
    """As `start`, and waits for the end."""
    return lambda *args, **kwargs: start(*args, **kwargs).wait()
