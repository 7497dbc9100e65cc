"""Frames of energies and forces: files of all kinds, their faults, and their graphs."""

import dataclasses
import pathlib
import tempfile
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from demetar.data import frame_checks, frame_notes, frame_sources, potentials, units
from demetar.data.frames import Frames, joined, ragged
from demetar.data.readers import comment
from demetar.data.readers.frames import Reading, read
from demetar.data.samples import Samples
from demetar.errors import UserError
from demetar.types import Head
from tests.support import frame_texts
from tests.support.quick import quick

KCAL = units.ENERGIES["kcal/mol"]
HEADS = (
    Head("energy", "graph_scalar", unit="meV", extensive=True, error="absolute"),
    Head("forces", "node_vector", unit="meV/Å"),
)


def saved(
    folder: pathlib.Path, arrays: dict[str, np.ndarray], name: str = "mine.npz"
) -> pathlib.Path:
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]
    return folder / name


def text(folder: pathlib.Path, content: str, name: str = "mine.xyz") -> pathlib.Path:
    (folder / name).write_text(content)
    return folder / name


def assert_equal(found: Frames, expected: Frames, rtol: float = 1e-12) -> None:
    assert (found.n_node == expected.n_node).all()
    assert (found.numbers == expected.numbers).all()
    for name in ("positions", "energies", "forces"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol, atol=1e-12
        )


# --- Frames -------------------------------------------------------------------------


def test_rows_are_taken_in_any_order():
    frames = frame_texts.mixed(4)
    rows = [5, 0, 5, 2]
    found = frames.take(rows)
    assert_equal(found, joined([frames.take([row]) for row in rows]))
    assert found.n_node.tolist() == [4, 3, 4, 3]
    assert found.fingerprint() != frames.take([5, 0, 2, 5]).fingerprint()
    assert found.fingerprint() == frames.take(np.array(rows)).fingerprint()


def test_units_have_the_published_values():
    assert units.energy("kcal/mol", "x") == pytest.approx(43.3641e-3, rel=1e-6)
    assert units.energy("hartree", "x") == units.energy("Ha", "x") > 27.2
    assert units.energy("EV", "x") == 1 and units.length("Ang", "x") == 1
    for wrong in ("MeV", "kcal", ""):
        with pytest.raises(UserError, match="expected --energy_unit of eV, meV"):
            units.energy(wrong, "--energy_unit")


# --- Extended xyz -------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_molecules_of_several_sizes_in_one_xyz(tmp_path, first):
    frames = frame_texts.mixed(3)
    path = text(tmp_path, frame_texts.extended_xyz(frames, forces_first=first))
    assert_equal(read(path, Reading()), frames)


def test_keys_and_units_of_a_file(tmp_path):
    frames = frame_texts.mixed(2)
    bohr, hartree = units.LENGTHS["bohr"], units.ENERGIES["Ha"]
    theirs = frames.scaled(1 / hartree, 1 / bohr)
    path = text(tmp_path, frame_texts.extended_xyz(theirs, "E_dft", "F_dft"))
    reading = Reading("E_dft", "F_dft", "Ha", "bohr")
    assert_equal(read(path, reading), frames)
    with pytest.raises(UserError, match="energy= is not there.*E_dft.*--energy_key"):
        read(path, Reading())
    with pytest.raises(UserError, match="no forces:R:3.*F_dft.*--forces_key"):
        read(path, Reading("E_dft"))
    with pytest.raises(UserError, match="expected --energy_unit of eV"):
        read(path, reading._replace(energy_unit="cal"))


def test_ase_writes_what_is_read(tmp_path):
    pytest.importorskip("ase")
    import ase
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = frame_texts.mixed(2)
    images = []
    for row in range(len(frames)):
        one = frames.take([row])
        atoms = ase.Atoms(one.numbers, one.positions)
        atoms.calc = SinglePointCalculator(
            atoms, energy=one.energies[0], forces=one.forces
        )
        images.append(atoms)
    path = tmp_path / "ase.extxyz"
    ase.io.write(path, images, format="extxyz")
    found = read(path, Reading())
    assert (found.n_node == frames.n_node).all()
    np.testing.assert_allclose(found.positions, frames.positions, atol=1e-7)
    np.testing.assert_allclose(found.forces, frames.forces, atol=1e-7)
    np.testing.assert_allclose(found.energies, frames.energies, atol=1e-7)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("O ", "Xx ", "frame 1 .from 0, line 6.*line 8: 'Xx' is no element"),
        ("O ", "O nan ", "frame 1 .from 0, line 6.*8 columns, Properties= declares 7"),
        ("energy=", "energy=nan other=", "frame 1.*energy= is not known"),
        ("energy=", "other=", "frame 1.*energy= is not there"),
        ("energy=", "energy=[1, 2] other=", "frame 1.*energy= is no single number"),
        (":forces:R:3", ":other:R:3", "frame 1.*no forces:R:3.*are other"),
        (":forces:R:3", ":forces:R:2:a:R:1", "frame 1.*no forces:R:3.*are none"),
        ('pbc="F F F"', 'pbc="T T T"', "frame 1.*a periodic cell"),
        ('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9"', "frame 1.*a periodic cell"),
        ("3\n", "4\n", "frame 1.*line 10 has 1 columns|4 atoms announced, 3 there"),
    ],
)
def test_the_first_bad_frame_is_named(tmp_path, old, new, message):
    one = frame_texts.trajectory(3)
    good, bad, _ = (frame_texts.extended_xyz(one.take([row])) for row in range(3))
    assert_equal(read(text(tmp_path, good + bad), Reading()), one.take([0, 1]))
    path = text(tmp_path, good + bad.replace(old, new, 1))
    with pytest.raises(UserError, match=f"mine.xyz, {message}") as caught:
        read(path, Reading())
    assert "\n" not in str(caught.value)


def test_a_force_that_is_no_number_names_its_line(tmp_path):
    lines = frame_texts.extended_xyz(frame_texts.trajectory(2)).split("\n")
    lines[8] = " ".join([*lines[8].split()[:-1], "nan"])
    with pytest.raises(UserError, match="frame 1 .*line 9: 'nan' is no finite number"):
        read(text(tmp_path, "\n".join(lines)), Reading())


@quick
@hypothesis.given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-9, 1.0, 1e6]),
    first=st.booleans(),
)
def test_any_frames_survive_a_file(sizes, seed, scale, first):
    random = np.random.default_rng(seed)
    total = sum(sizes)
    frames = ragged(
        np.array(sizes),
        random.integers(1, 119, total),
        scale * random.normal(size=(total, 3)),
        scale * random.normal(size=len(sizes)),
        scale * random.normal(size=(total, 3)),
        "here",
    )
    with tempfile.TemporaryDirectory() as folder:
        content = frame_texts.extended_xyz(frames, forces_first=first)
        found = read(text(pathlib.Path(folder), content), Reading())
        again = read(saved(pathlib.Path(folder), frame_texts.flat(frames)), Reading())
    assert found.fingerprint() == again.fingerprint() == frames.fingerprint()


# --- .npz ---------------------------------------------------------------------------


def test_arrays_of_rmd17_and_of_sgdml_are_in_kcal_per_mol(tmp_path):
    frames = frame_texts.trajectory(4)
    arrays = frame_texts.of_rmd17(frames)
    assert_equal(read(saved(tmp_path, arrays), Reading()), frames, 1e-6)
    sgdml = frame_texts.of_sgdml(frames)
    assert_equal(read(saved(tmp_path, sgdml), Reading()), frames, 1e-6)
    column = {**sgdml, "E": sgdml["E"][:, None]}
    assert_equal(read(saved(tmp_path, column), Reading()), frames, 1e-6)


def test_units_that_a_file_tells_or_a_person_gives(tmp_path):
    frames = frame_texts.trajectory(4)
    sgdml = frame_texts.of_sgdml(frames.scaled(KCAL, 1.0))  # the numbers are in eV
    told = saved(
        tmp_path, {**sgdml, "e_unit": np.array("eV"), "r_unit": np.array("Ang")}
    )
    assert_equal(read(told, Reading()), frames, 1e-6)
    silent = saved(tmp_path, sgdml)
    assert_equal(read(silent, Reading(energy_unit="eV")), frames, 1e-6)
    assert read(silent, Reading()).energies[0] == pytest.approx(
        KCAL * frames.energies[0], rel=1e-5
    )
    odd = saved(tmp_path, {**sgdml, "e_unit": np.array("parsec")})
    with pytest.raises(UserError, match="the e_unit of .*found 'parsec'"):
        read(odd, Reading())


def test_published_frames_of_ethanol(shared_dir):
    path = shared_dir / "data" / "md17_ethanol_20.npz"
    found = read(path, Reading())
    with np.load(path) as file:
        expected = {name: file[name] for name in file.files}
    assert len(found) == 20 and (found.n_node == 9).all()
    assert (found.numbers[:9] == expected["z"]).all()
    np.testing.assert_allclose(found.energies, expected["E"] * 0.0433641, rtol=1e-6)
    np.testing.assert_array_equal(found.positions, expected["R"].reshape(-1, 3))
    assert frame_notes.notes_on(found, "ethanol") == ()


def test_molecules_of_several_sizes_in_one_npz(tmp_path):
    frames = frame_texts.mixed(3)
    assert_equal(read(saved(tmp_path, frame_texts.flat(frames)), Reading()), frames)
    renamed = frame_texts.flat(frames)
    renamed["energy"] = renamed.pop("energies")
    assert_equal(read(saved(tmp_path, renamed), Reading()), frames)


def with_one(array: np.ndarray, row: tuple[int, ...], value: float) -> np.ndarray:
    changed = np.array(array)
    changed[row] = value
    return changed


SGDML = frame_texts.of_sgdml(frame_texts.trajectory(4))
FLAT = frame_texts.flat(frame_texts.mixed(2))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"F": SGDML["F"][:, :2]}, r"real numbers \[4, 3, 3\] in 'F'.*\[4, 2, 3\]"),
        ({"F": SGDML["F"][:3]}, r"real numbers \[4, 3, 3\] in 'F'.*\[3, 3, 3\]"),
        (
            {"F": with_one(SGDML["F"], (2, 1, 0), np.nan)},
            "nan at frame 2, atom 1, axis",
        ),
        (
            {"R": with_one(SGDML["R"], (3, 0, 2), np.inf)},
            "inf at frame 3, atom 0, axis",
        ),
        ({"E": with_one(SGDML["E"], (1,), np.nan)}, "nan at frame 1 "),
        ({"E": None}, "found no 'E'"),
        ({"F": None}, "found no 'F'"),
        ({"E": SGDML["E"][:, None].repeat(2, 1)}, r"real numbers \[4\] in 'E'"),
        ({"z": np.array([8, 1, 119])}, "from 1 to 118 in 'z'.*found 119"),
        ({"z": np.array([8, 1])}, r"real numbers \[any, 2, 3\] in 'R'"),
        ({"z": None}, "expected the arrays nuclear_charges.*found R, E, F"),
        ({"R": SGDML["R"][:0]}, "at least one frame"),
        ({"lattice": np.eye(3)}, "a periodic cell"),
        (
            {"R": with_one(SGDML["R"], (2, 0, 1), -1e10)},
            "1e.09.*found 1e.10 in frame 2",
        ),
        ({"E": with_one(SGDML["E"], (3,), 1e40)}, "found 1e.40 in frame 3"),
        ({"F": with_one(SGDML["F"], (1, 2, 2), 1e300)}, "found 1e.300 in frame 1"),
    ],
)
def test_a_bad_array_of_one_molecule_is_named(tmp_path, changed, message):
    arrays = {name: a for name, a in {**SGDML, **changed}.items() if a is not None}
    with pytest.raises(UserError, match=message) as caught:
        read(saved(tmp_path, arrays), Reading())
    assert "mine.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"forces": FLAT["forces"][1:]}, r"real numbers \[14, 3\] in 'forces'"),
        ({"forces": with_one(FLAT["forces"], (8, 1), np.nan)}, "frame 2, atom 1 .from"),
        ({"positions": with_one(FLAT["positions"], (0, 1), np.inf)}, "frame 0, atom 0"),
        ({"energies": with_one(FLAT["energies"], (3,), np.nan)}, "nan at frame 3"),
        ({"energies": None}, "found no 'energies'"),
        ({"forces": None}, "found no 'forces'"),
        ({"n_atoms": None}, "found no 'n_atoms'"),
        ({"n_atoms": np.array([3, 4, 3, 3.5])}, "whole numbers from 1"),
        ({"n_atoms": np.array([3, 4, 3, 5])}, r"whole numbers \[15\] in 'numbers'"),
        ({"n_atoms": np.array(14)}, r"whole numbers \[any\] in 'n_atoms'"),
    ],
)
def test_a_bad_array_of_many_molecules_is_named(tmp_path, changed, message):
    arrays = {name: a for name, a in {**FLAT, **changed}.items() if a is not None}
    with pytest.raises(UserError, match=message):
        read(saved(tmp_path, arrays), Reading())


@quick
@hypothesis.given(data=st.data(), text_file=st.booleans())
def test_damage_is_read_or_refused_in_one_line(data, text_file):
    frames = frame_texts.mixed(2)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = pathlib.Path(name)
        path = saved(folder, frame_texts.flat(frames))
        if text_file:
            path = text(folder, frame_texts.extended_xyz(frames))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(content) - 1))
            stop = start + data.draw(st.integers(0, 30))
            content[start:stop] = data.draw(
                st.sampled_from([b"", b"nan", b"1e999", b"\n", b"\xff", b'"', b"0"])
            )
        path.write_bytes(content)
        try:
            found = read(path, Reading())
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1_000
        else:
            assert len(frame_notes.notes_on(found, "these")) <= 5


def test_what_is_no_user_error_is_seen(tmp_path, monkeypatch):
    """The negative control of the test above."""

    def broken(line, tolerant):
        raise TypeError("not for the user")

    monkeypatch.setattr(comment, "parse", broken)
    path = text(tmp_path, frame_texts.extended_xyz(frame_texts.mixed(1)))
    with pytest.raises(TypeError):
        read(path, Reading())


# --- Splits -------------------------------------------------------------------------


def load(place, **settings):
    return potentials.load(str(place), place.parent, potentials.Settings(**settings))


def test_one_file_is_split_at_random_the_same_way(tmp_path):
    frames = frame_texts.trajectory(50)
    path = saved(tmp_path, frame_texts.flat(frames))
    sets, again = load(path), load(path)
    assert [len(sets.parts[s]) for s in potentials.SPLITS] == [40, 5, 5]
    assert sets.fingerprint == again.fingerprint and sets.place == path
    everything = joined([sets.parts[split] for split in potentials.SPLITS])
    assert {*everything.energies} == {*frames.energies}
    fewer = load(path, num_train=7, num_valid=3, num_test=4)
    assert [len(fewer.parts[s]) for s in potentials.SPLITS] == [7, 3, 4]
    assert fewer.fingerprint != sets.fingerprint
    for wrong in (dict(num_train=50), dict(num_train=40, num_valid=10)):
        with pytest.raises(UserError, match="to leave test frames of the 50"):
            load(path, **wrong)
    with pytest.raises(UserError, match="between 1 and the 5 test frames, found 6"):
        load(path, num_test=6)


def test_a_folder_of_three_files(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    frames = frame_texts.mixed(6)
    text(folder, frame_texts.extended_xyz(frames.take(slice(0, 6))), "train.xyz")
    saved(folder, frame_texts.flat(frames.take(slice(6, 9))), "valid.npz")
    with pytest.raises(UserError, match="expected one of test.xyz.*found none"):
        load(folder)
    text(folder, frame_texts.extended_xyz(frames.take(slice(9, 12))), "test.extxyz")
    sets = load(folder)
    assert [len(sets.parts[s]) for s in potentials.SPLITS] == [6, 3, 3]
    assert_equal(joined([sets.parts[s] for s in potentials.SPLITS]), frames)
    named = potentials.load("own", tmp_path, potentials.Settings())
    assert named.fingerprint == sets.fingerprint
    assert load(folder, num_train=2).fingerprint == sets.fingerprint
    text(folder, "", "valid.xyz")
    with pytest.raises(UserError, match="found valid.xyz, valid.npz"):
        load(folder)


@pytest.mark.parametrize("name", ["nothing", "rmd17_water", "a.txt"])
def test_what_is_no_data_set_is_refused(tmp_path, name):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="found "):
        potentials.load(name, tmp_path, potentials.Settings())


def test_frames_in_two_splits_are_counted(tmp_path):
    frames = frame_texts.trajectory(30)
    parts = {"train": frames.take(slice(0, 20)), "test": frames.take(slice(20, 30))}
    frame_checks.refuse_duplicates(parts, "here")  # the negative control
    rows = [*range(20, 27), 3, 11, 3]
    with pytest.raises(UserError, match="found 3 of the 10 test frames of here in tr"):
        frame_checks.refuse_duplicates({**parts, "test": frames.take(rows)}, "here")
    twice = joined([frames, frames])
    with pytest.raises(UserError, match="in train too, as frame .* of the file"):
        load(saved(tmp_path, frame_texts.flat(twice)))
    # Another element at the same places, or other places, make another frame.
    other = dataclasses.replace(frames, numbers=frames.numbers + 1)
    moved = dataclasses.replace(frames, positions=frames.positions + 1e-3)
    for one in (other, moved):
        frame_checks.refuse_duplicates({"train": frames, "test": one}, "here")


# --- Notes --------------------------------------------------------------------------

WALK = frame_texts.trajectory(60)
KICKED = frame_texts.trajectory(60, step=0.25, kept=0.0)


@pytest.mark.parametrize("frames", [WALK, KICKED, frame_texts.mixed(30)])
def test_right_frames_have_no_notes(frames):
    assert frame_notes.notes_on(frames, "these") == ()


@pytest.mark.parametrize(
    "energy, force, length, message",
    [
        (1, -1, 1, "the sign is likely wrong"),
        (1 / KCAL, 1, 1, "the energies are likely in kcal/mol, beside forces in eV/Å"),
        (1, 1 / KCAL, 1, "the energies are likely in eV, beside forces in kcal/mol/Å"),
        (1, 1 / KCAL, 1, "the forces are likely in kcal/mol/Å; see --energy_unit"),
        (1 / 27.2, 1 / 51.4, 1, "the forces are likely in Ha/bohr"),
        (1e3, 1e3, 1, "the forces are likely in meV/Å"),
        (1, 1, 1 / 0.529, "the positions are likely in bohr; see --length_unit"),
        (1, 1, 0.1, "the positions are likely in nm"),
        (1, 1, 100, "the positions are likely in pm"),
    ],
)
def test_odd_signs_and_units_are_told(energy, force, length, message):
    odd = dataclasses.replace(
        WALK,
        energies=WALK.energies * energy,
        forces=WALK.forces * force,
        positions=WALK.positions * length,
    )
    notes = frame_notes.notes_on(odd, "these")
    assert any(message in note for note in notes), notes
    assert all(note.startswith("these: ") and "\n" not in note for note in notes)


def test_energies_of_other_frames_are_told():
    order = np.random.default_rng(0).permutation(len(WALK))
    odd = dataclasses.replace(WALK, energies=WALK.energies[order])
    (note,) = frame_notes.notes_on(odd, "these")
    assert "they do not belong together" in note


def test_energies_beside_forces_without_a_trajectory():
    places = KICKED.positions.reshape(60, -1, 3) + np.arange(60.0)[:, None, None]
    far = dataclasses.replace(KICKED, positions=places.reshape(-1, 3))
    assert frame_notes.notes_on(far, "these") == ()
    odd = dataclasses.replace(far, energies=1e4 * far.energies)
    (note,) = frame_notes.notes_on(odd, "these")
    assert "which is much for forces of" in note


@quick
@hypothesis.given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 20))
def test_notes_take_any_frames(seed, count):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 4, count)
    total = int(sizes.sum())
    zero = random.random() < 0.5
    frames = ragged(
        sizes,
        random.integers(1, 119, total),
        random.normal(size=(total, 3)) * (not zero),
        random.normal(size=count),
        random.normal(size=(total, 3)) * (not zero),
        "here",
    )
    with np.errstate(all="raise", under="ignore"):
        notes = frame_notes.notes_on(frames, "these")
    assert len(notes) <= 5


# --- Graphs -------------------------------------------------------------------------


def pairs_of(samples: Samples, row: int) -> set[tuple[int, int]]:
    starts = np.cumsum(samples.n_edge) - samples.n_edge
    own = slice(starts[row], starts[row] + samples.n_edge[row])
    assert samples.ends is not None
    senders, receivers = samples.ends
    assert (np.diff(receivers[own].astype(int)) >= 0).all()
    return set(zip(senders[own].tolist(), receivers[own].tolist(), strict=True))


def test_graphs_within_the_cutoff_of_the_task():
    frames = frame_texts.mixed(4)
    task = potentials.make_task("mixed", HEADS, frames, 2.0)
    assert task.cutoff == task.radial_extent == 2.0
    assert task.connectivity == "radius 2" and task.species == ("H", "O")
    samples = potentials.to_samples(frames, task)
    for row in range(len(frames)):
        places = frames.take([row]).positions
        expected = {
            (i, j)
            for i in range(len(places))
            for j in range(len(places))
            if i != j and np.linalg.norm(places[i] - places[j]) < 2.0
        }
        assert pairs_of(samples, row) == expected
    assert samples.n_edge.tolist() == [6] * 8  # the hydrogen beside it is far away
    wider = potentials.make_task("mixed", HEADS, frames, 9.0)
    assert potentials.to_samples(frames, wider).n_edge.tolist() == [6, 12] * 4


def test_complete_graphs_with_targets_in_the_units_of_the_heads():
    frames = frame_texts.mixed(4)
    task = potentials.make_task("mixed", HEADS, frames, None)
    assert task.cutoff is None and task.connectivity == "complete"
    samples = potentials.to_samples(frames, task)
    assert samples.ends is None and samples.n_edge.tolist() == [6, 12] * 4
    np.testing.assert_allclose(
        samples.targets["energy"], 1e3 * frames.energies[:, None]
    )
    np.testing.assert_allclose(samples.targets["forces"], 1e3 * frames.forces[:, None])
    one_hot = frames.numbers[:, None] == np.array([1, 8])
    np.testing.assert_array_equal(samples.nodes.scalars, one_hot)
    known = dataclasses.replace(HEADS[0], mean=-50e3, offsets=(-1e3, -40e3))
    fitted = dataclasses.replace(task, heads=(known, HEADS[1]))
    residuals = potentials.to_samples(frames, fitted).targets
    expected = frames.energies + 50 + np.tile([2 + 40, 3 + 40], 4)
    np.testing.assert_allclose(residuals["energy"][:, 0], 1e3 * expected, atol=1e-6)
    np.testing.assert_array_equal(residuals["forces"], samples.targets["forces"])


def test_an_element_that_training_did_not_have_is_refused():
    frames = frame_texts.mixed(3)
    task = potentials.make_task("mixed", HEADS, frames, None)
    numbers = frames.numbers.copy()
    numbers[8] = 9
    odd = dataclasses.replace(frames, numbers=numbers)
    with pytest.raises(UserError, match=r"H, O of the.*found 9 \(F\) in frame 2"):
        potentials.to_samples(odd, task)


def test_a_data_set_and_its_identity(tmp_path):
    path = saved(tmp_path, frame_texts.flat(frame_texts.trajectory(20)))
    settings = potentials.Settings(batch_size=2)
    sets = potentials.load(str(path), tmp_path, settings)
    identities = set()
    for cutoff in (None, 1.2):
        task = potentials.make_task("own", HEADS, sets.parts["train"], cutoff)
        dataset = potentials.assemble(sets, task, settings)
        samples = dataset.packing.samples
        assert [len(dataset.splits[s]) for s in potentials.SPLITS] == [16, 2, 2]
        assert samples.nodes.positions.dtype == np.float32
        rows = dataset.splits["valid"]
        np.testing.assert_allclose(
            samples.targets["energy"][rows, 0],
            1e3 * sets.parts["valid"].energies,
            rtol=1e-6,
        )
        identities.add(dataset.identity)
    assert len(identities) == 2
    assert (
        potentials.assemble(sets, task, settings, {"a": 1}).identity not in identities
    )


def test_folders_of_other_kinds_are_told(tmp_path):
    assert not frame_sources.is_rmd17("ethanol")
    assert not frame_sources.is_rmd17("rmd17_water")
    assert frame_sources.is_rmd17("rmd17_uracil")
