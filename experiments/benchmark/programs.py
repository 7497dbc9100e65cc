"""What the benchmark times: batches, compiled programs, and the turns they take.

A measurement calls its programs in turns, so that what else the machine does falls on
all of them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from demetar import connectivity, models
from demetar.data.dataset import Dataset
from demetar.data.packing import make_packing
from demetar.data.samples import Samples, to_dtype
from demetar.distributed import shares
from demetar.distributed.placement import Placement
from demetar.train import loop, optim, trainer
from demetar.types import Batch, Head, Nodes, Params, TaskSpec, VectorInput

STEPS = 8  # updates of one compiled call
MOLECULE_NODES = (18.0, 3.0)  # atoms of QM9's molecules: mean and deviation
NUM_FEATURES = 15  # of an atom, as EGNN's paper has them

Runs = dict[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program with its arguments.

    Attributes:
      run: calls it and waits for its end.
      compile_seconds: tracing included.
      memory: bytes of arguments, outputs and temporary buffers.
      operations: floating-point operations, as XLA counts them.
      traffic: bytes that its kernels read and write, as XLA counts them; caches serve
        part of them.
    """

    run: Callable[[], Any]
    compile_seconds: float
    memory: int
    operations: float
    traffic: float

    @classmethod
    def compile(cls, function: Callable, *args: Any) -> Program:
        """Compile a function for these arguments."""
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*args).compile()
        return cls.of(compiled, args, time.perf_counter() - start)

    @classmethod
    def of(cls, compiled: Any, args: tuple, seconds: float) -> Program:
        """A program that has been compiled, with its arguments."""
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
        return cls(
            lambda: jax.block_until_ready(compiled(*args)),
            seconds,
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes,
            cost.get("flops", 0.0),
            cost.get("bytes accessed", 0.0),
        )


def take_turns(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    description: str,
    settle_seconds: float = 0.02,
) -> dict[str, np.ndarray]:
    """Times in ms of each, [rounds], behind a progress bar.

    Each is called untimed for a while before it is timed, so that none pays for the
    caches and the busily waiting threads of the one before.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm.trange(rounds, desc=description):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            while time.perf_counter() < begin + settle_seconds:
                run()
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def random_dataset(batch_size: int, num_bodies: int) -> Dataset:
    """As many random charged systems as a batch holds; what they are costs nothing."""
    generator = np.random.default_rng(0)
    shape = (batch_size * num_bodies, 3)
    charges = generator.choice([-1.0, 1.0], shape[0])
    senders, receivers = connectivity.complete_edges(num_bodies)
    starts = num_bodies * np.arange(batch_size)[:, None]
    products = charges[starts + senders] * charges[starts + receivers]
    positions = generator.normal(size=shape)
    samples = Samples(
        nodes=Nodes(
            positions, charges[:, None], generator.normal(size=(len(positions), 1, 3))
        ),
        edges=products.reshape(-1, 1),
        senders=np.tile(senders, batch_size),
        receivers=np.tile(receivers, batch_size),
        n_node=np.full(batch_size, num_bodies, np.int32),
        n_edge=np.full(batch_size, len(senders), np.int32),
        targets={"position": positions[:, None] + generator.normal(size=(1, 1, 3))},
    )
    task = TaskSpec(
        name="benchmark",
        heads=(Head("position", "node_vector", base="positions"),),
        scalars=("charge",),
        vectors=(VectorInput("velocity"),),
        edge_features=("charge_product",),
        radial_extent=6.0,
        average_neighbors=num_bodies - 1.0,
    )
    return _one_batch(samples, task, batch_size)


def random_molecules(batch_size: int) -> Dataset:
    """Complete graphs of QM9's sizes, at random, of which a packed batch is full."""
    generator = np.random.default_rng(0)
    drawn = generator.normal(*MOLECULE_NODES, size=2 * batch_size)
    n_node = np.clip(np.rint(drawn), 3, 29).astype(np.int32)
    n_edge, total = n_node * (n_node - 1), int(n_node.sum())
    samples = Samples(
        nodes=Nodes(
            generator.normal(size=(total, 3)),
            generator.normal(size=(total, NUM_FEATURES)),
            np.zeros((total, 0, 3)),
        ),
        edges=np.zeros((int(n_edge.sum()), 0)),
        senders=None,
        receivers=None,
        n_node=n_node,
        n_edge=n_edge,
        targets={"energy": generator.normal(size=(len(n_node), 1))},
    )
    task = TaskSpec(
        name="molecules",
        heads=(Head("energy", "graph_scalar", error="absolute"),),
        scalars=tuple(f"feature_{index}" for index in range(NUM_FEATURES)),
        vectors=(),
        edge_features=(),
        radial_extent=6.0,
        average_neighbors=float(n_node.mean()) - 1,
    )
    return _one_batch(samples, task, batch_size)


def _one_batch(samples: Samples, task: TaskSpec, batch_size: int) -> Dataset:
    """As many of the samples as fit in one batch."""
    packing = make_packing(to_dtype(samples, "float32"), task, batch_size)
    first = packing.plan(np.arange(len(samples.n_node)))
    members = first["sample"][0][first["weight"][0] > 0]
    splits = {"train": members, "valid": members}
    return Dataset(task, packing, splits, fingerprint="")


def only_batch(dataset: Dataset) -> Batch:
    """The one batch of the data set, on the device."""
    plan = dataset.plan("train")
    row = {name: values[0] for name, values in plan.items()}
    packing = dataset.packing
    return jax.tree.map(jnp.asarray, packing.assemble(packing.arrays(), row))


def initialised(
    name: str, batch: Batch, task: TaskSpec, fields: Mapping[str, Any] | None = None
) -> tuple[hk.Transformed, Params]:
    """A model and its parameters."""
    model = models.build(name, task, fields)
    init = jax.jit(model.init, static_argnums=2)
    return model, init(jax.random.key(0), batch.graph, True)


def outputs(model: hk.Transformed, params: Params, batch: Batch) -> Any:
    """What a model makes of a batch, outside of training."""
    return model.apply(params, None, batch.graph, False)


def predictions(model: hk.Transformed, params: Params, dataset: Dataset) -> Program:
    """The outputs of a model for the batch of a data set, on all devices of this host.

    Each makes its share of the batch from the samples, as the training loop does.
    """
    placement = Placement(jax.local_devices())
    packing = dataset.packing
    if placement.num_devices > 1:
        packing = shares.SharedPacking(packing, placement.num_devices)
    plan = packing.plan(dataset.splits["train"])
    rows = placement.rows({name: values[0] for name, values in plan.items()})

    def apply(params: Params, arrays: Any, rows: Any) -> Any:
        return outputs(model, params, packing.assemble(arrays, rows))

    args = placement.everywhere(params), placement.everywhere(packing.arrays()), rows
    start = time.perf_counter()
    compiled = placement.compile(apply, args, out_axis=0)
    return Program.of(compiled, args, time.perf_counter() - start)


def training_steps(
    name: str,
    dataset: Dataset,
    seeds: int = 1,
    fields: Mapping[str, Any] | None = None,
    num_steps: int = STEPS,
) -> tuple[Params, Callable[[], dict[str, np.ndarray]]]:
    """Updates of the training loop, one batch of the data set each, on all devices.

    Returns:
      The parameters of the first seed before them, and one compiled call of
      `num_steps` updates, which returns what the loop hears of it and goes on from its
      own end.
    """
    loops = trainer.Trainer(
        models.build(name, dataset.task, fields),
        dataset,
        loop.Settings(num_steps, num_steps, tuple(range(1, 1 + seeds))),
        optim.Settings(),
    )
    state = loops.init()
    params = jax.tree.map(lambda leaf: np.array(leaf[0]), state.params)
    rows = loops.placement.rows(loops.schedule.plan(0, num_steps))

    def run() -> dict[str, np.ndarray]:
        nonlocal state
        state, told = loops.train(state, rows)
        return told

    return params, run
