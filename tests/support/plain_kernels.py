"""Kernels of tensor field networks in plain NumPy loops, for degrees 0 and 1."""

import e3nn_jax as e3nn
import numpy as np

from tests.support import plain, plain_steerable


def kernel_basis(vector, source, target):
    """W_J^{lk} = sum_m Y_Jm Q_Jm^{lk} for each J: a list of [2l + 1, 2k + 1]."""
    matrices = []
    for degree in range(abs(source - target), source + target + 1):
        irrep = e3nn.Irrep(degree, (-1) ** degree)
        # The mean square of a harmonic over the sphere is 1 / 4 pi.
        values = plain_steerable.harmonics(vector, 2)[irrep] / np.sqrt(4 * np.pi)
        q = np.asarray(e3nn.clebsch_gordan(source, degree, target))
        matrix = np.zeros((2 * target + 1, 2 * source + 1))
        for row in range(2 * target + 1):
            for column in range(2 * source + 1):
                for m in range(2 * degree + 1):
                    matrix[row, column] += values[m] * q[column, m, row]
        matrices.append(matrix)
    return matrices


def radial_hidden(params, name, network, values):
    """Two layers of one of the stacked networks, with normalisation and ReLU."""
    for index in range(2):
        layer = params[f"{name}/radial"]
        norm = params[f"{name}/radial/norm_{index}"]
        own = {
            "linear": {
                "w": layer[f"w_{index}"][network],
                "b": layer[f"b_{index}"][network, 0],
            },
            "norm": {key: value[network, 0] for key, value in norm.items()},
        }
        values = plain.linear(own, "linear", values)
        values = plain.relu(plain.layer_norm(own, "norm", values))
    return values


def gaussians(length, num_basis, extent):
    step = extent / (num_basis - 1)
    return [np.exp(-(((length - k * step) / step) ** 2) / 2) for k in range(num_basis)]


def radial_functions(params, name, inputs, features, parts, shared):
    """{(degree in, degree out, part, channel in, J, channel out): phi}.

    The last layers are of one network per degrees and part, or of one for all.
    """
    targets = sorted({irrep for part in parts for irrep in part})
    functions: dict[tuple, float] = {}
    network = 0
    for source, channels in features.items():
        if shared:
            keys = [
                (source, target, part, channel, coupling, out)
                for channel in range(len(channels))
                for target in targets
                for coupling in range(2 * min(source.l, target.l) + 1)
                for part, numbers in enumerate(parts)
                for out in range(numbers.get(target, 0))
            ]
            hidden = radial_hidden(params, name, 0, inputs)
            phi = plain.linear(params, f"{name}/radial_{source}", hidden)
            functions.update(zip(keys, phi, strict=True))
            continue
        pairs = [(t, p) for t in targets for p in range(len(parts)) if t in parts[p]]
        for target, part in pairs:
            keys = [
                (source, target, part, channel, coupling, out)
                for channel in range(len(channels))
                for coupling in range(2 * min(source.l, target.l) + 1)
                for out in range(parts[part][target])
            ]
            hidden = radial_hidden(params, name, network, inputs)
            network += 1
            last = f"{name}/radial_{part}_{source}_{target}"
            phi = plain.linear(params, last, hidden)
            functions.update(zip(keys, phi, strict=True))
    return functions


def apply(params, name, vector, radial_inputs, features, parts, shared=False):
    """sum_k W^{lk}(x) f^k for each degree l: {irrep: [C', 2l + 1]} of each part."""
    functions = radial_functions(
        params, name, np.array(radial_inputs), features, parts, shared
    )
    bases = {
        (source, target): kernel_basis(vector, source.l, target.l)
        for source, target, *_ in functions
    }
    outputs = [
        {irrep: np.zeros((num, irrep.dim)) for irrep, num in part.items()}
        for part in parts
    ]
    for (source, target, part, channel, coupling, out), phi in functions.items():
        matrix = bases[source, target][coupling]
        outputs[part][target][out] += phi * (matrix @ features[source][channel])
    return outputs


def norm_nonlinearity(params, name, features):
    """Mixed or not: A ReLU(LN(|f|)) f / |f|."""
    outputs = {}
    for irrep, channels in features.items():
        norms = np.array([np.sqrt(sum(channel**2)) for channel in channels])
        scales = plain.relu(plain.layer_norm(params, f"{name}/norm_{irrep}", norms))
        if f"{name}/linear_{irrep}" in params:
            scales = plain.linear(params, f"{name}/linear_{irrep}", scales)
        rows = zip(channels, scales, norms, strict=True)
        outputs[irrep] = np.array([scale * row / norm for row, scale, norm in rows])
    return outputs


def convolution(params, name, batch, features, radial_fn, targets, shared=False):
    """Mean of the kernels over the neighbours plus W f_i, for each node."""
    positions = np.asarray(batch.graph.nodes.positions)
    outputs = {}
    for i, senders in plain_steerable.neighbors(batch).items():
        total = plain_steerable.mix(params, f"{name}/self_interaction", features(i))
        for j, edge in senders:
            vector = positions[i] - positions[j]
            values = radial_fn(np.linalg.norm(vector), batch.graph.edges[edge])
            (message,) = apply(
                params,
                f"{name}/kernels",
                vector,
                values,
                features(j),
                [targets],
                shared,
            )
            share = {irrep: rows / len(senders) for irrep, rows in message.items()}
            total = plain_steerable.add(total, share)
        outputs[i] = total
    return outputs
