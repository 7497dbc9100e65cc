"""Pictures of what models compute: the numbers behind them."""

import dataclasses
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import demetar
from demetar import symmetry, testing
from demetar.data.batch import make_batch
from demetar.errors import UserError
from demetar.nn import capture
from demetar.nn.steerable import Irrep
from demetar.precision import precision
from demetar.types import Batch
from demetar.visual import (
    animation,
    attention,
    directions,
    forward,
    glyphs,
    inside,
    layout,
    paths,
    rotation,
    scene,
    sphere,
)
from demetar.visual import symmetry as by_layer

Fields = dict[str, Any]  # with which a model compiles fast

SEGNN: Fields = {
    **{"hidden_units": 9, "num_layers": 1},
    **{"lmax_hidden": 2, "lmax_attributes": 2},
}
TINY: Fields = {
    **{"hidden_size": 7, "num_heads": 3},
    **{"num_basis": 4, "joint_layers": 1},
}
ATTENDING: dict[str, Fields] = {
    "demetar": TINY,
    "set_transformer": {"hidden_size": 6, "num_heads": 3, "num_layers": 1},
    "torchmd_et": {"num_layers": 1, "num_basis": 4},
    "se3_transformer": {"hidden_size": 3, "num_layers": 1, "lmax": 1, "num_basis": 4},
    "equiformer": {"hidden_irreps": "4x0e+4x1o", "num_layers": 1, "num_basis": 4},
    "nmp": {},
}
QUICK = ("demetar",)  # the others are slow to compile


def batch_of(task=testing.TASK, size=5):
    members = testing.systems((size,))
    if task.vectors:
        return testing.regular_batch(members, task=task)
    return testing.make_batch(members, task=task)


@dataclasses.dataclass
class Looked:
    """A small model, one system, and what it computes."""

    subject: testing.Subject
    batch: Batch
    recorder: inside.Recorder
    params: Any

    @property
    def inside(self):
        return self.recorder(self.params, self.batch)

    @property
    def layout(self):
        nodes = self.batch.graph.nodes
        return layout.of_nodes(self.subject.task, nodes, 5)


@functools.cache
def looked(name, task=testing.TASK, **fields):
    subject = testing.Subject(name, fields=fields, task=task)
    recorder = inside.Recorder(subject.model, task)
    return Looked(subject, batch_of(task), recorder, subject.params)


def segnn():
    return looked("segnn", **SEGNN)


# --- The sphere ---------------------------------------------------------------------


def test_a_function_is_found_again_from_its_values():
    generator = np.random.default_rng(0)
    wanted = {degree: generator.normal(size=2 * degree + 1) for degree in range(4)}
    grid = sphere.quadrature(4)
    values = sphere.harmonics(grid.directions, 4)
    function = np.sum([sphere.evaluate(wanted[l], values, l) for l in wanted], axis=0)
    found = sphere.expand(function, grid, 4)
    for degree, coefficients in wanted.items():
        np.testing.assert_allclose(found[degree], coefficients, atol=1e-12)
    np.testing.assert_allclose(found[4], 0, atol=1e-12)
    assert grid.weights.sum() == pytest.approx(4 * np.pi)


def test_the_cubic_harmonic_is_of_degree_4_alone():
    grid = sphere.quadrature(8)
    power = sphere.power(sphere.expand(sphere.cubic(grid.directions), grid, 6))
    assert power[4] > 0.1
    assert np.delete(power, 4).max() < 1e-20


@pytest.mark.parametrize("irrep", ["0e", "0o", "1o", "1e", "2e", "3o"])
def test_wigner_matrices_are_those_of_the_group(irrep):
    irrep = Irrep(irrep)
    one, two = testing.rotation(), -scene.about(np.array([1.0, 2.0, -1.0]), 70.0)
    first, second = (rotation.wigner(irrep, matrix) for matrix in (one, two))
    np.testing.assert_allclose(first @ first.T, np.eye(irrep.dim), atol=1e-12)
    both = rotation.wigner(irrep, one @ two)
    np.testing.assert_allclose(both, first @ second, atol=1e-12)
    if irrep == Irrep("1o"):  # x, y, z themselves
        np.testing.assert_allclose(second, two, atol=1e-12)
    if irrep == Irrep("1e"):
        np.testing.assert_allclose(second, -two, atol=1e-12)


# --- Features -----------------------------------------------------------------------


def test_features_of_the_turned_input_are_the_turned_features():
    own = segnn()
    look = functools.partial(own.recorder, own.params)
    (turn,) = rotation.turns(
        *(own.subject.task, own.batch, look), np.array([2.0, -1.0, 2.0]), [109.0]
    )
    assert [layer.number for layer in turn.layers] == [0]
    assert {str(irrep) for irrep in turn.layers[0].features} == {"0e", "1o", "2e"}
    assert turn.difference < 1e-5
    # With the matrices of another rotation they would not be.
    first = own.inside.layers
    wrong = [rotation.transformed(layer, turn.matrix.T) for layer in first]
    assert rotation.difference(turn.layers, wrong) > 1e-1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, task",
    [
        *((name, testing.TASK) for name in ("nequip", "equiformer", "torchmd_et")),
        *((name, testing.TASK) for name in ("tfn", "se3_transformer")),
        *((name, testing.TASK) for name in ("simple_network", "segnn")),
        ("cormorant", testing.MOLECULES),
    ],
)
def test_features_of_all_models_turn_by_their_irreps(name, task):
    own = looked(name, task)
    look = functools.partial(own.recorder, own.params)
    (turn,) = rotation.turns(
        *(task, own.batch, look), np.array([2.0, -1.0, 2.0]), [109.0]
    )
    assert turn.difference < 1e-4
    if max(irrep.l for irrep in glyphs.irreps_of(turn.layers)):
        first = own.inside.layers
        assert rotation.difference(turn.layers, first) > 1e-2


def test_errors_by_layer_are_rounding_and_a_wrong_move_is_seen(monkeypatch):
    own = segnn()
    found = by_layer.errors(own.recorder, own.params, own.batch)
    for dtype, most in (("float32", 1e-5), ("float64", 1e-12)):
        for group in symmetry.GROUPS:
            errors = found[dtype][group]
            assert {"features_0_2e", "head position"} <= {*errors}
            assert max(errors.values()) < most, (dtype, group)
    assert "features_0_1o" in by_layer.table(found)

    true_moves = symmetry.moves

    def wrong(*args):
        moves = true_moves(*args)
        moved = moves["rotation"]
        return {**moves, "rotation": moved._replace(matrix=moved.matrix.T)}

    monkeypatch.setattr(symmetry, "moves", wrong)
    wrongly = by_layer.errors(own.recorder, own.params, own.batch)["float64"]
    assert wrongly["rotation"]["features_0_2e"] > 1e-2
    assert wrongly["rotation"]["features_0_0e"] < 1e-12


def test_glyphs_have_the_radius_and_the_sign_of_the_function():
    features = np.zeros((3, 1))
    features[0, 0] = 2.0  # along x
    picture = scene.Scene(np.eye(3))
    chosen = glyphs.Chosen(Irrep("1o"), 0, 1, features)
    glyphs.add_features(picture, np.zeros((1, 3)), chosen, 1.5, 24)
    points = np.concatenate(picture._faces).reshape(-1, 3)
    furthest = points[np.argmax(np.linalg.norm(points, axis=1))]
    np.testing.assert_allclose(np.abs(furthest), [1.5, 0, 0], atol=1e-6)
    red, blue = (
        np.concatenate(picture._colors)[:, 0],
        np.concatenate(picture._colors)[:, 2],
    )
    right = np.concatenate(picture._faces).mean(axis=1)[:, 0]
    assert (red > blue)[right > 0.3].all() and (blue > red)[right < -0.3].all()


def test_a_channel_that_there_is_not():
    layer = segnn().inside.layers[0]
    count = layer.features[Irrep("1o")].shape[-1]
    with pytest.raises(UserError, match=f"--channel from 0 to {count - 1}, of the"):
        glyphs.choose(layer, Irrep("1o"), count)


@pytest.mark.slow
def test_a_film_goes_from_the_input_to_the_output():
    own = segnn()
    steps = forward.stages(
        *(own.subject.task, own.batch.graph.nodes, own.inside, own.layout, "segnn")
    )
    assert [stage.name for stage in steps] == ["input", "layer 0", "output: position"]
    between = steps[0].towards(steps[1], 0.25)
    for irrep, values in steps[1].features.items():
        np.testing.assert_allclose(between.features[irrep], values / 4)
    frames, times = forward.film(steps, own.layout, "title")
    assert len(times) == 3 + 2 * 4
    assert len(next(frames).axes) == 1 + 3 + 1  # the system, irreps, and the progress


@pytest.mark.parametrize("kind", animation.KINDS)
def test_films_are_read_again(kind):
    figures = []
    for level in (0.2, 0.5, 0.9):
        figure = Figure(figsize=(0.5, 0.5), dpi=40, facecolor=str(level))
        figures.append(figure)
    content = animation.encode(figures, [50, 100, 50], kind)
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
        assert image.size == (20, 20)
        assert image.format == ("GIF" if kind == "gif" else "PNG")


# --- Attention ----------------------------------------------------------------------


def task_of(name):
    return testing.MOLECULES if name == "nmp" else testing.TASK


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in ATTENDING
    ],
)
def test_rows_of_attention_sum_to_one_and_recording_changes_nothing(name):
    own = looked(name, task_of(name), **ATTENDING[name])
    found = attention.find(own.inside, own.layout, name)
    assert found
    for weights in found:
        rows = np.nansum(weights.matrices, axis=-1)
        if name == "torchmd_et":  # no softmax
            assert not weights.is_softmax
        else:
            np.testing.assert_allclose(rows, 1, atol=1e-5)
            assert weights.is_softmax
        assert weights.matrices.shape[1:] == (len(weights.rows), len(weights.columns))
    plain = own.subject.apply(own.params, own.batch.graph)
    for head, values in own.inside.outputs.items():
        expected = np.asarray(plain[head])[: len(values)]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    attention.figure(found, own.layout, name).canvas.draw()


def test_layers_of_deep_models_keep_their_numbers():
    own = looked("demetar", **TINY)
    node, *_ = own.inside.attention
    deep = [dataclasses.replace(node, name=f"attention_{n}") for n in (9, 10, 23)]
    inner = dataclasses.replace(own.inside, values=tuple(deep))
    found = attention.find(inner, own.layout, "deep")
    assert [own.title for own in found] == ["layer 9", "layer 10", "layer 23"]


def test_the_incidence_mask_is_that_of_the_edges():
    own = looked("demetar", **TINY)
    found = {
        weights.title: weights
        for weights in attention.find(own.inside, own.layout, "demetar")
    }
    assert [*found] == [
        "node encoder, layer 0",
        "edge encoder, layer 0",
        "cross attention",
        "joint encoder, layer 0",
    ]
    cross = found["cross attention"]
    masked = np.isnan(cross.matrices[0])
    assert masked.shape == (5, 20) and (~masked).sum() == 20
    for edge, receiver in enumerate(own.inside.receivers):
        assert not masked[receiver, edge]
        assert cross.columns[edge].endswith(f"→{cross.rows[receiver]}")
    # What is drawn between two nodes is the weight of the edge between them.
    recorded = next(v for v in own.inside.values if v.name == "attention_cross").array
    j, i = own.inside.senders[7], own.inside.receivers[7]
    assert cross.asked[i, j] == pytest.approx(recorded[7].mean())


SLOWLY = ("se3_transformer", "equiformer", "set_transformer", "segnn")


@pytest.mark.parametrize(
    "name",
    ["demetar", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)],
)
def test_a_model_that_nobody_looks_at_computes_the_same_program(name, monkeypatch):
    fields = SEGNN if name == "segnn" else ATTENDING[name]
    own = looked(name, **fields)
    params = own.params

    def program():
        def run(graph):
            return own.subject.model.apply(params, None, graph, False)

        return str(jax.make_jaxpr(run)(own.batch.graph))

    expected = program()
    monkeypatch.setattr(capture, "record", lambda *args: None)
    monkeypatch.setattr(capture, "record_product", lambda *args: None)
    assert program() == expected

    def costs(*args):  # what is kept is seen
        del args
        jnp.sin(jnp.ones(3))

    monkeypatch.setattr(capture, "record", costs)
    assert program() != expected


@pytest.mark.slow
def test_bond_tokens_are_named_and_permuted():
    fields = {**TINY, "bond_tokens": True}
    own = looked("demetar", testing.MOLECULES, **fields)
    found = attention.find(own.inside, own.layout, "demetar")
    assert len(found[1].rows) == 10 and "–" in found[1].rows[0]
    assert found[-1].rows[0] == "[CLS]"
    errors = by_layer.errors(own.recorder, own.params, own.batch)["float64"]
    for group in symmetry.GROUPS:
        assert max(errors[group].values()) < 1e-11, group


# --- By direction -------------------------------------------------------------------


@functools.cache
def pair_of(name):
    """A trained Newton that makes one step, and two bodies close to each other."""
    model = demetar.load(f"pretrained:{name}-nbody_small")
    net = demetar.build(name, model.task, eval_substeps=1)
    batch = make_batch(
        model.task,
        positions=[[0.03, 0.01, 0.0], [0.0, 0.0, 0.02]],
        velocities=[[0.1, 0.0, 0.0], [0.0, 0.2, 0.0]],
        charges=[1, 1],
        dtype="float64",
    )
    return net, model.task, model.params, batch


def changes_of(name):
    net, task, params, batch = pair_of(name)
    with precision("float64"):
        params = symmetry.cast(params, "float64")
        return directions.changes(net, task, params, batch)


@pytest.mark.slow
def test_newton_that_knows_the_axes_shows_the_cube():
    change = changes_of("newton_octahedral")["acceleration"]
    assert change.error > 0.1
    assert np.argmax(change.shares) == 3 and change.shares[3] > 0.8  # degree 4
    assert change.cubic > 0.999


@pytest.mark.slow
def test_newton_that_does_not_know_them_is_the_same_everywhere():
    change = changes_of("newton")["acceleration"]
    assert change.error < 1e-10


# --- Tensor products ----------------------------------------------------------------


def test_paths_are_those_that_the_layer_has_weights_for():
    own = segnn()
    with capture.recording_products() as products:
        jax.eval_shape(
            lambda graph: own.subject.model.apply(own.params, None, graph, False),
            own.batch.graph,
        )
    names = [product.name for product in products]
    assert names[:3] == ["segnn/embedding", "segnn/message_0_0", "segnn/message_0_1"]
    product = products[2]
    for out, count in product.outputs.items():
        weights = np.asarray(own.params[product.name][f"w_{out}"])
        ways = [path for path in product.couplings if path.out == out]
        assert sum(product.inputs[path.first] for path in ways) == len(weights)
        assert weights.shape[1] == count
        squares = 0.0
        for path in ways:
            strength = paths.strength(path, own.params)
            assert strength is not None
            squares += product.inputs[path.first] * strength**2
        assert squares / len(weights) == pytest.approx(np.mean(weights**2), rel=1e-5)
    assert all(path.out in path.first * path.second for path in product.couplings)
    shown = paths.different(products)
    assert len(shown) < len(products)
    paths.figure(shown, own.params, "title").canvas.draw()


# --- What a system looks like -------------------------------------------------------


def test_names_colours_and_bonds_of_a_molecule():
    task = testing.MOLECULES
    batch = batch_of(task)
    own = layout.of_nodes(task, batch.graph.nodes, 5)
    species = np.asarray(batch.graph.nodes.scalars)[:5].argmax(axis=1)
    assert [name[0] for name in own.names] == [task.scalars[row] for row in species]
    assert [name[1:] for name in own.names] == list("12345")
    np.testing.assert_allclose(own.view @ own.view.T, np.eye(3), atol=1e-12)


def test_signs_of_charges_are_in_the_names():
    batch = batch_of()
    own = layout.of_nodes(testing.TASK, batch.graph.nodes, 5)
    charges = np.asarray(batch.graph.nodes.scalars)[:, 0]
    marks = ["+" if charge > 0 else "−" for charge in charges]
    assert list(own.names) == [f"{k}{mark}" for k, mark in enumerate(marks, 1)]
