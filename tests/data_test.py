"""Data sets: every sample once, in an order of (seed, epoch), as on the disk."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from demetar import connectivity, graphs, testing
from demetar.data import nbody, nbody_files
from demetar.data.dataset import Dataset, identify
from demetar.data.packing import (
    RaggedPacking,
    concatenate_plans,
    in_sample_order,
    make_packing,
    pad_plan,
)
from demetar.errors import UserError
from demetar.types import Bucket
from tests.support import nbody_folder
from tools import generate_nbody, simulation

SETTINGS = nbody.Settings(10, 30, batch_size=4)
REGULAR_SIZES = (5,) * 11
RAGGED_SIZES = (3, 7, 2, 5, 5, 1, 11, 2, 3, 7, 2)


def make_dataset(sizes, batch_size=4):
    """Systems of these sizes, all of them for training, named by their charges."""
    samples = testing.make_samples(testing.systems(sizes), "float32")
    names = np.repeat(np.arange(len(sizes)), sizes) + 0.5
    samples.nodes.scalars[:, 0] = names
    packing = make_packing(samples, testing.TASK, batch_size)
    splits = {"train": np.arange(len(sizes)), "valid": np.array([4, 0, 2])}
    return samples, Dataset(testing.TASK, packing, splits, "")


def batches(dataset, plan):
    """The batches of a plan, assembled on the host."""
    arrays = dataset.packing.arrays()
    for index in range(len(plan["weight"])):
        row = {name: values[index] for name, values in plan.items()}
        yield jax.tree.map(np.asarray, dataset.packing.assemble(arrays, row))


def names_in_order(dataset, plan):
    """The samples of a plan as their nodes tell."""
    found = []
    for batch in batches(dataset, plan):
        stops = np.cumsum(batch.graph.n_node)
        for slot in np.flatnonzero(batch.weights):
            own = slice(stops[slot] - batch.graph.n_node[slot], stops[slot])
            (name,) = set(batch.graph.nodes.scalars[own, 0].tolist())
            found.append(int(name - 0.5))
    return found


@pytest.mark.parametrize("sizes", [REGULAR_SIZES, RAGGED_SIZES])
class TestPlans:
    def test_every_sample_exactly_once_per_epoch(self, sizes):
        _, dataset = make_dataset(sizes)
        for epoch in range(3):
            plan = dataset.train_plan(7, epoch)
            assert sorted(names_in_order(dataset, plan)) == list(range(len(sizes)))
            assert plan["weight"].sum() == len(sizes)
            assert set(np.unique(plan["weight"])) <= {0.0, 1.0}

    def test_order_is_a_function_of_seed_and_epoch(self, sizes):
        _, dataset = make_dataset(sizes)
        orders = {
            key: tuple(names_in_order(dataset, dataset.train_plan(*key)))
            for key in itertools.product((1, 2), (0, 1, 2))
        }
        assert len(set(orders.values())) == len(orders)
        _, again = make_dataset(sizes)
        for key, order in orders.items():
            assert tuple(names_in_order(again, again.train_plan(*key))) == order

    def test_a_split_comes_in_its_own_order(self, sizes):
        _, dataset = make_dataset(sizes)
        plan = dataset.plan("valid")
        assert names_in_order(dataset, plan) == [4, 0, 2]
        values = np.where(plan["weight"] > 0, plan["sample"], -1)
        doubled = np.stack([values, 10 * values])
        found = in_sample_order(doubled, plan)
        assert found.tolist() == [[4, 0, 2], [40, 0, 20]]

    def test_batches_are_the_samples_and_nothing_else(self, sizes):
        samples, dataset = make_dataset(sizes)
        node_starts = np.cumsum([0, *samples.n_node])
        edge_starts = np.cumsum([0, *samples.n_edge])
        order = iter(names_in_order(dataset, dataset.train_plan(1, 0)))
        for batch in batches(dataset, dataset.train_plan(1, 0)):
            graph = batch.graph
            starts = np.cumsum(graph.n_node) - graph.n_node
            edge_at = np.cumsum(graph.n_edge) - graph.n_edge
            for slot in np.flatnonzero(batch.weights):
                number = next(order)
                own = slice(node_starts[number], node_starts[number + 1])
                here = slice(starts[slot], starts[slot] + graph.n_node[slot])
                for found, expected in zip(graph.nodes, samples.nodes, strict=True):
                    np.testing.assert_array_equal(found[here], expected[own])
                np.testing.assert_array_equal(
                    batch.targets["position"][here], samples.targets["position"][own]
                )
                own = slice(edge_starts[number], edge_starts[number + 1])
                edges = slice(edge_at[slot], edge_at[slot] + graph.n_edge[slot])
                np.testing.assert_array_equal(graph.edges[edges], samples.edges[own])
                for name in ("senders", "receivers"):
                    np.testing.assert_array_equal(
                        getattr(graph, name)[edges] - starts[slot],
                        getattr(samples, name)[own],
                    )

    def test_every_batch_fits_its_bucket(self, sizes):
        _, dataset = make_dataset(sizes)
        bucket = dataset.packing.bucket
        for batch in batches(dataset, dataset.train_plan(1, 0)):
            graph = batch.graph
            assert batch.graph.bucket == bucket
            assert graph.n_node.sum() == bucket.max_nodes == len(graph.nodes.positions)
            assert graph.n_edge.sum() == bucket.max_edges == len(graph.edges)
            assert len(graph.n_node) == bucket.num_graphs == len(batch.weights)
            assert (np.diff(graph.receivers) >= 0).all()

    def test_empty_batches_have_the_shapes_of_others(self, sizes):
        _, dataset = make_dataset(sizes)
        plan = dataset.plan("train")
        padded = pad_plan(plan, dataset.packing, len(plan["weight"]) + 2)
        assert {name: value.dtype for name, value in padded.items()} == {
            name: value.dtype for name, value in plan.items()
        }
        assert padded["weight"][-2:].sum() == 0
        twice = names_in_order(dataset, concatenate_plans([plan, padded]))
        once = names_in_order(dataset, plan)
        assert twice == 2 * once and sorted(once) == list(range(len(sizes)))

    def test_what_batches_hold_comes_back_in_the_order_asked_for(self, sizes):
        _, dataset = make_dataset(sizes, batch_size=3)
        order = np.random.default_rng(0).permutation(len(sizes))
        plan = dataset.packing.plan(order)
        assert in_sample_order(plan["sample"], plan).tolist() == order.tolist()

    def test_graphs_that_are_complete_need_no_stored_edges(self, sizes):
        samples, stored = make_dataset(sizes)
        bare = dataclasses.replace(samples, senders=None, receivers=None)
        packing = make_packing(bare, testing.TASK, 4)
        assert packing.bucket == stored.packing.bucket
        computed = dataclasses.replace(stored, packing=packing)
        plan = stored.train_plan(1, 0)
        for one, other in zip(
            batches(stored, plan), batches(computed, plan), strict=True
        ):
            jax.tree.map(np.testing.assert_array_equal, one, other)

    def test_assembly_is_the_same_within_a_compiled_program(self, sizes):
        _, dataset = make_dataset(sizes)
        arrays = dataset.packing.arrays()
        row = {name: values[0] for name, values in dataset.train_plan(1, 0).items()}
        found = jax.jit(dataset.packing.assemble)(arrays, row)
        expected = dataset.packing.assemble(arrays, row)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype


def test_padding_of_ragged_batches_is_the_last_slot():
    _, dataset = make_dataset(RAGGED_SIZES)
    seen = 0
    for batch in batches(dataset, dataset.train_plan(1, 0)):
        real_nodes = np.asarray(graphs.node_mask(batch.graph))
        real_edges = np.asarray(graphs.edge_mask(batch.graph))
        assert batch.weights[-1] == 0 and not real_nodes[-1]
        assert real_nodes.sum() == batch.graph.n_node[batch.weights > 0].sum()
        ends = np.stack([batch.graph.senders, batch.graph.receivers])
        assert (ends[:, ~real_edges] == batch.graph.bucket.max_nodes - 1).all()
        assert real_nodes[ends[:, real_edges]].all()
        assert (batch.graph.nodes.positions[~real_nodes] == 0).all()
        seen += (~real_edges).sum()
    assert seen > 0


def test_ragged_batches_are_filled_greedily():
    samples, dataset = make_dataset(RAGGED_SIZES)
    bucket, plan = dataset.packing.bucket, dataset.train_plan(3, 1)
    members = [
        row[weight > 0]
        for row, weight in zip(plan["sample"], plan["weight"], strict=True)
    ]
    assert len(members) > 2
    for own, following in itertools.pairwise(members):
        grown = [*own, following[0]]
        assert (
            samples.n_node[grown].sum() > bucket.max_nodes - 1
            or samples.n_edge[grown].sum() > bucket.max_edges
            or len(grown) > bucket.num_graphs - 1
        ), "the next sample would have fitted"


def test_graphs_that_wait_are_the_first_of_the_next_batch():
    """And those behind them fill the gap; the padding told is that of the batches."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 12, 200).tolist()
    samples, dataset = make_dataset(sizes, 20)
    plan = dataset.train_plan(1, 0)
    ordered = np.random.default_rng([1, 0]).permutation(200)
    assert (in_sample_order(plan["sample"], plan) == ordered).all()
    firsts = [row[0] for row in plan["position"]]
    assert firsts == sorted(firsts), "a graph waits longer than for one batch"
    assert (plan["position"][plan["weight"] > 0] != np.arange(200)).any()
    told = dataset.padding(plan)
    bucket, count = dataset.packing.bucket, len(plan["weight"])
    real = samples.n_node.sum(), samples.n_edge.sum()
    room = count * bucket.max_nodes, count * bucket.max_edges
    expected = [1 - a / b for a, b in zip(real, room, strict=True)]
    np.testing.assert_allclose([told["nodes"], told["edges"]], expected)
    full = {name: values[:-1] for name, values in plan.items()}
    assert max(dataset.padding(full).values()) < 0.06  # the last may be almost empty


def test_only_equal_complete_graphs_take_the_regular_path():
    samples, dataset = make_dataset(REGULAR_SIZES)
    assert dataset.packing.bucket.nodes_per_graph == 5
    swapped = samples.senders.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert dataclasses.replace(samples, senders=swapped).common_size() is None
    _, dataset = make_dataset(RAGGED_SIZES)
    assert dataset.packing.bucket.nodes_per_graph is None
    assert dataset.packing.bucket.max_nodes_per_graph == 11


def test_packing_refuses_what_cannot_be_packed():
    samples, _ = make_dataset(RAGGED_SIZES)
    with pytest.raises(UserError, match="batch size of at least 1, found 0"):
        make_packing(samples, testing.TASK, 0)
    bucket = Bucket(8, 200, 3)
    with pytest.raises(UserError, match="graph 6 has 11 nodes but a batch holds 7"):
        RaggedPacking(samples, bucket, ["position"])


# --- N-body folders -----------------------------------------------------------------


def stored(dataset):
    """The flat samples of a data set."""
    return dataset.packing.samples


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7)])
def test_a_folder_is_read_as_it_was_written(tmp_path, sizes):
    arrays = nbody_folder.write(tmp_path / "set", sizes)
    dataset = nbody.load(tmp_path / "set", dataclasses.replace(SETTINGS, target="both"))
    samples = stored(dataset)
    number = node = edge = 0
    for split, own in arrays.items():
        count = len(own["positions"])
        centers = samples.centers[number : number + count]
        assert dataset.splits[split].tolist() == list(range(number, number + count))
        number += count
        for system in range(count):
            size = own.get("num_bodies", np.full(count, sizes[1]))[system]
            for body in range(size):
                start, end = (
                    own["positions"][system, k, body] - centers[system] for k in (0, 2)
                )
                velocity, later = (own["velocities"][system, k, body] for k in (0, 2))
                expected = {
                    "position": (samples.nodes.positions[node], start),
                    "velocity": (samples.nodes.vectors[node, 0], velocity),
                    "charge": (
                        samples.nodes.scalars[node],
                        own["charges"][system, body],
                    ),
                    "target": (samples.targets["position"][node, 0], end),
                    "later": (samples.targets["velocity"][node, 0], later),
                }
                for name, (found, value) in expected.items():
                    np.testing.assert_allclose(found, value, 2e-7, 4e-7, err_msg=name)
                node += 1
            for sender, receiver in zip(
                *connectivity.complete_edges(size), strict=True
            ):
                product = own["charges"][system, sender]
                product *= own["charges"][system, receiver]
                assert samples.edges[edge] == np.float32(product)
                assert samples.senders[edge] == sender
                assert samples.receivers[edge] == receiver
                edge += 1
    assert node == len(samples.nodes.positions) and edge == len(samples.edges)
    assert len(dataset.fingerprint) == 64


def test_the_task_says_what_the_arrays_are(tmp_path):
    nbody_folder.write(tmp_path / "charged")
    task = nbody.load(tmp_path / "charged", SETTINGS).task
    assert task.scalars == ("charge",) and task.edge_features == ("charge_product",)
    (head,) = task.heads
    assert (head.name, head.base, head.unit) == ("position", "positions", "m")
    assert task.length_unit == "m" and task.name == "charged, frame 10 -> 30"
    nbody_folder.write(tmp_path / "gravity", system="gravity")
    settings = dataclasses.replace(SETTINGS, target="velocity")
    task = nbody.load(tmp_path / "gravity", settings).task
    assert task.scalars == ("mass",) and task.edge_features == ("mass_product",)
    (head,) = task.heads
    assert (head.name, head.base, head.unit) == ("velocity", "velocity", "m / s")


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7)])
def test_statistics_are_those_of_the_training_set(tmp_path, sizes):
    splits = {"train": 200, "valid": 2, "test": 2}  # so that 0.1 % are some
    folder = tmp_path / "set"
    arrays = nbody_folder.write(folder, sizes, splits=splits)["train"]
    dataset = nbody.load(folder, dataclasses.replace(SETTINGS, num_train=180))
    bodies = arrays.get("num_bodies", np.full(200, sizes[1]))[:180]
    distances = [
        np.linalg.norm(positions[i] - positions[j])
        for positions, size in zip(arrays["positions"][:180, 0], bodies, strict=True)
        for i in range(size)
        for j in range(size)
        if i != j
    ]
    expected = np.percentile(distances, 99.9)
    np.testing.assert_allclose(dataset.task.radial_extent, expected, rtol=1e-6)
    assert max(distances) > 1.001 * dataset.task.radial_extent
    average = (bodies * (bodies - 1)).sum() / bodies.sum()
    np.testing.assert_allclose(dataset.task.average_neighbors, average)


def test_fewer_training_samples_leave_the_other_splits_alone(tmp_path):
    nbody_folder.write(tmp_path / "set", (2, 7))
    whole = nbody.load(tmp_path / "set", SETTINGS)
    part = nbody.load(tmp_path / "set", dataclasses.replace(SETTINGS, num_train=3))
    assert len(part.splits["train"]) == 3
    assert part.fingerprint == whole.fingerprint
    for split in ("train", "valid", "test"):
        found = positions_of(part, split)
        expected = positions_of(whole, split)[: len(found)]
        assert split == "train" or len(found) == len(positions_of(whole, split))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_identity_is_of_everything_that_decides_the_numbers(tmp_path):
    nbody_folder.write(tmp_path / "set", forces=True)

    def identity(**changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return nbody.load(tmp_path / "set", settings).identity

    assert identity() == identity(batch_size=3) == identity(num_train=11)
    changes: list[dict[str, Any]] = [
        *({}, {"start_frame": 20}, {"target_frame": 20}, {"target": "both"}),
        *({"cues": "force"}, {"connectivity": "knn", "num_neighbors": 2}),
        *({"connectivity": "knn", "num_neighbors": 3}, {"num_train": 10}),
        {"dtype": "float64"},
    ]
    assert len({identity(**change) for change in changes}) == len(changes)
    rows = {"train": np.arange(3), "test": np.array([4, 3])}
    known = identify("", {}, rows)
    narrow = {name: row.astype(np.int16) for name, row in rows.items()}
    assert known == identify("", {}, narrow)
    assert known != identify("", {}, rows | {"test": np.array([3, 4])})


def positions_of(dataset, split):
    """Positions of each sample of a split."""
    samples = stored(dataset)
    starts = np.cumsum([0, *samples.n_node])
    return [
        samples.nodes.positions[starts[number] : starts[number + 1]]
        for number in dataset.splits[split]
    ]


def test_a_set_of_mixed_sizes_from_the_generator(tmp_path):
    settings = simulation.Settings(
        num_bodies=(3, 20),
        num_steps=300,
        num_train=9,
        num_valid=3,
        num_test=4,
        random_stream="jax",
    )
    metadata = generate_nbody.generate(settings, tmp_path / "set", progress=False)
    dataset = nbody.load(tmp_path / "set", nbody.Settings(0, 1, batch_size=4))
    samples = stored(dataset)
    assert dataset.fingerprint == metadata["fingerprint"]
    assert dataset.packing.bucket.nodes_per_graph is None
    assert 3 <= samples.n_node.min() < samples.n_node.max() <= 20
    assert set(np.unique(samples.nodes.scalars)) == {-1.0, 1.0}
    assert (np.linalg.norm(samples.nodes.vectors, axis=-1) > 0).all()
    moved = samples.targets["position"][:, 0] - samples.nodes.positions
    assert (np.linalg.norm(moved, axis=-1) > 0).all()


def test_dtypes(tmp_path):
    nbody_folder.write(tmp_path / "set")
    for dtype in ("float32", "float64"):
        settings = dataclasses.replace(SETTINGS, dtype=dtype)
        samples = stored(nbody.load(tmp_path / "set", settings))
        floats = (*samples.nodes, samples.edges, *samples.targets.values())
        assert {leaf.dtype.name for leaf in floats} == {dtype}
        assert samples.senders.dtype == samples.n_node.dtype == np.int32


def altered(folder):
    with np.load(folder / "valid.npz") as file:
        arrays = dict(file)
    arrays["velocities"][2, 1, 3, 0] += 1e-6
    nbody_folder.save_split(folder, "valid", arrays)


def without_velocities(folder):
    with np.load(folder / "train.npz") as file:
        arrays = dict(file)
    del arrays["velocities"]
    nbody_folder.save_split(folder, "train", arrays)


def truncated(folder):
    path = folder / "test.npz"
    path.write_bytes(path.read_bytes()[:-300])


def without_test(folder):
    arrays = nbody_files.read_metadata(folder)["arrays"]
    del arrays["test"]
    digest = nbody_folder.fingerprint(arrays)
    nbody_folder.edit_metadata(folder, arrays=arrays, fingerprint=digest)


FAULTS = {
    "no metadata": (
        lambda folder: (folder / "metadata.json").unlink(),
        "set is not a finished data set: it has no metadata.json",
    ),
    "no file": (
        lambda folder: (folder / "valid.npz").unlink(),
        r"valid\.npz is missing; generate",
    ),
    "truncated": (truncated, r"test\.npz: it is damaged"),
    "altered": (altered, r"valid\.npz was altered: the SHA-256 of velocities differs"),
    "array missing": (without_velocities, "velocities is missing"),
    "no JSON": (
        lambda folder: (folder / "metadata.json").write_text('{"format": 1'),
        r"cannot read .*metadata\.json",
    ),
    "a list": (
        lambda folder: (folder / "metadata.json").write_text("[1]"),
        r"cannot read .*metadata\.json",
    ),
    "other format": (
        lambda folder: nbody_folder.edit_metadata(folder, format=3),
        "has format 3, expected 1 or 2",
    ),
    "no units": (
        lambda folder: nbody_folder.edit_metadata(folder, units=None),
        r"cannot read .*expected units",
    ),
    "no checksums": (
        lambda folder: nbody_folder.edit_metadata(folder, arrays=None),
        r"cannot read .*expected arrays",
    ),
    "other fingerprint": (
        lambda folder: nbody_folder.edit_metadata(folder, fingerprint="0" * 64),
        "its fingerprint is not that of its checksums",
    ),
    "other frames": (
        lambda folder: nbody_folder.edit_metadata(folder, frames=[10, 30]),
        r"'positions' \[S, 2, n, 3\], found float64\[11, 3, 5, 3\]",
    ),
    "other system": (
        lambda folder: nbody_folder.edit_metadata(
            folder, settings={"system": "gravity"}
        ),
        "expected positions, velocities and masses in the train set",
    ),
    "no test set": (without_test, "has no test set; generate one with --num_test"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused_in_one_line(tmp_path, fault):
    folder = tmp_path / "set"
    nbody_folder.write(folder)
    nbody.load(folder, SETTINGS)
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        nbody.load(folder, SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"target_frame": 40}, "has no frame 40; it has 10 to 30 \\(3 frames\\)"),
        ({"start_frame": 0}, "has no frame 0"),
        ({"num_train": 12}, "--num_train between 1 and the 11 training samples"),
        ({"num_train": 0}, "found 0"),
        ({"batch_size": 0}, "batch size of at least 1, found 0"),
    ],
)
def test_settings_that_the_folder_cannot_meet(tmp_path, settings, message):
    nbody_folder.write(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        nbody.load(tmp_path / "set", dataclasses.replace(SETTINGS, **settings))


# --- Nearest neighbours and forces --------------------------------------------------

KNN = dataclasses.replace(SETTINGS, connectivity="knn", num_neighbors=2)


@pytest.mark.parametrize("sizes", [(5, 5), (3, 7)])
def test_senders_are_the_nearest_bodies_at_the_start(tmp_path, sizes):
    arrays = nbody_folder.write(tmp_path / "set", sizes, system="gravity")
    dataset = nbody.load(tmp_path / "set", KNN)
    task, samples = dataset.task, stored(dataset)
    assert (task.connectivity, task.num_neighbors) == ("knn", 2)
    assert task.average_neighbors == 2 and (samples.n_edge == 2 * samples.n_node).all()
    edge = 0
    lengths = []
    for split, own in arrays.items():
        for system in range(len(own["positions"])):
            size = own.get("num_bodies", [sizes[1]] * 99)[system]
            positions = own["positions"][system, 0, :size]
            masses = own["masses"][system]
            for receiver in range(size):
                distances = np.linalg.norm(positions - positions[receiver], axis=1)
                for sender in np.argsort(distances)[1:3]:
                    assert samples.receivers[edge] == receiver
                    assert samples.senders[edge] == sender
                    assert samples.edges[edge] == masses[sender] * masses[receiver]
                    lengths += [distances[sender]] * (split == "train")
                    edge += 1
    assert edge == len(samples.senders)
    expected = np.percentile(lengths, 99.9)
    np.testing.assert_allclose(task.radial_extent, expected, rtol=1e-6)


def test_equal_systems_of_neighbors_are_regular_and_batched_as_ragged_ones(tmp_path):
    nbody_folder.write(tmp_path / "set", (5, 5), forces=True)
    settings = dataclasses.replace(KNN, cues="force", target="both")
    dataset = nbody.load(tmp_path / "set", settings)
    samples, bucket = stored(dataset), dataset.packing.bucket
    assert (bucket.nodes_per_graph, bucket.neighbors_per_node) == (5, 2)
    ragged = Bucket(bucket.max_nodes + 1, bucket.max_edges, bucket.num_graphs + 1)
    names = [head.name for head in dataset.task.heads]
    packing = RaggedPacking(samples, ragged, names)
    general = dataclasses.replace(dataset, packing=packing)
    plans = [each.train_plan(1, 0) for each in (dataset, general)]
    pairs = zip(batches(dataset, plans[0]), batches(general, plans[1]), strict=True)
    for fast, slow in pairs:
        count = int(fast.weights.sum())
        assert count == slow.weights.sum() > 0
        for found, expected in zip(
            jax.tree.leaves((fast.graph, fast.targets)),
            jax.tree.leaves((slow.graph, slow.targets)),
            strict=True,
        ):
            own = len(found) // bucket.num_graphs * count
            np.testing.assert_array_equal(found[:own], expected[:own])


def test_a_packing_without_common_degree_is_ragged():
    samples, _ = make_dataset(REGULAR_SIZES)
    assert samples.common_degree() == 4
    moved = samples.receivers.copy()
    moved[4] = 0  # the second node's first sender now sends to the first node
    assert dataclasses.replace(samples, receivers=moved).common_degree() is None
    assert make_dataset(RAGGED_SIZES)[0].common_degree() is None


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7)])
def test_cues_name_the_vectors_and_targets_the_heads(tmp_path, sizes):
    arrays = nbody_folder.write(tmp_path / "set", sizes, forces=True)
    train = arrays["train"]
    bodies = train.get("num_bodies", np.full(11, sizes[1]))
    present = np.arange(sizes[1]) < bodies[:, None]
    for cues, names in nbody.CUES.items():
        settings = dataclasses.replace(SETTINGS, cues=cues)
        dataset = nbody.load(tmp_path / "set", settings)
        assert tuple(vector.name for vector in dataset.task.vectors) == names
        found = stored(dataset).nodes.vectors
        assert found.shape[1:] == (len(names), 3)
        for column, name in enumerate(names):
            own = {"velocity": "velocities", "force": "forces"}[name]
            expected = train[own][:, 0][present].astype(np.float32)
            np.testing.assert_array_equal(found[: len(expected), column], expected)
    settings = dataclasses.replace(SETTINGS, target="force")
    dataset = nbody.load(tmp_path / "set", settings)
    (head,) = dataset.task.heads
    assert (head.name, head.base, head.unit) == ("force", "", "N")
    expected = train["forces"][:, 2][present].astype(np.float32)
    np.testing.assert_allclose(head.scale, expected.std(), rtol=0.1)
    np.testing.assert_allclose(head.scale, np.sqrt((expected**2).mean()), rtol=1e-6)
    found = stored(dataset).targets["force"][: len(expected), 0]
    np.testing.assert_array_equal(found, expected)


def test_a_velocity_that_is_no_input_is_no_base(tmp_path):
    nbody_folder.write(tmp_path / "set")
    settings = dataclasses.replace(SETTINGS, cues="positions", target="both")
    heads = nbody.load(tmp_path / "set", settings).task.heads
    assert [(head.name, head.base) for head in heads] == [
        ("position", "positions"),
        ("velocity", ""),
    ]


@pytest.mark.parametrize("name, value", [("cues", "force"), ("target", "force")])
def test_forces_that_are_missing_are_asked_for_in_one_line(tmp_path, name, value):
    nbody_folder.write(tmp_path / "set")
    settings = dataclasses.replace(SETTINGS, **{name: value})
    with pytest.raises(UserError, match="no forces in its train set.*--save_forces"):
        nbody.load(tmp_path / "set", settings)


@pytest.mark.parametrize("num_neighbors", [0, 3, None])
def test_more_neighbors_than_bodies_are_refused(tmp_path, num_neighbors):
    nbody_folder.write(tmp_path / "set", (3, 7))
    settings = dataclasses.replace(KNN, num_neighbors=num_neighbors)
    message = f"--num_neighbors from 1 to 2, .*smallest.*found {num_neighbors}"
    with pytest.raises(UserError, match=message):
        nbody.load(tmp_path / "set", settings)
