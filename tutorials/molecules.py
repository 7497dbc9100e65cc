# %% [markdown]
# # Molecules
#
# Each `# %%` begins a cell: open this file as a notebook (VS Code, Jupytext), or run it
# with `python tutorials/molecules.py`. It takes seconds on a processor.

# %%
import jax
import numpy as np
import optax

import demetar
from demetar.train import losses

# %% [markdown]
# ## A pretrained model
#
# SchNet on the energy of the highest occupied orbital, in meV, trained for a short time
# on 10,000 molecules of QM9: the record beside the weights has its test error. These
# three are among the smallest, and further from the truth (-7,967, -10,550 and -6,993).
# Positions are in angstrom; species are symbols or atomic numbers.

# %%
WATER = ("O", "H", "H"), [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]
METHANE = (
    ("C", "H", "H", "H", "H"),
    [
        [0, 0, 0],
        [0.629, 0.629, 0.629],
        [-0.629, -0.629, 0.629],
        [-0.629, 0.629, -0.629],
        [0.629, -0.629, -0.629],
    ],
)
AMMONIA = (
    ("N", "H", "H", "H"),
    [[0, 0, 0.114], [0, 0.94, -0.266], [0.814, -0.47, -0.266], [-0.814, -0.47, -0.266]],
)
MOLECULES = {"water": WATER, "methane": METHANE, "ammonia": AMMONIA}

model = demetar.load("pretrained:schnet-qm9_homo")
print(model)
species = [list(symbols) for symbols, _ in MOLECULES.values()]
positions = [np.array(places, float) for _, places in MOLECULES.values()]
energies = model(positions=positions, species=species)["homo"]
for name, energy in zip(MOLECULES, energies, strict=True):
    print(f"{name}: {energy:.0f} {model.units['homo']}")

# %% [markdown]
# ## Data of your own
#
# The target here is made up and exact: the sum of the inverse distances of all pairs,
# of molecules that are shaken. An extensive target is a sum over atoms.

# %%
NUM_SHAKEN = 16
generator = np.random.default_rng(0)


def target(positions: np.ndarray) -> float:
    """Sum of 1/d over pairs of atoms."""
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return float(np.sum(1 / distances[np.triu_indices(len(positions), 1)]))


shaken = [
    places + generator.normal(size=places.shape, scale=0.1)
    for _ in range(NUM_SHAKEN)
    for places in positions
]
kinds = species * NUM_SHAKEN
energies = np.array([target(places) for places in shaken])

# %% [markdown]
# ## A model in your own loop

# %%
task = demetar.TaskSpec(
    name="shaken",
    heads=(
        demetar.Head(
            "energy",
            "graph_scalar",
            extensive=True,
            mean=float(energies.mean()),
            scale=float(energies.std()),
            error="absolute",
        ),
    ),
    scalars=("H", "C", "N", "O"),
    species=("H", "C", "N", "O"),
    length_unit="Å",
)
batch = demetar.make_batch(
    task, positions=shaken, species=kinds, targets={"energy": energies}
)
net = demetar.build("schnet", task, num_layers=1, hidden_size=16)
params = jax.jit(net.init, static_argnums=2)(jax.random.key(0), batch.graph, True)
optimizer = optax.adam(1e-2)
state = optimizer.init(params)


def loss(params, batch):
    """Mean absolute error of the energies."""
    outputs = net.apply(params, None, batch.graph, True)
    predicted = losses.predict(task, outputs, batch.graph.nodes)
    errors = losses.sample_errors(task, predicted, batch)
    return losses.mean_loss(task, errors, batch.weights)


@jax.jit
def update(params, state, batch):
    """One step of gradient descent."""
    value, gradient = jax.value_and_grad(loss)(params, batch)
    changes, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, changes), state, value


history = []
for epoch in range(60):
    params, state, value = update(params, state, batch)
    history.append(float(value))
    if epoch % 20 == 0:
        print(f"update {epoch}: mean absolute error {history[-1]:.3f}")
print(f"at the end {history[-1]:.3f}, the energies vary by {energies.std():.3f}")
assert history[-1] < 0.5 * history[0]

# %% [markdown]
# ## Is it invariant?

# %%
print(demetar.check_symmetry(net, batch, params=params))

# %% [markdown]
# ## The same by one command
#
#     python -m experiments.qm9 --model=schnet --target=homo
#     python -m experiments.qm9 --model=schnet --target=energy --data_dir=MINE.xyz
#
# The latter trains on molecules of yours, in extended XYZ with `energy=` in the second
# line of each.
