"""Folders of N-body systems: damage, odd arrays, and systems of one's own."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from demetar import graphs, testing
from demetar.data import nbody, nbody_files
from demetar.data.dataset import Dataset
from demetar.data.packing import make_packing
from demetar.data.samples import Samples
from demetar.errors import UserError
from demetar.models import base as model_base
from demetar.train import equivariance
from demetar.types import Batch
from tests.support import nbody_folder
from tools import folders, generate_nbody, import_nbody, simulation

SETTINGS = nbody.Settings(10, 30, batch_size=4)
CASE = nbody.Settings(0, 1, batch_size=4)  # of the shared cases


def reseal(folder: pathlib.Path, split: str, **changes: Any) -> None:
    """Arrays of a split replaced, with right checksums; None removes one."""
    with np.load(folder / f"{split}.npz", allow_pickle=True) as file:
        arrays = {**file, **changes}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    nbody_folder.save_split(folder, split, arrays)
    digests = json.loads((folder / "metadata.json").read_text())["arrays"]
    digests[split] = {
        name: nbody_folder.digest(np.asarray(array)) for name, array in arrays.items()
    }
    nbody_folder.edit_metadata(
        folder, arrays=digests, fingerprint=nbody_folder.fingerprint(digests)
    )


def arrays_of(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{split}.npz") as file:
        return dict(file)


def samples_of(dataset: Dataset) -> Samples:
    return dataset.packing.samples


def centers_of(dataset: Dataset) -> np.ndarray:
    centers = samples_of(dataset).centers
    assert centers is not None
    return centers


def refused(
    folder: pathlib.Path, message: str, settings: nbody.Settings = SETTINGS
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        nbody.load(folder, settings)
    assert "\n" not in str(caught.value)


# --- Far away -----------------------------------------------------------------------


def assert_same_systems(one: Dataset, other: Dataset) -> None:
    ours, theirs = samples_of(one), samples_of(other)
    for found, expected in zip(
        (*ours.nodes, ours.edges, *ours.targets.values()),
        (*theirs.nodes, theirs.edges, *theirs.targets.values()),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours.senders, theirs.senders)
    np.testing.assert_allclose(one.task.radial_extent, other.task.radial_extent, 1e-6)


def test_far_systems_are_those_at_the_origin(shared_dir):
    folder = shared_dir / "cases" / "nbody_far"
    near, far = (nbody.load(folder / name, CASE) for name in ("base", "far"))
    assert_same_systems(near, far)
    shift = centers_of(far) - centers_of(near)
    np.testing.assert_allclose(shift, 1e6, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7)])
@pytest.mark.parametrize("connectivity", ["complete", "knn"])
def test_every_system_may_be_shifted_by_its_own(tmp_path, sizes, connectivity):
    near, far = tmp_path / "near", tmp_path / "far"
    generator = np.random.default_rng(5)
    nbody_folder.write(near, sizes)
    for split, own in nbody_folder.write(far, sizes).items():
        shifts = generator.uniform(-1e8, 1e8, (len(own["positions"]), 1, 1, 3))
        reseal(far, split, positions=own["positions"] + shifts)
    knn = {"connectivity": connectivity}
    knn |= {"num_neighbors": 1} if connectivity == "knn" else {}
    settings = dataclasses.replace(SETTINGS, target="both", **knn)
    assert_same_systems(nbody.load(near, settings), nbody.load(far, settings))


def batch_of(dataset: Dataset) -> Batch:
    packing, plan = dataset.packing, dataset.plan("train")
    row = {name: values[0] for name, values in plan.items()}
    return packing.assemble(packing.arrays(), row)


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7)])
def test_raw_coordinates_are_those_of_the_source(tmp_path, sizes):
    arrays = nbody_folder.write(tmp_path / "set", sizes)["train"]
    dataset = nbody.load(tmp_path / "set", SETTINGS)
    batch = batch_of(dataset)
    found = model_base.raw_coordinates(batch.graph)
    bodies = arrays.get("num_bodies", np.full(11, sizes[1]))
    count = int(batch.weights.sum())
    members = dataset.plan("train")["sample"][0][:count]
    expected = np.concatenate(
        [arrays["positions"][row, 0, : bodies[row]] for row in members]
    )
    np.testing.assert_allclose(found[: len(expected), :3], expected, 1e-5, 1e-6)
    moved = abs(np.asarray(batch.graph.nodes.positions)[: len(expected)] - expected)
    assert moved.max() > 0.1  # they were centred, or this would tell nothing
    values = expected[:, None].astype(np.float32)
    values = np.resize(values, (batch.graph.bucket.max_nodes, 1, 3))
    (head,) = dataset.task.heads
    output = model_base.absolute(values, head, dataset.task, batch.graph)
    np.testing.assert_allclose(output[: len(expected)], 0, atol=2e-6)
    padding = np.asarray(batch.weights) == 0
    if sizes != (5, 5):
        known = batch.graph.globals
        assert known is not None
        assert padding.any() and not known.centers[padding].any()


def test_rotations_turn_about_the_origin_of_the_source(tmp_path):
    nbody_folder.write(tmp_path / "set", (2, 7))
    dataset = nbody.load(tmp_path / "set", SETTINGS)
    batch = batch_of(dataset)
    rotations = equivariance.random_rotations(jax.random.key(3), batch)
    turned = equivariance.rotate(dataset.task, batch, rotations)
    before, after = (
        model_base.raw_coordinates(each.graph)[:, :3] for each in (batch, turned)
    )
    expected = np.einsum("nij,nj->ni", rotations, before)
    mask = np.asarray(graphs.node_mask(batch.graph))
    np.testing.assert_allclose(after[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_numbers_that_single_precision_cannot_hold_are_refused(tmp_path):
    arrays = nbody_folder.write(tmp_path / "set")["valid"]
    arrays["velocities"][0, 0, 0, 0] = 1e39
    reseal(tmp_path / "set", "valid", velocities=arrays["velocities"])
    refused(tmp_path / "set", "numbers that float32 can hold, found 1e\\+39")
    nbody.load(tmp_path / "set", dataclasses.replace(SETTINGS, dtype="float64"))


# --- Numbers that are none ----------------------------------------------------------


def test_the_case_of_nan_is_refused(shared_dir):
    message = "finite numbers in 'positions' of the train set.*nan at system 3, frame 1"
    refused(shared_dir / "cases" / "nbody_nan" / "nan", message, CASE)


@pytest.mark.parametrize("split", nbody_files.SPLITS)
@pytest.mark.parametrize("name", ["positions", "velocities", "forces", "charges"])
def test_a_number_that_is_none_is_named_with_its_system(tmp_path, split, name):
    arrays = nbody_folder.write(tmp_path / "set", forces=True)[split]
    for bad in (np.nan, np.inf):
        values = arrays[name].copy()
        values[(3, *(1,) * (values.ndim - 1))] = bad
        reseal(tmp_path / "set", split, **{name: values})
        message = f"finite numbers in '{name}' of the {split} set.*{bad} at system 3,"
        refused(tmp_path / "set", message)


def test_padding_may_hold_anything(tmp_path):
    folder = tmp_path / "set"
    arrays = nbody_folder.write(folder, (2, 7))["train"]
    expected = nbody.load(folder, SETTINGS)
    padding = np.arange(7) >= arrays["num_bodies"][:, None]
    for name in ("positions", "velocities", "charges"):
        values = arrays[name] if name == "charges" else arrays[name].swapaxes(1, 2)
        values[padding] = np.nan
        reseal(folder, "train", **{name: arrays[name]})
    found = nbody.load(folder, SETTINGS)
    jax.tree.map(
        np.testing.assert_array_equal,
        samples_of(found).nodes,
        samples_of(expected).nodes,
    )


ODD: dict[str, Any] = {
    "complex": lambda values: values.astype(complex),
    "bool": lambda values: values > 0,
    "text": lambda values: values.astype(str),
    "objects": lambda values: values.astype(object),
    "a row less": lambda values: values[:-1],
    "an axis less": lambda values: values[..., 0],
    "a number": lambda values: np.array(1.0),
}


@pytest.mark.parametrize("name", ["positions", "velocities", "charges"])
@pytest.mark.parametrize("kind", ODD)
def test_arrays_of_another_kind_are_refused_in_one_line(tmp_path, name, kind):
    arrays = nbody_folder.write(tmp_path / "set")["test"]
    values = ODD[kind](arrays[name])
    if kind == "objects":  # which have no bytes of their own to be summed up
        values[(0,) * values.ndim] = [1, 2]
        nbody_folder.save_split(tmp_path / "set", "test", arrays | {name: values})
        refused(tmp_path / "set", "test.npz.*expected plain numbers")
        return
    reseal(tmp_path / "set", "test", **{name: values})
    refused(tmp_path / "set", "expected .* the test set")


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f4", "f2", "i8", ">i2", "u1"])
def test_any_real_number_is_right(tmp_path, dtype):
    folder = tmp_path / "set"
    for split, own in nbody_folder.write(folder).items():
        whole = {
            name: np.rint(5 * abs(own[name]))
            for name in ("positions", "velocities", "charges")
        }
        reseal(folder, split, **whole)
    expected = nbody.load(folder, SETTINGS)
    for split in nbody_files.SPLITS:
        own = arrays_of(folder, split)
        whole = {
            name: np.asfortranarray(own[name].astype(dtype))
            for name in ("positions", "velocities", "charges")
        }
        reseal(folder, split, **whole)
    found = nbody.load(folder, SETTINGS)
    assert found.task == expected.task
    for ours, theirs in zip(
        jax.tree.leaves(vars(samples_of(found))),
        jax.tree.leaves(vars(samples_of(expected))),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_integer_charges_are_charges(shared_dir):
    folder = shared_dir / "cases"
    whole = nbody.load(folder / "nbody_int_charges" / "qint", CASE)
    real = nbody.load(folder / "nbody_far" / "base", CASE)
    assert_same_systems(whole, real)
    assert samples_of(whole).edges.dtype == np.float32


# --- Sizes --------------------------------------------------------------------------


def test_splits_may_differ_in_padding(shared_dir):
    folder = shared_dir / "cases" / "nbody_sizes_differ" / "varsizes"
    dataset = nbody.load(folder, CASE)
    sizes = np.concatenate(
        [arrays_of(folder, split)["num_bodies"] for split in nbody_files.SPLITS]
    )
    np.testing.assert_array_equal(samples_of(dataset).n_node, sizes)
    rows = dataset.splits["test"]
    start = sizes[: rows[0]].sum()
    own = arrays_of(folder, "test")
    expected = own["positions"][0, 0, : sizes[rows[0]]]
    found = samples_of(dataset).nodes.positions[start : start + sizes[rows[0]]]
    found = found + centers_of(dataset)[rows[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_splits_may_differ_in_size(tmp_path):
    folder = tmp_path / "set"
    nbody_folder.write(folder)
    larger = nbody_folder.random_arrays(6, (20, 20), 3)
    reseal(folder, "test", **larger)
    dataset = nbody.load(folder, SETTINGS)
    sizes = samples_of(dataset).n_node
    assert set(sizes[dataset.splits["train"]]) == {5}
    assert set(sizes[dataset.splits["test"]]) == {20}
    assert dataset.plan("test")["weight"].sum() == 6


def test_one_body_has_no_neighbors_and_divides_nothing_by_zero(shared_dir):
    folder = shared_dir / "cases" / "nbody_one_body_tfn" / "one"
    dataset = nbody.load(folder, CASE)
    assert dataset.task.average_neighbors == dataset.task.radial_extent == 1.0
    assert dataset.packing.bucket.nodes_per_graph == 1


@pytest.mark.parametrize(
    "sizes, message",
    [
        ([2.5] * 5, "from 1 to 5 in 'num_bodies' of the valid set.*found 2.5 at"),
        ([0] * 5, "from 1 to 5 in 'num_bodies' of the valid set.*found 0 at"),
        ([6] * 5, "from 1 to 5 in 'num_bodies' of the valid set.*found 6 at"),
        ([3] * 4, r"whole numbers \[5\] in 'num_bodies'.*found int64\[4\]"),
        (["3"] * 5, "in 'num_bodies' of the valid set.*found <U1"),
    ],
)
def test_numbers_of_bodies_that_cannot_be(tmp_path, sizes, message):
    nbody_folder.write(tmp_path / "set")
    reseal(tmp_path / "set", "valid", num_bodies=np.array(sizes))
    refused(tmp_path / "set", message)


def test_an_empty_split_is_refused(tmp_path):
    arrays = nbody_folder.write(tmp_path / "set")["valid"]
    empty = {name: own if name == "steps" else own[:0] for name, own in arrays.items()}
    reseal(tmp_path / "set", "valid", **empty)
    refused(tmp_path / "set", "expected at least one system in the valid set")


def test_a_batch_is_no_larger_than_the_set(tmp_path):
    for sizes in ((5, 5), (2, 7)):
        nbody_folder.write(tmp_path / str(sizes), sizes)
        settings = dataclasses.replace(SETTINGS, batch_size=10**12)
        dataset = nbody.load(tmp_path / str(sizes), settings)
        assert dataset.packing.bucket.num_graphs <= 2 * 23
        assert len(dataset.train_plan(0, 0)["weight"]) == 1


# --- Metadata -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("generated") / "set"
    settings = simulation.Settings(
        num_steps=40, sample_every=10, num_train=2, num_valid=1, num_test=1
    )
    generate_nbody.generate(settings, folder, progress=False)
    return folder


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_the_metadata_is_believed(generated, every):
    """At the bits of every so many bytes: all is as it was, or refused in one line."""
    path = generated / "metadata.json"
    metadata = nbody_files.read_metadata(generated)
    few = ("format", "settings", "frames", "units", "fingerprint")
    content = {name: metadata[name] for name in few if name in metadata}
    content["arrays"] = {"train": {"steps": metadata["arrays"]["train"]["steps"]}}
    whole = path.read_bytes()
    sealed = nbody_files.sealed({k: v for k, v in content.items() if k != "format"})
    text = json.dumps(sealed).encode()
    believed = 0
    try:
        for place in range(0, len(text), every):
            for bit in range(8):
                damaged = bytearray(text)
                damaged[place] ^= 1 << bit
                path.write_bytes(damaged)
                try:
                    found = nbody_files.read_metadata(generated)
                except UserError as error:
                    assert "\n" not in str(error)
                else:
                    believed += 1
                    assert found == sealed
        path.write_bytes(text)
        assert nbody_files.read_metadata(generated) == sealed
    finally:
        path.write_bytes(whole)
    assert believed < len(text) / every


def test_frames_of_the_first_format_are_held_against_the_steps(generated, tmp_path):
    metadata = nbody_files.read_metadata(generated)
    folder = tmp_path / "set"
    folder.mkdir()
    for split in nbody_files.SPLITS:
        (folder / f"{split}.npz").write_bytes((generated / f"{split}.npz").read_bytes())
    first = {k: v for k, v in metadata.items() if k != "checksum"} | {"format": 1}
    path = folder / "metadata.json"
    path.write_text(json.dumps(first))
    settings = nbody.Settings(0, 2, batch_size=2)
    assert nbody.load(folder, settings).fingerprint == metadata["fingerprint"]
    for frames in ([0, 2, 3], [1, 2, 3], [0, 2, 4]):
        nbody_folder.edit_metadata(folder, frames=frames)
        refused(folder, "are not those of the steps", nbody.Settings(2, 2))
    for wrong in (
        *([0, 0, 2], [2, 1, 0], [0, 1.0, 2], [0, True, 2], [0, "1", 2], [-1, 0, 1]),
        *([], None, {"0": 1}, 3),
    ):
        path.write_text(json.dumps(first | {"frames": wrong}))
        refused(folder, "cannot read .*expected frames", settings)


def test_splits_that_differ_in_their_times_are_refused(tmp_path):
    folder = tmp_path / "set"
    steps = nbody_folder.write(folder)["test"]["steps"]
    reseal(folder, "test", steps=2 * steps)
    refused(folder, "the same steps in every split, found 1100 to 3100 .* in train and")
    reseal(folder, "test", steps=steps.astype(np.int32))
    nbody.load(folder, SETTINGS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"settings": []}, "settings.system"),
        ({"settings": {"system": 3}}, "settings.system"),
        ({"settings": {"system": "charged", "dt": "1"}}, "a positive settings.dt"),
        ({"settings": {"system": "charged", "dt": -1}}, "a positive settings.dt"),
        ({"frames": [0, 10**30]}, "frames that are whole numbers"),
        ({"frames": [0, 10**30, 10**400]}, "as JSON"),
        ({"arrays": {"\ud800": {"\ud800": "\ud800"}}}, "as JSON"),
        ({"settings": {"system": "charged", "sample_every": 0}}, "sample_every from 1"),
        ({"units": {"positions": "m", "velocities": 3}}, "units, each a name"),
        ({"units": {"positions": "m"}}, "units of positions and velocities"),
        ({"units": {"positions": "\ud800", "velocities": ""}}, "as JSON"),
        ({"units": {"positions": "m\x1b[2J", "velocities": ""}}, "units, each a name"),
        ({"units": {"positions": "m" * 101, "velocities": ""}}, "100 characters"),
        ({"settings": {"system": "charged\n"}}, "settings.system, a name"),
        ({"arrays": {"train": ["a"]}}, "expected arrays"),
        ({"format": True}, "has format True"),
        ({"format": [1]}, "has format"),
    ],
)
def test_entries_of_another_kind_are_refused(tmp_path, changes, message):
    nbody_folder.write(tmp_path / "set")
    path = tmp_path / "set" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(tmp_path / "set", message)


# --- Systems of one's own -----------------------------------------------------------


def own_files(tmp_path: pathlib.Path) -> list[str]:
    paths = []
    for seed, size in enumerate((5, 5, 7)):
        arrays = nbody_folder.random_arrays(6 + seed, (size, size), seed)
        path = tmp_path / f"{nbody_files.SPLITS[seed]}.npz"
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        paths.append(str(path))
    return paths


def run_import(*arguments: str) -> None:
    import_nbody.run(*import_nbody.LINE.parse(arguments))


def test_three_files_become_a_folder(tmp_path, capsys):
    paths = own_files(tmp_path)
    out = tmp_path / "set"
    given = ("--dt=0.01", "--frames=10,20,30", "--length_unit=m", "--velocity_unit=m/s")
    run_import(f"--out={out}", *given, *paths)
    assert "6 train, 7 valid, 8 test systems" in capsys.readouterr().out
    assert folders.verify(out) == []
    dataset = nbody.load(out, SETTINGS)
    assert [len(dataset.splits[split]) for split in nbody_files.SPLITS] == [6, 7, 8]
    assert (dataset.task.length_unit, dataset.task.heads[0].unit) == ("m", "m")
    settings = nbody_files.read_metadata(out)["settings"]
    assert settings == {"system": "charged", "dt": 0.01, "sample_every": 100}
    found = arrays_of(out, "test")
    for name, array in arrays_of(tmp_path, "test").items():
        np.testing.assert_array_equal(found[name], array)


def test_one_file_is_dealt_by_fractions(tmp_path):
    arrays = nbody_folder.random_arrays(20, (3, 6), 1, "masses", forces=True)
    path = tmp_path / "all.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    outs = [tmp_path / str(index) for index in range(3)]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        run_import(
            f"--out={out}", f"--seed={seed}", "--fractions=0.5,.25,.25", str(path)
        )
    metadata, again, other = map(nbody_files.read_metadata, outs)
    assert metadata == again
    assert metadata["fingerprint"] != other["fingerprint"]
    assert metadata["frames"] == [0, 1, 2]
    dealt = [arrays_of(outs[0], split) for split in nbody_files.SPLITS]
    assert [len(own["masses"]) for own in dealt] == [10, 5, 5]
    for name in ("positions", "masses", "num_bodies"):
        found = np.concatenate([own[name] for own in dealt])
        places = np.concatenate([own["positions"] for own in dealt])[:, 0, 0, 0]
        order = np.argsort(arrays["positions"][:, 0, 0, 0])
        np.testing.assert_array_equal(found[np.argsort(places)], arrays[name][order])
    settings = nbody.Settings(0, 2, cues="force", target="force")
    assert nbody.load(outs[0], settings).task.scalars == ("mass",)


@pytest.mark.parametrize(
    "arguments, count, message",
    [
        ((), 2, "expected three files, of train, valid and test, or one"),
        (("--frames=1,2",), 3, "--frames: 3 whole numbers .* found '1,2'"),
        (("--frames=1,2,2",), 3, "--frames"),
        (("--steps=1,x,3",), 3, "--steps"),
        (("--dt=0",), 3, "a positive --dt, found 0"),
        (("--length_unit=m\x1b[2J",), 3, "expected --length_unit to be a name"),
        ((f"--out={'x' * 300}",), 3, "cannot write --out=.*File name too long"),
        (("--fractions=1,2",), 1, "three positive numbers"),
        (("--fractions=nan,1,1",), 1, "three positive numbers"),
        (("--fractions=0.98,0.01,0.01",), 1, "deals as 6, 0, 0"),
        (("--seed=-1",), 1, "expected --seed from 0"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing(tmp_path, arguments, count, message):
    paths = own_files(tmp_path)[:count]
    with pytest.raises(UserError, match=message) as caught:
        run_import(f"--out={tmp_path / 'set'}", *arguments, *paths)
    assert "\n" not in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 3


def test_imported_arrays_are_checked(tmp_path):
    paths = own_files(tmp_path)
    arrays = arrays_of(tmp_path, "valid")
    out = f"--out={tmp_path / 'set'}"
    bad = arrays["positions"].copy()
    bad[4, 2] = np.nan
    for changes, message in (
        ({"positions": bad}, r"'positions' of .*valid.npz, found nan at system 4, fr"),
        ({"masses": arrays["charges"]}, "found charges and masses"),
        ({"charges": None}, "expected charges in .*valid.npz, found neither"),
        ({"velocities": None}, "expected positions, velocities and charges"),
        ({"forces": arrays["positions"]}, "expected forces in all files or in none"),
        ({"steps": arrays["steps"] + 1}, "the same frames and steps"),
        ({"num_bodies": np.full(7, 2.5)}, "found 2.5"),
    ):
        changed = {k: v for k, v in (arrays | changes).items() if v is not None}
        np.savez(paths[1], **changed)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message) as caught:
            run_import(out, *paths)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "set").exists()


def test_a_folder_with_anything_in_it_is_not_written_to(tmp_path):
    paths = own_files(tmp_path)
    with pytest.raises(UserError, match="expected --out to be a new or empty folder"):
        run_import(f"--out={tmp_path}", *paths)
    with pytest.raises(UserError, match="expected --out=DIR"):
        run_import(*paths)
    (tmp_path / "set").mkdir()
    run_import(f"--out={tmp_path / 'set'}", *paths)
    with pytest.raises(UserError, match="new or empty"):
        run_import(f"--out={tmp_path / 'set'}", *paths)


def test_the_command_tells_a_fault_in_one_line(tmp_path, run_module):
    process = run_module("tools.import_nbody", "--out=set", "a.npz")
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: cannot read a.npz")


# --- Molecules and models -----------------------------------------------------------


def test_edges_of_regular_batches_are_in_the_dtype_of_the_positions():
    """Molecules of one size have the bonds of their edges in bytes."""
    samples = testing.make_samples(testing.systems((5,) * 3), "float32")
    bonds = dataclasses.replace(samples, edges=(samples.edges > 0).astype(np.uint8))
    packing = make_packing(bonds, testing.TASK, 3)
    plan = packing.plan(np.arange(3))
    row = {name: values[0] for name, values in plan.items()}
    batch = packing.assemble(packing.arrays(), row)
    assert batch.graph.edges.dtype == batch.weights.dtype == np.float32
    np.testing.assert_array_equal(batch.graph.edges, bonds.edges)


TINY_EGNN = (
    *("--model=egnn", "--epochs=2", "--set", "num_layers=1", "--set", "hidden_size=8"),
    "--workdir=run",
)


@pytest.mark.slow
def test_the_shared_cases_train(shared_dir, tmp_path, run):
    """Far away, with whole charges, of other sizes, of one body: to the same losses."""
    errors = {}
    cases = ("nbody_far/base", "nbody_far/far", "nbody_int_charges/qint")
    others = ("nbody_sizes_differ/varsizes", "nbody_one_body_tfn/one")
    for index, case in enumerate((*cases, *others)):
        cwd = tmp_path / str(index)
        folder = shared_dir / "cases" / case
        run(*TINY_EGNN, f"--dataset={folder}", cwd=cwd).succeeded()
        record = json.loads((cwd / "run" / "record.json").read_text())
        errors[case] = record["test_loss"]
    for case in cases[1:]:
        np.testing.assert_allclose(errors[case], errors[cases[0]], rtol=1e-6, atol=1e-6)
    folder = shared_dir / "cases" / "nbody_nan" / "nan"
    refused = run(*TINY_EGNN, f"--dataset={folder}", cwd=tmp_path / "nan")
    refused.refused("'positions' of the train set", "system 3")


@pytest.mark.slow
def test_molecules_of_one_size_train(shared_dir, tmp_path, run):
    given = ("--target=energy", "--split=random", "--epochs=1", "--workdir=run")
    file = shared_dir / "cases" / "same_size" / "water10.xyz"
    run("--model=egnn", f"--data_dir={file}", *given, module="qm9").succeeded()
