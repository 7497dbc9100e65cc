"""Objects as PyTorch Geometric has them, of NumPy arrays and of real tensors."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from demetar import connectivity, data, testing
from demetar.data.packing import RaggedPacking, make_packing
from demetar.data.samples import to_dtype
from demetar.errors import UserError

SIZES = (5, 3, 7, 2)


def make_list(convert=np.asarray):
    """Graphs whose edges stand in any order."""
    generator = np.random.default_rng(0)
    items = []
    for size in SIZES:
        senders, receivers = connectivity.complete_edges(size)
        order = generator.permutation(len(senders))[: size * 2]
        arrays = {
            "x": generator.normal(size=(size, 4)).astype("f4"),
            "pos": generator.normal(size=(size, 3)).astype("f4"),
            "edge_index": np.stack([senders, receivers])[:, order].astype("i8"),
            "edge_attr": generator.normal(size=(len(order), 2)).astype("f4"),
            "y": generator.normal(size=(1, 3)).astype("f4"),
        }
        items.append(
            types.SimpleNamespace(
                **{name: convert(value) for name, value in arrays.items()}
            )
        )
    return items


def collate(items):
    """The batch that a loader makes of a list."""
    sizes = [len(item.pos) for item in items]
    starts = np.cumsum([0, *sizes])[:-1]
    joined = {
        name: np.concatenate([getattr(item, name) for item in items])
        for name in ("x", "pos", "edge_attr", "y")
    }
    ends = [item.edge_index + start for item, start in zip(items, starts, strict=True)]
    return types.SimpleNamespace(
        **joined,
        edge_index=np.concatenate(ends, axis=1),
        batch=np.repeat(np.arange(len(items)), sizes),
    )


def assert_holds(samples, items):
    node_starts = np.cumsum([0, *samples.n_node])
    edge_starts = np.cumsum([0, *samples.n_edge])
    assert samples.n_node.tolist() == list(SIZES)
    for number, item in enumerate(items):
        own = slice(node_starts[number], node_starts[number + 1])
        np.testing.assert_array_equal(samples.nodes.positions[own], item.pos)
        np.testing.assert_array_equal(samples.nodes.scalars[own], item.x)
        np.testing.assert_array_equal(samples.targets["y"][number], item.y[0])
        pairs = slice(edge_starts[number], edge_starts[number + 1])
        receivers = samples.receivers[pairs]
        assert (np.diff(receivers) >= 0).all()
        ends = map(tuple, item.edge_index.T.tolist())
        features = dict(zip(ends, item.edge_attr.tolist(), strict=True))
        found = zip(
            samples.senders[pairs], receivers, samples.edges[pairs], strict=True
        )
        for sender, receiver, values in found:
            assert features.pop((sender, receiver)) == values.tolist()
        assert not features


def test_a_list_and_a_loader_give_the_same_samples():
    items = make_list()
    samples = data.from_pyg(items)
    assert_holds(samples, items)
    loader = iter([collate(items[:3]), collate(items[3:])])
    jax.tree.map(
        np.testing.assert_array_equal,
        vars(samples),
        vars(data.from_pyg(loader)),
    )


def test_samples_become_batches():
    samples = to_dtype(data.from_pyg(make_list(), target="energy"), "float32")
    packing = make_packing(samples, testing.TASK, 4)
    packing = RaggedPacking(samples, packing.bucket, [])
    plan = packing.plan(np.arange(len(SIZES)))
    row = {name: values[0] for name, values in plan.items()}
    batch = packing.assemble(packing.arrays(), row)
    members = row["sample"][row["weight"] > 0]
    np.testing.assert_array_equal(
        batch.targets["energy"][: len(members)], samples.targets["energy"][members]
    )
    assert batch.graph.nodes.vectors.shape == (packing.bucket.max_nodes, 0, 3)


def test_what_is_missing_is_empty():
    (item,) = make_list()[:1]
    bare = types.SimpleNamespace(pos=item.pos, edge_index=item.edge_index, y=0.5)
    samples = data.from_pyg([bare, bare])
    assert samples.nodes.scalars.shape == (2 * SIZES[0], 0)
    assert samples.edges.shape == (2 * item.edge_index.shape[1], 0)
    assert samples.targets["y"].tolist() == [[0.5], [0.5]]
    del bare.y
    assert data.from_pyg([bare]).targets == {}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pos": np.zeros((5, 2))}, "object 1: expected pos of shape"),
        ({"pos": None}, "object 1 has no pos"),
        ({"x": np.zeros((4, 4))}, "object 1: expected x of 3 rows"),
        ({"edge_index": np.array([[0], [9]])}, "object 1"),
        ({"edge_index": np.zeros((3, 6), int)}, r"edge_index of shape \(2, E\)"),
        (
            {"edge_index": np.zeros((2, 6))},
            "whole numbers in edge_index, found float64",
        ),
        ({"y": np.zeros((2, 3))}, "object 1 has 1 graphs but y of shape"),
        ({"y": np.zeros((1, 2))}, "graph 1 has features or targets of other sizes"),
        ({"batch": np.array([0, 1, 0])}, "ascending order"),
        ({"batch": np.array([0, 0, 1])}, "an edge joins two graphs"),
    ],
)
def test_bad_objects_are_named(change, message):
    items = make_list()
    vars(items[1]).update(change)
    with pytest.raises(UserError, match=message):
        data.from_pyg(items)
    with pytest.raises(UserError, match="at least one graph"):
        data.from_pyg([])


def test_real_tensors():
    torch = pytest.importorskip("torch")
    items = make_list(torch.tensor)
    items[0].pos.requires_grad_()
    # Views in another order of memory, as `edge_index.t()` makes them.
    items[1].edge_index = items[1].edge_index.t().contiguous().t()
    assert_holds(data.from_pyg(items), make_list())
    items[0].edge_index = items[0].edge_index.to_sparse()
    with pytest.raises(UserError, match="object 0: edge_index is no array"):
        data.from_pyg(items)


def test_a_loader_of_tensors_feeds_a_model():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        make_list(torch.tensor), batch_size=3, collate_fn=collate_tensors
    )
    samples = data.from_pyg(loader, target="energy")
    samples.targets["energy"] = samples.targets["energy"][:, :1]
    task = dataclasses.replace(
        testing.MOLECULES, scalars=("a", "b", "c", "d"), edge_features=("e", "f")
    )
    own = testing.Subject("egnn", fields={"node_inputs": ("all",)}, task=task)
    packing = make_packing(samples, task, len(SIZES))
    plan = packing.plan(np.arange(len(SIZES)))
    row = {name: value[0] for name, value in plan.items()}
    batch = jax.tree.map(np.asarray, packing.assemble(packing.arrays(), row))
    params = testing.quick_params(own.model, batch)
    found = own.apply(params, batch.graph)["energy"]
    assert found.dtype == np.float32
    real = np.asarray(found)[batch.weights > 0]
    assert np.isfinite(real).all() and len(np.unique(real)) == len(SIZES)


def collate_tensors(items):
    """As `collate`, of tensors."""
    torch = pytest.importorskip("torch")
    arrays = collate(
        [
            types.SimpleNamespace(**{k: v.numpy() for k, v in vars(item).items()})
            for item in items
        ]
    )
    return types.SimpleNamespace(
        **{name: torch.from_numpy(value) for name, value in vars(arrays).items()}
    )
