"""Named data sets, their variants, and the fields by which models read them."""

import dataclasses
import pathlib
import subprocess
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from demetar import models, testing
from demetar.data import nbody as nbody_folders
from demetar.data import nbody_files
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.types import VectorInput
from experiments import nbody
from experiments.protocols import nbody as protocols
from experiments.protocols.nbody import Data
from experiments.protocols.settings import Protocol, Settings, describe, parse_phase
from experiments.run import nbody_data
from tests.support import nbody_folder
from tools import generate_nbody, simulation

SMALL = "nbody_small"
FEW = ["--num_train=9", "--num_valid=3", "--num_test=4"]


def generator_settings(arguments: list[str]) -> simulation.Settings:
    return generate_nbody.settings_of(generate_nbody.LINE.parse(arguments)[0])


class Loaded(NamedTuple):
    """A data set, and how it was chosen."""

    dataset: Dataset
    folder: pathlib.Path
    data: Data
    given: dict[str, Any]


def load(
    root: pathlib.Path, dataset: str | pathlib.Path = SMALL, **chosen: Any
) -> Loaded:
    """A data set of which five samples train, else as it is if nobody chooses."""
    given = {"num_train": 5, **chosen}
    data = nbody_data.settle(str(dataset), given)
    data = dataclasses.replace(data, batch_size=4)
    return Loaded(*nbody_data.load(str(dataset), data, root), data, given)


def load_other(name: str, own: Loaded, root: pathlib.Path) -> Dataset:
    """Another one, for a model of the first."""
    trained_on = (own.dataset.task, own.folder)
    return nbody_data.load_other(name, own.given, own.data, trained_on, root)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The generator makes fewer and smaller systems, in this process; what it was told.

    Of a hundred bodies it makes eight.
    """
    given: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess:
        assert command[1:3] == ["-m", "tools.generate_nbody"] and not check
        *arguments, out = command[3:]
        given.append(arguments)
        few = [*arguments, *FEW]
        if generator_settings(arguments).num_bodies == (100, 100):
            few.append("--num_bodies=8")
        folder = pathlib.Path(out.removeprefix("--out="))
        generate_nbody.generate(generator_settings(few), folder, progress=False)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return given


VARIANTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "published": ({}, "nbody_small", {}),
    "seed": ({"data_seed": 7}, "nbody_small-seed7", {"seed": 7}),
    "bodies": (
        {"num_bodies": 20},
        "nbody_small-20bodies",
        {"num_bodies": (20, 20), "save_frames": (30, 40)},
    ),
    "forces": (
        {"cues": "force"},
        "nbody_small-forces",
        {"save_forces": True, "save_frames": (30, 40)},
    ),
    "all at once": (
        {"target": "force", "num_bodies": 3, "data_seed": 1, "target_frame": 20},
        "nbody_small-seed1-3bodies-forces-frames20-30",
        {"seed": 1, "num_bodies": (3, 3), "save_forces": True, "save_frames": (20, 30)},
    ),
    "quick": (
        {"dataset": "gravity"},
        "gravity-quick",
        {
            **{"save_frames": (30, 40), "random_stream": "jax"},
            **{"num_train": 400, "num_valid": 50, "num_test": 50},
        },
    ),
    "full": (
        {"dataset": "gravity", "full_data": True, "cues": "force"},
        "gravity",
        {"save_frames": (30, 40)},
    ),
    "one frame": (
        {"dataset": "gravity", "full_data": True, "start_frame": 40},
        "gravity-frames40",
        {"save_frames": (40,)},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_departs_from_the_published_set_has_a_folder_of_its_own(variant):
    chosen, label, changes = VARIANTS[variant]
    chosen = dict(chosen)
    preset = chosen.pop("dataset", SMALL)
    data = nbody_data.settle(preset, chosen)
    found, arguments = nbody_data._recipe(preset, data)
    assert found == label
    made = generator_settings(arguments)
    expected = simulation.PRESETS[preset]
    for name, value in changes.items():
        assert getattr(made, name) == value != getattr(expected, name)
    rest = {name for name in vars(expected) if name not in changes}
    assert all(getattr(made, name) == getattr(expected, name) for name in rest)
    assert made.save_forces or not data.needs_forces


def test_gravity_starts_with_what_it_needs(tmp_path, commands, capsys):
    dataset, folder, data, _ = load(tmp_path, "gravity")
    output = capsys.readouterr().out
    assert f"generating gravity-quick in {tmp_path / 'gravity-quick'}" in output
    assert "a quick start: 500 simulations" in output and "--full_data" in output
    assert folder.name == "gravity-quick"
    assert (dataset.task.connectivity, dataset.task.num_neighbors) == ("knn", 6)
    assert dataset.packing.bucket.neighbors_per_node == 6
    filled = ("start_frame", "target_frame", "connectivity", "num_neighbors")
    assert [getattr(data, name) for name in filled] == [30, 40, "knn", 6]
    assert nbody_files.read_metadata(folder)["frames"] == [30, 40]
    # The forces are there for whoever asks, and nothing is generated twice.
    again = load(tmp_path, "gravity", cues="force", connectivity="complete")
    assert len(commands) == 1 and again.data.num_neighbors is None
    assert again.dataset.task.connectivity == "complete"


def test_forces_come_with_the_same_trajectories(tmp_path, commands):
    plain, forced = load(tmp_path).dataset, load(tmp_path, cues="force").dataset
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == [
        "nbody_small",
        "nbody_small-forces",
    ]
    ours, theirs = (each.packing.arrays() for each in (plain, forced))
    np.testing.assert_array_equal(ours[0].positions, theirs[0].positions)
    np.testing.assert_array_equal(ours[0].vectors, theirs[0].vectors[:, :, :1])
    np.testing.assert_array_equal(ours[-1]["position"], theirs[-1]["position"])
    # The charged bodies have unit mass: the forces act by Coulomb's law.
    nodes = theirs[0]
    offsets = nodes.positions[:, :, None] - nodes.positions[:, None]
    cubes = np.linalg.norm(offsets, axis=-1) ** 3
    cubes[:, np.arange(5), np.arange(5)] = np.inf
    charges = nodes.scalars[..., 0]
    weights = charges[:, :, None] * charges[:, None] / cubes
    expected = np.clip((weights[..., None] * offsets).sum(axis=2), -100, 100)
    error = abs(nodes.vectors[:, :, 1] - expected).max()
    assert error < 1e-3 * abs(expected).max()


@pytest.mark.parametrize(
    "chosen, degree", [({}, 6), ({"connectivity": "knn", "num_neighbors": 4}, 4)]
)
def test_charged_systems_of_another_size(tmp_path, commands, chosen, degree):
    dataset, folder, _, _ = load(tmp_path, num_bodies=7, **chosen)
    assert folder.name == "nbody_small-7bodies"
    assert dataset.packing.bucket.nodes_per_graph == 7
    assert dataset.packing.bucket.degree == degree
    assert len(dataset.splits["test"]) == 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "quick": (
        {"dataset": "gravity", "num_train": 401},
        "--num_train of at most 400, .* found 401; --full_data generates all 10,000",
    ),
    "neighbors of complete graphs": (
        {"num_neighbors": 3},
        "--num_neighbors is of nearest-neighbour graphs: give --connectivity=knn",
    ),
    "more neighbors than bodies": (
        {"dataset": "gravity", "num_bodies": 5},
        "--num_neighbors from 1 to 4, .* smallest system of gravity, found 6",
    ),
    "size of a folder": (
        {"dataset": "set", "num_bodies": 7},
        "--num_bodies makes another size of nbody_small, nbody, nbody_blog, gravity, "
        "found",
    ),
    "all of a folder": ({"dataset": "set", "full_data": True}, "--full_data makes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_do_not_go_together(tmp_path, commands, case):
    chosen, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        load(tmp_path, **chosen)
    assert not commands


# --- Other data sets ----------------------------------------------------------------


def test_another_size_is_named_by_its_number(tmp_path, commands):
    own = load(tmp_path)
    larger = load_other("nbody_small-7bodies", own, tmp_path)
    assert larger.packing.bucket.nodes_per_graph == 7
    assert len(larger.splits["test"]) == 4
    assert larger.fingerprint != own.dataset.fingerprint


def test_other_frames_are_named_too(tmp_path, commands):
    """Of the set that was generated already, and of one of another size."""
    own = load(tmp_path)
    dataset = own.dataset
    names = ("nbody_small-frames20-30", "nbody_small-7bodies-frames20-30")
    earlier, larger = (load_other(name, own, tmp_path) for name in names)
    assert (earlier.fingerprint, len(commands)) == (dataset.fingerprint, 2)
    # They end at frame 30, where ours begin.
    ends = earlier.packing.arrays()[-1]["position"][:, :, 0]
    starts = dataset.packing.arrays()[0].positions

    def absolute(found, dataset):
        centers = dataset.packing.samples.centers
        return (found + centers[:, None])[dataset.splits["test"]]

    ends, starts = absolute(ends, earlier), absolute(starts, dataset)
    np.testing.assert_allclose(ends, starts, rtol=1e-6, atol=1e-6)
    assert larger.packing.bucket.nodes_per_graph == 7
    assert "--save_frames=20,30" in commands[1]
    with pytest.raises(UserError, match="frames20-31 looks 1.1 ahead"):
        load_other("nbody_small-frames20-31", own, tmp_path)


@pytest.mark.parametrize(
    "model, fields, target_frame, expected",
    [
        ("newton", {}, 40, {}),
        ("newton_octahedral", {}, 45, {"horizon": 1.5}),
        ("newton", {"horizon": 2.0}, 45, {"horizon": 2.0}),
        ("egnn", {}, 45, {}),
    ],
)
def test_a_model_that_integrates_is_told_how_far(
    model, fields, target_frame, expected, tmp_path, commands
):
    _, folder, data, _ = load(tmp_path, target_frame=target_frame)
    protocol = Protocol("a test", data=data, fields=fields)
    found = nbody.horizon_field(Settings(SMALL, model, protocol), folder)
    assert {**found, **fields} == pytest.approx(expected)


def test_a_data_set_that_looks_less_far_ahead_is_refused(tmp_path, commands):
    own = load(tmp_path, target_frame=31)
    own = own._replace(given={"num_train": 5})
    with pytest.raises(UserError, match="looks 1 ahead where the model looks 0.1; "):
        load_other("nbody_small-3bodies", own, tmp_path)


@pytest.mark.parametrize(
    "name, run, message",
    [
        ("nowhere", {}, "--eval_dataset=.*nowhere: expected --dataset to be"),
        ("own", {"cues": "force"}, "no forces"),
        ("masses", {}, "does not fit: it has the node inputs mass where the model "),
        (
            "small",
            {"connectivity": "knn", "num_neighbors": 3},
            "--num_neighbors from 1 to 2",
        ),
    ],
)
def test_other_data_sets_that_do_not_fit(tmp_path, name, run, message):
    nbody_folder.write(tmp_path / "own")
    nbody_folder.write(tmp_path / "masses", system="gravity")
    nbody_folder.write(tmp_path / "small", (3, 3))
    with pytest.raises(UserError, match=message):
        load_other(
            str(tmp_path / name), load(tmp_path, tmp_path / "own", **run), tmp_path
        )


# --- Models and their inputs --------------------------------------------------------


def assert_builds(name: str, dataset: str, cues: str) -> None:
    """The model reads exactly these inputs, traced without being compiled."""
    vectors = nbody_folders.CUES[cues]
    task = dataclasses.replace(
        testing.TASK,
        vectors=tuple(VectorInput(vector) for vector in vectors),
        scalars=("mass",) if dataset == "gravity" else ("charge",),
    )
    small = testing.small_fields(name, task)
    fields = {**small, **protocols.input_fields(name, dataset, cues)}
    model = models.build(name, task, fields)
    batch = testing.make_batch(testing.systems())
    nodes = batch.graph.nodes
    copies = np.repeat(nodes.vectors, len(vectors), axis=1)
    graph = dataclasses.replace(batch.graph, nodes=nodes._replace(vectors=copies))
    jax.eval_shape(lambda key: model.init(key, graph, True), jax.random.key(0))


NEED_VELOCITY = [
    name for name in models.REGISTRY if "velocity" in models.model_class(name).needs
]


def test_models_that_move_along_the_velocities_say_so():
    known = {"linear", "radial_field", "newton", "newton_octahedral"}
    assert known <= {*NEED_VELOCITY}
    assert not {"segnn", "gnn", "tfn"} & {*NEED_VELOCITY}


@pytest.mark.parametrize("name", models.with_head("node_vector"))
def test_every_model_reads_every_choice_of_cues_or_refuses_it(name):
    for dataset, cues in (
        ("nbody_small", "positions"),
        ("nbody_small", "force"),
        ("gravity", "velocity"),
    ):
        if cues == "positions" and name in NEED_VELOCITY:
            message = f"{name} moves along the velocities, which --cues=positions"
            with pytest.raises(UserError, match=message):
                protocols.input_fields(name, dataset, cues)
        else:
            assert_builds(name, dataset, cues)


def test_cues_of_segnn():
    assert protocols.input_fields("segnn", "nbody_small", "velocity") == {}
    assert protocols.input_fields("segnn", "gravity", "positions") == {
        "node_inputs": ()
    }
    forces = protocols.input_fields("segnn", "nbody_small", "force")
    assert forces["edge_vectors"] == ("velocity",)
    assert protocols.input_fields("nequip", "gravity", "velocity") == {
        "node_inputs": ("mass", "|velocity|"),
        "species_inputs": ("mass",),
    }


def test_protocols_of_gravity():
    for name in models.with_head("node_vector"):
        protocol = protocols.find(name, "default", "gravity")
        whose = ("paper", "paper") if name == "segnn" else ("default", "project")
        assert (protocol.name, protocol.origin) == whose
    segnn = protocols.find("segnn", "paper", "gravity")
    assert (segnn.batch_size, segnn.training.epochs) == (100, 1_000)
    assert segnn.optimizer.learning_rate == 5e-4
    with pytest.raises(UserError, match="segnn on gravity has no protocol 'tuned'"):
        protocols.find("segnn", "tuned", "gravity")
    assert protocols.find("segnn", "tuned").optimizer.clip_norm == 0.05


@pytest.mark.parametrize("name", ["default", "full"])
def test_newton_hears_all_bodies_of_gravity(name):
    """Unless a person says otherwise; the phases end before the run does."""
    protocol = protocols.find("newton", name, "gravity")
    data = nbody_data.settle("gravity", protocol.of_data)
    assert (data.connectivity, data.num_neighbors) == ("complete", None)
    chosen = {**protocol.of_data, "connectivity": "knn"}
    assert nbody_data.settle("gravity", chosen).num_neighbors == 6
    phases = [parse_phase("newton", text) for text in protocol.phase]
    assert sum(phase.epochs for phase in phases) < protocol.training.epochs
    models.build("newton", testing.TASK, protocol.fields)


def test_a_protocol_says_who_chose_it():
    papers = {
        *("linear", "linear_map", "gnn", "egnn", "segnn", "radial_field", "tfn"),
        "se3_transformer",
    }
    for model in models.with_head("node_vector"):
        protocol = protocols.find(model, "default")
        assert (protocol.name == "paper") == (model in papers), model
        assert (protocol.origin == "paper") == (model in papers), model
        if model in papers:
            assert "arXiv" in protocol.source and "appendix" in protocol.source
            assert protocols.find(model, "paper") == protocol
            continue
        with pytest.raises(UserError, match=f"{model} has no protocol 'paper'; exp"):
            protocols.find(model, "paper")
    for known in (protocols.PROTOCOLS, protocols.GRAVITY_PROTOCOLS):
        for named in known.values():
            for name, protocol in named.items():
                assert (name == "paper") == (protocol.origin == "paper")
    described = describe(protocols.find("newton", "default"), {"epochs": 3})
    assert described.startswith("default, of this project: ")
    assert described.endswith("; changed: epochs=3")
    assert describe(protocols.find("egnn", "default"), {}) == (
        f"paper: {protocols.EGNN_SOURCE}"
    )


def test_the_data_of_the_blog_post_look_200_steps_ahead():
    preset = simulation.PRESETS["nbody_blog"]
    frames = protocols.DATASETS["nbody_blog"]
    start, target = frames.start_frame, frames.target_frame
    assert preset.steps[target] - preset.steps[start] == 200
    small = simulation.PRESETS["nbody_small"]
    assert small.steps[40] - small.steps[30] == 1_000
    assert (preset.seed, preset.sizes) == (42, (3_000, 2_000, 2_000))
    assert frames.num_train == 3_000
    label, arguments = nbody_data._recipe("nbody_blog", frames)
    assert (label, arguments) == ("nbody_blog", ["--preset=nbody_blog"])
    blog = protocols.find("egnn", "default", "nbody_blog")
    assert (blog.training.epochs, blog.origin) == (100, "project")
    assert protocols.find("segnn", "tuned", "nbody_blog").optimizer.clip_norm == 0.05


# --- Pictures -----------------------------------------------------------------------


class Pictures:
    """A writer that counts what it is shown."""

    def __init__(self) -> None:
        self.tags: list[str] = []

    def figure(self, tag: str, figure: Any, epoch: int) -> None:
        self.tags.append(tag)


@pytest.mark.parametrize(
    "target, count", [("position", 4), ("both", 4), ("velocity", 0), ("force", 0)]
)
def test_only_predicted_positions_are_drawn_as_motion(tmp_path, target, count):
    nbody_folder.write(tmp_path / "set", forces=True)
    settings = nbody_folders.Settings(10, 30, target=target, batch_size=4)
    dataset = nbody_folders.load(tmp_path / "set", settings)
    packing, plan = dataset.packing, dataset.plan("test")
    row = {name: values[0] for name, values in plan.items()}
    batch = packing.assemble(packing.arrays(), row)
    predictions = {head.name: np.zeros((20, 1, 3)) for head in dataset.task.heads}
    pictures: Any = Pictures()
    nbody.draw_motion(dataset.task, batch, predictions, pictures, 1)
    assert len(pictures.tags) == count
