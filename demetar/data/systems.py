"""Systems that a person gives as arrays by name, as samples of a task.

A task says which inputs there are: `positions` always; `species` if its scalars are
one-hot species; every other scalar and vector by its name in the plural (`charges`,
`velocities`). `demetar.data.system_graphs` joins them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from demetar.data.species import columns_of, numbers_of_nodes, place, species_of
from demetar.errors import UserError
from demetar.types import TaskSpec

# How many systems were given: one, several of one size in an array, or a list of them.
ONE, STACKED, LIST = "one", "stacked", "list"

POSITIONS, SPECIES, SMILES = "positions", "species", "smiles"
_ALIASES = {"position": POSITIONS, "atomic_numbers": SPECIES, "numbers": SPECIES}


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
        if values.dtype.kind not in "US" or item.name != SPECIES:
            values = _finite(values, item.keyword, n_node)
        if item.name == SPECIES:
            columns |= columns_of(known, values, n_node)
        else:
            columns[item.name] = values
    total = int(n_node.sum())
    vectors = [columns[vector.name] for vector in task.vectors]
    scalars = [columns[name] for name in task.scalars]
    return Systems(
        n_node=n_node,
        positions=_finite(np.concatenate(parts), POSITIONS, n_node),
        scalars=np.stack(scalars, axis=1) if scalars else np.zeros((total, 0)),
        vectors=np.stack(vectors, axis=1) if vectors else np.zeros((total, 0, 3)),
        numbers=numbers_of_nodes(known, columns),
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
        raise UserError(
            f"expected finite numbers in {keyword}, found {values[tuple(index)]} in "
            f"{place(int(index[0]), n_node)}, {int(bad.sum())} in all"
        )
    return values


def _smiles(given: Any, count: int) -> tuple[str, ...]:
    if given is None:
        return ("",) * count
    texts = (given,) if isinstance(given, str) else tuple(map(str, given))
    if len(texts) != count:
        raise UserError(f"expected smiles of {count} systems, found {len(texts)}")
    return texts
