"""What is wrong with frames that can be read: units, cells, odd ones, flags."""

import dataclasses
import pathlib

import numpy as np
import pytest

from demetar import heads
from demetar.data import edges, frame_checks, frame_notes, potential_heads, potentials
from demetar.data import units as all_units
from demetar.data.frames import joined
from demetar.data.readers.frames import Reading, read, read_with_units
from demetar.data.units import Units
from demetar.errors import UserError
from demetar.types import Head
from experiments import potential
from tests.support import frame_texts

WALK = frame_texts.trajectory(60)
KCAL = all_units.ENERGIES["kcal/mol"]


def saved(folder: pathlib.Path, **arrays: np.ndarray) -> pathlib.Path:
    np.savez(folder / "mine.npz", **arrays)  # type: ignore[arg-type]
    return folder / "mine.npz"


def load(place, **settings):
    return potentials.load(str(place), place.parent, potentials.Settings(**settings))


# --- Units --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "real, declared, message",
    [
        (Units("eV"), Units("Ha"), "the forces are likely in eV/Å"),
        (Units("eV"), Units("kcal/mol"), "the forces are likely in eV/Å"),
        (Units("kcal/mol"), Units("Ha"), "the forces are likely in kcal/mol/Å"),
        (Units("Ha"), Units("kcal/mol"), "the forces are likely in Ha/Å"),
        (Units("Ha", "bohr"), Units("kcal/mol", "bohr"), "are likely in Ha/bohr"),
        (Units("eV", "bohr"), Units("eV", "nm"), "the positions are likely in bohr"),
        (Units("meV"), Units("kJ/mol"), "the forces are likely in meV/Å"),
    ],
)
def test_the_likely_unit_is_that_of_the_file(real, declared, message):
    in_file = WALK.scaled(1 / real.to_ev, 1 / real.to_angstrom)
    taken = in_file.scaled(declared.to_ev, declared.to_angstrom)
    notes = frame_notes.notes_on(taken, "these", declared)
    assert any(message in note for note in notes), notes
    right = in_file.scaled(real.to_ev, real.to_angstrom)
    assert frame_notes.notes_on(right, "these", real) == ()


def test_energies_beside_forces_of_another_unit_are_named_as_in_the_file():
    declared = Units("kcal/mol")
    odd = dataclasses.replace(WALK, energies=WALK.energies / 27.2 * KCAL)
    odd = dataclasses.replace(odd, forces=WALK.forces / 51.4 * KCAL)
    notes = frame_notes.notes_on(odd, "these", declared)
    assert any("likely in Ha, beside forces in Ha/bohr" in note for note in notes)


def test_units_of_molecules_of_any_sizes(tmp_path):
    frames = frame_texts.mixed(3)
    hartree, bohr = all_units.HARTREE, all_units.BOHR
    arrays = frame_texts.flat(frames.scaled(1 / hartree, 1 / bohr))
    told = saved(tmp_path, **arrays, e_unit=np.array("Ha"), r_unit=np.array("bohr"))
    found, read_as = read_with_units(told, Reading())
    np.testing.assert_allclose(found.energies, frames.energies)
    np.testing.assert_allclose(found.forces, frames.forces, atol=1e-12)
    assert read_as == Units("Ha", "bohr")
    odd = saved(tmp_path, **arrays, e_unit=np.array("parsec"))
    with pytest.raises(UserError, match="the e_unit of .*found 'parsec'"):
        read(odd, Reading())
    given = read(odd, Reading(energy_unit="Ha", length_unit="bohr"))
    np.testing.assert_allclose(given.energies, frames.energies)


def units_in_comments(text: str, *units: str) -> str:
    parts = text.split("energy=")
    return parts[0] + "".join(
        f"{own} energy={part}" for own, part in zip(units, parts[1:], strict=True)
    )


def test_units_in_comments(tmp_path):
    frames = frame_texts.trajectory(2)
    text = frame_texts.extended_xyz(frames.scaled(1e3, 1.0))
    path = tmp_path / "mine.xyz"
    milli = 'energy_unit=meV forces_unit="meV/Å"'
    path.write_text(units_in_comments(text, milli, milli))
    np.testing.assert_allclose(read(path, Reading()).forces, frames.forces, atol=1e-12)
    taken = read(path, Reading(energy_unit="eV"))  # a person knows better
    np.testing.assert_allclose(taken.energies, frames.energies * 1e3)
    for units, message in (
        ((milli, ""), "the same units in all frames.*none; meV and meV/Å"),
        (("energy_unit=eV forces_unit=meV/Å",) * 2, "forces .* in eV per length"),
        (("energy_unit=parsec",) * 2, "the unit that .*found 'parsec'"),
    ):
        path.write_text(units_in_comments(text, *units))
        with pytest.raises(UserError, match=message):
            read(path, Reading())


# --- Files --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cell", "Lattice", "unit_cell", "box", "pbc"])
@pytest.mark.parametrize("kind", ["one", "many"])
def test_a_cell_by_any_name_is_refused(tmp_path, name, kind):
    frames = frame_texts.trajectory(3)
    arrays = (
        frame_texts.flat(frames) if kind == "many" else frame_texts.of_sgdml(frames)
    )
    cell = np.ones((3, 3), bool) if name == "pbc" else np.tile(9 * np.eye(3), (3, 1, 1))
    with pytest.raises(UserError, match=f"a periodic cell .{name}.*leave it out"):
        read(saved(tmp_path, **arrays, **{name: cell}), Reading())
    assert len(read(saved(tmp_path, **arrays, **{name: 0 * cell}), Reading())) == 3
    if name != "pbc":
        is_open = {name: cell, "pbc": np.zeros(3, bool)}
        assert len(read(saved(tmp_path, **arrays, **is_open), Reading())) == 3


def test_a_cell_in_a_comment(tmp_path):
    path = tmp_path / "mine.xyz"
    text = frame_texts.extended_xyz(frame_texts.trajectory(1)).replace(
        'pbc="F F F"', ""
    )
    path.write_text(text.replace("energy=", 'cell="9 0 0 0 9 0 0 0 9" energy='))
    with pytest.raises(UserError, match="periodic cell"):
        read(path, Reading())
    path.write_text(text.replace("energy=", "cell=9 energy="))
    assert len(read(path, Reading())) == 1


@pytest.mark.parametrize(
    "other",
    [
        *("date=2024-01-02", "level=6-31G*", "path=../a.xyz", "time=12:30:11"),
        *("T=300K", 'e=""'),
    ],
)
def test_what_else_a_comment_says_is_passed_over(tmp_path, other):
    frames = frame_texts.trajectory(1)
    text = frame_texts.extended_xyz(frames)
    path = tmp_path / "mine.xyz"
    path.write_text(text.replace("energy=", f"{other} energy="))
    assert read(path, Reading()).energies == pytest.approx(frames.energies)
    name = other.partition("=")[0]
    with pytest.raises(UserError, match=f"{name}= is .*--energy_key"):
        read(path, Reading(energy_key=name))


@pytest.mark.parametrize(
    "reading, message",
    [
        (Reading(energy_key=""), "--energy_key names no property"),
        (Reading(forces_key="pos"), "declares no pos:R:3.*are forces"),
    ],
)
def test_keys_that_name_no_energy_and_no_forces(tmp_path, reading, message):
    path = tmp_path / "mine.xyz"
    path.write_text(frame_texts.extended_xyz(WALK.take([0])))
    with pytest.raises(UserError, match=message):
        read(path, reading)


@pytest.mark.parametrize(
    "suffix, setting",
    [
        ("npz", {"energy_key": "E"}),
        ("npz", {"labels": "md17"}),
        ("xyz", {"fold": 3}),
    ],
)
def test_settings_of_other_sources_are_refused(tmp_path, suffix, setting):
    path = tmp_path / "mine.xyz"
    path.write_text(frame_texts.extended_xyz(WALK))
    if suffix == "npz":
        path = saved(tmp_path, **frame_texts.flat(WALK))
    (name,) = setting
    load(path)
    with pytest.raises(UserError, match=f"--{name}=.*says nothing of .*leave it out"):
        load(path, **setting)


# --- Frames -------------------------------------------------------------------------


@pytest.mark.parametrize("round_off", [np.float32, lambda x: x.round(5)])
def test_copies_in_another_precision_are_all_found(round_off):
    copies = WALK.take(slice(0, 20))
    copies = dataclasses.replace(copies, positions=1.0 * round_off(copies.positions))
    test = joined([copies, frame_texts.trajectory(5, seed=1)])
    with pytest.raises(UserError, match="found 20 of the 25 test frames"):
        frame_checks.refuse_duplicates({"train": WALK, "test": test}, "here")


@pytest.mark.parametrize("energy", [0.0, -9999.0, -100 * 27.2, 1e6])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_energy_that_stands_for_none_is_told(energy, mixed):
    frames = frame_texts.mixed(15) if mixed else frame_texts.trajectory(30)
    energies = frames.energies.copy()
    energies[7] = energy
    odd = dataclasses.replace(frames, energies=energies)
    (note,) = frame_notes.notes_on(odd, "these")
    assert "the energy of frame 7 (from 0)" in note and "1 such in all" in note
    wrong = dataclasses.replace(odd, forces=-odd.forces)
    notes = frame_notes.notes_on(wrong, "these")
    assert mixed or any("the sign is likely wrong" in note for note in notes)


def test_forces_that_stand_for_none_are_told():
    forces = WALK.forces.reshape(60, 3, 3).copy()
    forces[[4, 9]] = 0
    odd = dataclasses.replace(WALK, forces=forces.reshape(-1, 3))
    notes = frame_notes.notes_on(odd, "these")
    assert any("all forces of frame 4 (from 0) are 0, of 2 frames" in n for n in notes)


@pytest.mark.parametrize("place, message", [(None, "0 Å"), (3e6, "e.06 Å")])
def test_an_impossible_frame_is_refused(tmp_path, place, message):
    places = WALK.positions.reshape(60, 3, 3).copy()
    places[5, 2] = places[5, 1] if place is None else place
    odd = dataclasses.replace(WALK, positions=places.reshape(-1, 3))
    path = saved(tmp_path, **frame_texts.flat(odd))
    with pytest.raises(UserError, match=f"of frame 5 .from 0. .*{message}.*1 such"):
        load(path)
    frame_checks.refuse_impossible(WALK, "here")


def test_an_element_is_named_by_the_frame_of_its_file(tmp_path):
    numbers = WALK.numbers.reshape(60, 3).copy()
    alone = [row for row in range(60) if row not in _training_rows(60)][0]
    numbers[alone, 1] = 7
    odd = dataclasses.replace(WALK, numbers=numbers.ravel())
    sets = load(saved(tmp_path, **frame_texts.flat(odd)))
    with pytest.raises(UserError, match=rf"7 .N. in frame {alone} of mine.npz"):
        potential_heads.load("mine", sets, potential_heads.Settings())


def _training_rows(count: int) -> list[int]:
    return np.random.default_rng(0).permutation(count)[: int(0.8 * count)].tolist()


# --- Graphs -------------------------------------------------------------------------


def test_a_cutoff_without_neighbours_is_refused_and_one_with_few_told(tmp_path):
    path = saved(tmp_path, **frame_texts.flat(WALK))
    sets = load(path, cutoff=0.1)
    with pytest.raises(UserError, match="no two atoms .*the nearest are 0.9"):
        settings = potential_heads.Settings(cutoff=0.1)
        potential_heads.load("mine", sets, settings)
    assert any(
        "no other one within --cutoff=0.95" in n for n in load(path, cutoff=0.95).notes
    )
    assert not any("no other one" in note for note in load(path, cutoff=2.0).notes)


def test_pairs_of_large_frames_are_those_of_small_ones():
    places = np.random.default_rng(0).normal(size=(80, 3))
    found = edges.within(places, 0.7)
    expected = edges.chosen(places, np.array([80]), 0.7)
    np.testing.assert_array_equal(found, expected.ends(np.array([80])))
    large = np.random.default_rng(1).uniform(0, 100, size=(20_000, 3))
    both = edges.chosen(large, np.array([20_000]), 2.0)
    senders, _ = both.ends(np.array([20_000]))
    assert int(both.n_edge[0]) == len(senders) > 1_000


def test_complete_graphs_that_fit_no_memory_are_refused():
    size = 20_000
    huge = dataclasses.replace(
        WALK,
        numbers=np.ones(size, np.uint8),
        positions=np.zeros((size, 3)),
        n_node=np.array([size], np.int32),
    )
    with pytest.raises(UserError, match="399,980,000, .* 20,000 atoms.*give --cutoff"):
        potentials.graphs(huge, ("H",), None)


# --- What is subtracted -------------------------------------------------------------


@pytest.mark.parametrize(
    "given, offsets, message",
    [
        (("H=-1", "H=-2", "O=-4"), "species", "found H twice"),
        (("H=-1", "O=-4", "F=-2"), "species", "found those of F too"),
        (("H=-10", "O=-80"), "mean", "found both"),
        (("H=-1e3", "O=-2e3"), "species", "leave 1300 eV.*another unit"),
    ],
)
def test_contradicting_references_are_refused(given, offsets, message):
    settings = potential_heads.Settings(reference_energies=given, offsets=offsets)
    task = potentials.make_task("a", potential_heads.make_heads(settings), WALK, None)
    with pytest.raises(UserError, match=message):
        potential_heads.fit(task, WALK, settings)
    right = potential_heads.Settings(reference_energies=("H=-10", "O=-80"))
    assert not potential_heads.fit(task, WALK, right).heads[0].unknown
    by_frames = potential_heads.fit(task, WALK, potential_heads.Settings())
    assert by_frames.heads[0].unknown  # the negative control


def test_compositions_beyond_those_of_training_are_not_known():
    head = Head("energy", "graph_scalar", extensive=True)
    water, peroxide, oxygen = [2.0, 1.0], [2.0, 2.0], [0.0, 2.0]
    one = heads.fit(head, np.array([-76.0, -76.1]), np.array([water] * 2), "species")
    asked = np.array([water, [4.0, 2.0], peroxide, oxygen])
    assert heads.are_known(one, asked).tolist() == [True, True, False, False]
    values = np.array([-76.0, -151.0, -151.1, -76.1])
    counts = np.array([water, peroxide, peroxide, water])
    two = heads.fit(head, values, counts, "species")
    assert heads.are_known(two, asked).all()


@pytest.mark.parametrize("model", ["graphormer", "newton"])
def test_a_model_without_forces_is_no_potential(model):
    with pytest.raises(UserError, match=f"{model} has no energy.*nequip"):
        potential.check_model(model)
    potential.check_model("schnet")
