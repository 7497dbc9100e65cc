"""Models of molecules against the common PyTorch code of each.

Energies and forces of `aspirin.frames`, and EGNN's scalars of molecules of QM9's sizes.
The published codes start from weights of their own: what a step costs does not depend
on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from demetar import graphs, models
from demetar.errors import UserError
from demetar.types import Params
from experiments.benchmark import aspirin, figures, programs

MOLECULE_SIZES: Mapping[str, Mapping[str, int]] = {
    "paper": {"hidden_size": 128, "num_layers": 7},
    "reduced": {"hidden_size": 64, "num_layers": 4},
}
NUM_FRAMES = 20
POTENTIALS: Mapping[str, Mapping[str, Any]] = {
    "nequip": {
        "hidden_size": 32,
        "lmax": 2,
        "num_layers": 4,
        "num_basis": 8,
        "radial_sizes": (64, 64),
        "cutoff": aspirin.CUTOFF,
        "node_inputs": ("all",),
        "species_inputs": ("all",),
    },
    "torchmd_et": {
        "num_heads": 8,
        "head_size": 16,
        "num_layers": 6,
        "num_basis": 32,
        "cutoff": aspirin.CUTOFF,
        "node_inputs": ("all",),
    },
    "schnet": {
        "hidden_size": 128,
        "num_layers": 3,
        "basis_step": aspirin.CUTOFF / 49,
        "basis_extent": aspirin.CUTOFF,
        "basis_gamma": 0.5 * (49 / aspirin.CUTOFF) ** 2,
        "activate_filters": False,
        "cutoff": aspirin.CUTOFF,
    },
    "equiformer": {  # half of the published widths
        "hidden_irreps": "64x0e+32x1o+16x2e",
        "num_layers": 4,
        "feature_size": 256,
        "num_basis": 64,
        "radial_sizes": (64, 64),
        "node_inputs": ("all",),
    },
}
MODELS = (*POTENTIALS, "egnn")


def measure(options: figures.Options) -> figures.Measured:
    """Potentials, and EGNN's form for QM9, against PyTorch: a row for each of both.

    Training steps of a batch, and what is predicted of a single structure.
    """
    for name in options.potentials:
        if name not in MODELS:
            raise UserError(
                f"--figure=molecules has {', '.join(MODELS)}, found {name!r} in "
                "--potentials"
            )
    from experiments.benchmark import torch_side

    rows: figures.Rows = []
    for name in options.potentials:
        if name == "egnn":
            for size in MOLECULE_SIZES:
                rows += egnn_rows(size, options)
        else:
            rows += potential_rows(name, options)
    note = (
        f"Times in ms; {NUM_FRAMES} frames of aspirin with energies and forces, one "
        "alone for latency; EGNN predicts a scalar of a packed batch of "
        "molecules, or of one; "
    )
    note += torch_side.description() + figures.reasons(rows)
    return figures.Measured(rows, note, figures.markdown(rows))


def potential_rows(name: str, options: figures.Options) -> figures.Rows:
    """Step of all frames, then energies and forces of one."""
    from experiments.benchmark import torch_potentials

    dataset, alone = aspirin.frames(NUM_FRAMES), aspirin.frames(1)
    model = models.build(name, dataset.task, POTENTIALS[name])
    params, step = programs.model_steps(model, dataset)
    forces = functools.partial(programs.outputs, model)
    one = programs.only_batch(alone)
    latency = programs.Program.compile(forces, params, one)
    turns = {
        "step": (step, programs.only_batch(dataset)),
        "latency": (latency.run, one),
    }
    rows: figures.Rows = []
    for what, (run, batch) in turns.items():
        row = {"model": name, "program": what, "parameters": _count(params)}
        frames = torch_potentials.Frames.of(batch)
        runs, columns = opponents(name, what, frames, options)
        rows.append(beside(row, runs, columns, run, options))
    return rows


def opponents(
    name: str, what: str, frames: Any, options: figures.Options
) -> tuple[programs.Runs, dict[str, Any]]:
    """PyTorch's programs of `torch_potentials.Frames`, and columns about them."""
    from experiments.benchmark import torch_potentials, torch_side

    columns = {"edges": frames.edges.shape[1]}

    def make(compiled: bool) -> Callable[[], Any]:
        built = torch_potentials.build(name, POTENTIALS[name], frames, compiled)
        columns["torch_parameters"] = torch_side.num_params(built[0])
        return torch_potentials.program(built, frames, what, compiled)

    runs, told = torch_side.opponents(make, options.compiled)
    return runs, columns | told


def egnn_rows(size: str, options: figures.Options) -> figures.Rows:
    """Step of a batch of EGNN's form for QM9, then the scalar of one molecule."""
    from experiments.benchmark import torch_egnn, torch_side

    dataset = programs.random_molecules(options.batch_size)
    batch, task = programs.only_batch(dataset), dataset.task
    alone = programs.only_batch(programs.random_molecules(1))
    fields = {
        **MOLECULE_SIZES[size],
        "attention": True,
        "node_inputs": task.scalars,
    }
    model = models.build("egnn", task, fields)
    params, step = programs.model_steps(model, dataset)
    scalars = functools.partial(programs.outputs, model)
    turns = {
        "step": (step, batch, torch_egnn.step_run),
        "latency": (
            programs.Program.compile(scalars, params, alone).run,
            alone,
            torch_egnn.forward_run,
        ),
    }
    rows: figures.Rows = []
    for what, (run, given, theirs) in turns.items():
        make = functools.partial(theirs, params, given, task, fields)
        runs, columns = torch_side.opponents(make, options.compiled)
        row = {
            "model": f"egnn, {size}",
            "program": what,
            "parameters": _count(params),
            "edges": int(np.sum(graphs.edge_mask(given.graph))),
            "torch_parameters": _count(params),
        }
        rows.append(beside(row, runs, columns, run, options))
    return rows


def beside(
    row: dict[str, Any],
    runs: programs.Runs,
    columns: Mapping[str, Any],
    ours: Callable[[], Any],
    options: figures.Options,
) -> dict[str, Any]:
    """A row with the times of PyTorch's programs and of ours, in turns."""
    name = f"{row['model']}, {row['program']}"
    times = programs.take_turns({"ours": ours, **runs}, options.rounds, name)
    if row["program"] == "step":
        times["ours"] = times["ours"] / programs.STEPS
    row = {**row, **columns}
    for side, values in times.items():
        row |= figures.statistics(side, values)
    return row | figures.ratios(times, "ours")


def _count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
