"""A trained model as a function of arrays: NumPy in, NumPy out.

    model = demetar.load("runs/nbody_small/segnn")
    model(positions=x, velocities=v, charges=q)["position"]

What is computed is what the training and its evaluation computed, in few fixed shapes:
a call whose systems fit a program that was compiled before compiles nothing.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib.resources
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from demetar import heads
from demetar.data import system_graphs
from demetar.data import systems as named
from demetar.data.capacity import Shapes, chunks
from demetar.data.packing import only_batch
from demetar.data.samples import Samples, to_dtype
from demetar.data.species import species_of
from demetar.data.systems import Systems
from demetar.errors import UserError
from demetar.precision import DTYPES, precision
from demetar.train import checkpoint, losses
from demetar.train.checkpoint import ModelCheckpoint
from demetar.types import Array, Batch, Head, Params, TaskSpec

BEST = "best.npz"
PRETRAINED = "pretrained:"
MEAN = "mean"

REGULAR = ("complete", "knn")  # connectivities

# Values of heads: {head: [A, K, 3] | [A, T] | [D, T]} of D systems with A nodes.
Values = dict[str, np.ndarray]


def load(
    run: str | os.PathLike[str],
    seed: int | str | None = None,
    dtype: str | None = None,
) -> Predictor:
    """A trained model, ready to predict.

    >>> import demetar
    >>> model = demetar.load("runs/bodies")
    >>> model.inputs
    ('positions', 'velocities', 'charges')
    >>> found = model(
    ...     positions=[[0, 0, 0], [1, 0, 0]], velocities=[[0, 1, 0], [0, 0, 1]],
    ...     charges=[1, -1],
    ... )
    >>> found["position"].shape, model.units["position"]
    ((2, 3), 'm')

    Args:
      run: the work directory of a run, a checkpoint file such as its best.npz, or
        'pretrained:NAME' for a model that comes with the package.
      seed: of a run of several seeds, which one to use; 'mean' for the mean of their
        predictions, None for the first.
      dtype: 'float32' or 'float64', of what is computed; None for that of the training.

    Raises:
      UserError: there is no such file, model or seed, or the file is damaged.
    """
    return Predictor(_read(path_of(run), dtype), seed, dtype)


def pretrained() -> list[str]:
    """Names of the models that come with the package, as `load` takes them."""
    files = importlib.resources.files("demetar.pretrained").iterdir()
    names = [file.name for file in files if file.name.endswith(".npz")]
    return [PRETRAINED + name.removesuffix(".npz") for name in sorted(names)]


def path_of(run: str | os.PathLike[str]) -> pathlib.Path:
    """The file of a trained model, as `load` names it.

    Raises:
      UserError: there is none.
    """
    text = os.fspath(run)
    if text.startswith(PRETRAINED):
        if text not in pretrained():
            raise UserError(
                f"no model is called {text!r}; there are "
                f"{', '.join(pretrained()) or 'none in this package'}"
            )
        root = importlib.resources.files("demetar.pretrained")
        return pathlib.Path(str(root / f"{text.removeprefix(PRETRAINED)}.npz"))
    path = pathlib.Path(text)
    if path.is_dir():
        path = path / BEST
    if not path.is_file():
        raise UserError(
            f"expected a trained model in {path}, found no such file; give the work "
            f"directory of a run, its {BEST}, or {PRETRAINED}NAME"
        )
    return path


def _read(path: pathlib.Path, dtype: str | None) -> ModelCheckpoint:
    with precision(dtype or "float64"):  # as it was stored
        return checkpoint.load_model(path)


class Function(abc.ABC):
    """What predicts, as a function of arrays.

    Attributes:
      model: name of the model.
      task: inputs and heads.
      seed: that is used, or 'mean'.
      metadata: what else the checkpoint tells.
    """

    model: str
    task: TaskSpec
    seed: int | str
    metadata: dict[str, Any]

    @property
    @abc.abstractmethod
    def members(self) -> tuple[Predictor, ...]:
        """The trained models that it is made of."""

    @abc.abstractmethod
    def values(self, found: Systems) -> Values:
        """The values of every head, one system after the other, in double precision."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, as a call takes them."""
        return tuple(item.keyword for item in named.inputs_of(self.task))

    @property
    def units(self) -> dict[str, str]:
        """The unit of each head."""
        return {head.name: head.unit for head in self.task.heads}

    def __call__(self, positions: Any = None, **inputs: Any) -> dict[str, Any]:
        """The values of every head.

        Args:
          positions: [n, 3] of one system, [systems, n, 3] of several, or a list of
            arrays [n_i, 3]; in the length unit of the task.
          inputs: the others by name, likewise: [n] scalars, [n, 3] vectors. One [n]
            does for all systems of n nodes.

        Returns:
          {head: values}: of one system [n, 3] for a vector per node, [n] for a scalar
          per node and a number for a scalar per graph; with an axis of systems in front
          if several were given, and in a list if they were. A head of more than one
          vector or scalar has an axis more.

        Raises:
          UserError: an input is missing, unknown, of another shape or not finite, or of
            a species that the model does not know.
        """
        found = named.parse(self.task, {named.POSITIONS: positions, **inputs})
        values = self.values(found)
        return self._as_given(values, found)

    def _as_given(self, values: Values, found: Systems) -> dict[str, Any]:
        return {
            head.name: _laid_out(head, values[head.name], found)
            for head in self.task.heads
        }


class Predictor(Function):
    """A trained model as a function of arrays.

    Its inputs are those of its task, by name: `inputs` lists them. Outputs are a
    dictionary by head, in the units of `units`, with what is known of a target
    beforehand (means, offsets of species) added in double precision; positions are in
    the frame of the caller.

    Args:
      trained: the checkpoint.
      seed, dtype: of `load`.

    Attributes:
      seeds: of the replicas in the checkpoint.
      dtype: of what is computed.
      fields: of the model, other than their defaults.
      net: the model as pure functions.
      replicas: parameters of the seeds that are used.

    Raises:
      UserError: there is no such seed, model or dtype.
    """

    def __init__(
        self,
        trained: ModelCheckpoint,
        seed: int | str | None = None,
        dtype: str | None = None,
    ):
        self.model, self.task = trained.model, trained.task
        self.metadata, self.fields = dict(trained.metadata), dict(trained.fields)
        self.dtype = dtype or _dtype_of(trained.params)
        self.seeds = _seeds(trained)
        self.seed = self.seeds[0] if seed is None else seed
        self.replicas = self._choose(trained.params)
        self.net = trained.build()
        self._shapes = Shapes(trained.task.connectivity in REGULAR)
        self._program = jax.jit(functools.partial(residuals, self.net, self.task))

    def __repr__(self) -> str:
        return (
            f"<demetar {self.model} of the task {self.task.name!r}: "
            f"{named.describe_inputs(self.task)} -> "
            f"{', '.join(self.units)}; seed {self.seed}>"
        )

    @property
    def members(self) -> tuple[Predictor, ...]:
        return (self,)

    @property
    def params(self) -> Params:
        """Parameters of the seed that is used; of the first one for 'mean'."""
        return self.replicas[0]

    @property
    def num_shapes(self) -> int:
        """How many fixed shapes were asked for, and so how many compilations."""
        return len(self._shapes)

    def values(self, found: Systems) -> Values:
        samples = system_graphs.to_samples(self.task, found)
        known = heads.composition(_marked(self.task), found.scalars, found.n_node)
        _warn_of_unknown(self.task, known)
        values = heads.absolute_all(
            self.task, self._residuals(to_dtype(samples, self.dtype)), known
        )
        assert samples.centers is not None
        centers = np.repeat(samples.centers, samples.n_node, axis=0)[:, None]
        for head in self.task.heads:
            values[head.name] = values[head.name].astype(np.float64)
            if head.base == named.POSITIONS:
                values[head.name] += centers
        return values

    def _residuals(self, samples: Samples) -> Values:
        parts: dict[str, list[np.ndarray]] = {head.name: [] for head in self.task.heads}
        for part in chunks(samples):
            packing = self._shapes.packing(part)
            num_nodes, num_graphs = int(part.n_node.sum()), len(part.n_node)
            found = self._run(only_batch(packing))
            for head in self.task.heads:
                real = num_graphs if head.kind == "graph_scalar" else num_nodes
                parts[head.name].append(found[head.name][:real])
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _run(self, batch: Batch) -> Values:
        """Residuals of a batch, in double precision if they are means over seeds."""
        with precision(self.dtype):
            found = [
                jax.device_get(self._program(params, batch)) for params in self.replicas
            ]
        if len(found) == 1:
            values: Values = found[0]
            return values
        return {
            name: np.asarray(
                np.mean([one[name] for one in found], axis=0, dtype=np.float64)
            )
            for name in found[0]
        }

    def _choose(self, params: Params) -> list[Params]:
        """Parameters of the seeds that are used."""
        if self.seed == MEAN:
            rows = list(range(len(self.seeds)))
        elif self.seed in self.seeds:
            rows = [self.seeds.index(int(self.seed))]
        else:
            raise UserError(
                f"expected a seed of {', '.join(map(str, self.seeds))} that were "
                f"trained, or {MEAN!r}, found {self.seed!r}"
            )
        with precision(self.dtype):
            return [
                jax.tree.map(lambda leaf, row=row: _cast(leaf[row], self.dtype), params)
                for row in rows
            ]


def residuals(
    net: hk.Transformed, task: TaskSpec, params: Params, batch: Batch
) -> dict[str, Array]:
    """Predicted residuals of a batch: {head: [N, K, 3] | [N, T] | [G, T]}."""
    outputs = net.apply(params, None, batch.graph, False)
    return losses.predict(task, outputs, batch.graph.nodes)


def _warn_of_unknown(task: TaskSpec, counts: np.ndarray) -> None:
    """Tell of values whose offsets training has not determined, [G, Z]."""
    for head in task.heads:
        strange = counts[~heads.are_known(head, counts)]
        if len(strange):
            parts = zip(task.species, strange[0].astype(int).tolist(), strict=True)
            formula = "".join(f"{name}{count or ''}" for name, count in parts if count)
            warnings.warn(
                f"{task.name}, trained on, has too few compositions to determine the "
                f"{head.name} of {formula}: compare its structures with each other, "
                "not with others",
                stacklevel=4,
            )


def _marked(task: TaskSpec) -> TaskSpec:
    """The task with the species that an earlier release did not mark."""
    if any(head.offsets for head in task.heads):
        return task
    return dataclasses.replace(task, species=species_of(task))


def _dtype_of(params: Params) -> str:
    leaves = jax.tree.leaves(params)
    return "float64" if any(leaf.dtype == np.float64 for leaf in leaves) else "float32"


def _cast(leaf: Array, dtype: str) -> Array:
    return jnp.asarray(leaf, dtype if leaf.dtype in DTYPES else leaf.dtype)


def _seeds(trained: ModelCheckpoint) -> tuple[int, ...]:
    """The seeds of the replicas; their numbers from 0 if the checkpoint has none."""
    count = len(jax.tree.leaves(trained.params)[0])
    settings = trained.metadata.get("settings")
    first = settings.get("seed") if isinstance(settings, Mapping) else None
    first = first if isinstance(first, int) else 0
    return tuple(range(first, first + count))


def _laid_out(head: Head, values: np.ndarray, found: Systems) -> Any:
    """Values of all systems as the positions of the systems were given."""
    per_graph = head.kind == "graph_scalar"
    if values.shape[1] == 1:  # one vector or scalar
        values = values[:, 0]
    if found.layout == named.ONE:
        return values[0] if per_graph else values
    if per_graph:
        return values
    parts = np.split(values, np.cumsum(found.n_node)[:-1])
    return np.stack(parts) if found.layout == named.STACKED else parts
