"""Models of molecules against the common PyTorch code of each.

Energies and forces of `aspirin.frames`, and EGNN's scalars of molecules of QM9's sizes.
The published codes start from weights of their own: what a step costs does not depend
on them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from demetar import graphs, models
from demetar.errors import UserError
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
}
MODELS = (*POTENTIALS, "egnn")


def measure(options: figures.Options) -> figures.Measured:
    """Potentials, and EGNN's form for QM9, against PyTorch: a row for each of both.

    Training steps of a batch, and energies with forces of a single structure.
    """
    rows: figures.Rows = []
    for name in options.potentials:
        if name == "egnn":
            rows += [egnn_row(size, options) for size in MOLECULE_SIZES]
        elif name in POTENTIALS:
            rows += potential_rows(name, options)
        else:
            raise UserError(
                f"--figure=molecules has {', '.join(MODELS)}, found {name!r} in "
                "--potentials"
            )
    note = (
        f"Times in ms; {NUM_FRAMES} frames of aspirin with energies and forces, one "
        "alone for latency; EGNN predicts a scalar of a packed batch of molecules"
    )
    return figures.Measured(rows, note, figures.markdown(rows))


def potential_rows(name: str, options: figures.Options) -> figures.Rows:
    """Step of all frames, then energies and forces of one."""
    from experiments.benchmark import torch_potentials

    fields = POTENTIALS[name]
    dataset, alone = aspirin.frames(NUM_FRAMES), aspirin.frames(1)
    model = models.build(name, dataset.task, fields)
    params, step = programs.model_steps(model, dataset)
    batches = [programs.only_batch(data) for data in (dataset, alone)]
    many, one = (torch_potentials.Frames.of(batch) for batch in batches)
    builder = torch_potentials.BUILDERS[name]
    forces = functools.partial(programs.outputs, model)
    single = programs.Program.compile(forces, params, batches[1])
    turns = {
        "step": (step, torch_potentials.step_run(*builder(fields, many), many)),
        "latency": (
            single.run,
            torch_potentials.latency_run(builder(fields, one)[1], one),
        ),
    }
    rows: figures.Rows = []
    for what, (ours, theirs) in turns.items():
        runs = {"ours": ours, "torch": theirs}
        times = programs.take_turns(runs, options.rounds, f"{name}, {what}")
        if what == "step":
            times["ours"] = times["ours"] / programs.STEPS
        row: dict[str, Any] = {"model": name, "program": what}
        row["edges"] = (many if what == "step" else one).edges.shape[1]
        for side, values in times.items():
            row |= figures.statistics(side, values)
        rows.append(row | figures.ratio(times["ours"], times["torch"]))
    return rows


def egnn_row(size: str, options: figures.Options) -> dict[str, Any]:
    """Steps of EGNN's form for QM9, beside PyTorch's, plain and compiled."""
    from experiments.benchmark import torch_egnn

    dataset = programs.random_molecules(options.batch_size)
    batch, task = programs.only_batch(dataset), dataset.task
    widths = MOLECULE_SIZES[size]
    fields = {**widths, "attention": True, "node_inputs": task.scalars}
    params, step = programs.training_steps("egnn", dataset, fields=fields)
    runs = {"ours": step, "torch": torch_egnn.step_run(params, batch, task, fields)}
    if options.compiled:
        runs["compiled"] = torch_egnn.step_run(params, batch, task, fields, True)
    times = programs.take_turns(runs, options.rounds, f"egnn, {size}")
    times["ours"] = times["ours"] / programs.STEPS
    row: dict[str, Any] = {"model": f"egnn, {size}", "program": "step"}
    row["edges"] = int(np.sum(graphs.edge_mask(batch.graph)))
    for side, values in times.items():
        row |= figures.statistics(side, values)
    return row | figures.ratio(times["ours"], times["torch"])
