"""Trained potentials in use: ASE's calculator, dynamics, minima and vibrations."""

import dataclasses
import json
import math
from typing import Any

import ase
import numpy as np
import pytest
from matplotlib.figure import Figure

import demetar
from demetar.errors import UserError
from demetar.potential import Potential
from demetar.types import Head
from experiments import dynamics
from experiments.run import motion, motion_figures
from tests.support import slopes, trained
from tools import langevin
from tools.structures import Structure

HEADS = (
    dataclasses.replace(trained.MOLECULES.heads[0], unit="meV", scale=3e6),
    Head("forces", "node_vector", unit="meV/Å", scale=50.0, gradient_of="energy"),
)
TASK = dataclasses.replace(trained.MOLECULES, name="potential", heads=HEADS)
NEAR = dataclasses.replace(
    TASK, connectivity="radius 3", cutoff=3.0, radial_extent=3.0, average_neighbors=5.0
)
NUMBERS = np.array([8, 1, 1, 6, 1])


def places(seed=0, size=5):
    """A cluster of atoms about 1.5 Å from each other."""
    spread = np.random.default_rng(seed).normal(size=(size, 3))
    return 1.5 * spread / np.linalg.norm(spread, axis=1, keepdims=True) + 0.2 * spread


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained.save(tmp_path_factory.mktemp("runs") / "near", "schnet", NEAR)


# --- The calculator -----------------------------------------------------------------


def test_a_calculator_has_energies_in_ev_and_their_slopes(run):
    atoms = ase.Atoms(NUMBERS, places())
    atoms.calc = demetar.calculator(run, dtype="float64")
    model = demetar.load(run, dtype="float64")
    found = model(positions=atoms.positions, species=NUMBERS)
    assert atoms.get_potential_energy() == pytest.approx(1e-3 * found["energy"])
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces, 1e-3 * found["forces"])
    assert atoms.calc.potential.is_conservative and np.abs(forces).max() > 1e-4
    bound = 1e-4 * np.abs(forces).max()
    np.testing.assert_allclose(forces, slopes.forces(atoms), atol=bound)


def test_neighbours_that_come_and_go_compile_nothing(run):
    """A shape has room for more than it was made for; one that grows is kept."""
    model = demetar.load(run)
    potential = Potential(model)
    counts = set()
    for step in range(40):
        positions = places() * (1 + 0.4 * math.sin(step))
        potential(NUMBERS, positions)
        lengths = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        counts.add(int((lengths < NEAR.cutoff).sum()))
    shapes = model.num_shapes
    assert len(counts) >= 4 and shapes <= 2
    program: Any = model._program
    assert program._cache_size() == shapes


def test_a_periodic_cell_and_an_unknown_element_are_refused(run):
    atoms = ase.Atoms(NUMBERS, places(), cell=[9, 9, 9], pbc=[True, False, False])
    atoms.calc = demetar.calculator(run)
    with pytest.raises(UserError, match="without a periodic cell.*set atoms.pbc = Fal"):
        atoms.get_forces()
    with pytest.raises(UserError, match="species H, C, O that the model knows"):
        Potential(demetar.load(run))([16, 1, 1, 6, 1], places())


@pytest.mark.parametrize(
    "model, task, part",
    [
        ("graphormer", TASK, "graphormer reads no positions, so it has no forces"),
        ("egnn", NEAR, "jumps as atoms come and go.*one of torchmd_et, nequip, schnet"),
        ("schnet", trained.MOLECULES, "heads energy and forces, found energy; train"),
        ("schnet", dataclasses.replace(TASK, length_unit="m"), "in Å, found m"),
    ],
)
def test_what_is_no_potential_is_refused(model, task, part):
    with pytest.raises(UserError, match=part):
        Potential(demetar.Predictor(trained.make(model, task)))


def test_models_without_an_envelope_serve_on_complete_graphs():
    Potential(demetar.Predictor(trained.make("egnn", TASK)))
    fields = {"num_layers": 1, "vector_cutoff": False}
    with pytest.raises(UserError, match="jumps as atoms come and go"):
        Potential(demetar.Predictor(trained.make("torchmd_et", NEAR, 1, fields)))


# --- Dynamics, minima and vibrations ------------------------------------------------

STIFF = 30.0  # eV/Å^2
LENGTH = 1.1  # Å
WATER = Structure("water", np.array([8, 1, 1]), places(size=3))


def springs(turning=0.0):
    """Atoms joined by springs; `turning` adds forces that are no gradient."""

    def compute(positions):
        arms = positions[:, None] - positions[None]
        lengths = np.linalg.norm(arms, axis=-1) + np.eye(len(arms))
        stretched = np.where(np.eye(len(arms)) > 0, 0, lengths - LENGTH)
        forces = -STIFF * np.sum((stretched / lengths)[..., None] * arms, axis=1)
        centred = positions - positions.mean(axis=0)
        forces += turning * np.cross([0.0, 0.0, 1.0], centred)
        return STIFF * np.sum(stretched**2) / 4, forces

    return compute


def trace(engine, time_step=0.5, num_frames=100):
    start = motion.relax(WATER.positions, springs(), 1e-8).positions
    velocities = motion.start_velocities(
        start, WATER.masses, 600.0, np.random.default_rng(0)
    )
    return motion.constant_energy(
        *(start, velocities, WATER.masses, engine, time_step),
        frames=range(num_frames),
        interval=round(10 / time_step),
    )


def test_dynamics_conserve_energy_and_others_drift():
    """Velocity Verlet: errors of the second order in the time step, and no drift."""
    fine, coarse = trace(springs()), trace(springs(), 1.0)
    assert fine.is_whole and len(fine.times) == 101 and fine.times[-1] == 1000.0
    assert coarse.spread == pytest.approx(4 * fine.spread, rel=0.5)
    assert 100 < fine.temperature < 900
    assert abs(fine.drift) < 0.2 * fine.spread
    turned = trace(springs(0.05))  # the negative control
    assert abs(turned.drift) > 20 * abs(fine.drift)
    broken = trace(springs(-1e3))
    assert not broken.is_whole and len(broken.times) < 101


def test_velocities_at_the_start_neither_drift_nor_turn():
    velocities = motion.start_velocities(
        WATER.positions, WATER.masses, 300.0, np.random.default_rng(1)
    )
    momenta = WATER.masses[:, None] * velocities
    assert np.abs(momenta).max() > 1e-3
    np.testing.assert_allclose(momenta.sum(axis=0), 0, atol=1e-12)
    turning = np.cross(WATER.positions, momenta).sum(axis=0)
    np.testing.assert_allclose(turning, 0, atol=1e-12)


def test_a_minimum_is_found_and_structures_are_superposed():
    minimum = motion.relax(WATER.positions, springs(), 1e-6)
    lengths = np.linalg.norm(minimum.positions - minimum.positions[[1, 2, 0]], axis=1)
    np.testing.assert_allclose(lengths, LENGTH, atol=1e-6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)  # a rotation
    turned = WATER.positions @ turn + 3.0
    assert motion.deviation(WATER.positions, turned) < 1e-12
    assert motion.deviation(WATER.positions, 1.1 * turned) > 0.05
    with pytest.raises(UserError, match="no minimum was found in 1,000 steps"):
        motion.relax(WATER.positions, springs(1.0), 1e-6)


def test_frequencies_are_those_of_springs():
    """Of two atoms, sqrt(k / reduced mass); a linear molecule has 3 n - 5."""
    masses = np.array([1.008, 15.999])
    reduced = masses.prod() / masses.sum()
    expected = math.sqrt(STIFF * langevin.ACCELERATION / reduced)
    expected /= 2 * math.pi * motion.LIGHT
    ends = np.array([[0.0, 0.0, 0.0], [LENGTH, 0.0, 0.0]])
    found = motion.frequencies(ends, masses, springs())
    np.testing.assert_allclose(found, [expected], rtol=1e-3)
    three = motion.relax(WATER.positions, springs(), 1e-8).positions
    assert (motion.frequencies(three, WATER.masses, springs()) > 500).all()
    upside_down = motion.frequencies(
        three, WATER.masses, lambda x: (0.0, -springs()(x)[1])
    )
    assert (upside_down < -500).all() and upside_down.shape == (3,)


def test_linear_molecules_have_the_temperature_of_their_start():
    """The mean over many starts, of 3 n - 5 degrees of freedom and of 3 n - 6."""
    bent = WATER.positions
    straight = np.array([[0.0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]])
    turned = straight @ np.linalg.qr(bent)[0] + 3.0
    for positions, num_degrees in ((bent, 3), (straight, 4), (turned, 4)):
        found = []
        for seed in range(300):
            velocities = motion.start_velocities(
                positions, WATER.masses, 600.0, np.random.default_rng(seed)
            )
            start = motion.constant_energy(
                *(positions, velocities, WATER.masses, springs(), 0.5, [], 1)
            )
            found.append(start.temperature)
        assert start.num_degrees == num_degrees
        assert np.mean(found) == pytest.approx(600.0, rel=0.12)
        assert len(start.times) == 1


# --- The command --------------------------------------------------------------------


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """`compare(engines, *args)` runs the command on runs U of these engines.

    It returns the record, and what `named` called each.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\n")

    def begin(engines, *args):
        runs = [f"{index * 'd/'}U" for index in range(len(engines))]
        made = iter(engines)
        monkeypatch.setattr(
            *(dynamics, "model"),
            lambda run, label, dtype, _: dynamics.Subject(
                f"{label}, {dtype}", next(made), {"run": label}
            ),
        )
        args = ("--engine=none", "--molecule=water.xyz", "--out=new/shown", *args)
        dynamics.main(*dynamics.LINE.parse([*runs, *args]))
        (path,) = (tmp_path / "new/shown").glob("*.json")
        return json.loads(path.read_text())["results"]

    return begin


def scaled(factor):
    """Springs that are stiffer."""
    return lambda positions: tuple(factor * own for own in springs()(positions))


@pytest.mark.parametrize(
    "what, name", [("frequencies", "mae_per_cm"), ("nve", "spread_meV_per_atom")]
)
def test_runs_of_one_name_are_told_apart(what, name, compare, monkeypatch):
    drawn = []

    def kept(found):
        drawn.append({*found})
        return Figure()

    for draw in ("draw_frequencies", "draw_traces"):
        monkeypatch.setattr(motion_figures, draw, kept)
    flags = (f"--what={what}", "--duration=0.02", "--dtypes=float64,float64")
    first, second = compare([springs(), scaled(4.0)], *flags)
    assert (first["run"], second["run"]) == ("U", "d/U")
    assert second[name] != pytest.approx(first[name], rel=0.05)
    assert drawn == [{"U, float64", "d/U, float64"}]


def test_labels_are_as_short_as_tells_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = "pretrained:segnn"
    for runs, labels in (
        (["a/U"], ["U"]),
        (["a/U", "b/V"], ["a/U", "b/V"]),
        (
            ["A/best.npz", packaged, "B/best.npz"],
            ["A/best.npz", packaged, "B/best.npz"],
        ),
        (["U", "d/../U", "./U"], ["U"]),
        (["U", "U/best.npz"], ["U", "U/best.npz"]),
    ):
        found = dynamics.named(runs)
        assert [*found] == labels


def test_minima_that_are_linear_and_bent_have_no_paired_frequencies():
    found = dynamics._departures(np.ones(3), np.ones(4))
    assert np.isnan(found).all() and found.shape == (3,)
    assert dynamics._departures(np.ones(3), np.zeros(3)).tolist() == [1, 1, 1]


def test_a_failure_leaves_no_folder(compare, tmp_path):
    with pytest.raises(UserError, match="a larger --force, or start nearer"):
        compare([springs(1.0)], "--what=relax", "--force=1e-6")
    assert [path.name for path in tmp_path.iterdir()] == ["water.xyz"]
    (tmp_path / "new/shown").mkdir(parents=True)
    with pytest.raises(UserError, match="no minimum was found"):
        compare([springs(1.0)], "--what=relax", "--force=1e-6")
    assert (tmp_path / "new/shown").is_dir()


@pytest.mark.parametrize("what", ["nve", "relax", "frequencies"])
def test_atoms_at_one_point_are_refused(what, compare, tmp_path):
    (tmp_path / "two.xyz").write_text("4\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\nH 1 0 0.01\n")
    with pytest.raises(UserError, match=r"1 \(H\) and 3 \(H\) \(from 0\) at a dist"):
        compare([springs()], f"--what={what}", "--molecule=two.xyz")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["nve", "relax", "frequencies"])
def test_a_record_compares_with_the_first(what, tmp_path):
    options = dynamics.Options(what=what, duration=0.5)
    compute = getattr(dynamics, f"_{what}")
    subjects = [
        dynamics.Subject(name, springs(), {"run": name}) for name in ("engine", "model")
    ]
    still = motion.relax(WATER.positions, springs(), 1e-8).positions
    (first, second), figure = compute(
        subjects, WATER._replace(positions=still), options
    )
    assert first["run"] == "engine" and second["run"] == "model" and figure.axes
    name, bound = {
        "nve": ("drift_meV_per_atom_ps", 1.0),
        "relax": ("rmsd_A", 1e-3),
        "frequencies": ("largest_error_per_cm", 1.0),
    }[what]
    assert abs(second[name]) < bound
    dynamics.write(tmp_path / "record.json", options, [first, second])
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["settings"]["what"] == what and len(record["results"]) == 2


def test_the_command_refuses_in_one_line(run_module, tmp_path):
    for arguments, part in (
        ([], "expected the work directory of at least one run"),
        ([str(tmp_path)], "expected a trained model in"),
        ([str(tmp_path), "--dtypes=float16"], "expected --dtypes of float32, float64"),
        ([str(tmp_path), "--dtypes="], "expected at least one item in --dtypes"),
    ):
        done = run_module("experiments.dynamics", *arguments)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and part in line and done.returncode == 2


@pytest.mark.slow
def test_the_command_runs_dynamics_of_a_run(run, run_module, tmp_path):
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    done = run_module(
        "experiments.dynamics",
        *(str(run), "--molecule=water.xyz", "--duration=0.05", "--temperature=1"),
        "--out=shown",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "shown" / "nve.json").read_text())
    assert [row["dtype"] for row in record["results"]] == ["float32", "float64"]
    assert all(row["conservative"] for row in record["results"])
    assert abs(record["results"][1]["drift_meV_per_atom_ps"]) < 1.0
    assert str(tmp_path) not in json.dumps(record)
    assert (tmp_path / "shown" / "nve.png").stat().st_size > 1000
