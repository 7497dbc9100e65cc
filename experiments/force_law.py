"""Draw the law of force that a trained Newton has learned.

    python -m experiments.force_law WORKDIR... --out=DIR

Two bodies at rest are put at one distance after the other, and the trained model is
asked for the acceleration of one of them. The upper panel shows it beside the law that
the simulator has (Coulomb's, or softened gravity), the middle one by how much it
departs from that, the lower one how often the training samples hold a pair at that
distance. Lines are medians over seeds, bands their range. Lengths and accelerations are
in the units of the data set. Writes force_law.png and force_law.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demetar import connectivity, models
from demetar.data import nbody_files
from demetar.data.dataset import Dataset
from demetar.errors import UserError
from demetar.nn import capture
from demetar.settings import DATA, OUTPUT, fields_of, setting
from demetar.train import checkpoint
from demetar.types import Bucket, Graph, Nodes, TaskSpec
from experiments.protocols.nbody import Data
from experiments.run import cli, finished, nbody_data
from tools.command_line import CommandLine, Given

NUM_DISTANCES = 200
SHORTEST = 0.05  # of the distances drawn, in the unit of the data set
TABLED = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # distances that are printed


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written, and where the data are."""

    out: str = setting(
        "force_law",
        "Folder for force_law.png and force_law.csv; created if missing.",
        OUTPUT,
    )
    data_dir: str | None = setting(
        None,
        "Where generated data are kept.",
        DATA,
        default_words="~/.cache/demetar/data",
    )


LINE = CommandLine(Options, positional="WORKDIR...")


@dataclasses.dataclass(frozen=True)
class Law:
    """What one trained model has learned of pairs with one product of charges.

    Attributes:
      label: of the run, and of the pair.
      distances: [X].
      learned: [R, X] acceleration of one body away from the other, of every seed.
      true: [X] that of the simulator, before its clip.
    """

    label: str
    distances: np.ndarray
    learned: np.ndarray
    true: np.ndarray

    @property
    def departure(self) -> np.ndarray:
        """[R, X] learned over true, less 1."""
        return self.learned / self.true - 1


def main(given: Given, folders: Sequence[str]) -> None:
    """Draw the models in the folders that are named on the command line."""
    options = given.read(Options)
    if not folders:
        raise UserError(
            "expected the work directory of at least one run of newton, found none; "
            "give it as in: python -m experiments.force_law runs/nbody_small/newton"
        )
    laws: list[Law] = []
    training: dict[str, np.ndarray] = {}
    for folder, label in finished.labels(map(pathlib.Path, folders)).items():
        trained = checkpoint.load_model(folder / "best.npz")
        settings = _settings(folder, trained)
        dataset, metadata = _training_data(settings, options.data_dir)
        name = settings["dataset"]
        training[name] = pair_distances(dataset)
        laws += learned_laws(label, trained, metadata, training[name])
    print(table(laws))
    write(laws, training, pathlib.Path(options.out))


def _settings(
    folder: pathlib.Path, trained: checkpoint.ModelCheckpoint
) -> dict[str, Any]:
    """The settings of a trained model that has a law of force."""
    if "acceleration" not in models.fields(trained.model):
        raise UserError(
            f"{folder / 'best.npz'} holds a trained {trained.model}, which has no law "
            "of force; give the work directory of newton or newton_octahedral"
        )
    settings = trained.metadata.get("settings")
    expected = {"dataset", *(field.name for field, _ in fields_of(Data))}
    if not isinstance(settings, dict) or expected - settings.keys():
        raise UserError(
            f"{folder / 'best.npz'} does not say on which data it was trained; give "
            "the work directory of a run of experiments.nbody"
        )
    return settings


def _training_data(
    settings: Mapping[str, Any], data_dir: str | None
) -> tuple[Dataset, dict[str, Any]]:
    """What the model was trained on, and how it was simulated."""
    root = cli.data_root(data_dir)
    names = [field.name for field in dataclasses.fields(Data)]
    data = Data(**{name: settings[name] for name in names if name in settings})
    dataset, folder = nbody_data.load(settings["dataset"], data, root)
    return dataset, nbody_files.read_metadata(folder)["settings"]


def pair_distances(dataset: Dataset) -> np.ndarray:
    """Distances between the two ends of all edges of the training samples."""
    plan = dataset.plan("train")
    packing, found = dataset.packing, []
    for index in range(len(plan["weight"])):
        row = {name: values[index] for name, values in plan.items()}
        graph = packing.assemble(packing.arrays(), row).graph
        positions = np.asarray(graph.nodes.positions)
        ends = positions[graph.senders] - positions[graph.receivers]
        found.append(np.linalg.norm(ends, axis=-1))
    distances = np.concatenate(found)
    return distances[distances > 0]  # those of padding are 0


def learned_laws(
    label: str,
    trained: checkpoint.ModelCheckpoint,
    simulated: Mapping[str, Any],
    training: np.ndarray,
) -> list[Law]:
    """The laws of one model: for like and unlike charges, or for masses.

    Args:
      label: of the run, as `finished.labels` has it.
      trained: the model.
      simulated: settings of the simulator.
      training: distances of the training samples; the longest ends the axis.
    """
    distances = np.geomspace(SHORTEST, training.max(), NUM_DISTANCES)
    charged = simulated["system"] == "charged"
    laws = []
    for product in (1.0, -1.0) if charged else (1.0,):
        kind = ("like" if product > 0 else "unlike") if charged else "masses"
        true = true_acceleration(distances, product, simulated)
        learned = learned_acceleration(trained, distances, product)
        laws.append(Law(f"{label}, {kind}", distances, learned, true))
    return laws


def true_acceleration(
    distances: np.ndarray, product: float, simulated: Mapping[str, Any]
) -> np.ndarray:
    """Of one body of unit mass away from the other, before any clip: [X].

    Coulomb's law, or gravity with Plummer's softening, as the simulator has them.
    """
    if simulated["system"] == "charged":
        return product / distances**2
    return -product * distances / (distances**2 + simulated["softening"] ** 2) ** 1.5


def learned_acceleration(
    trained: checkpoint.ModelCheckpoint, distances: np.ndarray, product: float
) -> np.ndarray:
    """Of one body at rest away from another one, by every seed: [R, X]."""
    model = trained.build({"eval_substeps": 1})
    graph = pairs(trained.task, distances, product)

    def accelerations(params: Any) -> jax.Array:
        with capture.recording() as values:
            model.apply(params, None, graph, False)
        first, second = jnp.moveaxis(
            jnp.reshape(values["acceleration"], (-1, 2, 3)), 1, 0
        )
        return (first - second)[:, 0] / 2

    return np.asarray(jax.vmap(accelerations)(trained.params))


def pairs(task: TaskSpec, distances: np.ndarray, product: float) -> Graph:
    """One graph of two bodies at rest per distance, the first further along x."""
    count = len(distances)
    positions = np.zeros((count, 2, 3), np.float32)
    positions[:, 0, 0] = distances
    sources = np.tile(np.array([1.0, product], np.float32), count)
    senders, receivers = connectivity.complete_edges(2)
    starts = 2 * np.arange(count, dtype=np.int32)[:, None]
    return Graph(
        nodes=Nodes(
            positions.reshape(-1, 3),
            np.stack([sources] * len(task.scalars), axis=-1),
            np.zeros((2 * count, len(task.vectors), 3), np.float32),
        ),
        edges=np.full((2 * count, len(task.edge_features)), product, np.float32),
        senders=(starts + senders).ravel(),
        receivers=(starts + receivers).ravel(),
        n_node=np.full(count, 2, np.int32),
        n_edge=np.full(count, 2, np.int32),
        globals=None,
        bucket=Bucket(2 * count, 2 * count, count, 2),
    )


def table(laws: Sequence[Law]) -> str:
    """By how much the learned laws depart from the true ones, as Markdown."""
    rows = []
    for law in laws:
        middle = np.median(law.departure, axis=0)
        shown = np.interp(np.log(TABLED), np.log(law.distances), middle)
        row = {"learned over true, less 1": law.label}
        for distance, value in zip(TABLED, shown, strict=True):
            row[f"r = {distance:g}"] = f"{100 * value:+.2f} %"
        rows.append(row)
    return cli.markdown_table(rows)


def write(
    laws: Sequence[Law], training: Mapping[str, np.ndarray], folder: pathlib.Path
) -> None:
    """force_law.png and force_law.csv."""
    cli.make_folder(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["law", "distance", "true", "median", "lowest", "highest"])
    for law in laws:
        columns = (
            *(law.distances, law.true, np.median(law.learned, axis=0)),
            *(law.learned.min(axis=0), law.learned.max(axis=0)),
        )
        for numbers in zip(*columns, strict=True):
            writer.writerow([law.label, *(f"{number:.6g}" for number in numbers)])
    checkpoint.write_bytes(folder / "force_law.csv", text.getvalue().encode())
    cli.save_figure(folder / "force_law.png", draw(laws, training))
    print(f"{folder}: force_law.png, .csv")


def draw(laws: Sequence[Law], training: Mapping[str, np.ndarray]) -> Figure:
    """Strengths, departures and training distances over the distance."""
    figure = Figure(figsize=(7.5, 8), dpi=110, layout="constrained")
    strength, departure, density = figure.subplots(
        3, 1, sharex=True, height_ratios=(3, 2, 1)
    )
    for index, law in enumerate(laws):
        color = f"C{index % 10}"
        _band(strength, law.distances, np.abs(law.learned), law.label, color)
        _band(departure, law.distances, 100 * law.departure, law.label, color)
    shown: list[np.ndarray] = []
    for law in laws:
        if not any(np.array_equal(np.abs(law.true), true) for true in shown):
            shown.append(np.abs(law.true))
            label = "the simulator's law, not clipped" if len(shown) == 1 else None
            strength.plot(law.distances, shown[-1], "k--", lw=1, label=label)
    strength.set(xscale="log", yscale="log", ylabel="|acceleration|")
    strength.legend(fontsize=8)
    departure.axhline(0, color="k", lw=0.8)
    departure.set(ylabel="learned over true, less 1 / %", ylim=(-30, 30))
    bins = np.geomspace(SHORTEST, max(map(np.max, training.values())), 80)
    for name, distances in training.items():
        density.hist(distances, bins, histtype="step", density=True, label=name)
        for percentile in (0.1, 50, 99.9):
            density.axvline(np.percentile(distances, percentile), color="0.6", lw=0.8)
    density.set(xlabel="distance", ylabel="density of\ntraining pairs")
    density.legend(fontsize=8)
    for axes in (strength, departure, density):
        axes.grid(alpha=0.3)
    return figure


def _band(
    axes: Axes, distances: np.ndarray, values: np.ndarray, label: str, color: str
) -> None:
    """The median over seeds of values [R, X], and their range."""
    axes.plot(distances, np.median(values, axis=0), color=color, label=label, lw=1.3)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(distances, low, high, color=color, alpha=0.25, lw=0)


if __name__ == "__main__":
    cli.run(main, LINE)
