"""Frames of aspirin, their energies and forces: what a potential is timed on.

The geometry is that of one molecule, moved at random in every frame; nothing is read.
The numbers of edges are those of molecular dynamics at room temperature.
"""

from __future__ import annotations

import numpy as np

from demetar.data.dataset import Dataset
from demetar.data.samples import Samples
from demetar.types import Head, Nodes, TaskSpec
from experiments.benchmark import programs

CUTOFF = 5.0  # Å
DEVIATION = 0.1  # Å, of every coordinate
ELEMENTS = ("H", "C", "O")
ATOMS = "CCCCCCCOOOCCOHHHHHHHH"
# In Å: the first frame of aspirin in revised MD17 (Christensen, von Lilienfeld 2020,
# CC0).
POSITIONS = """
 1.91 -1.44  0.01   1.11  1.04 -0.63   2.84 -0.69 -0.71   2.35  0.47 -1.18
-2.90  2.21  0.43   0.54 -1.08  0.32   0.24  0.27  0.04  -1.48 -1.88  1.42
-1.78  1.14 -1.43   0.11 -3.31  0.55  -0.40 -2.04  0.89  -1.82  1.40 -0.28
-0.93  0.86  0.63  -0.28 -3.99  1.07   2.26 -2.35  0.47   0.82  2.04 -0.90
 3.81 -1.12 -0.94   3.03  1.23 -1.66  -2.72  3.22  0.58  -3.86  2.31 -0.13
-2.87  1.70  1.45
"""
ENERGY = Head("energy", "graph_scalar", extensive=True)
FORCES = Head("forces", "node_vector", gradient_of="energy")


def frames(num_frames: int) -> Dataset:
    """A data set of one batch, with the graphs of all pairs up to the cutoff."""
    generator = np.random.default_rng(0)
    start = np.array(POSITIONS.split(), float).reshape(-1, 3)
    size = len(start)
    moved = start + generator.normal(scale=DEVIATION, size=(num_frames, size, 3))
    lengths = np.linalg.norm(moved[:, :, None] - moved[:, None], axis=-1)
    frame, receivers, senders = np.nonzero((lengths > 0) & (lengths < CUTOFF))
    species = np.array([[atom == name for name in ELEMENTS] for atom in ATOMS], float)
    n_edge = np.bincount(frame, minlength=num_frames).astype(np.int32)
    samples = Samples(
        nodes=Nodes(
            moved.reshape(-1, 3),
            np.tile(species, (num_frames, 1)),
            np.zeros((num_frames * size, 0, 3)),
        ),
        edges=np.zeros((len(frame), 0)),
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        n_node=np.full(num_frames, size, np.int32),
        n_edge=n_edge,
        targets={
            "energy": generator.normal(size=(num_frames, 1)),
            "forces": generator.normal(size=(num_frames * size, 1, 3)),
        },
    )
    task = TaskSpec(
        name="aspirin",
        heads=(ENERGY, FORCES),
        scalars=ELEMENTS,
        species=ELEMENTS,
        connectivity=f"radius {CUTOFF:g}",
        cutoff=CUTOFF,
        radial_extent=CUTOFF,
        average_neighbors=len(frame) / (num_frames * size),
    )
    return programs.one_batch(samples, task, num_frames)
