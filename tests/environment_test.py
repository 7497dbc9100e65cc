"""Commands in odd surroundings: screens, homes, platforms, sizes, tensorboardX."""

import io
import json
import os
import pathlib
import pty
import re
import sys
from collections.abc import Callable

import pytest

from demetar.errors import UserError
from experiments.run import cli, screen, sizes
from tests.support import nbody_folder
from tests.support.commands import Command

TINY = ("--model=linear_map", "--dataset=data", "--eval_every=1", "--epochs=3")
HERE = (*TINY, "--workdir=run")


@pytest.fixture(autouse=True)
def dataset(tmp_path: pathlib.Path) -> None:
    nbody_folder.write(tmp_path / "data")


def assert_finished(workdir: pathlib.Path) -> None:
    assert json.loads((workdir / "record.json").read_text())["epochs"] == 3


# --- The screen ---------------------------------------------------------------------

# Each makes something of descriptor 1 before the command starts.
TO_NOTHING = "import os, sys; os.close(1); sys.stdout = None"
TO_FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
TO_NOBODY = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.close(w)"


@pytest.mark.parametrize(
    "setup, code, errors",
    [
        pytest.param(TO_NOTHING, 0, "", marks=pytest.mark.slow),
        (TO_NOBODY, 141, ""),
        (TO_FULL, 2, "error: cannot print to the screen (No space left on device)"),
    ],
)
def test_a_screen_that_is_gone_ends_no_training(run, tmp_path, setup, code, errors):
    done = run(*HERE, setup=setup)
    assert done.code == code and done.errors.startswith(errors), done.errors
    assert done.errors.count("\n") == bool(errors)
    assert_finished(tmp_path / "run")


@pytest.mark.slow
def test_a_terminal_without_the_characters(run, tmp_path):
    setup = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    done = run(*HERE, "--num_seeds=2", setup=setup).succeeded()
    assert re.search(r"test error [\d.]+ \+- [\d.]+ over seeds m\^2,", done.output)


def test_a_screen_writes_what_its_stream_can_hold():
    content = io.BytesIO()
    out = screen.Screen(io.TextIOWrapper(content, encoding="latin-1"))
    out.write("Δ ± 1 Å, 水 \udc80\n")
    assert content.getvalue().decode("latin-1") == "Delta +- 1 A, ? ?\n"
    assert not out.isatty() and out.error is None


def on_terminal(
    start: Callable[..., Command], columns: int, *args: str
) -> tuple[Command, str]:
    """A command on a terminal of that width, and what it printed there."""
    ours, theirs = pty.openpty()
    setup = f"""
import fcntl, os, struct, termios
terminal = os.open({os.ttyname(theirs)!r}, os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, {columns}, 0, 0))
os.dup2(terminal, 1)
os.environ.pop("COLUMNS", None)
"""
    command = start(*args, setup=setup)
    command.wait()
    os.set_blocking(ours, False)
    parts = []
    try:
        while part := os.read(ours, 2**16):
            parts.append(part)
    except OSError:
        pass
    os.close(ours)
    os.close(theirs)
    return command, b"".join(parts).decode()


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_the_result_has_a_line_of_its_own(start, tmp_path, columns):
    command, text = on_terminal(start, columns, *HERE)
    assert command.code == 0, command.errors
    lines = text.replace("\r\n", "\n").split("\n")
    (result,) = [line for line in lines if "test error" in line]
    assert result.startswith("linear_map: test error")
    (bar,) = [line for line in lines if "epoch 3/3" in line]
    shown = [part for part in bar.split("\r") if part.strip()]
    assert all(len(part) <= columns for part in shown)
    assert any(
        part.startswith("compiling ...") for line in lines for part in line.split("\r")
    )
    assert shown[-1].startswith("epoch 3/3")


# --- Homes, platforms, optimisation -------------------------------------------------


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
    def homeless() -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", homeless)
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cli.cache_dir()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert cli.cache_dir() == folder
    folder.chmod(0o777)  # anybody may have written programs there
    with pytest.raises(UserError, match="not this user's alone.*set HOME or XDG"):
        cli.cache_dir()


@pytest.mark.parametrize("platform", ["abacus", "rocm"])  # rocm: known, not there
def test_a_platform_that_is_not_there(run, tmp_path, platform):
    setup = f"import os, jax; os.environ['JAX_PLATFORMS'] = {platform!r}\n"
    setup += f"jax.config.update('jax_platforms', {platform!r})"
    run(*HERE, setup=setup).refused(f"JAX_PLATFORMS={platform} names what is not there")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_docstrings_and_with_strict_warnings(run_python, tmp_path):
    command = ["-m", "experiments.nbody", *HERE]
    done = run_python(["-OO", "-W", "error", *command])
    assert done.returncode == 0, done.stderr
    assert_finished(tmp_path / "run")


def test_a_work_directory_that_is_a_device(run):
    run(*TINY, "--workdir=/dev/full").refused("/dev/full", "--workdir")
    run(*TINY, "--workdir=/dev/full/run").refused("/dev/full is no folder")


# --- tensorboardX -------------------------------------------------------------------

BROKEN_IMPORT = "import sys; sys.modules['tensorboardX.event_file_writer'] = None"
BROKEN_WRITE = """
from tensorboardX.event_file_writer import EventsWriter
count = [0]

def write_event(self, event):
    count[0] += 1
    raise {error}

EventsWriter.write_event = write_event
"""


@pytest.mark.parametrize(
    "setup",
    [
        BROKEN_IMPORT,
        pytest.param(
            BROKEN_WRITE.format(error="RuntimeError('no\\nmore')"),
            marks=pytest.mark.slow,
        ),
        BROKEN_WRITE.format(error="OSError('no more')"),
    ],
)
@pytest.mark.slow
def test_a_broken_tensorboard_is_told_once(run, tmp_path, setup):
    done = run(*HERE, setup=setup).succeeded()
    (line,) = done.errors.splitlines()
    assert line.startswith("warning: no more TensorBoard events, tensorboardX fails")
    assert_finished(tmp_path / "run")


# --- Sizes --------------------------------------------------------------------------

SIZES = {
    "zero": ("egnn", "hidden_size=0", "egnn.hidden_size from 1 to 65,536, found 0"),
    "negative": ("egnn", "hidden_size=-8", "egnn.hidden_size from 1 to 65,536"),
    "absurd": ("egnn", f"hidden_size={10**12}", "found 1000000000000"),
    "no layers": ("egnn", "num_layers=0", "egnn.num_layers from 1 to 1,000, found 0"),
    "endless": ("segnn", "num_layers=100000", "segnn.num_layers from 1 to 1,000"),
    "of a list": ("nequip", "radial_sizes=8,-1", "nequip.radial_sizes from 1"),
    "degree": ("segnn", "lmax_hidden=99", "segnn.lmax_hidden from 0 to 11"),
    "no number": ("egnn", "coordinate_clip=nan", "a finite egnn.coordinate_clip"),
    "memory": ("egnn", "hidden_size=65536", "GiB to train, found"),
    "irreps": ("simple_network", "embedding_irreps=7y", "simple_network"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_no_run_can_have_are_refused(run, tmp_path, case):
    model, assignment, message = SIZES[case]
    args = (f"--model={model}", f"--set={assignment}", "--dataset=data")
    done = run(*args, "--workdir=run")
    assert done.code == 2, done.errors
    (line,) = done.errors.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()


def test_errors_of_a_model_that_nobody_changed_are_not_hidden():
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sizes.check_model(fail, 1, [])
    with pytest.raises(UserError, match="cannot be built with --set=a=1"):
        sizes.check_model(fail, 1, ["a=1"])
    assert sizes.memory() > 2**28 and "jax" in sys.modules


def test_replicas_that_no_memory_holds_are_refused(run):
    run(*HERE, "--num_seeds=10001").refused("--num_seeds of at most 10,000")
    few = "from experiments.run import sizes\nsizes.memory = lambda: 99\n"
    run(*HERE, "--num_seeds=2", setup=few).refused("GiB", "--num_seeds=2: ask for less")


@pytest.mark.slow
def test_products_are_not_rounded_below_float32(run):
    """GPUs would; what a compiled step asks of them is the same everywhere."""
    setup = """
import jax
from demetar.distributed.placement import Placement
compile_ = Placement.compile

def told(self, function, args, *others):
    text = jax.jit(function).lower(*args).as_text()
    print("products", text.count("dot_general"), text.count("[HIGHEST, HIGHEST]"))
    return compile_(self, function, args, *others)

Placement.compile = told
"""
    output = run(*HERE, "--model=egnn", setup=setup).succeeded().output
    counts = [line.split()[1:] for line in output.splitlines() if "products" in line]
    assert len(counts) == 2
    assert all(asked == found != "0" for asked, found in counts), counts


@pytest.mark.parametrize("flag", ["workdir", "dataset", "data_dir"])
def test_a_path_that_no_system_takes_is_one_line(run, tmp_path, flag):
    given = (*TINY, "--workdir=run") if flag != "data_dir" else TINY[:1]
    run(*given, f"--{flag}={'x' * 300}").refused("xxx", "File name too long")
    assert not (tmp_path / "run").exists()


# --- Kept programs ------------------------------------------------------------------

# A program that was kept, and fails when it runs.
FAILS = """
import jax
from demetar.train import trainer
from demetar.train.program_cache import ProgramCache

def train(self, *args):
    raise jax.errors.JaxRuntimeError("INTERNAL: Function kernel not found")

trainer.Trainer.train = train
"""


@pytest.mark.slow
def test_a_kept_program_that_fails_is_removed(run, tmp_path):
    cache = f"import os; os.environ['XDG_CACHE_HOME'] = {str(tmp_path / 'cache')!r}\n"
    programs = tmp_path / "cache" / "demetar" / "programs"
    run(*HERE, "--compile_cache", setup=cache).succeeded()
    assert len(list(programs.iterdir())) == 3
    again = (*TINY, "--compile_cache", "--workdir=again")
    # In another process the keys are the same, for the sources are.
    run(*again, setup=cache + FAILS).refused(
        "a compiled program that was kept does not run", "the same command"
    )
    assert len(list(programs.iterdir())) < 3
    run(*again, setup=cache).succeeded()


def test_memory_that_was_freed_is_kept(run_python):
    code = (
        "import resource, numpy as np\n"
        "from demetar.distributed import launch\n"
        "def new_pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    np.ones(2**23)\n"  # 64 MiB, 16,384 pages of 4 KiB
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "new_pages()\n"
        "given_back = new_pages()\n"
        "launch.keep_memory()\n"
        "new_pages()\n"
        "print(given_back, new_pages())\n"
    )
    given_back, kept = map(int, run_python(code).stdout.split())
    assert kept < 100
    if given_back < 100:
        pytest.skip("this C library keeps memory by itself")
