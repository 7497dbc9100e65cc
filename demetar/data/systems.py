"""Systems that a person gives as arrays by name, as samples of a task.

A task says which inputs there are: `positions` always; `species` if its scalars are
one-hot species; every other scalar and vector by its name in the plural (`charges`,
`velocities`). The graphs are built as those of the training: by the same code, from
numbers in double precision.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from demetar import elements
from demetar.data import bonds, edges
from demetar.data.atom_features import node_features
from demetar.data.samples import Samples, centred
from demetar.errors import UserError
from demetar.types import Nodes, TaskSpec

# How many systems were given: one, several of one size in an array, or a list of them.
ONE, STACKED, LIST = "one", "stacked", "list"

POSITIONS, SPECIES, SMILES = "positions", "species", "smiles"
_ALIASES = {"position": POSITIONS, "atomic_numbers": SPECIES, "numbers": SPECIES}
_RADIUS = "radius"
_PRODUCT = "_product"


class Input(NamedTuple):
    """An input of a task.

    Attributes:
      keyword: by which it is given, as 'velocities'.
      name: in the task, as 'velocity'.
      is_vector: whether it is [n, 3] of n nodes, or [n].
    """

    keyword: str
    name: str
    is_vector: bool

    @property
    def shape(self) -> str:
        """Of one system with n nodes."""
        return "[n, 3]" if self.is_vector else "[n]"


@dataclasses.dataclass(frozen=True)
class Systems:
    """D systems, one after the other, checked, in double precision.

    Attributes:
      n_node: [D] int32 nodes of each.
      positions: [A, 3] of all nodes.
      scalars: [A, S] in the order of the task.
      vectors: [A, V, 3] in the order of the task.
      numbers: [A] atomic numbers; None if the nodes are no atoms.
      smiles: D texts, or none at all.
      layout: `ONE`, `STACKED` or `LIST`.
    """

    n_node: np.ndarray
    positions: np.ndarray
    scalars: np.ndarray
    vectors: np.ndarray
    numbers: np.ndarray | None
    smiles: tuple[str, ...]
    layout: str


def plural(name: str) -> str:
    """The keyword of an input: 'charges', 'masses', 'velocities'."""
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "z", "ch", "sh")) else f"{name}s"


def species_of(task: TaskSpec) -> tuple[str, ...]:
    """The species of a task; earlier releases did not mark them among the scalars."""
    bases = [name.partition("*")[0] for name in task.scalars]
    if task.species or not all(name in elements.NUMBERS for name in bases):
        return task.species
    return tuple(dict.fromkeys(bases))


def inputs_of(task: TaskSpec) -> tuple[Input, ...]:
    """The inputs that a task asks for, positions first."""
    known = species_of(task)
    own = [name for name in task.scalars if name.partition("*")[0] not in known]
    return (
        Input(POSITIONS, POSITIONS, True),
        *([Input(SPECIES, SPECIES, False)] if known else []),
        *(Input(plural(vector.name), vector.name, True) for vector in task.vectors),
        *(Input(plural(name), name, False) for name in own),
    )


def describe_inputs(task: TaskSpec) -> str:
    """What to pass, for errors: 'positions [n, 3], charges [n]'."""
    return ", ".join(f"{item.keyword} {item.shape}" for item in inputs_of(task))


def parse(task: TaskSpec, given: Mapping[str, Any]) -> Systems:
    """The systems of arrays by keyword.

    Args:
      task: which inputs there are.
      given: positions [n, 3], [D, n, 3] or a list of D arrays [n_i, 3]; the others
        likewise, [n] for scalars. If all D systems have n nodes, one [n] does for all.
        `species` are atomic numbers or symbols; `smiles`, one text per system, may
        tell the orders of bonds.

    Raises:
      UserError: an input is missing, unknown, of another shape or type or not finite,
        or a species is not the task's.
    """
    wanted = inputs_of(task)
    found = _by_name(task, wanted, given)
    layout, parts = _parts(found[POSITIONS])
    n_node = np.array([len(part) for part in parts], np.int32)
    known = species_of(task)
    columns: dict[str, np.ndarray] = {}
    for item in wanted[1:]:
        values = _values(item, found[item.name], n_node, layout)
        if item.name == SPECIES:
            columns |= _species_columns(known, values, n_node)
        else:
            columns[item.name] = _finite(values, item.keyword, n_node)
    total = int(n_node.sum())
    vectors = [columns[vector.name] for vector in task.vectors]
    scalars = [columns[name] for name in task.scalars]
    return Systems(
        n_node=n_node,
        positions=_finite(np.concatenate(parts), POSITIONS, n_node),
        scalars=np.stack(scalars, axis=1) if scalars else np.zeros((total, 0)),
        vectors=np.stack(vectors, axis=1) if vectors else np.zeros((total, 0, 3)),
        numbers=_atomic_numbers(known, columns),
        smiles=_smiles(found.get(SMILES), len(parts)),
        layout=layout,
    )


def _by_name(
    task: TaskSpec, wanted: Sequence[Input], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs by their names in the task.

    Raises:
      UserError: one is missing, unknown, or given twice.
    """
    names = {item.keyword: item.name for item in wanted} | _ALIASES
    names |= {item.name: item.name for item in wanted} | {SMILES: SMILES}
    found: dict[str, Any] = {}
    for keyword, value in given.items():
        name = names.get(keyword)
        if name is None or (name not in {item.name for item in wanted} | {SMILES}):
            raise UserError(
                f"the task {task.name!r} has no input {keyword!r}; "
                f"pass {describe_inputs(task)}"
            )
        if name in found:
            raise UserError(f"expected {name} once, found it under two names")
        if value is not None:
            found[name] = value
    missing = [item.keyword for item in wanted if item.name not in found]
    if missing:
        raise UserError(
            f"the task {task.name!r} reads {describe_inputs(task)}; missing: "
            f"{', '.join(missing)}; pass them as {missing[0]}=..."
        )
    return found


def _parts(positions: Any) -> tuple[str, list[np.ndarray]]:
    """The layout, and the positions [n, 3] of each system.

    Raises:
      UserError: they have another shape, or there are none.
    """
    is_list = isinstance(positions, (list, tuple)) and _depth(positions) > 2
    layout = LIST if is_list else ONE
    parts = list(positions) if is_list else [_array(positions, POSITIONS)]
    if not is_list and parts[0].ndim == 3:
        layout, parts = STACKED, list(parts[0])
    parts = [_array(part, POSITIONS) for part in parts]
    for number, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != 3 or not len(part):
            place = f" in system {number} (from 0)" if is_list else ""
            raise UserError(
                "expected positions of shape [n, 3], [systems, n, 3] or a list of "
                f"arrays [n, 3], found {_shown(part)}{place}"
            )
    if not parts:
        raise UserError("expected at least one system, found no positions")
    return layout, parts


def _depth(value: Any) -> int:
    """Axes of an array or of nested lists, by their first entries."""
    if isinstance(value, (list, tuple)):
        return 1 + (_depth(value[0]) if value else 0)
    return int(np.ndim(value))


def _array(value: Any, name: str) -> np.ndarray:
    """An array as NumPy's; also one of PyTorch or JAX.

    Raises:
      UserError: it is none.
    """
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"expected an array of {name}, found none ({error})") from None
    if array.dtype.kind not in "iufUSO" or array.dtype.kind == "O":
        raise UserError(
            f"expected an array of numbers for {name}, found {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return array


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _values(item: Input, value: Any, n_node: np.ndarray, layout: str) -> np.ndarray:
    """One input of all nodes: [A] or [A, 3].

    Raises:
      UserError: it has another shape than the positions ask for.
    """
    tail = (3,) if item.is_vector else ()
    count, size = len(n_node), int(n_node[0])
    same_size = bool((n_node == size).all())
    # A list of symbols is one system's, or that of all.
    is_list = isinstance(value, (list, tuple)) and _depth(value) > 1 + len(tail)
    if layout == LIST and is_list:
        parts = [_array(part, item.keyword) for part in value]
        if len(parts) != count:
            raise UserError(
                f"expected {item.keyword} of {count} systems, as positions are, found "
                f"{len(parts)}"
            )
    else:
        array = _array(value, item.keyword)
        if array.shape == (size, *tail) and same_size and not item.is_vector:
            parts = [array] * count  # one for all
        elif array.ndim == 2 + len(tail) and len(array) == count:
            parts = list(array)
        else:
            parts = [array]
    for number, size in enumerate(n_node.tolist()):
        found = parts[number] if number < len(parts) else parts[-1]
        if found.shape != (size, *tail) or len(parts) != count:
            expected = (size, *tail)
            if layout == STACKED:
                expected, found = (count, *expected), np.asarray(value)
            place = f" in system {number} (from 0)" if layout == LIST else ""
            raise UserError(
                f"expected {item.keyword} of shape {list(expected)}, as positions "
                f"have {size} nodes, found {_shown(found)}{place}"
            )
    return np.concatenate(parts)


def _finite(values: np.ndarray, keyword: str, n_node: np.ndarray) -> np.ndarray:
    """Values [A, ...] as finite float64 numbers.

    Raises:
      UserError: one is not, which is told with its system and node.
    """
    if values.dtype.kind not in "iuf":
        raise UserError(f"expected numbers in {keyword}, found {values.dtype}")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        index = np.argwhere(bad)[0]
        system, node = _place(int(index[0]), n_node)
        raise UserError(
            f"expected finite numbers in {keyword}, found {values[tuple(index)]} in "
            f"system {system}, node {node} (from 0), {int(bad.sum())} in all"
        )
    return values


def _place(row: int, n_node: np.ndarray) -> tuple[int, int]:
    """System and node of a row of all nodes."""
    stops = np.cumsum(n_node)
    system = int(np.searchsorted(stops, row, side="right"))
    return system, row - int(stops[system] - n_node[system])


# --- Species ------------------------------------------------------------------------


def _species_columns(
    known: Sequence[str], values: np.ndarray, n_node: np.ndarray
) -> dict[str, np.ndarray]:
    """The scalars that species make: {name: [A]}, one-hot and its multiples.

    Raises:
      UserError: a node is of another species.
    """
    numbers = _numbers(known)
    if values.dtype.kind in "iuf":
        values = _finite(values, SPECIES, n_node)
    rows = np.zeros(len(values), int)
    for value in np.unique(values).tolist():
        found = _row(known, numbers, value)
        if found is None:
            row = int(np.flatnonzero(values == value)[0])
            system, node = _place(row, n_node)
            raise UserError(
                f"expected the species {', '.join(known)} that the model knows, found "
                f"{_named(value)} in system {system}, node {node} (from 0)"
            )
        rows[values == value] = found
    columns = {name: (rows == row).astype(float) for row, name in enumerate(known)}
    if numbers:
        for kind in ("species", "egnn"):
            features, names = node_features(np.array(numbers)[rows], kind, numbers)
            columns |= dict(zip(names, features.T, strict=True))
    return columns


def _row(known: Sequence[str], numbers: Sequence[int], value: Any) -> int | None:
    """The number of a species among those of the task; None if it is none of them."""
    if not numbers:
        return known.index(value) if value in known else None
    text = value if isinstance(value, str) else f"{value:g}"
    try:
        number = elements.number_of(text)
    except ValueError:
        return None
    return numbers.index(number) if number in numbers else None


def _named(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    return elements.name(int(value)) if value == int(value) else f"{value:g}"


def _numbers(known: Sequence[str]) -> tuple[int, ...]:
    """Atomic numbers of species; none if they are not elements."""
    if not all(name in elements.NUMBERS for name in known):
        return ()
    return tuple(elements.NUMBERS[name] for name in known)


def _atomic_numbers(
    known: Sequence[str], columns: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    numbers = _numbers(known)
    if not numbers:
        return None
    one_hot = np.stack([columns[name] for name in known])  # [species, A]
    found: np.ndarray = np.array(numbers, np.uint8)[one_hot.argmax(axis=0)]
    return found


def _smiles(given: Any, count: int) -> tuple[str, ...]:
    if given is None:
        return ("",) * count
    texts = (given,) if isinstance(given, str) else tuple(map(str, given))
    if len(texts) != count:
        raise UserError(f"expected smiles of {count} systems, found {len(texts)}")
    return texts


# --- Graphs -------------------------------------------------------------------------


def to_samples(task: TaskSpec, systems: Systems) -> Samples:
    """The graphs of systems, joined as the task says, in double precision.

    They have no targets.

    Args:
      task: connectivity, cutoff and edge features.
      systems: of `parse`.

    Raises:
      UserError: there is no such connectivity or edge feature, or a system is too small
        for the number of neighbours.
    """
    n_node = systems.n_node
    samples = Samples(
        nodes=Nodes(systems.positions, systems.scalars, systems.vectors),
        edges=np.zeros((0, 0)),
        senders=None,
        receivers=None,
        n_node=n_node,
        n_edge=n_node,
        targets={},
    )
    samples = centred(samples, ())
    found = _join(task, systems, np.asarray(samples.nodes.positions))
    return dataclasses.replace(
        samples,
        edges=_edge_features(task, systems, found),
        senders=found.senders,
        receivers=found.receivers,
        n_edge=found.n_edge.astype(np.int32),
    )


def check_connectivity(task: TaskSpec) -> None:
    """Make sure that graphs of the task can be built from named inputs.

    Raises:
      UserError: they cannot, which says why.
    """
    kind = task.connectivity.partition(" ")[0]
    if kind not in ("complete", "knn", _RADIUS, "bonds"):
        raise UserError(
            f"graphs of connectivity {task.connectivity!r} cannot be built from "
            "positions; give make_batch graphs with their edges"
        )
    if (kind == "bonds" or has_bonds(task)) and not _numbers(species_of(task)):
        raise UserError(
            f"the task {task.name!r} asks for bonds, which are found between elements "
            "alone; give make_batch graphs with their edges"
        )
    if not has_bonds(task):
        for name in task.edge_features:
            factor(task, name)


def has_bonds(task: TaskSpec) -> bool:
    """Whether the edges of a task know their bonds."""
    return task.edge_features == bonds.TYPES


def factor(task: TaskSpec, feature: str) -> str:
    """The scalar whose product an edge feature is.

    Raises:
      UserError: it is another feature.
    """
    name = feature.removesuffix(_PRODUCT)
    if name == feature or name not in task.scalars:
        raise UserError(
            f"the task {task.name!r} has the edge feature {feature!r}, which is no "
            f"product of a scalar (as 'charge{_PRODUCT}'); give make_batch graphs with "
            "their edges"
        )
    return name


def _join(task: TaskSpec, systems: Systems, centred: np.ndarray) -> edges.Edges:
    """The edges of all systems; their nearest ones by centred positions [A, 3]."""
    check_connectivity(task)
    n_node = systems.n_node
    if task.connectivity == "knn":
        degree, smallest = task.num_neighbors or 0, int(n_node.min())
        if smallest <= degree:
            raise UserError(
                f"expected more than {degree} nodes, the neighbours of each, found "
                f"{smallest} in system {int(n_node.argmin())} (from 0)"
            )
        return edges.nearest(centred, n_node, degree)
    bonded = task.connectivity == "bonds"
    radius = cutoff(task)
    types = _bond_types(systems) if bonded or has_bonds(task) else None
    if radius is None and types is None:
        return edges.complete(n_node)
    return edges.chosen(systems.positions, n_node, radius, types, bonded)


def cutoff(task: TaskSpec) -> float | None:
    """Of radius graphs; earlier releases wrote it in the connectivity alone."""
    kind, _, radius = task.connectivity.partition(" ")
    if kind != _RADIUS:
        return None
    return float(radius) if task.cutoff is None else task.cutoff


def _bond_types(systems: Systems) -> edges.BondTypes:
    assert systems.numbers is not None
    n_bonds, rows, _ = bonds.find(
        systems.n_node, systems.numbers, systems.positions, systems.smiles
    )
    return functools.partial(bonds.matrix, n_bonds, rows)


def _edge_features(task: TaskSpec, systems: Systems, found: edges.Edges) -> np.ndarray:
    """[E, F] in the order of the task."""
    if has_bonds(task):
        return bonds.features(found)
    if not task.edge_features:
        return np.zeros((int(found.n_edge.sum()), 0))
    senders, receivers = found.ends(systems.n_node)
    starts = np.repeat(np.cumsum(systems.n_node) - systems.n_node, found.n_edge)
    columns = [
        systems.scalars[starts + senders, column]
        * systems.scalars[starts + receivers, column]
        for column in (
            task.scalars.index(factor(task, name)) for name in task.edge_features
        )
    ]
    return np.stack(columns, axis=1)
