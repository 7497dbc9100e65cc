"""The command `python -m experiments.predict`: formats, streams, rollouts, errors."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import demetar
from demetar.data import molecule_files, molecules, splits, units
from experiments import predict as predict_command
from experiments.run import (
    overwriting,
    prediction_inputs,
    prediction_outputs,
    rollout,
)
from tests import qm9_test
from tests.support import trained

FREE = dataclasses.replace(trained.BODIES, edge_features=())
# As experiments.potential has it, of forces that are predicted.
POTENTIAL = dataclasses.replace(
    trained.MOLECULES,
    heads=(
        dataclasses.replace(trained.MOLECULES.heads[0], unit="meV"),
        demetar.Head("forces", "node_vector", unit="meV/Å"),
    ),
    connectivity="radius 3",
    cutoff=3.0,
    radial_extent=3.0,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    trained.save(folder / "bodies", "linear", trained.BODIES)
    trained.save(folder / "atoms", "schnet", trained.MOLECULES)
    trained.save(folder / "potential", "torchmd_et", POTENTIAL)
    return folder


@pytest.fixture
def predict(run_module, runs, tmp_path):
    """`predict(run, *flags)` runs the command; `refused` tells its one line."""

    def begin(run, *args):
        return run_module(
            "experiments.predict", f"--checkpoint={runs / run}", *args, cwd=tmp_path
        )

    return begin


def refused(done, *parts):
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert "Traceback" not in done.stdout


def save_bodies(path, sizes, frames=None, seed=0):
    """States in the arrays of a data set, as lists of systems too."""
    inputs = trained.bodies(sizes, seed)
    most = max(sizes)
    saved: dict[str, Any] = {
        name: np.stack(
            [
                np.pad(own, [(0, most - len(own))] + [(0, 0)] * (own.ndim - 1))
                for own in values
            ]
        )
        for name, values in inputs.items()
    }
    if frames is not None:
        for name in ("positions", "velocities"):
            saved[name] = np.stack(
                [saved[name] + frame for frame in range(frames)], axis=1
            )
    if len(set(sizes)) > 1:
        saved["num_bodies"] = np.array(sizes)
    np.savez(path, **saved)
    return inputs


def xyz_text(inputs, extended=False):
    lines = []
    symbols = {1: "H", 6: "C", 8: "O"}
    for positions, species in zip(inputs["positions"], inputs["species"], strict=True):
        lines.append(str(len(species)))
        lines.append(
            "Properties=species:S:1:pos:R:3 energy=1.0" if extended else "free text"
        )
        lines += [
            " ".join([symbols[z], *map(repr, map(float, own))])
            for z, own in zip(species, positions, strict=True)
        ]
    return "\n".join([*lines, ""])


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


# --- Files --------------------------------------------------------------------------


def test_states_of_bodies(predict, runs, tmp_path):
    inputs = save_bodies(tmp_path / "states.npz", (4, 4, 4))
    done = predict("bodies", "--input=states.npz", "--out=out.npz", "--batch_size=2")
    assert done.returncode == 0, done.stderr
    assert (
        "predicted 3 systems in out.npz: position in m, velocity in m / s"
        in done.stdout
    )
    expected = demetar.load(runs / "bodies")(**inputs)
    with np.load(tmp_path / "out.npz") as found:
        assert found["position"].shape == (3, 4, 3)
        np.testing.assert_allclose(found["position"], expected["position"], atol=1e-6)
        np.testing.assert_allclose(found["velocity"], expected["velocity"], atol=1e-6)
        assert found["num_nodes"].tolist() == [4, 4, 4]
        about = json.loads(str(found["about"]))
    assert about["units"] == {"position": "m", "velocity": "m / s"}
    assert about["files"] == ["states.npz"] and about["model"] == "linear"


def test_a_folder_of_systems_of_several_sizes(predict, runs, tmp_path):
    (tmp_path / "data").mkdir()
    first = save_bodies(tmp_path / "data/a.npz", (2, 5, 3), frames=3)
    second = save_bodies(tmp_path / "data/b.npz", (4, 4), frames=3, seed=1)
    (tmp_path / "data/notes.txt").write_text("passed over")
    done = predict("bodies", "--input=data", "--out=out.npz", "--frame=2")
    assert done.returncode == 0, done.stderr
    inputs = {name: [*first[name], *second[name]] for name in first}
    for name in ("positions", "velocities"):
        inputs[name] = [own + 2 for own in inputs[name]]
    expected = demetar.load(runs / "bodies")(**inputs)["position"]
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(
            found["position"], np.concatenate(expected), atol=1e-6
        )
        assert found["num_nodes"].tolist() == [2, 5, 3, 4, 4]
        assert found["file"].tolist() == [0, 0, 0, 1, 1]
    for _ in range(2):  # what was written there is not read
        done = predict("bodies", "--input=data", "--out=data/out.npz", "--frame=0")
        assert "predicted 5 systems" in done.stdout, done.stderr
    refused(
        predict("bodies", "--input=data", "--out=out.npz"),
        *("holds 3 frames", "--frame", "found None"),
    )


@pytest.mark.parametrize("extended", [False, True])
def test_molecules_as_xyz(predict, runs, tmp_path, extended):
    inputs = trained.molecules((3, 5, 2, 4))
    (tmp_path / "in.xyz").write_text(xyz_text(inputs, extended))
    done = predict("atoms", "--input=in.xyz", "--out=out.xyz", "--batch_size=3")
    assert done.returncode == 0, done.stderr
    expected = demetar.load(runs / "atoms")(**inputs)["energy"]
    kind, paths = molecule_files.find(tmp_path / "out.xyz")
    found = molecule_files.load(kind, paths)
    np.testing.assert_allclose(found.column("energy"), expected, rtol=1e-11)
    np.testing.assert_array_equal(found.numbers, np.concatenate(inputs["species"]))
    np.testing.assert_allclose(
        found.positions, np.concatenate(inputs["positions"]), rtol=1e-11
    )
    text = (tmp_path / "out.xyz").read_text()
    assert text.count('energy_unit="eV"') == 4 and 'file="in.xyz"' in text


def test_molecules_as_arrays(predict, runs, tmp_path):
    inputs = trained.molecules((3, 5, 2))
    np.savez(
        tmp_path / "in.npz",
        numbers=np.concatenate(inputs["species"]),
        positions=np.concatenate(inputs["positions"]),
        n_atoms=[3, 5, 2],
    )
    done = predict("atoms", "--input=in.npz", "--out=out.npz")
    assert done.returncode == 0, done.stderr
    expected = demetar.load(runs / "atoms")(**inputs)["energy"]
    with np.load(tmp_path / "out.npz") as found:
        assert found["energy"].shape == (3,)
        np.testing.assert_allclose(found["energy"], expected, rtol=1e-12)


def test_vectors_per_atom_are_columns_of_extended_xyz(tmp_path):
    task = dataclasses.replace(
        trained.MOLECULES,
        heads=(
            demetar.Head("force", "node_vector", unit="eV/Å"),
            *trained.MOLECULES.heads,
        ),
    )
    inputs = trained.molecules((2, 3))
    systems = prediction_inputs.systems.parse(trained.MOLECULES, inputs)
    forces = np.arange(15.0).reshape(5, 1, 3)
    values = {"force": forces, "energy": np.array([[1.5], [2.5]])}
    path = tmp_path / "out.extxyz"
    with prediction_outputs.writing(path, task, {"files": ["a"]}) as writer:
        writer.add(systems, values, 0)
    lines = path.read_text().splitlines()
    assert lines[1].startswith("Properties=species:S:1:pos:R:3:force:R:3 ")
    assert 'force_unit="eV/Å"' in lines[1] and " energy=1.5 " in lines[1]
    assert lines[3].split()[4:] == ["3", "4", "5"]


# --- Frames of potentials -----------------------------------------------------------


def frame_arrays(kind):
    """The arrays of a file that potentials are trained on, and what they hold in Å."""
    sizes = (3, 5, 2, 4) if kind == "ragged" else (4, 4, 4)
    inputs = trained.molecules(sizes)
    places = inputs["positions"]
    if kind == "ragged":
        arrays = {
            "n_atoms": np.array(sizes),
            "numbers": np.concatenate(inputs["species"]),
            "positions": np.concatenate(places),
            "energy": np.zeros(len(sizes)),
            "forces": np.zeros((sum(sizes), 3)),
        }
        return arrays, inputs
    inputs["species"] = [inputs["species"][0]] * 3
    names = ("nuclear_charges", "coords", "energies", "forces")
    names = ("z", "R", "E", "F") if kind == "sGDML" else names
    values = (inputs["species"][0], np.stack(places), np.zeros(3), np.zeros((3, 4, 3)))
    arrays = dict(zip(names, values, strict=True))
    if kind == "sGDML":
        bohr = units.length("bohr", "a test")
        told = {"r_unit": np.array("bohr"), "e_unit": np.array("Ha")}
        arrays |= {"R": arrays["R"] / bohr, **told}
    return arrays, inputs


@pytest.mark.parametrize("kind", ["rMD17", "sGDML", "ragged"])
def test_a_potential_reads_what_it_is_trained_on(kind, tmp_path):
    arrays, inputs = frame_arrays(kind)
    np.savez(tmp_path / "test.npz", **arrays)
    found = [*prediction_inputs.read([tmp_path / "test.npz"], POTENTIAL, 2)]
    expected = prediction_inputs.systems.parse(POTENTIAL, inputs)
    for name in ("positions", "numbers", "n_node"):
        parts = [getattr(chunk.systems, name) for chunk in found]
        whole = getattr(expected, name)
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12)
    assert prediction_inputs.count([tmp_path / "test.npz"]) == len(expected.n_node)
    with pytest.raises(demetar.UserError, match="which a model of experiments.pot"):
        next(prediction_inputs.read([tmp_path / "test.npz"], trained.MOLECULES, 2))


def test_a_potential_predicts_on_frames(predict, runs, tmp_path):
    arrays, inputs = frame_arrays("ragged")
    np.savez(tmp_path / "test.npz", **arrays)
    done = predict("potential", "--input=test.npz", "--out=out.npz")
    assert done.returncode == 0, done.stderr
    assert "predicted 4 systems in out.npz: energy in meV, forces in" in done.stdout
    expected = demetar.load(runs / "potential")(**inputs)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["energy"], expected["energy"], rtol=1e-6)
        forces = np.concatenate(expected["forces"])
        np.testing.assert_allclose(found["forces"], forces, atol=1e-5)


def test_a_potential_reads_molecules_as_large_as_frames(tmp_path):
    path = tmp_path / "in.xyz"
    inputs = trained.molecules((300, 3))
    path.write_text(xyz_text(inputs))
    (chunk,) = prediction_inputs.read([path], POTENTIAL, 2)
    assert chunk.systems.n_node.tolist() == [300, 3]
    places = np.concatenate(inputs["positions"])
    np.testing.assert_array_equal(chunk.systems.positions, places)
    with pytest.raises(demetar.UserError, match="expected 1 to 255 atoms, found 300"):
        next(prediction_inputs.read([path], trained.MOLECULES, 2))


# --- Streams ------------------------------------------------------------------------


def test_no_more_than_a_chunk_is_read_at_once(tmp_path, monkeypatch):
    inputs = trained.molecules(tuple([3] * 10))
    path = tmp_path / "in.xyz"
    path.write_text(xyz_text(inputs))
    read = []
    stream = molecule_files.xyz.stream

    def counting(place):
        for record in stream(place):
            read.append(record)
            yield record

    monkeypatch.setattr(molecule_files.xyz, "stream", counting)
    chunks = prediction_inputs.read([path], trained.MOLECULES, 4)
    sizes = []
    for chunk in chunks:
        sizes.append(len(chunk.systems.n_node))
        assert len(read) == sum(sizes)
    assert sizes == [4, 4, 2]


def test_few_shapes_for_many_molecules(runs, tmp_path):
    model = demetar.load(runs / "atoms")
    sizes = tuple(3 + index % 7 for index in range(120))
    path = tmp_path / "in.xyz"
    path.write_text(xyz_text(trained.molecules(sizes)))
    for chunk in prediction_inputs.read([path], trained.MOLECULES, 32):
        model.values(chunk.systems)
    assert model.num_shapes <= 2


# --- Rollouts -----------------------------------------------------------------------


def test_predictions_are_fed_back(predict, runs, tmp_path):
    inputs = save_bodies(tmp_path / "states.npz", (3, 5))
    done = predict("bodies", "--input=states.npz", "--out=out.npz", "--rollout_steps=3")
    assert done.returncode == 0, done.stderr
    assert "energy drift over 3 steps: median " in done.stdout
    assert "momentum drift over 3 steps: median " in done.stdout
    model = demetar.load(runs / "bodies")
    charges, current, expected = inputs["charges"], dict(inputs), []
    for _ in range(3):
        found = model(**current)
        expected.append(found["position"])
        current = {
            "positions": found["position"],
            "velocities": found["velocity"],
            "charges": charges,
        }
    rows = [step[system] for system in range(2) for step in expected]
    with np.load(tmp_path / "out.npz") as found:
        assert found["position"].shape == (3 * 8, 3)
        np.testing.assert_allclose(found["position"], np.concatenate(rows), atol=1e-6)
        assert found["energy_drift"].shape == found["momentum_drift"].shape == (2,)
        momenta = [
            np.linalg.norm(end.sum(axis=0) - begin.sum(axis=0))
            / np.linalg.norm(begin, axis=1).sum()
            for begin, end in zip(
                inputs["velocities"], current["velocities"], strict=True
            )
        ]
        np.testing.assert_allclose(found["momentum_drift"], momenta, rtol=1e-4)
        energies = [
            [energy(x[system], v[system], charges[system]) for system in range(2)]
            for x, v in (
                (inputs["positions"], inputs["velocities"]),
                (current["positions"], current["velocities"]),
            )
        ]
        changes = [
            abs(end[0] - begin[0]) / begin[1]
            for begin, end in zip(*energies, strict=True)
        ]
        np.testing.assert_allclose(found["energy_drift"], changes, rtol=1e-4)


def energy(positions, velocities, charges):
    """Of charged bodies of unit mass, and the size of its parts."""
    kinetic = (velocities**2).sum() / 2
    potentials = np.zeros(len(charges))
    for i in range(len(charges)):
        for j in range(len(charges)):
            if i != j:
                distance = np.linalg.norm(positions[i] - positions[j])
                potentials[i] += charges[i] * charges[j] / distance / 2
    return kinetic + potentials.sum(), kinetic + abs(potentials).sum()


def test_rollouts_that_cannot_be_are_refused():
    alone = dataclasses.replace(trained.BODIES, heads=trained.BODIES.heads[:1])
    for task, message in (
        (
            trained.MOLECULES,
            "needs a model that predicts positions, found one of energy",
        ),
        (alone, "does not predict the velocity"),
    ):
        with pytest.raises(demetar.UserError, match=message):
            rollout.check(task)
    rollout.check(dataclasses.replace(alone, vectors=()))


def test_a_rollout_that_diverges_is_told(runs, monkeypatch):
    model = demetar.load(runs / "bodies")
    systems = prediction_inputs.systems.parse(model.task, trained.bodies((2,)))
    values = model.values(systems)
    steps = iter([values, values, {**values, "velocity": np.inf * values["velocity"]}])
    monkeypatch.setattr(model, "values", lambda _: next(steps))
    with pytest.raises(
        demetar.UserError, match="not finite after step 3; choose fewer"
    ):
        rollout.roll(model, systems, 5, None)


# --- Bad input ----------------------------------------------------------------------


def test_bad_input_leaves_nothing_behind(predict, tmp_path):
    inputs = trained.molecules((3, 4))
    inputs["species"][1][2] = 6
    text = xyz_text(inputs)
    cases = {
        "element.xyz": (text.replace("C ", "Xe "), "54 (Xe) in system"),
        "short.xyz": (text[: len(text) // 2].rsplit("\n", 1)[0], "short.xyz"),
        "no.xyz": ("", "expected at least one system in"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content)
        before = contents(tmp_path)
        done = predict("atoms", f"--input={name}", "--out=out.xyz", "--batch_size=1")
        refused(done, message)
        after = [entry for entry in contents(tmp_path) if not entry.endswith(".txt")]
        assert after == [entry for entry in before if not entry.endswith(".txt")]
    np.savez(tmp_path / "in.npz", positions=np.ones((2, 3, 3)), charges=np.ones((2, 3)))
    refused(
        predict("bodies", "--input=in.npz", "--out=out.npz"),
        *("expected an array 'velocities' in", "found positions, charges"),
    )
    save_bodies(tmp_path / "nan.npz", (3, 3))
    with np.load(tmp_path / "nan.npz") as file:
        arrays = dict(file)
    arrays["charges"][1, 2] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    refused(
        predict("bodies", "--input=nan.npz", "--out=out.npz"),
        *("nan.npz", "finite numbers in charges, found nan in system 1, node 2"),
    )
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--out=out.npz"], "expected --input=PATH"),
        (["--input=no.npz"], "expected --input=PATH and --out=FILE"),
        (["--input=no.npz", "--out=out.npz"], "expected a file or folder to read"),
        (["--input=.", "--out=out.npz"], "expected files .npz in"),
        (["--input=a.npz", "--out=out.csv"], "expected --out=FILE.npz or FILE.xyz"),
        (["--input=a.npz", "--out=out.xyz"], "bodies without species"),
        (["--input=a.npz", "--out=gone/out.npz"], "cannot write gone/out.npz"),
        (["--input=a.npz", "--out=out.npz", "--seed=x"], "a whole number or mean"),
        (["--input=a.npz", "--out=out.npz", "--seed=3"], "expected a seed of 7"),
        (["--export=model.demetar"], "expected --num_nodes"),
    ],
)
def test_bad_flags_are_one_line(predict, tmp_path, args, message):
    if "--input=." not in args:
        save_bodies(tmp_path / "a.npz", (3,))
    refused(predict("bodies", *args), message)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "args, expected",
    [
        (["--out=in.xyz"], "--out than in.xyz, which is read as --input"),
        (["--out=link.xyz"], "--out than link.xyz, which is read as --input"),
        (["--out=d/../in.xyz"], "--out than d/../in.xyz, which is read as --input"),
        (["--out=run/best.npz"], "--out than run/best.npz, which is the model"),
        (["--out=d/../run/best.npz"], "which is the model that predicts"),
        (["--out=run/last.npz"], "which is a file of the run in run"),
        (["--out=other/best.npz"], "which is a file of the run in other"),
        (["--out=run/drawn/a.npz"], "which is in the folder of what the run in run"),
        (["--out=data/test.npz"], "which is a file of the data set in data"),
        (["--out=a.npz", "--export=a.npz"], "which is what --export writes"),
        (["--export=in.xyz"], "--export than in.xyz, which is read as --input"),
        (["--export=run/best.npz"], "--export than run/best.npz, which is the model"),
        (["--export=run/config.json"], "which is a file of the run in run"),
        (["--export=run/record.json"], "which is a file of the run in run"),
        (["--export=data/metadata.json"], "which is a file of the data set in data"),
        (["--input=folder", "--out=folder/b.xyz"], "which is read as --input"),
        (["--input=folder", "--export=folder/a.xyz"], "which is read as --input"),
    ],
)
def test_nothing_is_written_over_what_is_read(args, expected, crowded, monkeypatch):
    monkeypatch.chdir(crowded)
    before = {path: path.read_bytes() for path in crowded.rglob("*") if path.is_file()}
    line = ["--checkpoint=run", "--input=in.xyz", *args]
    with pytest.raises(demetar.UserError, match="^expected another --") as caught:
        predict_command.main(*predict_command.LINE.parse(line))
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    after = {path: path.read_bytes() for path in crowded.rglob("*") if path.is_file()}
    assert after == before


@pytest.fixture(scope="module")
def crowded(runs, tmp_path_factory):
    """A folder with inputs, runs and a data set."""
    folder = tmp_path_factory.mktemp("crowded")
    for name in ("run/drawn", "other", "folder", "d", "data"):
        (folder / name).mkdir(parents=True)
    text = xyz_text(trained.molecules((3, 4)))
    for name in ("in.xyz", "folder/a.xyz", "folder/b.xyz"):
        (folder / name).write_text(text)
    (folder / "link.xyz").symlink_to("in.xyz")
    shutil.copy(runs / "atoms/best.npz", folder / "run/best.npz")
    for name in ("run/config.json", "run/record.json", "other/record.json"):
        (folder / name).write_text("{}")
    (folder / "data/metadata.json").write_text("{}")
    return folder


def test_other_files_of_a_work_directory_are_written(crowded):
    for name in ("run/mine.npz", "folder/c.xyz", "data/mine.npz", "last.npz"):
        overwriting.check("out", crowded / name, {"read": [crowded / "in.xyz"]})
    with pytest.raises(demetar.UserError, match="which is read"):
        overwriting.check("out", crowded / "in.xyz", {"read": [crowded / "link.xyz"]})


def test_no_checkpoint_is_one_line(run_module):
    refused(run_module("experiments.predict"), "expected --checkpoint=RUN")
    refused(
        run_module("experiments.predict", "--checkpoint=pretrained:none", "--export=x"),
        "no model is called 'pretrained:none'",
    )


def test_the_model_is_exported_for_the_shape_of_the_input(predict, tmp_path):
    pytest.importorskip("flatbuffers")
    save_bodies(tmp_path / "a.npz", (3,))
    done = predict("bodies", "--input=a.npz", "--export=m.demetar", "--num_systems=2")
    assert done.returncode == 0, done.stderr
    assert "exported  m.demetar, for positions [2, 3, 3], velocities" in done.stdout
    assert (tmp_path / "m.demetar").stat().st_size > 1000


# --- A trained run ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", ["position", "both"])
def test_a_trained_run_gets_the_loss_of_its_record(run_module, tmp_path, target):
    data = ["--preset=nbody_small", "--num_train=60", "--num_valid=20", "--num_test=30"]
    args = ["--dataset=data", "--model=egnn", "--epochs=2", "--num_seeds=2"]
    for module, own in (
        ("tools.generate_nbody", [*data, "--out=data"]),
        ("experiments.nbody", [*args, f"--target={target}", "--workdir=run"]),
        (
            "experiments.predict",
            ["--checkpoint=run", "--input=data/test.npz", "--out=out.npz", "--seed=2"],
        ),
    ):
        done = run_module(module, *own)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    metadata = json.loads(pathlib.Path(tmp_path / "data/metadata.json").read_text())
    frame = metadata["frames"].index(record["settings"]["target_frame"])
    stored = {"position": "positions", "velocity": "velocities"}
    with (
        np.load(tmp_path / "out.npz") as found,
        np.load(tmp_path / "data/test.npz") as data,
    ):
        losses = [
            np.mean((found[name] - data[stored[name]][:, frame]) ** 2)
            for name in stored
            if name in found
        ]
    assert np.mean(losses) == pytest.approx(record["test_loss"][1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        [
            "--model=schnet",
            "--connectivity=radius",
            "--cutoff=3",
            "--target_kind=extensive",
        ],
        ["--model=demetar", "--set=hidden_size=8", "--set=num_heads=2"],
    ],
)
def test_trained_molecules_get_the_loss_of_their_record(run_module, tmp_path, args):
    known = qm9_test.make_molecules(40)
    molecules.write(tmp_path / "molecules.npz", known)
    args = [*args, "--target=gap", "--split=random", "--epochs=2", "--workdir=run"]
    for module, own in (
        ("experiments.qm9", [*args, "--data_dir=molecules.npz", "--batch_size=8"]),
        (
            "experiments.predict",
            ["--checkpoint=run", "--input=molecules.npz", "--out=out.npz"],
        ),
    ):
        done = run_module(module, *own)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/record.json").read_text())
    rows = splits.split_rows("random", 40)["test"]
    with np.load(tmp_path / "out.npz") as found:
        errors = abs(found["gap"] - known.column("gap"))[rows]
    assert errors.mean() == pytest.approx(record["test_loss"][0], rel=1e-5)
