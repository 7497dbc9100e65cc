"""The command `python -m experiments.generate` on a few molecules."""

import functools
import json
import os
import signal
import time

import numpy as np
import pytest

from demetar.data import molecules
from demetar.generation.structures import Structures
from experiments import report
from experiments.protocols import generate as protocols
from experiments.run import drawing, finished
from tests import qm9_test

SMALL = (
    *("--model=egnn", "--protocol=fast", "--set=hidden_size=8", "--set=num_layers=1"),
    *("--batch_size=8", "--noise_steps=20", "--epochs=2", "--workdir=run"),
    *("--num_samples=14", "--split=random"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "known.npz"
    molecules.write(path, qm9_test.make_molecules(40), "")
    return path


@pytest.fixture
def train(run, place):
    """`train(*args)` gives the command these arguments and waits for its end."""
    setup = "from demetar.visual import molecules; molecules._TURN = 2"
    given = (*SMALL, f"--data_dir={place}")
    return functools.partial(run, *given, module="generate", setup=setup)


def test_a_run_draws_molecules(train, tmp_path):
    output = train().succeeded().output
    assert "egnn: test error" in output and "drawn     14 molecules:" in output
    drawn = tmp_path / "run" / "drawn"
    pictures = {"molecules.png", "forming.png", "forming.gif"}
    names = {"generation.json", "samples.xyz", *pictures}
    assert names <= {path.name for path in drawn.iterdir()}
    found = json.loads((drawn / "generation.json").read_text())
    assert len(found["stable_atoms"]) == 1 and 0 <= found["stable_atoms"][0] <= 1
    assert found["delta_eq"][0] < 1e-3 and np.isfinite(found["nats"][0])
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["generated"] == found
    assert set(record["delta_eq"]) == {"position_noise", "feature_noise"}
    text = (drawn / "samples.xyz").read_text()
    again = train().succeeded().output
    assert "already finished" in again and "drawn     14 molecules:" in again
    assert (drawn / "samples.xyz").read_text() == text
    assert {*found["files"]} == {"samples.xyz", *pictures}
    table = report.markdown(finished.read_runs([str(tmp_path / "run")]))
    assert "Molecules that were drawn" in table and "| 14 |" in table


@pytest.mark.slow
def test_a_finished_run_draws_others_and_is_looked_at(train, run, tmp_path):
    train().succeeded()
    drawn = tmp_path / "run" / "drawn"
    text = (drawn / "samples.xyz").read_text()
    other = train("--sample_seed=1", "--num_samples=5").succeeded().output
    assert "already finished" in other and "drawn     5 molecules:" in other
    assert (drawn / "samples.xyz").read_text() != text
    predicted = run("--checkpoint=run", "--input=run", "--out=o.npz", module="predict")
    predicted.refused("one that removes noise from molecules; python -m experiments.ge")
    look = ("--checkpoint=run", "--what=equivariance", "--out=pictures")
    assert "ethanol" in run(*look, module="visualize").succeeded().output


@pytest.mark.slow
def test_an_interrupt_while_programs_run_leaves_nothing_that_is_half_told(
    train, start, place, tmp_path
):
    train().succeeded()
    more = (*SMALL, f"--data_dir={place}", "--cpu_devices=2", "--num_samples=9000")
    command = start(*more, module="generate")
    while "drawing" not in command.errors:
        time.sleep(0.1)
    time.sleep(5)  # by now a compiled program is under way
    os.kill(command.process, signal.SIGINT)
    assert command.wait().code == 130
    assert "interrupted; the same command continues" in command.errors
    assert not (tmp_path / "run" / "drawn" / "generation.json").exists()
    train().succeeded()
    assert (tmp_path / "run" / "drawn" / "generation.json").exists()


def test_a_model_that_is_no_denoiser_is_refused(train):
    message = "schnet returns no vectors per atom, which a denoiser must"
    train("--model=schnet").refused(message, "egnn")
    train("--model=deep_set").refused("deep_set returns no scalars per atom")


def test_more_molecules_than_fit_are_refused(train, tmp_path):
    train("--num_samples=2000000000").refused("--num_samples that fits the memory")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def tight(run, tmp_path):
    """The command on molecules of one atom, among others."""
    records = [
        molecules.Record(
            f"row {row}", row + 1, [1] * n, [0.1 * i for i in range(3 * n)], [], ""
        )
        for row, n in enumerate([2] * 11 + [1])
    ]
    path = tmp_path / "atoms.npz"
    molecules.write(path, molecules.build(records, [], [], "own"), "")
    return functools.partial(run, *SMALL, f"--data_dir={path}", module="generate")


def test_a_single_atom_is_refused(tight):
    tight().refused("expected molecules of two atoms or more, found 1 of one")


def test_protocols_are_those_of_the_paper_and_of_an_evening():
    paper = protocols.find("egnn", "default")
    assert (paper.name, paper.origin) == ("paper", "paper")
    assert paper.fields["num_layers"] == 9 and paper.training.epochs == 3_000
    assert paper.optimizer.adaptive_clip and paper.training.average_decay == 0.9999
    fast = protocols.find("egnn", "fast")
    assert fast.fields["hidden_size"] == 64 and fast.origin != "paper"
    tuned = protocols.find("egnn", "tuned")
    assert tuned.fields == fast.fields and tuned.optimizer.optimizer == "muon"
    assert protocols.find("gnn", "default").origin != "paper"


def measured(drawn, training):
    """The shares, without those that are not known."""
    found = drawing.measures(drawn, training)
    return {name: share for name, share in found.items() if share is not None}


def test_shares_and_intervals_are_those_of_the_table():
    known = qm9_test.make_molecules(12)
    arrays = known.numbers.astype(int), known.positions, known.n_atoms
    drawn = Structures(*arrays)
    found = measured(drawn, drawn)
    assert found["stable_molecules"] > 0.8 and found["not_finite"] == 0
    far = drawn._replace(positions=3 * drawn.positions)
    assert measured(far, drawn)["stable_atoms"] == 0
    broken = drawn.positions.copy()
    broken[0] = np.nan
    assert measured(drawn._replace(positions=broken), drawn)["not_finite"] > 0
    low, high = drawing.intervals([drawn, far])["stable_molecules"]
    assert low <= 0.5 * found["stable_molecules"] <= high
    # Of other elements nothing is known.
    other = drawn._replace(numbers=np.full_like(drawn.numbers, 17))
    assert set(measured(other, other)) == {"not_finite"}
    assert drawing.intervals([other]) == {}
