"""Shapes that are drawn from bond graphs: graphs, noise, and the command."""

import dataclasses
import functools
import json

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demetar import models
from demetar.data import conformer_files
from demetar.errors import UserError
from demetar.generation import conformer_graphs, conformer_noise, states
from demetar.generation.conformer_sampler import ShapeSampler
from experiments import conformers, report
from experiments.run import conformer_drawing, finished
from tests.support import conformer_sets

SETTINGS = conformer_graphs.Settings(batch_size=3, dtype="float64", noise_steps=40)


def load(parts=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    sets = conformer_graphs.Sets(parts or conformer_sets.sets(), "f")
    return conformer_graphs.load("some", sets, settings)


def first_batch(data):
    arrays = jax.tree.map(jnp.asarray, data.packing.arrays())
    row = {name: value[0] for name, value in data.plan("train").items()}
    both = jax.jit(
        lambda row: (data.packing.assemble(arrays, row), data.batch(arrays, row))
    )
    return jax.device_get(both(row))


# --- Graphs -------------------------------------------------------------------------


def test_pairs_know_their_bond_and_how_many_are_between():
    chain = np.diag([1, 2, 1, 3], 1)  # five atoms
    found = conformer_graphs.extended(chain + chain.T)
    assert found[0].tolist() == [0, 1, 5, 6, 0]
    assert found[2].tolist() == [5, 2, 0, 1, 5]
    ring = np.roll(np.eye(4, dtype=int), 1, axis=1)
    assert (conformer_graphs.extended(ring + ring.T)[0] == [0, 1, 5, 1]).all()
    with pytest.raises(UserError, match="one piece, found 'a molecule'"):
        conformer_graphs.extended(np.diag([1, 0, 1], 1) + np.diag([1, 0, 1], -1))


def test_a_data_set_of_shapes():
    data = load()
    assert data.task.species == ("H", "C", "N", "O")
    assert [len(data.splits[split]) for split in conformer_files.SPLITS] == [7, 3, 3]
    names, samples = data.task.scalars, data.packing.samples
    own = samples.nodes.scalars[:12]  # of propanol
    assert own[:4, names.index("bonds")].tolist() == [1.0, 1.0, 1.0, 0.5]
    assert (own[:, names.index("O")] == [0, 0, 0, 1, *[0] * 8]).all()
    assert not own[:, names.index("aromatic")].any()
    pairs = samples.edges[: 12 * 11].sum(axis=0)
    assert pairs[0] == 2 * 11 and not pairs[1:4].any()  # single bonds, both ways
    # Two bonds meet at an atom: 6 pairs of them at each carbon, 1 at the oxygen.
    assert pairs[4] == 2 * (6 + 6 + 6 + 1)


def test_what_a_data_set_cannot_be_is_refused(tmp_path):
    parts = conformer_sets.sets()
    with pytest.raises(UserError, match=r"found 7 \(N\) in 'NC=O'"):
        load({**parts, "train": parts["train"].take([0])})
    folder = tmp_path / "a"
    conformer_sets.write(folder, parts)
    found = conformer_graphs.read(folder, SETTINGS)
    assert found.parts["test"].smiles == ("COC", "NC=O")
    few = dataclasses.replace(SETTINGS, num_test=1)
    assert conformer_graphs.read(folder, few).parts["test"].smiles == ("COC",)
    more = dataclasses.replace(SETTINGS, num_test=3)
    with pytest.raises(UserError, match="--num_test of at most 2.*found 3"):
        conformer_graphs.read(folder, more)
    pieces = dataclasses.replace(
        parts["valid"],
        bonds=parts["valid"].bonds[1:],
        n_bonds=parts["valid"].n_bonds - 1,
    )
    with pytest.raises(UserError, match="in one piece, found 'COC'"):
        load({**parts, "valid": pieces})


# --- Noise --------------------------------------------------------------------------


def test_the_schedule_is_that_of_geodiff():
    known = conformer_noise.sigmoid(5_000)
    steps = 1 - np.square(known.alphas[1:] / known.alphas[:-1])
    assert steps[0] == pytest.approx(1e-7 + 2e-3 / (1 + np.exp(6)), rel=0.01)
    assert steps[-1] == pytest.approx(2e-3 / (1 + np.exp(-6)), rel=0.01)
    assert steps[2_499] == pytest.approx(1e-3, rel=0.01)
    short = conformer_noise.sigmoid(50)
    assert short.alphas[-1] == pytest.approx(known.alphas[-1], rel=0.02)
    few = conformer_noise.thinned(known, 10)
    assert len(few.alphas) == 11 and few.sigmas[[0, 10]].tolist() == [
        known.sigmas[0],
        known.sigmas[-1],
    ]


@pytest.mark.parametrize("score", conformer_noise.SCORES)
def test_positions_alone_are_noised(score):
    with jax.enable_x64(True):
        data = load(score=score)
        clean, noisy = first_batch(data)
    schedule = data.corrupt.schedule
    graph, noise = noisy.graph, noisy.targets[states.POSITIONS][:, 0]
    real = int(graph.n_node[:-1].sum())
    steps = np.round(graph.nodes.scalars[:real, -1] * 40).astype(int)
    expected = (
        schedule.alphas[steps, None] * clean.graph.nodes.positions[:real]
        + schedule.sigmas[steps, None] * noise[:real]
    )
    np.testing.assert_allclose(graph.nodes.positions[:real], expected, atol=1e-12)
    assert abs(np.asarray(noise[:real])).mean() > 0.5
    first = int(graph.n_node[0])
    np.testing.assert_allclose(noise[:first].sum(axis=0), 0, atol=1e-12)
    assert (graph.nodes.scalars[:, :-1] == clean.graph.nodes.scalars[:, :-1]).all()
    assert (graph.edges == clean.graph.edges).all()
    assert {*noisy.targets} == {head.name for head in data.task.heads}
    assert len({*steps.tolist()}) > 1


# --- Drawing ------------------------------------------------------------------------


def perfect(data, clean):
    """A denoiser that knows one shape, and says a share of the noise."""
    schedule = data.corrupt.schedule

    def apply(params, key, graph, is_training):
        steps = jnp.round(graph.nodes.scalars[:, -1] * schedule.num_steps).astype(int)
        alphas, sigmas = (
            jnp.asarray(own)[steps][:, None]
            for own in (schedule.alphas, schedule.sigmas)
        )
        count = len(graph.nodes.positions)
        known = jnp.tile(clean, (-(-count // len(clean)), 1))[:count]
        noise = params["x"]["share"] * (graph.nodes.positions - alphas * known) / sigmas
        return {states.POSITIONS: noise[:, None]}

    return hk.Transformed(lambda *_: {}, apply)


def test_drawing_ends_at_what_the_denoiser_knows():
    ether = conformer_sets.molecule(conformer_sets.ETHER)
    with jax.enable_x64(True):
        data = load()
        clean = ether.shapes_of(0)[0]
        clean = clean - clean.mean(axis=0)
        graphs = conformer_graphs.to_samples(ether, (1, 6, 7, 8), np.array([3]))
        drawer = ShapeSampler(
            *(perfect(data, clean), data.task, data.corrupt.schedule), dtype="float64"
        )
        (group,) = drawer.groups(graphs)
        drawn, off = (
            drawer.shapes({"x": {"share": jnp.asarray(share)}}, group, 1).values()
            for share in (1.0, 0.0)
        )
    assert len(drawn) == 3
    assert max(abs(one - clean).max() for one in drawn) < 0.1  # sigma_0 is 0.02
    assert min(abs(one - clean).max() for one in off) > 0.2


@pytest.mark.slow
def test_a_shape_depends_on_its_bonds_and_not_on_its_batch(tmp_path, monkeypatch):
    with jax.enable_x64(True):
        data = load()
        fields = {"hidden_size": 5, "num_layers": 1, "move_range": 15.0}
        model = models.build("egnn", data.task, fields)
        params = model.init(jax.random.key(0), first_batch(data)[0].graph, True)
        test = conformer_sets.sets()["test"]
        species = (1, 6, 7, 8)
        graphs = conformer_graphs.to_samples(test, species, np.array([1, 2]))
        schedule = conformer_noise.thinned(data.corrupt.schedule, 5)

        def draw(graphs, batch_size, folder="a"):
            drawer = ShapeSampler(model, data.task, schedule, batch_size, "float64")
            return conformer_drawing.drawn_shapes(
                drawer, params, graphs, 2, tmp_path / folder
            )

        whole, parts = draw(graphs, 3), draw(graphs, 1, "b")
        monkeypatch.setattr(ShapeSampler, "shapes", None)  # all is kept
        again = draw(graphs, 3)
        assert all(
            (one == other).all() for one, other in zip(whole, again, strict=True)
        )
        monkeypatch.undo()
        (tmp_path / "a" / "0.npz").write_bytes(b"")  # damaged: drawn anew
        again = draw(graphs, 3)
        assert all(
            (one == other).all() for one, other in zip(whole, again, strict=True)
        )
        edges = graphs.edges[:, [1, 0, 2, 3, 4, 5]]  # single bonds become double
        other = draw(dataclasses.replace(graphs, edges=edges), 3, "c")
    for one, again, changed in zip(whole, parts, other, strict=True):
        np.testing.assert_allclose(one, again, atol=1e-9)
        assert abs(one - changed).max() > 1e-6
    assert abs(whole[1] - whole[2]).max() > 0.1


def test_measures_are_summed_up_over_molecules():
    rows = [
        conformer_drawing.Coverage(*np.array([[0.0, 1.0, 0.8]] * 4)),
        conformer_drawing.Coverage(*np.array([[1.0, 1.0, np.nan]] * 4)),
    ]
    found = conformer_drawing.summary(rows)["cov_recall"]
    assert found["mean"] == [0.5, 1.0] and found["median"] == [0.5, 1.0]
    low, high = found["interval"]
    assert low == 0.5 and high == 1.0


# --- The command --------------------------------------------------------------------


SMALL = (
    *("--model=egnn", "--set=hidden_size=8", "--set=num_layers=1", "--epochs=2"),
    *("--batch_size=4", "--noise_steps=20", "--sample_steps=10", "--workdir=run"),
)


@pytest.fixture
def train(run, tmp_path):
    """`train(*args)` gives the command these arguments and waits for its end."""
    conformer_sets.write(tmp_path / "data", conformer_sets.sets())
    return functools.partial(run, *SMALL, "--dataset=data", module="conformers")


def test_what_cannot_be_drawn_is_refused_first():
    for model, score, message in (
        ("schnet", "vectors", "schnet returns no vectors .*--score=gradient"),
        ("deep_set", "gradient", "deep_set has no scalar that depends"),
        ("newton", "vectors", "no vectors per atom without a velocity; choose one"),
    ):
        with pytest.raises(UserError, match=message):
            conformers.check_model(model, score)
    conformers.check_model("schnet", "gradient")
    test = conformer_sets.sets()["test"]
    for flags, message in (
        ({"sample_steps": 21}, "--sample_steps of at most --noise_steps=20"),
        ({"num_samples": 2_000_000}, "--num_samples that fits .*by --num_test"),
    ):
        asked = conformer_drawing.Settings(**{"sample_steps": 20, **flags})
        with pytest.raises(UserError, match=message):
            conformer_drawing.check(asked, test, 20)
    conformer_drawing.check(conformer_drawing.Settings(), test, 5_000)


@pytest.mark.slow
def test_a_run_draws_conformers_beside_those_of_rdkit(train, start, tmp_path):
    pytest.importorskip("rdkit")
    output = train().succeeded().output
    assert "egnn: test error" in output and "drawn     6 conformers of 2" in output
    drawn = tmp_path / "run" / "drawn"
    found = json.loads((drawn / "conformers.json").read_text())
    rows = {"egnn", "ETKDGv3", "ETKDGv3 and MMFF94"}
    assert {*found["rows"]} == rows and found["references"] == 3
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["conformers"] == found and {*record["delta_eq"]} == {"position_noise"}
    with np.load(drawn / "coverage.npz") as file:
        assert len(file.files) == 4 * len(rows)
        assert file["egnn, mat_recall"].shape == (1, 2)
        mean = float(file["ETKDGv3, mat_recall"].mean())
    assert found["rows"]["ETKDGv3"]["mat_recall"]["mean"] == [pytest.approx(mean)]
    text = (drawn / "samples.xyz").read_text()
    assert text.count('smiles="COC"') == 4 and text.count('smiles="NC=O"') == 2
    again = train().succeeded().output
    assert "already finished" in again and "drawn     6 conformers" in again
    assert (drawn / "samples.xyz").read_text() == text
    table = report.markdown(finished.read_runs([str(tmp_path / "run")]))
    assert "| run | ETKDGv3 and MMFF94 | 6 | " in table and "COV recall / %" in table
    done = start("--checkpoint=run", "--what=glyphs", module="visualize").wait()
    done.refused("draws shapes from bonds; python -m experiments.conformers")
    (tmp_path / "in.xyz").write_text("1\n\nH 0 0 0\n")
    done = start("--checkpoint=run", "--input=in.xyz", "--out=o.npz", module="predict")
    done.wait().refused("python -m experiments.conformers draws with it")
    (tmp_path / "fresh").mkdir()
    train("--sample_steps=30", cwd=tmp_path / "fresh").refused("data is not a finished")
    train("--sample_steps=30", "--workdir=other").refused("--noise_steps=20, found 30")
    assert not (tmp_path / "other").exists()
    other = train("--num_samples=1", "--sample_seed=3").succeeded().output
    assert "drawn     2 conformers of 2 molecules" in other


@pytest.mark.slow
def test_a_scalar_is_enough_with_the_chain_rule(train, tmp_path):
    pytest.importorskip("rdkit")
    output = train("--model=schnet", "--score=gradient").succeeded().output
    assert "schnet: COV recall" in output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["delta_eq"]["position_noise"] < 1e-3
