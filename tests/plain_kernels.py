"""Kernels of tensor field networks in plain NumPy loops, for degrees 0 and 1."""

import e3nn_jax as e3nn
import numpy as np

from tests import plain, plain_steerable


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
        matrices.append(np.sqrt(2 * target + 1) * matrix)
    return matrices


def radial_hidden(params, name, values):
    """Two layers with layer normalisation and ReLU."""
    for index in range(2):
        values = plain.linear(params, f"{name}/radial_{index}", values)
        values = plain.layer_norm(params, f"{name}/radial_norm_{index}", values)
        values = plain.relu(values)
    return values


def gaussians(length, num_basis, extent):
    step = extent / (num_basis - 1)
    return [np.exp(-(((length - k * step) / step) ** 2) / 2) for k in range(num_basis)]


def apply(params, name, vector, radial_inputs, features, targets):
    """sum_k W^{lk}(x) f^k for each degree l: {irrep: [C', 2l + 1]}."""
    hidden = radial_hidden(params, name, np.array(radial_inputs))
    outputs = {irrep: np.zeros((num, irrep.dim)) for irrep, num in targets.items()}
    for source, channels in features.items():
        phi = plain.linear(params, f"{name}/radial_{source}", hidden)
        index = 0
        for channel in channels:
            for target, num in sorted(targets.items()):
                for matrix in kernel_basis(vector, source.l, target.l):
                    for out in range(num):
                        outputs[target][out] += phi[index] * (matrix @ channel)
                        index += 1
        assert index == len(phi)
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


def convolution(params, name, batch, features, radial_fn, targets):
    """Mean of the kernels over the neighbours plus W f_i, for each node."""
    positions = np.asarray(batch.graph.nodes.positions)
    outputs = {}
    for i, senders in plain_steerable.neighbors(batch).items():
        total = plain_steerable.mix(params, f"{name}/self_interaction", features(i))
        for j, edge in senders:
            vector = positions[i] - positions[j]
            values = radial_fn(np.linalg.norm(vector), batch.graph.edges[edge])
            message = apply(
                params, f"{name}/kernels", vector, values, features(j), targets
            )
            share = {irrep: rows / len(senders) for irrep, rows in message.items()}
            total = plain_steerable.add(total, share)
        outputs[i] = total
    return outputs
