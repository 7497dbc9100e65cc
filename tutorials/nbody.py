# %% [markdown]
# # N-body systems
#
# Each `# %%` begins a cell: open this file as a notebook (VS Code, Jupytext), or run it
# with `python tutorials/nbody.py`. It takes seconds on a processor.
#
# The data set `nbody_small` has systems of five charged bodies. A model sees positions,
# velocities and charges, and predicts the positions 1,000 steps of 0.001 later.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import demetar
from demetar import integrators
from demetar.train import losses

# %% [markdown]
# ## A pretrained model
#
# `demetar.load` takes the work directory of a run, or the name of weights that come
# with the package. The model is a function of arrays.

# %%
model = demetar.load("pretrained:egnn-nbody_small")
print(model)

generator = np.random.default_rng(0)
positions = generator.normal(size=(5, 3))
velocities = generator.normal(size=(5, 3))
velocities *= 0.5 / np.linalg.norm(velocities, axis=1, keepdims=True)
charges = np.array([1, -1, 1, -1, 1])

ahead = model(positions=positions, velocities=velocities, charges=charges)["position"]
print(ahead.round(3), model.units)

# %% [markdown]
# It is equivariant: a turned system is predicted to end where the prediction is turned
# to.

# %%
turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
turned = model(
    positions=positions @ turn, velocities=velocities @ turn, charges=charges
)["position"]
print("largest difference:", np.abs(turned - ahead @ turn).max())
np.testing.assert_allclose(turned, ahead @ turn, atol=1e-4)

# %% [markdown]
# ## Data of your own
#
# Any simulator will do. Here 48 systems of three bodies on springs are integrated.
# Arrays of the integrators are batch-last, [3, bodies, systems].

# %%
NUM_SYSTEMS, NUM_BODIES, NUM_STEPS = 48, 3, 100


def springs(positions: jax.Array) -> jax.Array:
    """Accelerations [3, n, B] of bodies that springs pull to each other."""
    return jnp.sum(positions[:, None] - positions[:, :, None], axis=2)


start = generator.normal(size=(2, 3, NUM_BODIES, NUM_SYSTEMS)).astype(np.float32)
motion = integrators.start(start[0], start[1], springs)
step = integrators.kick_drift_kick(springs, dt=0.01)
last, _ = integrators.integrate(step, motion, jnp.array([NUM_STEPS]))
x, v, true = (
    np.moveaxis(np.asarray(array), -1, 0).swapaxes(1, 2)  # [systems, bodies, 3]
    for array in (start[0], start[1], last.positions)
)

# %% [markdown]
# ## A model in your own loop
#
# A task says what a model gets and what it predicts. `build` gives the two pure
# functions of Haiku, and `make_batch` the padded graphs that they take.

# %%
task = demetar.TaskSpec(
    name="springs",
    heads=(demetar.Head("position", "node_vector", base="positions"),),
    scalars=("mass",),
    vectors=(demetar.VectorInput("velocity"),),
)
masses = np.ones((NUM_SYSTEMS, NUM_BODIES))
batch = demetar.make_batch(
    task, positions=x, velocities=v, masses=masses, targets={"position": true}
)
net = demetar.build("egnn", task, hidden_size=16, num_layers=1)
params = jax.jit(net.init, static_argnums=2)(jax.random.key(0), batch.graph, True)
optimizer = optax.adam(1e-2)
state = optimizer.init(params)


def loss(params, batch):
    """Mean squared error of the predicted positions."""
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
        print(f"update {epoch}: loss {history[-1]:.4f}")
print(f"at the end {history[-1]:.4f}")
assert history[-1] < 0.5 * history[0]

# %% [markdown]
# ## Is it equivariant?
#
# Errors in float32 are those of rounding if they fall by nine orders of magnitude in
# float64.

# %%
errors = demetar.check_symmetry(net, batch, params=params)
print(errors)
assert errors["float64"]["rotation"]["position"] < 1e-10

# %% [markdown]
# ## The same by one command
#
# The commands generate data, train under the protocol of a paper, keep checkpoints and
# write a record:
#
#     python -m experiments.nbody --model=egnn --epochs=30
#
# Then `demetar.load("runs/nbody_small/egnn-epochs=30")` is the model.
