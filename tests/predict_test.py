"""Trained models as functions of arrays: `demetar.load` and `Predictor`."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import demetar
from demetar import connectivity as joined
from demetar import heads
from demetar.data import molecules, nbody, qm9, system_graphs, systems
from demetar.data.samples import to_dtype
from demetar.errors import UserError
from demetar.predict import Predictor
from demetar.train import losses
from tests.support import nbody_folder, trained

SIZES = (5, 3, 7, 2)


@pytest.fixture(scope="module")
def model():
    return Predictor(trained.make("egnn", trained.BODIES, 2))


@pytest.fixture(scope="module")
def molecular():
    return Predictor(trained.make("egnn", trained.MOLECULES))


def by_hand(model, inputs):
    """Values of each system alone, by the functions of the training."""
    task = model.task
    found: dict[str, list] = {head.name: [] for head in task.heads}
    apply = jax.jit(lambda params, graph: model.net.apply(params, None, graph, False))
    for index in range(len(inputs["positions"])):
        own = {name: values[index] for name, values in inputs.items()}
        batch = demetar.make_batch(task, **own)
        outputs = apply(model.params, batch.graph)
        predictions = losses.predict(task, outputs, batch.graph.nodes)
        scalars, n_node = batch.graph.nodes.scalars, batch.graph.n_node
        counts = heads.composition(task, scalars, n_node)
        for name, value in heads.absolute_all(task, predictions, counts).items():
            if name == "position":
                value = value + own["positions"].mean(axis=0)
            found[name].append(value[:, 0] if value.ndim > 2 else value[0, 0])
    return found


# --- Values -------------------------------------------------------------------------


def test_values_are_those_of_the_model_on_each_system_alone(model):
    inputs = trained.bodies(SIZES[:2])
    found = model(**inputs)
    expected = by_hand(model, inputs)
    assert list(found) == ["position", "velocity"]
    for name, values in expected.items():
        assert [own.shape for own in found[name]] == [(size, 3) for size in SIZES[:2]]
        for own, other in zip(found[name], values, strict=True):
            np.testing.assert_allclose(own, other, atol=2e-6)
            assert own.dtype == np.float64
    # The model does something.
    assert abs(found["position"][0] - inputs["positions"][0]).max() > 1e-3


def test_one_system_an_array_and_a_list_agree(model):
    inputs = trained.bodies((4, 4, 4))
    listed = model(**inputs)["position"]
    stacked = model(**{name: np.stack(own) for name, own in inputs.items()})
    assert stacked["position"].shape == (3, 4, 3)
    np.testing.assert_allclose(stacked["position"], np.stack(listed), atol=1e-6)
    one = model(**{name: own[1] for name, own in inputs.items()})["position"]
    np.testing.assert_allclose(one, listed[1], atol=1e-6)
    nested = model(
        inputs["positions"][1].tolist(),
        velocity=inputs["velocities"][1].tolist(),
        charge=inputs["charges"][1].tolist(),
    )
    np.testing.assert_array_equal(nested["position"], one)


def test_scalars_of_one_system_do_for_all_of_its_size(model):
    inputs = trained.bodies((4, 4))
    charges = inputs["charges"][0]
    arrays = {name: np.stack(own) for name, own in inputs.items()}
    arrays["charges"] = np.stack([charges, charges])
    expected = model(**arrays)["velocity"]
    found = model(**{**arrays, "charges": charges})["velocity"]
    np.testing.assert_array_equal(found, expected)


def test_positions_far_away_keep_their_digits(model):
    inputs = trained.bodies((5,))
    near = model(**inputs)["position"][0]
    moved = {**inputs, "positions": [inputs["positions"][0] + 1e6]}
    np.testing.assert_allclose(model(**moved)["position"][0] - 1e6, near, atol=1e-5)


def test_totals_have_what_is_known_added_in_double_precision(molecular):
    inputs = trained.molecules((5, 3))
    found = molecular(**inputs)["energy"]
    expected = by_hand(molecular, inputs)["energy"]
    assert found.shape == (2,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    offsets = dict(zip((1, 6, 8), trained.MOLECULES.heads[0].offsets, strict=True))
    known = [-3 + sum(offsets[z] for z in own) for own in inputs["species"]]
    assert 0 < abs(found - known).max() < 0.1  # far below the rounding of float32
    one = molecular(**{name: own[0] for name, own in inputs.items()})["energy"]
    assert np.ndim(one) == 0 and one == pytest.approx(found[0], rel=1e-13)


def test_species_are_numbers_or_symbols_by_any_name(molecular):
    positions = trained.molecules((3,))["positions"][0]
    expected = molecular(positions, species=[8, 1, 1])["energy"]
    for keyword, values in (
        ("species", ["O", "H", "h"]),
        ("atomic_numbers", np.array([8.0, 1, 1])),
        ("numbers", np.array(["8", "H", "1"])),
    ):
        assert molecular(positions, **{keyword: values})["energy"] == expected
    frames = molecular(np.stack([positions, 2 * positions]), species=["O", "H", "H"])
    assert frames["energy"].shape == (2,) and frames["energy"][0] == pytest.approx(
        expected, rel=1e-13
    )


def test_a_seed_is_chosen_or_the_mean_is_taken(tmp_path, model):
    folder = trained.save(tmp_path / "run", "egnn", trained.BODIES, 2)
    inputs = trained.bodies((4,))
    values = [
        demetar.load(folder, seed)(**inputs)["velocity"][0] for seed in (7, 8, "mean")
    ]
    assert abs(values[0] - values[1]).max() > 1e-4
    np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2, atol=1e-7)
    assert model.seed == 7 and model.seeds == (7, 8)
    np.testing.assert_array_equal(model(**inputs)["velocity"][0], values[0])
    with pytest.raises(UserError, match="expected a seed of 7, 8 .* found 1"):
        demetar.load(folder, 1)


def test_double_precision_is_at_hand(model):
    exact = Predictor(trained.make("egnn", trained.BODIES, 2), dtype="float64")
    inputs = trained.bodies(SIZES)
    for single, double in zip(
        model(**inputs)["position"], exact(**inputs)["position"], strict=True
    ):
        assert 0 < abs(single - double).max() < 1e-5
    with pytest.raises(UserError, match="float32, float64, found 'float16'"):
        Predictor(trained.make("egnn", trained.BODIES), dtype="float16")


# --- Shapes -------------------------------------------------------------------------


def test_other_sizes_compile_seldom():
    model = Predictor(trained.make("linear", trained.BODIES))
    for size in (*range(1, 41), *range(40, 0, -1)):
        model(**trained.bodies((size,)))
    assert model.num_shapes <= 12
    shapes = model.num_shapes
    for count in (1, 2, 3, 5, 30):
        model(**trained.bodies(tuple(range(1, count + 1))))
    assert model.num_shapes <= shapes + 6
    program: Any = model._program
    assert program._cache_size() == model.num_shapes


def test_graphs_of_a_cutoff_share_few_shapes():
    task = dataclasses.replace(trained.BODIES, connectivity="radius 3", cutoff=3.0)
    model = Predictor(trained.make("linear", task))
    for seed in range(30):
        model(**trained.bodies((4,), seed))
    assert model.num_shapes <= 3
    alone = {**trained.bodies((3,)), "positions": [100 * np.eye(3)]}
    assert np.isfinite(model(**alone)["position"][0]).all()  # nobody has neighbours


def test_many_systems_are_taken_in_parts(monkeypatch):
    model = Predictor(trained.make("linear", trained.BODIES))
    sizes = tuple(1 + index % 6 for index in range(50))
    inputs = trained.bodies(sizes)
    expected = model(**inputs)["position"]
    monkeypatch.setattr("demetar.data.capacity.MOST_GRAPHS", 8)
    monkeypatch.setattr("demetar.data.capacity.MOST_EDGES", 40)
    for own, other in zip(model(**inputs)["position"], expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


# --- Graphs -------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(5, 5), (4, 7)])
@pytest.mark.parametrize("settings", [{}, {"connectivity": "knn", "num_neighbors": 2}])
def test_graphs_of_bodies_are_those_of_the_training(tmp_path, sizes, settings):
    folder = tmp_path / "data"
    arrays = nbody_folder.write(folder, sizes)["test"]
    dataset = nbody.load(folder, nbody.Settings(10, 20, **settings))
    expected = dataset.packing.samples
    bodies = arrays.get("num_bodies", np.full(len(arrays["positions"]), sizes[0]))
    inputs = {
        "positions": [
            own[0, :n] for own, n in zip(arrays["positions"], bodies, strict=True)
        ],
        "velocities": [
            own[0, :n] for own, n in zip(arrays["velocities"], bodies, strict=True)
        ],
        "charges": [own[:n] for own, n in zip(arrays["charges"], bodies, strict=True)],
    }
    found = system_graphs.to_samples(dataset.task, systems.parse(dataset.task, inputs))
    found = to_dtype(found, "float32")
    assert_last_samples(found, expected, len(bodies))


@pytest.mark.parametrize("connectivity", ["complete", "radius", "bonds"])
@pytest.mark.parametrize("features", ["species", "egnn"])
def test_graphs_of_molecules_are_those_of_the_training(connectivity, features):
    given = trained.molecules(tuple(3 + index % 5 for index in range(20)))
    records = [
        molecules.Record(
            "here", row + 1, own.tolist(), where.ravel().tolist(), [1.0], ""
        )
        for row, (own, where) in enumerate(
            zip(given["species"], given["positions"], strict=True)
        )
    ]
    known = molecules.build(records, ["gap"], ["eV"], "own")
    dataset = qm9.load(
        known,
        qm9.Settings(
            target="gap",
            split="random",
            connectivity=connectivity,
            cutoff=2.0,
            node_features=features,
            bond_features=connectivity == "bonds",
        ),
    )
    rows = np.concatenate(
        [qm9.split_rows("random", 20)[part] for part in ("train", "valid", "test")]
    )
    inputs = {name: [own[row] for row in rows] for name, own in given.items()}
    found = system_graphs.to_samples(dataset.task, systems.parse(dataset.task, inputs))
    found = to_dtype(found, "float32")
    assert_last_samples(found, dataset.packing.samples, 20)


def assert_last_samples(found, expected, count):
    """The samples are the last of others, but for the targets."""
    for name in ("n_node", "n_edge"):
        np.testing.assert_array_equal(
            getattr(found, name), getattr(expected, name)[-count:]
        )
    num_nodes, num_edges = int(found.n_node.sum()), int(found.n_edge.sum())
    assert num_edges
    for name in ("positions", "scalars", "vectors"):
        own, other = getattr(found.nodes, name), getattr(expected.nodes, name)
        np.testing.assert_array_equal(own, other[-num_nodes:])
        assert own.dtype == other.dtype
    np.testing.assert_array_equal(found.edges, expected.edges[-num_edges:])
    ends = found.ends or tuple(
        np.concatenate(part)
        for part in zip(
            *(joined.complete_edges(int(n)) for n in found.n_node),
            strict=True,
        )
    )
    if expected.ends is not None:
        for own, other in zip(ends, expected.ends, strict=True):
            np.testing.assert_array_equal(own, other[-num_edges:])


def test_graphs_that_positions_do_not_tell_are_refused():
    task = dataclasses.replace(trained.BODIES, connectivity="road map")
    inputs = trained.bodies((3,))
    for other, message in (
        (task, "connectivity 'road map' cannot be built from positions"),
        (
            dataclasses.replace(trained.BODIES, connectivity="bonds"),
            "bonds, which are found between elements alone",
        ),
        (
            dataclasses.replace(trained.BODIES, edge_features=("spring",)),
            "has the edge feature 'spring', which is no product",
        ),
        (
            dataclasses.replace(trained.BODIES, connectivity="knn", num_neighbors=3),
            "more than 3 nodes, the neighbours of each, found 3 in system 0",
        ),
    ):
        with pytest.raises(UserError, match=message):
            system_graphs.to_samples(other, systems.parse(other, inputs))


# --- Bad input ----------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (
        {"charges": None},
        r"reads positions \[n, 3\], velocities \[n, 3\], charges \[n\]; missing: "
        r"charges; pass them as charges=\.\.\.",
    ),
    "unknown": ({"masses": [1.0]}, "has no input 'masses'; pass positions"),
    "twice": ({"charge": [1.0] * 3}, "charge once"),
    "no_positions": ({"positions": None}, "missing: positions"),
    "flat": ({"positions": np.zeros(9)}, r"\[systems, n, 3\].* found float64 \[9\]"),
    "plane": ({"positions": np.zeros((3, 2))}, r"found float64 \[3, 2\]"),
    "empty": ({"positions": np.zeros((0, 3))}, r"found float64 \[0, 3\]"),
    "ragged_row": (
        {"positions": [[0, 1, 2], [0, 1]]},
        "expected an array of positions",
    ),
    "text": ({"positions": [["a", "b", "c"]] * 3}, "expected numbers in positions"),
    "count": (
        {"charges": np.ones(4)},
        r"charges of shape \[3\], as positions have 3 nodes, found float64 \[4\]",
    ),
    "vectors": ({"velocities": np.ones((3, 2))}, r"velocities of shape \[3, 3\]"),
    "nan": (
        {"velocities": [[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]},
        "finite numbers in velocities, found nan in system 0, node 1",
    ),
    "infinite": ({"charges": [0, 1, np.inf]}, "charges, found inf in system 0, node 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(model, case):
    changed, message = BAD[case]
    inputs = {name: own[0] for name, own in trained.bodies((3,)).items()}
    with pytest.raises(UserError, match=message) as error:
        model(**{**inputs, **changed})
    assert "\n" not in str(error.value)


def test_bad_lists_name_the_system(model):
    inputs = trained.bodies((3, 4))
    for name, value, message in (
        ("charges", inputs["charges"][:1], "charges of 2 systems, as positions"),
        ("charges", [np.ones(3), np.ones(5)], r"\[4\], .* found .* \[5\] in system 1"),
        ("positions", [np.ones((3, 3)), np.ones(3)], r"\[3\] in system 1"),
        ("charges", np.ones((2, 9)), r"charges of shape \[3\]"),
    ):
        with pytest.raises(UserError, match=message):
            model(**{**inputs, name: value})


@pytest.mark.parametrize(
    "species, found",
    [
        ([6, 1, 17], r"17 \(Cl\) in system 0, node 2"),
        (["C", "H", "Xx"], "'Xx' in system 0, node 2"),
        ([6, 1, 1.5], "1.5 in system 0, node 2"),
        ([6, 1, 0], "0 in system 0, node 2"),
        ([6, np.nan, 1], "nan in system 0, node 1"),
    ],
)
def test_unknown_species_are_refused(molecular, species, found):
    with pytest.raises(UserError, match=found):
        molecular(np.eye(3), species=species)


# --- Files --------------------------------------------------------------------------


def test_a_folder_a_file_and_nothing_at_all(tmp_path):
    folder = trained.save(tmp_path / "run", "linear", trained.BODIES)
    inputs = trained.bodies((3,))
    first, second = (
        demetar.load(place)(**inputs)["position"][0]
        for place in (folder, str(folder / "best.npz"))
    )
    np.testing.assert_array_equal(first, second)
    assert "linear of the task 'bodies'" in repr(demetar.load(folder))
    with pytest.raises(UserError, match=r"trained model in .*best.npz, found no such"):
        demetar.load(tmp_path)
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="truncated, altered or no checkpoint"):
        demetar.load(tmp_path / "other.npz")


def test_pretrained_models_are_listed(tmp_path, monkeypatch):
    trained.save(tmp_path / "run", "linear", trained.BODIES)
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path / "run")
    with pytest.raises(
        UserError,
        match="no model is called 'pretrained:egnn'; there are pretrained:best",
    ):
        demetar.load("pretrained:egnn")
    assert demetar.load("pretrained:best").model == "linear"


def test_a_checkpoint_of_an_earlier_release_has_its_species():
    task = dataclasses.replace(
        trained.MOLECULES, species=(), heads=(demetar.Head("energy", "graph_scalar"),)
    )
    made = trained.make("egnn", trained.MOLECULES)
    model = Predictor(dataclasses.replace(made, task=task))
    assert model.inputs == ("positions", "species")
    assert np.isfinite(model(**trained.molecules((4,)))["energy"]).all()
