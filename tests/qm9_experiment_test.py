"""The command `python -m experiments.qm9` on small molecules."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from demetar import models
from demetar.data import molecules, qm9, targets
from demetar.train import checkpoint, loop, optim
from demetar.train.trainer import Trainer
from experiments.protocols import molecules as protocols
from tests import qm9_test

SMALL = (
    *("--model=demetar", "--set=hidden_size=8", "--set=num_heads=2", "--workdir=run"),
    *("--set=node_layers=0", "--set=edge_layers=1", "--set=joint_layers=1"),
    *("--epochs=3", "--batch_size=8", "--target=gap", "--split=random"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "molecules.npz"
    molecules.write(path, qm9_test.make_molecules(60))
    return path


@pytest.fixture
def train(run):
    """`train(*args)` gives the command these arguments and waits for its end."""
    return functools.partial(run, module="qm9")


def test_a_run_leaves_its_record(train, tmp_path, place):
    args = [*SMALL, f"--data_dir={place}", "--num_seeds=2"]
    done = train(*args).succeeded()
    assert "target    gap, intensive; subtracted: the mean " in done.output
    assert "epoch 3/3" in done.output and " eV, 95 % interval" in done.output
    workdir = tmp_path / "run"
    record = json.loads((workdir / "record.json").read_text())
    expected = """command model fields dataset fingerprint target unit protocol
        num_params epochs seeds best_epoch valid_loss test_loss test_loss_mean
        test_loss_std test_loss_interval delta_eq compile_seconds num_compiles
        padding data_share python_share wall_seconds steps_per_second versions device
        settings heads mean_of_seeds run_id checksum"""
    assert set(expected.split()) == set(record) - {"test_loss_by_head"}
    assert (record["target"], record["unit"], record["dataset"]) == (
        *("gap", "eV", "molecules"),
    )
    assert "experiments.qm9" in record["command"] and str(place) not in json.dumps(
        record
    )
    assert record["fields"]["node_inputs"] == ["H", "C", "N", "O"]
    assert record["fields"]["bond_tokens"]
    assert record["num_compiles"] == 2  # of at most 4: training and evaluation
    assert 0 < record["padding"]["nodes"] < 0.5 and 0 < record["data_share"] < 1
    assert 0 <= record["delta_eq"]["gap"] < 1e-3
    with np.load(workdir / "test_errors.npz") as file:
        errors = file["absolute_errors"]
    assert errors.shape == (2, 6)
    np.testing.assert_allclose(errors.mean(axis=1), record["test_loss"])
    assert list(workdir.glob("events*"))
    assert_reproduces(workdir / "best.npz", place, errors)

    assert "already finished" in train(*args).succeeded().output
    args.remove("--split=random")  # which is the default of own molecules
    assert "already finished" in train(*args).succeeded().output
    train(*args, "--split=egnn").refused("pass --split=random")


@pytest.mark.slow
def test_energies_that_float32_cannot_tell_apart(train, tmp_path, shared_dir):
    """-1528 ± 2e-5, and the same plus 1528: the error of the mean is 2e-5."""
    losses = []
    for name in ("total2", "shifted2"):
        place = shared_dir / "cases" / "float32_target" / f"{name}.npz"
        done = train(
            *("--model=schnet", "--set=hidden_size=8", "--set=num_layers=1"),
            *("--target=energy", f"--data_dir={place}", "--split=random"),
            *("--epochs=1", "--learning_rate=1e-30", f"--workdir={name}"),
        ).succeeded()
        assert "target    energy, extensive" in done.output
        record = json.loads((tmp_path / name / "record.json").read_text())
        losses.append(record["test_loss_mean"])
        offset = record["heads"][0]["offsets"]["O"]
        assert abs(offset + 1528 * (name == "total2")) < 1e-4
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    np.testing.assert_allclose(losses, 2e-5, rtol=0.2)


def assert_reproduces(
    path: pathlib.Path, place: pathlib.Path, errors: np.ndarray
) -> None:
    """The checkpoint alone gives the absolute errors in the target's unit."""
    best = checkpoint.load_model(path)
    names = {field.name for field in dataclasses.fields(qm9.Settings)}
    settings = {
        name: value
        for name, value in best.metadata["settings"].items()
        if name in names
    }
    known = molecules.read(place)
    dataset = qm9.load(known, qm9.Settings(**settings))
    assert dataset.task == best.task
    model = models.build(best.model, best.task, best.fields)
    seeds = tuple(range(len(errors)))
    trainer = Trainer(
        model,
        dataset,
        loop.Settings(epochs=1, seeds=seeds),
        optim.Settings(),
        devices=jax.devices()[:1],
    )
    found = trainer.evaluator.evaluate(best.params, dataset.plan("test"))
    np.testing.assert_allclose(found.errors["gap"], errors, rtol=1e-4)
    # By hand, from the predictions and the molecules' own values.
    plan = dataset.plan("test")
    rows = qm9.split_rows("random", 60)
    everything = np.concatenate([rows[part] for part in qm9.PARTS])
    real = plan["weight"] > 0
    values = known.column("gap")[everything[plan["sample"][real]]]
    by_hand = np.abs(found.predictions["gap"][:, real, 0] - values)
    ordered = np.empty_like(by_hand)
    ordered[:, plan["position"][real]] = by_hand
    np.testing.assert_allclose(ordered, errors, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "expected --model, one of linear"),
        (["--model=linear"], "linear has no head of kind graph_scalar"),
        (["--model=simple_network", "--target=mass"], "no target is called 'mass'"),
        (["--model=nequip", "--cutoff=-1"], "expected a --cutoff above 0"),
        (["--model=nequip", "--protocol=tuned"], "nequip has no protocol 'tuned'"),
        (["--model=nequip", "--protocol=paper"], "expected one of default"),
        (
            ["--model=demetar", "--cutoff=3"],
            "--cutoff=3 is of radius graphs, found --connectivity=bonds",
        ),
        (
            ["--model=nequip", "--cutoff=3", "--set=cutoff=4"],
            "nequip.cutoff is 4 where that of the graphs is 3",
        ),
        (
            ["--model=demetar", "--set=max_edge_tokens=1", "--set=num_heads=2"],
            "max_edge_tokens is 1: the attention among them would take 0.0 GiB",
        ),
    ],
)
def test_bad_input_is_one_line(train, tmp_path, place, args, message):
    given = ("--target=gap", "--split=random", f"--data_dir={place}")
    train(*given, *args).refused(message)
    left = [path for path in (tmp_path / "runs").rglob("*") if path.name != "molecules"]
    assert not left  # the work directory is taken away again


@pytest.mark.slow
def test_a_split_that_was_overwritten_is_that_of_another_run(train, tmp_path, place):
    """Between two starts, rows of the test set became rows to train on."""
    split, args = tmp_path / "split.npz", (*SMALL, f"--data_dir={place}")
    np.savez(
        split, train=np.arange(40), valid=np.arange(40, 50), test=np.arange(50, 60)
    )
    train(*args, f"--split={split}").succeeded()
    before = (tmp_path / "run" / "record.json").read_bytes()
    np.savez(
        split, train=np.arange(20, 60), valid=np.arange(10), test=np.arange(10, 20)
    )
    train(*args, f"--split={split}").refused("another run", "identity was ")
    assert (tmp_path / "run" / "record.json").read_bytes() == before


def test_without_the_wheel_the_command_says_how_to_get_it(train):
    missing = """
from demetar.data import molecule_files
molecule_files.importlib.util.find_spec = lambda name: None
"""
    done = train("--model=nequip", setup=missing)
    done.refused("QM9 is not installed; install it with python -m pip install '.[qm9]'")


@pytest.mark.slow
def test_an_interrupted_run_is_continued(train, tmp_path, place):
    """It ends with the numbers of one that was not."""
    asked = """
import functools
from demetar.train import loop, run
loop.Settings = functools.partial(loop.Settings, checkpoint_seconds=0.0)
fit = run.Run.fit

def stopped(self, on_evaluation, on_save, should_stop):
    return fit(self, on_evaluation, on_save, lambda: True)

run.Run.fit = stopped
"""
    args = [*SMALL, f"--data_dir={place}"]
    assert train(*args, setup=asked).code == 128
    assert not (tmp_path / "run" / "record.json").exists()
    train(*args).succeeded()
    train(*args, "--workdir=whole").succeeded()
    errors = [
        np.load(tmp_path / folder / "test_errors.npz")["absolute_errors"]
        for folder in ("run", "whole")
    ]
    np.testing.assert_array_equal(*errors)


# --- Protocols ----------------------------------------------------------------------


def test_every_protocol_is_one_that_its_model_can_take():
    for model, named in protocols.PROTOCOLS.items():
        if model not in models.REGISTRY:
            continue
        if "graph_scalar" not in models.model_class(model).supports:
            continue
        for name in named:
            protocol = protocols.find(model, name, "homo")
            assert models.check_fields(model, protocol.fields) is not None
            assert (name == "paper") == (protocol.origin == "paper")
            assert "cutoff" not in protocol.fields
            assert protocol.optimizer.schedule in optim.SCHEDULES
            assert protocol.data.connectivity in qm9.CONNECTIVITY
            assert protocol.data.node_features in qm9.NODE_FEATURES


def test_the_protocol_of_egnn_is_the_paper_s():
    rates = {
        target: protocols.find("egnn", "paper", target).optimizer.learning_rate
        for target in targets.TARGETS
    }
    assert {name for name, rate in rates.items() if rate == 1e-3} == {
        *("gap", "homo", "lumo"),
    }
    assert set(rates.values()) == {1e-3, 5e-4}
    protocol = protocols.find("egnn", "paper", "homo")
    assert (protocol.batch_size, protocol.training.epochs) == (96, 1_000)
    assert protocol.optimizer.schedule == "cosine"
    data = protocol.data
    assert (data.connectivity, data.node_features) == ("complete", "egnn")
    assert protocols.find("another", "default", "mu").batch_size == 96
