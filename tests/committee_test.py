"""Several trained models as one: `demetar.committee` and the commands that take one."""

import dataclasses
import json
from typing import Any

import ase
import numpy as np
import pytest

import demetar
from demetar.committees import Committee
from demetar.data import potentials
from demetar.data.frames import Frames
from demetar.errors import UserError
from demetar.potential import Potential
from demetar.types import Head
from experiments import committee as command
from experiments.run import potential_data
from tests import potential_experiment_test as experiment
from tests.support import slopes, trained

POTENTIAL = dataclasses.replace(
    trained.MOLECULES,
    heads=(
        dataclasses.replace(trained.MOLECULES.heads[0], unit="meV", scale=3e6),
        Head("forces", "node_vector", unit="meV/Å", scale=50.0, gradient_of="energy"),
    ),
)
DIRECT = dataclasses.replace(
    POTENTIAL,
    heads=(POTENTIAL.heads[0], Head("forces", "node_vector", unit="meV/Å")),
)
NUMBERS = np.array([8, 1, 1])
PLACES = np.array([[0.0, 0, 0], [1.0, 0, 0.1], [-0.3, 0.9, 0]])

place, train = experiment.place, experiment.train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("egnn", "schnet", "tfn"):
        trained.save(folder / name, name, POTENTIAL)
    trained.save(folder / "direct", "tfn", DIRECT)
    trained.save(folder / "bodies", "egnn", trained.BODIES, 2)
    trained.save(folder / "others", "linear", trained.BODIES, 2)
    return folder


# --- Values ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one", "stacked", "listed"])
def test_the_mean_of_the_members_and_their_spread(runs, layout):
    names = ("bodies", "others")
    inputs = trained.bodies((4, 4) if layout == "stacked" else (4, 2), seed=3)
    if layout == "one":
        inputs = {name: own[0] for name, own in inputs.items()}
    if layout == "stacked":
        inputs = {name: np.stack(own) for name, own in inputs.items()}
    together = demetar.committee([runs / name for name in names])
    alone = [demetar.load(runs / name)(**inputs) for name in names]
    found, spread = together(**inputs), together.spread(**inputs)
    for name in ("position", "velocity"):
        values = [own[name] for own in alone]
        if layout == "listed":
            values = [np.concatenate(own) for own in values]
            assert [len(own) for own in found[name]] == [4, 2]
            found[name] = np.concatenate(found[name])
            spread[name] = np.concatenate(spread[name])
        np.testing.assert_allclose(found[name], np.mean(values, axis=0), rtol=1e-12)
        expected = np.abs(values[0] - values[1]) / np.sqrt(2)  # over one less than two
        np.testing.assert_allclose(spread[name], expected, atol=1e-12)
        assert spread[name].max() > 1e-3


def test_every_member_is_the_mean_of_its_seeds_if_asked(runs):
    names, inputs = ("bodies", "others"), trained.bodies((3,))
    together = demetar.committee([runs / name for name in names], seed="mean")
    alone = [demetar.load(runs / name, seed="mean")(**inputs) for name in names]
    mean = np.mean([own["position"][0] for own in alone], axis=0)
    np.testing.assert_allclose(together(**inputs)["position"][0], mean, rtol=1e-12)
    first = demetar.committee([runs / name for name in names])(**inputs)
    assert np.abs(first["position"][0] - mean).max() > 1e-4


def test_what_is_no_committee(runs):
    for chosen, told in (
        ([], "at least two trained models for a committee, found 0"),
        ([runs / "egnn"], "found 1; demetar.load takes one"),
        (runs / "egnn", "found 1"),
        (
            [runs / "egnn", runs / "egnn" / "best.npz"],
            "different trained models .* more than once",
        ),
        ([runs / "egnn", runs / "bodies"], "same inputs .* train them on the same"),
        ([runs / "egnn", runs / "missing"], "expected a trained model in"),
    ):
        with pytest.raises(UserError, match=told):
            demetar.committee(chosen)
    with pytest.raises(UserError, match="bodies: expected a seed of 7, 8 that were"):
        demetar.committee([runs / "bodies", runs / "others"], seed=9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heads": POTENTIAL.heads[:1]}, "same outputs .*forces, 1 node vector in meV"),
        ({"length_unit": "nm"}, "same inputs"),
        ({"name": "of another method"}, "same task .*'molecules' of egnn and 'of an"),
    ],
)
def test_models_of_different_tasks_have_no_mean(changes, told):
    """As of energies by different methods, or positions at different times."""
    other = dataclasses.replace(POTENTIAL, **changes)
    members = [
        demetar.Predictor(trained.make("egnn", task)) for task in (POTENTIAL, other)
    ]
    with pytest.raises(UserError, match=told):
        Committee(members)


def test_a_copy_of_a_run_is_no_other_member():
    """A run has one id; its seeds are different models."""
    made = trained.make("egnn", trained.BODIES, 2)
    made = dataclasses.replace(made, metadata={**made.metadata, "run_id": 64 * "a"})
    with pytest.raises(UserError, match="found copies of one run"):
        Committee([demetar.Predictor(made), demetar.Predictor(made)])
    assert Committee([demetar.Predictor(made, seed) for seed in (7, 8)]).seed == "7+8"


# --- Potentials -----------------------------------------------------------------------


def test_forces_of_a_committee_are_the_slope_of_its_energy(runs):
    """Models of different kinds, by ASE's calculator."""
    chosen = [runs / "egnn", runs / "schnet"]
    atoms = ase.Atoms(NUMBERS, PLACES)
    atoms.calc = demetar.calculator(chosen, dtype="float64")
    energies = [
        demetar.load(run)(positions=PLACES, species=NUMBERS)["energy"] for run in chosen
    ]
    assert atoms.get_potential_energy() == pytest.approx(1e-3 * np.mean(energies))
    assert atoms.calc.potential.is_conservative
    forces = atoms.get_forces()
    bound = 1e-4 * np.abs(forces).max()
    np.testing.assert_allclose(forces, slopes.forces(atoms), atol=bound)


def test_a_member_with_direct_forces_makes_the_mean_not_conservative(runs):
    for chosen in (["direct", "egnn"], ["egnn", "direct"]):
        together = demetar.committee([runs / name for name in chosen])
        assert not Potential(together).is_conservative
    assert Potential(demetar.load(runs / "tfn")).is_conservative


# --- Commands -------------------------------------------------------------------------


def test_predict_writes_mean_and_spread(run_module, runs, tmp_path):
    inputs = trained.bodies((4, 4))
    arrays: dict[str, Any] = {name: np.stack(own) for name, own in inputs.items()}
    np.savez(tmp_path / "in.npz", **arrays)
    chosen = [f"--checkpoint={runs / name}" for name in ("bodies", "others")]
    args = ("--input=in.npz", "--out=out.npz")
    done = run_module("experiments.predict", *chosen, *args)
    assert done.returncode == 0, done.stderr
    together = demetar.committee([runs / "bodies", runs / "others"])
    with np.load(tmp_path / "out.npz") as found:
        expected = np.stack(together(**inputs)["position"])
        np.testing.assert_allclose(found["position"], expected, atol=1e-6)
        spread = np.stack(together.spread(**inputs)["velocity"])
        np.testing.assert_allclose(found["velocity_spread"], spread, atol=1e-6)
    done = run_module("experiments.predict", *chosen, *args, "--rollout_steps=2")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert not any(name.endswith("_spread") for name in found)
    done = run_module("experiments.predict", "--checkpoint=", *args)
    assert done.returncode == 2 and "expected --checkpoint=RUN" in done.stderr
    done = run_module(
        "experiments.predict", *chosen, "--num_nodes=4", "--export=model.bin"
    )
    assert done.returncode == 2 and "one --checkpoint with --export" in done.stderr
    assert not (tmp_path / "model.bin").exists()


def test_dynamics_take_the_runs_as_one(run_module, runs, tmp_path):
    args = ("--what=nve", "--duration=0.02", "--dtypes=float32", "--out=nve")
    chosen = [str(runs / name) for name in ("egnn", "schnet")]
    for flags, expected in (
        (["--committee"], ["egnn+schnet"]),
        ([], ["egnn", "schnet"]),
    ):
        done = run_module("experiments.dynamics", *chosen, *args, *flags)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / "nve" / "nve.json").read_text())
        assert [row["model"] for row in record["results"]] == expected
    done = run_module("experiments.dynamics", chosen[0], *args, "--committee")
    assert done.returncode == 2 and "at least two runs with --committee" in done.stderr


def test_an_output_may_be_called_a_spread(run_module, tmp_path):
    """Its shape is that of its head."""
    head = dataclasses.replace(trained.MOLECULES.heads[0], name="line_spread")
    task = dataclasses.replace(trained.MOLECULES, heads=(head,))
    trained.save(tmp_path / "run", "egnn", task)
    (tmp_path / "in.xyz").write_text("2\n\nH 0 0 0\nO 0 0 1\n")
    args = ("--checkpoint=run", "--input=in.xyz", "--out=out.npz")
    done = run_module("experiments.predict", *args)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert found["line_spread"].shape == (1,)


@pytest.fixture
def several(train, tmp_path):
    """Two runs on the same frames, and what to call the command with."""
    for model in ("egnn", "schnet"):
        args = ("--epochs=3", "--eval_every=3", f"--workdir=runs/{model}")
        train(*args, f"--model={model}").succeeded()
    return ["runs/egnn", "runs/schnet"]


def test_errors_of_a_committee_are_told(run, several, tmp_path, place):
    data = f"--data_dir={place}"
    done = run(*several, data, "--out=out", module="committee").succeeded()
    assert "committee egnn+schnet" in done.output
    record = json.loads((tmp_path / "out" / "committee.json").read_text())
    assert (tmp_path / "out" / "committee.png").exists()
    test = experiment.frames(6, seed=len("test"))
    inputs = {"positions": test["coords"], "species": experiment.NUMBERS}
    together = demetar.committee([tmp_path / own for own in several])
    found, spread = together(**inputs), together.spread(**inputs)
    errors = {
        "forces": found["forces"] - experiment.MEV * test["forces"],
        "energy": found["energy"] - experiment.MEV * test["energies"],
    }
    *members, mean = record["results"]
    for name, error in errors.items():
        assert mean[f"{name}_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-3)
        size = np.sqrt(np.square(error).mean())
        assert mean[f"{name}_rmse"] == pytest.approx(size, rel=1e-3)
    assert mean["forces_low"] < mean["forces_mae"] < mean["forces_high"]
    for own, member in zip(several, members, strict=True):
        alone = json.loads((tmp_path / own / "record.json").read_text())
        assert member["forces_mae"] == pytest.approx(alone["test_loss_mean"], rel=1e-3)
    sizes = np.sqrt(np.square(errors["forces"]).mean(axis=(1, 2)))
    spreads = np.sqrt(np.square(spread["forces"]).mean(axis=(1, 2)))
    order = [np.argsort(np.argsort(values)) for values in (sizes, spreads)]
    correlation = np.asarray(np.corrcoef(order))[0, 1]
    assert record["spread_correlation"] == pytest.approx(correlation, abs=1e-6)
    args = ("--split=valid", "--out=valid")
    run(*several, data, *args, module="committee").succeeded()
    record = json.loads((tmp_path / "valid" / "committee.json").read_text())
    for own, member in zip(several, record["results"], strict=False):
        alone = json.loads((tmp_path / own / "record.json").read_text())
        assert member["forces_mae"] == pytest.approx(alone["valid_loss"][0], rel=1e-3)


def test_runs_that_make_no_committee(run, several, train, tmp_path, place):
    data = f"--data_dir={place}"

    def refused(told, *args):
        run(*args, "--out=out", module="committee").refused(told)
        assert not (tmp_path / "out").exists()

    refused("at least two finished runs for a committee, found 1", several[0], data)
    refused("found none", "missing", data)
    other = tmp_path / "other"
    other.mkdir()
    for part, count in (("train", 74), ("test", 6)):
        arrays = experiment.frames(count, seed=1)
        arrays["coords"] = arrays["coords"] + 1e-3 * (part == "test")
        np.savez(other / f"rmd17_ethanol_{part}_01.npz", **arrays)
    refused("was trained on, with fingerprint", *several, f"--data_dir={other}")
    args = ("--epochs=1", "--workdir=runs/other", f"--data_dir={other}")
    train(*args).succeeded()
    refused("with other test frames", *several, "runs/other", data)


def test_what_is_not_the_run_that_its_record_tells(run, several, tmp_path, place):
    data = f"--data_dir={place}"
    record = tmp_path / several[0] / "record.json"
    content = json.loads(record.read_text())
    own = tmp_path / several[0] / "best.npz"
    saved = own.read_bytes()
    own.write_bytes((tmp_path / several[1] / "best.npz").read_bytes())
    found = run(*several, data, "--out=out", module="committee")
    found.refused("best.npz belongs to run")
    own.write_bytes(saved)
    # As releases before 0.2 wrote it.
    (tmp_path / several[0] / "test_errors.npz").unlink()
    for name in ("run_id", "checksum"):
        del content[name]
    record.write_text(json.dumps(content))
    run(*several, data, "--out=out", module="committee").succeeded()
    written = json.loads((tmp_path / "out" / "committee.json").read_text())
    assert [one["run_id"] is None for one in written["runs"]] == [True, False]


def test_validation_frames_are_those_of_all_runs(run, train, tmp_path, place):
    for count in (1, 2):
        args = (f"--num_valid={count}", "--epochs=1", f"--workdir=runs/{count}")
        train(*args).succeeded()
    args = ("runs", f"--data_dir={place}", "--out=out")
    found = run(*args, "--split=valid", module="committee")
    found.refused("same validation frames of all runs, found 1 of 1, 2 of 2")
    assert not (tmp_path / "out").exists()
    run(*args, module="committee").succeeded()


def test_the_data_of_the_runs_are_not_made_anew(tmp_path):
    settings = potentials.Settings()
    for name in ("xtb_ethanol", "mine.xyz"):
        with pytest.raises(UserError, match=f"the data {name} here or in .*--data_dir"):
            potential_data.load_known(name, tmp_path, settings)
    assert not list(tmp_path.iterdir())


def test_a_rank_correlation_needs_ranks():
    values = np.array([1.0, 2.0, 3.0])
    assert command.rank_correlation(values, values**2) == pytest.approx(1)
    assert command.rank_correlation(values, -values) == pytest.approx(-1)
    assert command.rank_correlation(values, np.ones(3)) is None
    assert command.rank_correlation(values[:2], values[:2]) is None
    figure = command.draw(np.zeros(3), values, POTENTIAL)
    assert figure.axes[0].get_xscale() == "linear"
    assert command.draw(values, values, POTENTIAL).axes[0].get_xscale() == "log"


def test_means_over_frames_of_several_sizes():
    """By the atoms of each frame."""
    sizes = np.array([2, 3], np.int32)
    frames = Frames(
        np.ones(5, np.uint8), np.zeros((5, 3)), np.zeros(2), np.zeros((5, 3)), sizes
    )
    values = np.arange(15.0).reshape(5, 3)
    found = command.per_frame(values, frames)
    np.testing.assert_allclose(found, [values[:2].mean(), values[2:].mean()])
