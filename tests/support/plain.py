"""Layers in plain NumPy loops, which transcriptions of papers are made of."""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def linear(params, name, x):
    """One vector [C] times W, plus b."""
    layer = params[name]
    outputs = []
    for column in range(layer["w"].shape[1]):
        total = sum(x[row] * layer["w"][row, column] for row in range(len(x)))
        outputs.append(total + (layer["b"][column] if "b" in layer else 0.0))
    return np.array(outputs)


def mlp(params, name, x, activation=silu):
    """Two linear layers with an activation between them."""
    hidden = activation(linear(params, f"{name}/linear_0", x))
    return linear(params, f"{name}/linear_1", hidden)


def layer_norm(params, name, x):
    centred = x - sum(x) / len(x)
    spread = np.sqrt(sum(centred**2) / len(x) + 1e-5)
    return params[name]["scale"] * centred / spread + params[name]["offset"]


def softmax(values):
    shifted = [np.exp(value - max(values)) for value in values]
    return [value / sum(shifted) for value in shifted]


def attention(queries, keys, values, mask):
    """softmax(Q K^T / sqrt(d) + M) V for one head; M is 0 or -inf: [queries][d]."""
    scale = np.sqrt(len(queries[0]))
    outputs = []
    for i, query in enumerate(queries):
        logits = [query @ key / scale + mask[i][j] for j, key in enumerate(keys)]
        weights = softmax(logits)
        outputs.append(sum(w * value for w, value in zip(weights, values, strict=True)))
    return outputs


def multi_head(projections, num_heads, mask):
    """Heads side by side: queries, keys and values are [rows][H d]."""
    queries, keys, values = (np.array(rows) for rows in projections)
    size = queries.shape[1] // num_heads
    heads = [slice(h * size, (h + 1) * size) for h in range(num_heads)]
    mixed = [attention(queries[:, h], keys[:, h], values[:, h], mask) for h in heads]
    return np.concatenate(mixed, axis=1)


def self_attention(params, name, tokens, num_heads):
    """Every token to every token."""
    rows = [linear(params, f"{name}/query_key_value", token) for token in tokens]
    projections = np.split(np.array(rows), 3, axis=1)
    mixed = multi_head(projections, num_heads, np.zeros((len(rows), len(rows))))
    return [linear(params, f"{name}/output", row) for row in mixed]


def encoder(params, name, tokens, num_layers, num_heads):
    """Blocks that normalise before each step, and a last normalisation."""
    for layer in range(num_layers):
        normed = [layer_norm(params, f"{name}/norm_{layer}_0", x) for x in tokens]
        added = self_attention(params, f"{name}/attention_{layer}", normed, num_heads)
        tokens = [x + y for x, y in zip(tokens, added, strict=True)]
        normed = [layer_norm(params, f"{name}/norm_{layer}_1", x) for x in tokens]
        added = [mlp(params, f"{name}/mlp_{layer}", x) for x in normed]
        tokens = [x + y for x, y in zip(tokens, added, strict=True)]
    return [layer_norm(params, f"{name}/norm", x) for x in tokens]
