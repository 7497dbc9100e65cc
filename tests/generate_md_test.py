"""`tools.generate_md`: physics of the dynamics, files, resuming, and bad input."""

import dataclasses
import json
import pathlib
import threading

import numpy as np
import pytest

from demetar.data import frame_checks, frame_files, frame_notes, potentials
from demetar.errors import UserError
from tests.support import frame_texts
from tools import folders, generate_md, langevin, structures, trajectories, xtb
from tools.command_line import Given

WATER = structures.Structure("water", *frame_texts.WATER)
TINY = trajectories.Settings(
    equilibration=20.0,
    interval=2.0,
    num_train=7,
    num_valid=3,
    num_test=5,
    trajectory_frames=4,
)


def springs(numbers):
    """The engine of springs between the atoms of water."""
    assert (numbers == WATER.numbers).all()
    return lambda positions: frame_texts.springs(positions, WATER.positions)


def generate(folder, settings=TINY, make_engine=springs, **options):
    return generate_md.generate(
        WATER, settings, folder, make_engine=make_engine, progress=False, **options
    )


def read(folder):
    metadata = frame_files.read_metadata(folder)
    return {
        split: frame_files.read_split(folder, split, metadata)
        for split in frame_files.SPLITS
    }


# --- The dynamics -------------------------------------------------------------------


def averages(bath: langevin.Bath, steps: int) -> tuple[float, float]:
    """Potential and kinetic temperature of 200 oscillators, over those of the bath."""
    random = np.random.default_rng(0)
    masses, stiffness = np.full(200, 12.0), 20.0

    def engine(positions):
        return float((stiffness * positions**2).sum() / 2), -stiffness * positions

    positions = np.zeros((200, 3))
    velocities = langevin.thermal_velocities(masses, bath.temperature, random)
    state = langevin.State(positions, velocities, *engine(positions))
    found = []
    for number in range(steps):
        state = langevin.step(state, masses, engine, bath, random)
        if number > steps // 4:
            potential = stiffness * np.mean(state.positions**2) / langevin.BOLTZMANN
            kinetic = langevin.temperatures(state.velocities[None], masses)[0]
            found.append((potential, kinetic))
    both = np.mean(found, axis=0) / bath.temperature
    return float(both[0]), float(both[1])


def test_oscillators_have_the_temperature_of_the_bath():
    potential, kinetic = averages(langevin.Bath(500.0, 0.05, 1.0), 1_500)
    assert abs(potential - 1) < 0.03 and abs(kinetic - 1) < 0.03


def test_a_bath_that_gives_nothing_back_cools(monkeypatch):
    """The negative control of the test above."""
    widths = langevin._widths
    monkeypatch.setattr(langevin, "_widths", lambda *args: 0.5 * widths(*args))
    potential, kinetic = averages(langevin.Bath(500.0, 0.05, 1.0), 500)
    assert potential < 0.5 and kinetic < 0.5


def test_without_friction_the_energy_is_kept_to_second_order():
    def drift(time_step):
        bath = langevin.Bath(500.0, 0.0, time_step)
        random = np.random.default_rng(1)
        engine = springs(WATER.numbers)
        velocities = langevin.thermal_velocities(WATER.masses, 500.0, random)
        state = langevin.State(WATER.positions, velocities, *engine(WATER.positions))
        totals = []
        for _ in range(round(40 / time_step)):
            state = langevin.step(state, WATER.masses, engine, bath, random)
            kinetic = langevin.temperatures(state.velocities[None], WATER.masses)[0]
            totals.append(state.energy + 4.5 * langevin.BOLTZMANN * kinetic)
        return np.std(totals)

    coarse, fine = drift(0.5), drift(0.25)
    assert fine < 1e-3 and 3 < coarse / fine < 5


# --- The files ----------------------------------------------------------------------


def test_a_folder_of_frames(tmp_path):
    out = tmp_path / "water"
    metadata = generate(out)
    parts = read(out)
    assert [len(parts[split]) for split in frame_files.SPLITS] == [7, 3, 5]
    for frames in parts.values():
        for row in range(len(frames)):
            one = frames.take([row])
            energy, forces = frame_texts.springs(one.positions, WATER.positions)
            np.testing.assert_allclose(one.energies[0], energy)
            np.testing.assert_allclose(one.forces, forces)
        assert frames.velocities.shape == frames.positions.shape
    with np.load(out / "train.npz") as file:
        assert file["trajectory"].tolist() == [0] * 4 + [1] * 3
        assert file["time"].tolist() == [2.0, 4.0, 6.0, 8.0, 2.0, 4.0, 6.0]
    assert metadata["molecule"]["numbers"] == [8, 1, 1]
    assert metadata["settings"]["integrator"] == "BAOAB"
    assert set(metadata["measured"]["test"]) >= {"temperature", "force_rms"}
    assert folders.verify(out, frame_files.read_metadata) == []
    assert [path.name for path in tmp_path.iterdir()] == ["water"]
    sets = potentials.load("water", tmp_path, potentials.Settings(num_train=6))
    assert len(sets.parts["train"]) == 6 and sets.notes == ()


def test_frames_follow_from_the_settings_alone(tmp_path):
    first = generate(tmp_path / "a", num_workers=1)
    again = generate(tmp_path / "b", num_workers=5)
    other = generate(tmp_path / "c", dataclasses.replace(TINY, seed=1))
    longer = generate(tmp_path / "d", dataclasses.replace(TINY, num_test=9))
    assert first["fingerprint"] == again["fingerprint"] != other["fingerprint"]
    assert first["arrays"]["train"] == longer["arrays"]["train"]
    assert first["arrays"]["test"] != longer["arrays"]["test"]


def test_no_trajectory_is_in_two_splits(tmp_path):
    generate(tmp_path / "a", dataclasses.replace(TINY, equilibration=0.0))
    parts = read(tmp_path / "a")
    frame_checks.refuse_duplicates(parts, "a")
    firsts = {split: frames.positions[0].tobytes() for split, frames in parts.items()}
    assert len({*firsts.values()}) == 3


def test_an_interrupted_run_continues_to_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "CHUNK_FRAMES", 2)
    expected = generate(tmp_path / "whole")
    calls = [0]

    def failing(most):
        def make_engine(numbers):
            engine = springs(numbers)

            def compute(positions):
                calls[0] += 1
                if calls[0] > most:
                    raise KeyboardInterrupt
                return engine(positions)

            return compute

        return make_engine

    out, total = tmp_path / "cut", None
    for most in (100, 150, None):
        calls[0] = 0
        if most is None:
            break
        with pytest.raises(KeyboardInterrupt):
            generate(out, make_engine=failing(most), num_workers=1)
        assert not out.exists()
    found = generate(out, make_engine=failing(10**9), num_workers=1)
    total = calls[0]
    assert found["fingerprint"] == expected["fingerprint"]
    calls[0] = 0
    generate(tmp_path / "fresh", make_engine=failing(10**9), num_workers=1)
    assert total < 0.8 * calls[0]  # what was there was not computed again
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut", "fresh"}


def test_a_damaged_chunk_is_computed_again(tmp_path, monkeypatch):
    expected = generate(tmp_path / "whole")

    def stop(*args):
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(generate_md, "_write", stop)
        with pytest.raises(UserError, match="stopped"):
            generate(tmp_path / "cut")
    (kept,) = tmp_path.glob(".cut.unfinished-*")
    chunks = sorted(kept.iterdir())
    assert len(chunks) == 5  # two, one and two trajectories
    chunks[0].write_bytes(chunks[0].read_bytes()[:-100])
    np.savez(chunks[1], positions=np.zeros((2, 3, 3)))
    assert generate(tmp_path / "cut")["fingerprint"] == expected["fingerprint"]


def test_changed_files_are_found(tmp_path):
    out = tmp_path / "a"
    generate(out)
    generate_md.run(Given({"verify": str(out)}))
    path = out / "valid.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    right = arrays["forces"].copy()
    arrays["forces"][1, 2] += 1e-9
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="valid.npz: the SHA-256 of forces differs"):
        generate_md.run(Given({"verify": str(out)}))
    with pytest.raises(UserError, match="was altered: the SHA-256 of forces"):
        potentials.load(str(out), tmp_path, potentials.Settings())
    arrays["forces"] = right
    del arrays["velocities"]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="altered: .*velocities is missing"):
        read(out)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "bodies"}, "expected the kind 'frames', found 'bodies'"),
        ({"kind": None}, "found None"),
        ({"format": 3}, "has format 3, expected 2"),
        ({"arrays": []}, "expected arrays"),
        ({"molecule": {"name": "other"}}, "its checksum is not that of its entries"),
        ({"fingerprint": "0"}, "its fingerprint is not that of its checksums"),
    ],
)
def test_changed_metadata_are_refused(tmp_path, changes, message):
    out = tmp_path / "a"
    metadata = generate(out)
    (out / "metadata.json").write_text(json.dumps({**metadata, **changes}))
    with pytest.raises(UserError, match=message) as caught:
        read(out)
    assert "\n" not in str(caught.value)
    (out / "metadata.json").unlink()
    with pytest.raises(UserError, match="is not a finished set of frames"):
        read(out)


# --- Bad input ----------------------------------------------------------------------


def test_an_explosion_is_told_and_nothing_is_left(tmp_path):
    wild = dataclasses.replace(TINY, time_step=2.0)
    with pytest.raises(UserError, match="left what a molecule can be.*--time_step"):
        generate(
            tmp_path / "a",
            wild,
            lambda numbers: lambda x: (0.0, 1e3 * (x - WATER.positions)),
        )
    assert not (tmp_path / "a").exists()
    assert not list(tmp_path.glob(".a.partial-*"))


def test_a_folder_is_not_replaced_unless_asked(tmp_path):
    out = tmp_path / "a"
    generate(out)
    before = (out / "metadata.json").read_bytes()
    other = dataclasses.replace(TINY, seed=5)
    with pytest.raises(UserError, match="pass --overwrite"):
        generate(out, other)
    assert (out / "metadata.json").read_bytes() == before
    generate(out, other, overwrite=True)
    assert (out / "metadata.json").read_bytes() != before


def test_two_processes_do_not_write_one_folder(tmp_path):
    held, release = threading.Event(), threading.Event()

    def waiting(numbers):
        held.set()
        assert release.wait(30)
        return springs(numbers)

    first = threading.Thread(target=generate, args=(tmp_path / "a", TINY, waiting))
    first.start()
    assert held.wait(30)
    try:
        with pytest.raises(UserError, match="another process is generating"):
            generate(tmp_path / "a")
    finally:
        release.set()
        first.join()
    assert len(read(tmp_path / "a")["train"]) == 7


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "expected --out=DIR"),
        ({"out": "o", "interval": 0.7}, "a multiple of --time_step=0.5, found 0.7"),
        ({"out": "o", "molecule": "mine.xyz"}, "to be a file, found none"),
        ({"out": "o", "molecule": "two.xyz"}, "one molecule in two.xyz, found 2"),
        ({"out": "o", "molecule": "atom.xyz"}, "two atoms or more"),
        ({"out": "o", "molecule": "heavy.xyz"}, r"from H to U.*found 118 \(Og\)"),
        ({"out": "o", "molecule": "cell.xyz"}, "a periodic cell"),
        ({"verify": "none"}, "is not a finished set of frames"),
    ],
)
def test_wrong_flags(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    atom = "1\n\nH 0 0 0\n"
    for name, content in (
        ("two", 2 * atom),
        ("atom", atom),
        ("heavy", "2\n\nH 0 0 0\nOg 0 0 2\n"),
        ("cell", '1\npbc="T T T"\nH 0 0 0\n'),
    ):
        pathlib.Path(f"{name}.xyz").write_text(content)
    with pytest.raises(UserError, match=message):
        generate_md.run(Given(flags))


def test_missing_packages_are_told(tmp_path, monkeypatch):
    def missing(name):
        raise xtb.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(xtb.importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install '\.\[potential\]'") as caught:
        generate(tmp_path / "a", make_engine=None)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    monkeypatch.setitem(__import__("sys").modules, "ase.collections", None)
    with pytest.raises(UserError, match=r"pip install '\.\[potential\]'"):
        structures.find("ethanol")


# --- With ASE and tblite ------------------------------------------------------------


def test_every_name_is_in_the_collection_of_ase():
    pytest.importorskip("ase")
    sizes = {name: len(structures.find(name).numbers) for name in structures.NAMES}
    assert sizes["ethanol"] == 9 and sizes["benzene"] == 12 and sizes["water"] == 3
    assert structures.find("CH3CH2OH").numbers.tolist() == [6, 6, 8, *[1] * 6]
    with pytest.raises(UserError, match="did you mean ethanol?"):
        structures.find("ethanl")
    with pytest.raises(UserError, match="two atoms or more"):
        structures.find("Si")


def test_forces_of_the_engine_are_minus_its_slopes():
    pytest.importorskip("tblite")
    engine = xtb.engine("GFN2-xTB", WATER.numbers)
    energy, forces = engine(WATER.positions)
    assert -138.1 < energy < -137.9  # tblite's own example has -137.968 eV
    step = np.zeros((3, 3))
    step[1, 1] = 1e-3
    rise = engine(WATER.positions + step)[0] - engine(WATER.positions - step)[0]
    assert rise / 2e-3 == pytest.approx(-forces[1, 1], abs=1e-4)


def test_frames_of_a_real_engine(tmp_path):
    pytest.importorskip("tblite")
    short = dataclasses.replace(TINY, interval=1.0, equilibration=5.0)
    first = generate(tmp_path / "a", short, None, num_workers=1)
    again = generate(tmp_path / "b", short, None, num_workers=2)
    assert first["fingerprint"] == again["fingerprint"]
    assert first["engine"]["tblite"]
    frames = read(tmp_path / "a")["train"]
    assert frame_notes.notes_on(frames, "these") == ()
