"""A model and a system to look at: a trained or new one, from a file or a data set."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import numpy as np

import demetar
from demetar import elements, models, symmetry
from demetar.data import capacity, system_graphs, systems
from demetar.data.batch import of_samples
from demetar.data.samples import Samples
from demetar.data.species import species_of
from demetar.errors import UserError
from demetar.generation import states
from demetar.generation.dataset import clean_samples
from demetar.net import build
from demetar.predict import Predictor
from demetar.settings import DATA, MODEL, NOT_NEGATIVE, setting
from demetar.types import Batch, Head, Params, TaskSpec, VectorInput
from demetar.visual import layout
from demetar.visual.inside import Inside, Recorder
from demetar.visual.layout import Layout
from experiments.protocols import nbody as protocols
from experiments.run import cli, nbody_data, prediction_inputs

_HOME = "nbody_small"  # whose test systems new models are shown

# Ethanol, in Å: the geometry of the G2 set (Curtiss et al. 1997), by MP2.
_ETHANOL = {
    systems.SPECIES: [6, 6, 8, 1, 1, 1, 1, 1, 1],
    systems.POSITIONS: [
        [1.168181, -0.400382, 0.0],
        [0.0, 0.559462, 0.0],
        [-1.190083, -0.227669, 0.0],
        [-1.946623, 0.381525, 0.0],
        [0.042557, 1.207508, 0.886933],
        [0.042557, 1.207508, -0.886933],
        [2.115891, 0.1448, 0.0],
        [1.128599, -1.037234, 0.885881],
        [1.128599, -1.037234, -0.885881],
    ],
}
_BODIES = TaskSpec(
    "charged bodies",
    heads=(Head("position", "node_vector", base="positions"),),
    scalars=("charge",),
    vectors=(VectorInput("velocity"),),
    edge_features=("charge_product",),
    radial_extent=12.0,
    average_neighbors=4.0,
)
_ELEMENTS = ("H", "C", "N", "O", "F")
_MOLECULES = TaskSpec(
    "molecules",
    heads=(Head("energy", "graph_scalar", extensive=True),),
    scalars=_ELEMENTS,
    species=_ELEMENTS,
    length_unit="Å",
    radial_extent=8.0,
    average_neighbors=8.0,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The model and the system."""

    checkpoint: str | None = setting(
        None,
        "Work directory of a run, a checkpoint, or pretrained:NAME.",
        MODEL,
    )
    model: str | None = setting(
        None,
        "Instead of a checkpoint, a new model with random parameters: "
        f"{', '.join(models.REGISTRY)}, or your own as {models.own.FORM}.",
        MODEL,
    )
    set: tuple[str, ...] = setting(
        (),
        "field=value of a new model, as in --set=hidden_size=32.",
        MODEL,
        repeatable=True,
    )
    seed: int | None = setting(
        None,
        "Of a run of several seeds, the one to use; of a new model, its own.",
        MODEL,
        NOT_NEGATIVE,
        default_words="the first",
    )
    input: str | None = setting(
        None,
        "File with the system, or a folder, as experiments.predict reads it.",
        DATA,
        default_words="the test set of the run, or ethanol",
    )
    system: int = setting(0, "Number of the system there, from 0.", DATA, NOT_NEGATIVE)
    frame: int | None = setting(
        None,
        "Of states with several frames, the one to show.",
        DATA,
        default_words="the frame that the model was trained on",
    )
    data_dir: str | None = setting(
        None,
        "Where generated data are kept.",
        DATA,
        default_words="~/.cache/demetar/data",
    )


@dataclasses.dataclass
class Subject:
    """A model and a system that it reads.

    Attributes:
      name: of the model and whence it is.
      model: name of the model alone.
      place: where the system is from.
      net, task, params: of the model.
      batch: of the one system.
    """

    name: str
    model: str
    place: str
    net: hk.Transformed
    task: TaskSpec
    params: Params
    batch: Batch

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.net, self.task)

    def look(self, batch: Batch | None = None) -> Inside:
        """What the model computes of its system, or of another of that size."""
        return self.recorder(self.params, self.batch if batch is None else batch)

    @property
    def layout(self) -> Layout:
        """How the system is drawn."""
        graph = self.batch.graph
        return layout.of_nodes(self.task, graph.nodes, int(graph.n_node[0]))

    @property
    def dtype(self) -> str:
        """In which the model computes."""
        return str(self.batch.graph.nodes.positions.dtype)

    @property
    def title(self) -> str:
        """Of a picture."""
        return f"{self.name} on {self.place}"


def find(options: Options) -> Subject:
    """The model and the system that a person asked for.

    Raises:
      UserError: neither or both kinds of models are named, or there is no such model,
        file or system.
    """
    if bool(options.checkpoint) == bool(options.model):
        raise UserError(
            "expected --checkpoint=RUN or --model=NAME, found "
            + ("both" if options.model else "neither")
        )
    if options.checkpoint:
        return _trained(options, demetar.load(options.checkpoint, options.seed))
    return _new(options)


def _trained(options: Options, trained: Predictor) -> Subject:
    if options.set:
        raise UserError("--set is of a new model: give --model=NAME, or leave it out")
    settings = trained.metadata.get("settings")
    known = settings if isinstance(settings, Mapping) else {}
    samples, place = _samples(options, trained.task, known)
    return Subject(
        name=f"{trained.model} ({options.checkpoint})",
        model=trained.model,
        place=place,
        net=trained.net,
        task=trained.task,
        params=trained.params,
        batch=of_samples(samples, trained.task, trained.dtype),
    )


def _new(options: Options) -> Subject:
    name = str(options.model)
    task = _task_of(name, options.input)
    fields = models.parse_fields(name, options.set)
    samples, place = _samples(options, task, {"dataset": _HOME})
    net = build(name, task, **models.check_fields(name, fields))
    batch = of_samples(samples, task)
    params = symmetry.random_params(net, batch, options.seed or 0)
    return Subject(f"{name}, untrained", name, place, net, task, params, batch)


def _task_of(model: str, place: str | None) -> TaskSpec:
    """Bodies, or molecules if the file has them or the model has no vectors."""
    suffix = pathlib.Path(place or "").suffix.lower()
    molecular = suffix in prediction_inputs.MOLECULES and suffix != ".npz"
    if molecular or "node_vector" not in models.model_class(model).supports:
        return _MOLECULES
    return _BODIES


def _samples(
    options: Options, task: TaskSpec, settings: Mapping[str, Any]
) -> tuple[Samples, str]:
    """The one system as samples, and where it is from."""
    if states.knows_bonds(task):
        raise UserError(
            "expected a model whose inputs a file can have, found one that draws "
            "shapes from bonds; python -m experiments.conformers draws with it"
        )
    if options.input:
        return _of_file(options, task, settings, pathlib.Path(options.input))
    if not (species_of(task) or states.is_denoiser(task)):
        return _of_dataset(options, task, settings)
    _check_number(options.system, 1, "the built-in ethanol; --input names a file")
    if states.knows_bonds(task):
        raise UserError(
            "expected a model of bodies or molecules, found one of the shapes of bond "
            "graphs, which is not drawn; give another one"
        )
    if states.is_denoiser(task):
        return _clean_ethanol(task), "ethanol without noise"
    found = systems.parse(task, _ETHANOL)
    return system_graphs.to_samples(task, found), "ethanol"


def _clean_ethanol(task: TaskSpec) -> Samples:
    """Ethanol as a denoiser sees it at time 0.

    Raises:
      UserError: the denoiser knows other elements.
    """
    numbers = np.array(_ETHANOL[systems.SPECIES])
    species = states.species_of(task)
    if not {*numbers.tolist()} <= {*species}:
        known = ", ".join(elements.SYMBOLS[number - 1] for number in species)
        raise UserError(
            f"expected a denoiser of molecules of H, C and O, for the built-in "
            f"ethanol, found one of {known}"
        )
    positions = np.array(_ETHANOL[systems.POSITIONS])
    return clean_samples(numbers, positions, np.array([len(numbers)]), species)


def _check_number(number: int, count: int, place: str) -> None:
    """Refuse a system that there is not.

    Raises:
      UserError: it says how many there are.
    """
    if number >= count:
        most = f"from 0 to {count - 1}" if count > 1 else "0"
        raise UserError(f"expected --system {most}, of {place}, found {number}")


def _of_file(
    options: Options, task: TaskSpec, settings: Mapping[str, Any], place: pathlib.Path
) -> tuple[Samples, str]:
    paths = prediction_inputs.find(place, task)
    frame = settings.get("start_frame") if options.frame is None else options.frame
    chunks = prediction_inputs.read(paths, task, 256, frame)
    start, path = 0, paths[0]
    for chunk in chunks:
        count = len(chunk.systems.n_node)
        if options.system < start + count:
            samples = system_graphs.to_samples(task, chunk.systems)
            row, path = options.system - start, paths[chunk.file]
            told = f"system {options.system} of {path.name}"
            return capacity.part(samples, row, row + 1), told
        start += count
    _check_number(options.system, start, str(place))
    raise UserError(f"expected at least one system in {place}, found none")


def _of_dataset(
    options: Options, task: TaskSpec, settings: Mapping[str, Any]
) -> tuple[Samples, str]:
    """A test system of the data set of a run."""
    name = settings.get("dataset")
    if not isinstance(name, str):
        raise UserError(
            "expected --input=PATH, a file with the system: the checkpoint does not "
            "say on which data it was trained"
        )
    root = cli.data_root(options.data_dir)
    names = {field.name for field in dataclasses.fields(protocols.Data)}
    given = {own: value for own, value in settings.items() if own in names}
    if options.frame is not None:
        given["start_frame"] = options.frame
    of_run = names & settings.keys()
    data = protocols.Data(**given) if of_run else nbody_data.settle(name, given)
    dataset, _ = nbody_data.load(name, data, root)
    _check_same(task, dataset.task)
    rows: Sequence[int] = dataset.splits["test"].tolist()
    _check_number(options.system, len(rows), f"the test set of {name}")
    sample = capacity.alone(dataset.packing.samples, rows[options.system])
    return sample, f"test system {options.system}"


def _check_same(task: TaskSpec, other: TaskSpec) -> None:
    """Refuse data whose inputs are not those of the model.

    Raises:
      UserError: they are not.
    """
    for what in ("scalars", "vectors", "edge_features"):
        if getattr(task, what) != getattr(other, what):
            raise UserError(
                f"expected data with the inputs {systems.describe_inputs(task)}, found "
                f"{systems.describe_inputs(other)}; give --input=PATH"
            )
