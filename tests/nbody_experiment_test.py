"""The command `python -m experiments.nbody`: records, interruptions, bad input."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from demetar import models
from demetar.data import nbody, nbody_files
from demetar.train import checkpoint, loop, optim
from demetar.train.trainer import Trainer
from tests.support import nbody_folder
from tests.support.commands import Command
from tools import generate_nbody, simulation

NUM_EVALUATIONS = 80
# Long enough to be interrupted, with all that a state may hold, and soon compiled.
LONG = (
    *("--model=linear_map", "--batch_size=16", "--num_seeds=2", "--average_decay=0.9"),
    *("--schedule=cosine", "--eval_every=2", f"--epochs={2 * NUM_EVALUATIONS}"),
    "--workdir=run",
)
SHORT = ("--model=linear_map", "--epochs=2", "--eval_every=1", "--workdir=run")

# What times tell, and the checksum over it, is all that an interrupted run may differ
# in.
TIMES = {
    *("compile_seconds", "wall_seconds", "steps_per_second", "graphs_per_second"),
    *("data_share", "python_share", "checksum"),
}

OFTEN = """
import functools
from demetar.train import loop
loop.Settings = functools.partial(loop.Settings, checkpoint_seconds=0.0)
"""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small set from the generator, as the flag that names it."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    settings = simulation.Settings(
        num_steps=400, num_train=40, num_valid=16, num_test=17
    )
    generate_nbody.generate(settings, folder, progress=False)
    return f"--dataset={folder}"


def folder_of(dataset: str) -> pathlib.Path:
    return pathlib.Path(dataset.removeprefix("--dataset="))


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a work directory, to tell that nothing was lost or changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wait_for_evaluations(command: Command, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(read_metrics(command.cwd / "run")) < count:
        assert time.monotonic() < deadline, command.output + command.errors
        assert pathlib.Path(f"/proc/{command.process}").exists(), command.errors
        time.sleep(0.005)


# --- A whole run --------------------------------------------------------------------


def test_a_run_leaves_its_record(run_python, tmp_path, dataset):
    """The command itself, as a person gives it, and all that it leaves behind."""
    args = ["--model=egnn", "--set", "hidden_size=8", "--set", "num_layers=2"]
    args += [dataset, "--epochs=3", "--eval_every=2", "--batch_size=16"]
    args += ["--num_seeds=2", "--workdir=run"]
    done = run_python(["-m", "experiments.nbody", *args])
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    workdir = tmp_path / "run"
    record = json.loads((workdir / "record.json").read_text())
    expected = """command model fields dataset fingerprint target unit protocol
        num_params epochs seeds best_epoch valid_loss test_loss test_loss_mean
        test_loss_std test_loss_interval delta_eq compile_seconds num_compiles
        padding data_share python_share
        wall_seconds steps_per_second versions device"""
    assert set(expected.split()) <= set(record)
    assert record["command"].startswith("python -m experiments.nbody --model=egnn")
    assert record["model"] == "egnn" and record["epochs"] == 3
    assert record["fields"] == {"hidden_size": 8, "num_layers": 2}
    metadata = json.loads((folder_of(dataset) / "metadata.json").read_text())
    assert record["fingerprint"] == metadata["fingerprint"]
    assert record["seeds"] == [1, 2] and record["num_compiles"] == 2
    assert "2102.09844" in record["protocol"] and "epochs=3" in record["protocol"]
    assert record["protocol"] in done.stdout
    assert 0 < record["delta_eq"]["position"] < 1e-3
    # 40 samples in 3 batches of 16, all of complete graphs.
    np.testing.assert_allclose(record["padding"]["edges"], 1 - 40 / 48)
    assert 0 < record["data_share"] < record["python_share"] < 1
    assert 0 < record["compile_seconds"] < record["wall_seconds"]
    running = record["wall_seconds"] - record["compile_seconds"]
    np.testing.assert_allclose(record["steps_per_second"], 9 / running)

    with np.load(workdir / "test_errors.npz") as file:
        errors = file["squared_errors"]
    assert errors.shape == (2, 17)
    np.testing.assert_allclose(errors.mean(axis=1), record["test_loss"])
    np.testing.assert_allclose(errors.mean(), record["test_loss_mean"])
    np.testing.assert_allclose(
        np.std(record["test_loss"], ddof=1), record["test_loss_std"]
    )
    low, high = record["test_loss_interval"]
    assert low < record["test_loss_mean"] < high

    lines = read_metrics(workdir)
    assert [line["epoch"] for line in lines] == [2, 3]
    for seed in range(2):
        losses = [line["valid_loss"][seed] for line in lines]
        assert record["valid_loss"][seed] == min(losses)
        assert record["best_epoch"][seed] == [2, 3][int(np.argmin(losses))]
    assert list(workdir.glob("events*"))
    assert "epoch 3/3" in done.stdout
    assert_reproduces(workdir / "best.npz", folder_of(dataset), errors)


@pytest.mark.slow
def test_the_flag_makes_a_second_start_fast(run, tmp_path, dataset):
    cache = str(tmp_path / "cache")
    setup = f"import os; os.environ['XDG_CACHE_HOME'] = {cache!r}"
    records = []
    for number, seed in enumerate((1, 1, 2)):
        args = ["--model=egnn", "--set=hidden_size=8", dataset, "--epochs=1"]
        args += [f"--workdir=run{number}", f"--seed={seed}", "--compile_cache"]
        args += ["--cpu_devices=2"]
        done = run(*args, setup=setup).succeeded()
        assert "cpu_aot_loader" not in done.errors
        assert "devices   2 x cpu" in done.output
        text = (tmp_path / f"run{number}" / "record.json").read_text()
        records.append(json.loads(text))
    first, second, third = records
    assert second["test_loss"] == first["test_loss"] != third["test_loss"]
    assert second["compile_seconds"] < 0.5 * first["compile_seconds"]
    assert third["compile_seconds"] < 0.5 * first["compile_seconds"]


def assert_reproduces(
    path: pathlib.Path, folder: pathlib.Path, errors: np.ndarray
) -> None:
    """A checkpoint alone, without flags, gives the recorded errors."""
    best = checkpoint.load_model(path)
    names = {field.name for field in dataclasses.fields(nbody.Settings)}
    settings = {
        name: value
        for name, value in best.metadata["settings"].items()
        if name in names
    }
    dataset = nbody.load(folder, nbody.Settings(**settings))
    assert dataset.task == best.task
    model = models.build(best.model, best.task, best.fields)
    seeds = tuple(range(len(errors)))
    trainer = Trainer(
        model, dataset, loop.Settings(epochs=1, seeds=seeds), optim.Settings()
    )
    found = trainer.evaluator.evaluate(best.params, dataset.plan("test")).errors
    np.testing.assert_allclose(found["position"], errors, rtol=1e-5)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a short run, made on first use."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def finished(
    run: Callable[..., Command],
    finished_once: pathlib.Path,
    dataset: str,
    tmp_path: pathlib.Path,
) -> None:
    """A finished run of SHORT in the test's own folder."""
    if not (finished_once / "run").exists():
        run(*SHORT, dataset, cwd=finished_once).succeeded()
    shutil.copytree(finished_once / "run", tmp_path / "run")


@pytest.mark.usefixtures("finished")
def test_a_finished_run_is_told_and_another_command_refused(run, tmp_path, dataset):
    before = contents(tmp_path / "run")
    again = run(*SHORT, dataset).succeeded()
    assert "already finished: linear_map: test error" in again.output
    run(*SHORT, dataset, "--seed=2").refused(
        "run belongs to another run: seed was 1 and is now 2", "--workdir"
    )
    run(*SHORT, dataset, "--learning_rate=0.1", "--num_train=7").refused(
        "learning_rate was 0.01 and is now 0.1; num_train was 40 and is now 7"
    )
    run(*SHORT, dataset, "--model=linear").refused("model was 'linear_map' and is now")
    run(*SHORT, dataset, "--dtype=float64").refused("dtype was 'float32'")
    assert contents(tmp_path / "run") == before


@pytest.mark.usefixtures("finished")
def test_a_data_set_that_the_trained_model_does_not_know(run, tmp_path):
    before = contents(tmp_path / "run")
    nbody_folder.write(tmp_path / "gravity", system="gravity")
    run(*SHORT, f"--dataset={tmp_path / 'gravity'}").refused(
        "does not fit the trained model: it has the node inputs mass where "
        "run/best.npz knows charge; the edge features mass_product where"
    )
    assert contents(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_a_model_is_evaluated_on_another_size_during_and_after_its_run(
    run, tmp_path, dataset
):
    for size in (3, 7):
        settings = simulation.Settings(
            num_bodies=(size, size),
            num_steps=400,
            num_train=2,
            num_valid=3,
            num_test=11,
        )
        folder = tmp_path / f"bodies{size}"
        generate_nbody.generate(settings, folder, progress=False)
    before = json.loads((tmp_path / "run" / "record.json").read_text())
    after = run(*SHORT, dataset, "--eval_dataset=bodies3", "--eval_dataset=bodies7")
    lines = after.succeeded().output.splitlines()
    assert sum(line.startswith("on bodies") for line in lines) == 2
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    entries = record.pop("eval")
    assert record.pop("checksum") != before.pop("checksum")
    assert record == before and "eval" not in before
    assert [entry["dataset"] for entry in entries] == ["bodies3", "bodies7"]
    fresh = run(*SHORT[:-1], "--workdir=fresh", dataset, "--eval_dataset=bodies7")
    assert "on bodies7: test error" in fresh.succeeded().output
    (own,) = json.loads((tmp_path / "fresh" / "record.json").read_text())["eval"]
    assert own == entries[1]
    # Once more: nothing is added twice, and what does not fit is told.
    run(*SHORT, dataset, "--eval_dataset=bodies7").succeeded()
    again = json.loads((tmp_path / "run" / "record.json").read_text())
    assert again["eval"] == entries
    run(*SHORT, dataset, "--eval_dataset=bodies9").refused("--eval_dataset=bodies9")
    for entry in entries:
        folder = tmp_path / entry["dataset"]
        assert entry["fingerprint"] == nbody_files.read_metadata(folder)["fingerprint"]
        assert_is_the_error(tmp_path / "run" / "best.npz", folder, entry)


def assert_is_the_error(path: pathlib.Path, folder: pathlib.Path, entry: dict) -> None:
    """The loss of a linear map, calculated with NumPy."""
    (weights,) = checkpoint.load_model(path).params.values()
    with np.load(folder / "test.npz") as file:
        x, v = (file[name].astype(np.float64) for name in ("positions", "velocities"))
    inputs = np.concatenate([x[:, 0], v[:, 0]], axis=-1)
    found = inputs @ weights["w"][0] + weights["b"][0]
    errors = np.square(found - x[:, -1]).mean(axis=(1, 2))
    np.testing.assert_allclose(entry["loss"], [errors.mean()], rtol=1e-5)
    np.testing.assert_allclose(entry["loss_mean"], errors.mean(), rtol=1e-5)
    low, high = entry["interval"]
    assert low < errors.mean() < high
    assert entry["delta_eq"]["position"] > 1e-2  # a map of coordinates


@pytest.mark.slow
def test_float64(run, tmp_path, dataset):
    run(*SHORT, dataset, "--dtype=float64").succeeded()
    params = checkpoint.load_model(tmp_path / "run" / "best.npz").params
    arrays, _ = checkpoint.read(tmp_path / "run" / "best.npz")
    assert params and {array.dtype.name for array in arrays.values()} == {"float64"}


@pytest.mark.slow
def test_phases_and_the_loss_reach_the_training(run, tmp_path, dataset):
    """A phase ends with an evaluation; an empty text stands for none."""
    args = ("--model=newton", "--epochs=4", "--eval_every=3", dataset)
    small = [f"--set={field}=3" for field in ("hidden_size", "eval_substeps")]
    own = ("--loss_transform=log", "--loss_floor=0.01", "--clip_each=1")
    phase = "2:num_substeps=2,eta=0.5,loss_floor=10"
    run(*args, *small, *own, f"--phase={phase}", "--workdir=run").succeeded()
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["settings"]["phase"] == [phase]
    lines = read_metrics(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [2, 4]
    assert record["num_compiles"] == 3
    # What is told is the error itself; that the floor of the phase acts shows in it.
    other = phase.replace("loss_floor=10", "loss_floor=1e-6")
    run(*args, *small, *own, f"--phase={other}", "--workdir=other").succeeded()
    others = read_metrics(tmp_path / "other")
    for line, changed in zip(lines, others, strict=True):
        assert 0 < line["train_loss"][0] != changed["train_loss"][0] > 0
    run(*args, *small, "--phase=", "--workdir=none").succeeded()
    assert [line["epoch"] for line in read_metrics(tmp_path / "none")] == [3, 4]


# --- Data that is not there yet -----------------------------------------------------

FRAMES = ("start_frame", "target_frame")

# The generator's process gets fewer simulations, and is else as it is.
FEWER = """
import subprocess
real = subprocess.run
few = ["--num_train=30", "--num_valid=8", "--num_test=8", "--save_frames=30,40"]
subprocess.run = lambda args, **kwargs: real([*args, *few], **kwargs)
"""


@pytest.mark.slow
def test_data_is_generated_once_and_every_seed_gives_another_set(run, tmp_path):
    data_dir = tmp_path / "data"
    small = ["--model=linear_map", "--epochs=1", "--num_train=20"]
    small += [f"--data_dir={data_dir}"]
    first = run(*small, setup=FEWER).succeeded()
    assert f"generating nbody_small in {data_dir / 'nbody_small'}" in first.output
    (path,) = (tmp_path / "runs").rglob("record.json")
    record = json.loads(path.read_text())
    assert [record["settings"][name] for name in FRAMES] == [30, 40]
    (folder,) = data_dir.iterdir()
    before = contents(folder)
    # What is refused after the data are read need not train.
    again = run(*small, "--num_train=31")
    again.refused("--num_train between 1 and the 30 training samples")
    assert "generating" not in again.output
    assert contents(folder) == before
    other = run(*small, "--num_train=31", "--data_seed=7", setup=FEWER)
    assert other.code == 2 and "generating nbody_small" in other.output
    fingerprints = {
        path.name: nbody_files.read_metadata(path)["fingerprint"]
        for path in data_dir.iterdir()
    }
    assert set(fingerprints) == {"nbody_small", "nbody_small-seed7"}
    assert len(set(fingerprints.values())) == 2
    assert record["fingerprint"] == fingerprints["nbody_small"]


def test_a_generator_that_fails_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("--model=linear", f"--data_dir={tmp_path / 'file'}")
    assert done.code == 2 and not (tmp_path / "runs").exists()
    first, second = done.errors.splitlines()  # the generator's and the command's
    assert first.startswith("error: cannot write")
    assert "could not be generated (exit code 2); the reason stands above" in second


@pytest.mark.slow
def test_the_whole_of_nbody_small_from_nothing(run_python, tmp_path):
    args = ["--model=linear", "--epochs=1", "--num_train=100", "--data_dir=data"]
    # Under normal optimisation: the tests' flags would slow the generator down.
    done = run_python(["-m", "experiments.nbody", *args], XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "runs").rglob("record.json")
    assert json.loads(record.read_text())["settings"]["num_train"] == 100


# --- Interruptions ------------------------------------------------------------------

# Dies in the middle of writing the fifth checkpoint of the sitting.
DIE_WHILE_WRITING = (
    OFTEN
    + """
import os, pathlib, signal
from demetar.train import checkpoint
real, count = checkpoint.write_bytes, [0]

def write_bytes(path, content):
    count[0] += pathlib.Path(path).name == "last.npz"
    if count[0] == 5:
        half = pathlib.Path(path).with_name(".last.npz.tmp")
        half.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, content)

checkpoint.write_bytes = write_bytes
"""
)

# Dies between best.npz and last.npz of the final checkpoint.
DIE_BEFORE_LAST = (
    OFTEN
    + f"""
import os, signal
from demetar.train import run
real = run.Run.save

def save(run):
    if run.progress.epoch == {2 * NUM_EVALUATIONS}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(run)

run.Run.save = save
"""
)

# Dies when all is trained and only the record is missing.
DIE_BEFORE_RECORD = """
import os, signal
from demetar.train import checkpoint

def write_json(path, data):
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.write_json = write_json
"""


def assert_same_end(workdir: pathlib.Path, expected: pathlib.Path) -> None:
    """Parameters, metrics and record bit for bit, times excepted."""
    for name in ("last.npz", "best.npz"):
        found, ours = checkpoint.read(workdir / name)
        wanted, theirs = checkpoint.read(expected / name)
        assert found.keys() == wanted.keys()
        for leaf in wanted:
            assert found[leaf].tobytes() == wanted[leaf].tobytes(), leaf
        for metadata in (ours, theirs):
            progress = metadata.get("progress", {})
            for key in [key for key in progress if key.endswith("seconds")]:
                del progress[key]
        assert ours == theirs
    lines = zip(read_metrics(workdir), read_metrics(expected), strict=True)
    for one, other in lines:
        assert {k: one[k] for k in one.keys() - TIMES} == {
            k: other[k] for k in other.keys() - TIMES
        }
    records = [
        json.loads((folder / "record.json").read_text())
        for folder in (workdir, expected)
    ]
    for record in records:
        for name in TIMES:
            record.pop(name, None)
    assert records[0] == records[1]
    errors = [
        np.load(folder / "test_errors.npz")["squared_errors"]
        for folder in (workdir, expected)
    ]
    np.testing.assert_array_equal(*errors)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the run that the others are compared with, made on first use."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(
    run: Callable[..., Command], uninterrupted: pathlib.Path, dataset: str
) -> pathlib.Path:
    if not (uninterrupted / "run").exists():
        run(*LONG, dataset, cwd=uninterrupted).succeeded()
    return uninterrupted / "run"


def kill_before_the_first_checkpoint(
    start: Callable[..., Command], dataset: str
) -> None:
    """Leave a work directory as a kill while its config.json is written leaves it."""
    command = start(*LONG, dataset)
    wait_for_evaluations(command, 1)
    os.kill(command.process, signal.SIGKILL)
    command.wait()
    workdir = command.cwd / "run"
    (workdir / "config.json").rename(workdir / ".config.json.tmp")
    for path in workdir.iterdir():
        if not path.name.startswith("."):
            path.unlink()


def stop(
    start: Callable[..., Command], dataset: str, number: signal.Signals, count: int
) -> None:
    """Interrupt the run in tmp_path after `count` evaluations, as a person would."""
    command = start(*LONG, dataset)
    wait_for_evaluations(command, count)
    os.kill(command.process, number)
    command.wait()
    assert command.code == 128 + number, command.output + command.errors
    assert "saving and leaving" in command.output
    assert "saved in run; the same command continues" in command.output
    assert command.errors == ""
    workdir = command.cwd / "run"
    assert len(read_metrics(workdir)) < NUM_EVALUATIONS
    checkpoint.read(workdir / "last.npz")
    checkpoint.load_model(workdir / "best.npz")


def fill_the_disk(
    run: Callable[..., Command], dataset: str, workdir: pathlib.Path
) -> None:
    """Continue where no file may grow to the size of the checkpoint."""
    before = (workdir / "last.npz").read_bytes()
    limit = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)
"""
    run(*LONG, dataset, setup=OFTEN + limit).refused(
        "cannot write run/", "File too large; free space there or choose"
    )
    assert (workdir / "last.npz").read_bytes() == before
    checkpoint.load_model(workdir / "best.npz")


@pytest.mark.slow
def test_a_run_interrupted_in_every_way_ends_as_if_it_were_not(
    start, run, whole, tmp_path, dataset
):
    """SIGINT, SIGTERM and SIGKILL, between and during checkpoints; a full disk."""
    workdir = tmp_path / "run"
    kill_before_the_first_checkpoint(start, dataset)
    stop(start, dataset, signal.SIGINT, 3)
    fill_the_disk(run, dataset, workdir)
    stop(start, dataset, signal.SIGTERM, 25)

    before = len(read_metrics(workdir))
    assert run(*LONG, dataset, setup=DIE_WHILE_WRITING).code == -signal.SIGKILL
    assert (workdir / ".last.npz.tmp").exists()
    assert before < len(read_metrics(workdir)) <= before + 6

    command = start(*LONG, dataset, setup=OFTEN)
    wait_for_evaluations(command, 50)
    os.kill(command.process, signal.SIGKILL)
    assert command.wait().code == -signal.SIGKILL

    assert run(*LONG, dataset, setup=DIE_BEFORE_LAST).code == -signal.SIGKILL
    assert len(read_metrics(workdir)) == NUM_EVALUATIONS
    assert run(*LONG, dataset, setup=DIE_BEFORE_RECORD).code == -signal.SIGKILL
    assert not (workdir / "record.json").exists()
    run(*LONG, dataset).succeeded()
    assert_same_end(workdir, whole)


@pytest.mark.slow
def test_kills_at_random_moments(start, run, whole, tmp_path, dataset):
    generator = random.Random(0)
    for _ in range(25):
        command = start(*LONG, dataset, setup=OFTEN)
        time.sleep(generator.uniform(0.0, 6.0))
        number = generator.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        if pathlib.Path(f"/proc/{command.process}").exists():
            os.kill(command.process, number)
        command.wait()
        assert "Traceback" not in command.errors
    run(*LONG, dataset).succeeded()
    assert_same_end(tmp_path / "run", whole)


def test_a_signal_before_training_leaves_at_once(start, dataset, tmp_path):
    (tmp_path / "ready").unlink(missing_ok=True)
    waiting = """
import pathlib, time
from experiments import nbody

def load_dataset(settings, root):
    pathlib.Path("ready").touch()
    time.sleep(60)

nbody.load_dataset = load_dataset
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        command = start(*SHORT, dataset, setup=waiting)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(command.process, number)
        assert command.wait().code == 128 + number
        assert command.errors == "error: interrupted; the same command continues\n"
        (tmp_path / "ready").unlink()


# --- Bad input ----------------------------------------------------------------------

BAD_FLAGS = {
    "no model": ([], "expected --model, one of linear, linear_map, gnn, egnn, segnn"),
    "unknown model": (["--model=egn"], "no model is called 'egn'; expected one of"),
    "unknown field": (
        ["--model=egnn", "--set=width=8"],
        "egnn has no field 'width'; it has hidden_size",
    ),
    "wrong type": (
        ["--model=egnn", "--set=hidden_size=big"],
        "egnn.hidden_size expects int, found 'big'",
    ),
    "no assignment": (["--model=egnn", "--set=big"], "expected field=value"),
    "unknown protocol": (
        ["--model=egnn", "--protocol=best"],
        "egnn has no protocol 'best'; expected one of default, paper",
    ),
    "no protocol of a paper": (
        ["--model=nequip", "--protocol=paper"],
        "nequip has no protocol 'paper'; expected one of default",
    ),
    "not a flag": (["egnn"], "expected flags as --name=value, found 'egnn'"),
    "unknown flag": (["--modle=egnn"], "Unknown command line flag 'modle'"),
    "flag of wrong type": (["--model=egnn", "--epochs=ten"], "--epochs=ten"),
    "not a choice": (["--model=egnn", "--schedule=step"], "constant|cosine"),
    "no epochs": (["--model=egnn", "--epochs=0"], "--epochs of at least 1, found 0"),
    "no batch": (["--model=egnn", "--batch_size=-3"], "--batch_size of at least 1"),
    "rate": (["--model=egnn", "--learning_rate=nan"], "--learning_rate above 0"),
    "seed": (["--model=egnn", "--seed=-1"], "--seed of at least 0, found -1"),
    "large seed": (["--model=egnn", f"--seed={2**31}"], "--seed below 2^31"),
    "clip": (["--model=egnn", "--clip_norm=-1"], "--clip_norm of at least 0"),
    "decay": (["--model=egnn", "--average_decay=1"], "--average_decay below 1"),
    "no velocity": (
        ["--model=radial_field", "--cues=positions"],
        "radial_field moves along the velocities, which --cues=positions leaves out",
    ),
    "bodies": (["--model=egnn", "--num_bodies=1"], "--num_bodies of at least 2"),
    "clip of each": (["--model=egnn", "--clip_each=-1"], "--clip_each of at least 0"),
    "floor": (["--model=egnn", "--loss_floor=0"], "--loss_floor above 0, found 0"),
    "phase": (
        ["--model=newton", "--phase=num_substeps=3"],
        "expected --phase=EPOCHS:field=value,... with at least 1 epoch",
    ),
    "field of a phase": (
        ["--model=newton", "--phase=3:substeps=3"],
        "newton has no field 'substeps'; it has horizon, num_substeps",
    ),
    "floor of a phase": (
        ["--model=newton", "--phase=3:loss_floor=-1"],
        "expected a loss_floor above 0, found 'loss_floor=-1' in --phase",
    ),
    "no folder": (
        ["--model=egnn", "--dataset=nbody_smal"],
        "expected --dataset to be nbody_small, nbody, nbody_blog, gravity or an "
        "existing folder",
    ),
}

BAD_SETTINGS = {
    "data seed of a folder": (["--data_seed=3"], "--data_seed makes a fresh set of"),
    "frame": (["--target_frame=99"], "has no frame 99; it has 0 to 2 (3 frames)"),
    "too many": (["--num_train=41"], "--num_train between 1 and the 40 training"),
    "input": (
        ["--model=gnn", "--model=egnn", "--set=node_inputs=mass"],
        "has no node input 'mass', which egnn.node_inputs names; set node_inputs to",
    ),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_refused_before_anything_is_done(run, tmp_path, case):
    args, message = BAD_FLAGS[case]
    run(*args, "--workdir=run", "--data_dir=data").refused(message)
    assert not (tmp_path / "run").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_that_do_not_fit_the_data_are_refused(run, tmp_path, dataset, case):
    args, message = BAD_SETTINGS[case]
    run(*SHORT, dataset, *args).refused(message)
    # The work directory stays free for the command with the mistake mended.
    assert not (tmp_path / "run").exists()


def remove(folder):
    (folder / "valid.npz").unlink()


def truncate(folder):
    path = folder / "train.npz"
    path.write_bytes(path.read_bytes()[:-1000])


def alter(folder):
    with np.load(folder / "test.npz") as file:
        arrays = dict(file)
    arrays["positions"][3, 1] *= 1.001
    nbody_folder.save_split(folder, "test", arrays)


def unfinish(folder):
    (folder / "metadata.json").unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (remove, "valid.npz is missing; generate the data set anew"),
        (truncate, "train.npz: it is damaged or no .npz"),
        (alter, "test.npz was altered: the SHA-256 of positions differs"),
        (unfinish, "is not a finished data set: it has no metadata.json"),
    ],
)
def test_faulty_data_are_refused(run, tmp_path, dataset, damage, message):
    shutil.copytree(folder_of(dataset), tmp_path / "copy")
    damage(tmp_path / "copy")
    run(*SHORT, "--dataset=copy").refused(message)
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_is_none(run, tmp_path, dataset):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    run(*SHORT, dataset).refused("run holds files but no config.json of a run")
    (tmp_path / "run" / "config.json").write_text('{"model": ')
    run(*SHORT, dataset).refused("cannot read run/config.json")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"
    (tmp_path / "file").write_text("precious")
    run(*SHORT, dataset, "--workdir=file").refused("file is no folder", "--workdir")
    told = "cannot make file/run: file is no folder; give another folder"
    run(*SHORT, dataset, "--workdir=file/run").refused(told)
    # Not even root makes a folder there.
    run(*SHORT, dataset, "--workdir=/proc/run").refused("cannot make /proc/run")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.usefixtures("finished")
def test_a_damaged_checkpoint_is_refused(run, tmp_path, dataset):
    (tmp_path / "run" / "record.json").unlink()  # so that it is not finished
    path = tmp_path / "run" / "last.npz"
    path.write_bytes(path.read_bytes()[:-100])
    before = contents(tmp_path / "run")
    run(*SHORT, dataset).refused("run/last.npz is truncated, altered or no checkpoint")
    assert contents(tmp_path / "run") == before


def test_a_loss_that_is_not_finite_stops_the_command(run, tmp_path, dataset):
    run(*SHORT, dataset, "--learning_rate=1e30").refused(
        "not finite before epoch 1; no checkpoint was written yet", "--clip_norm"
    )
    assert not (tmp_path / "run" / "record.json").exists()
