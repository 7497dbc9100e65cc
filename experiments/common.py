"""What the commands share: one-line errors, signals, versions, the work directory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import os
import pathlib
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import tqdm
from absl import app
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from demetar.errors import UserError
from demetar.train import checkpoint
from demetar.types import Head, TaskSpec, VectorInput
from experiments import processes
from tools import cli

USER_ERROR = 2  # exit code
SIGNALLED = 128  # exit code less the number of the signal
CONFIG_FILE = "config.json"
VERSIONED = ("jax", "jaxlib", "dm-haiku", "e3nn-jax", "jraph", "optax", "numpy")

_ANOTHER = "choose another --workdir"

# What a data set must share with the task of a checkpoint. Sizes and statistics are its
# own: a model that was trained on 5 bodies is at home on 20.
_TASK_FIELDS: Mapping[str, str] = {
    "scalars": "the node inputs",
    "vectors": "the vectors",
    "edge_features": "the edge features",
    "heads": "the targets",
    "length_unit": "the length unit",
    "connectivity": "the connectivity",
    "num_neighbors": "the number of neighbours",
}


def run(main: Callable[[list[str]], int | None], positional: bool = False) -> None:
    """Run a command: bad input becomes one line on stderr and exit code 2.

    Args:
      main: gets the arguments that are no flags, the program's name first.
      positional: whether the command takes such arguments.
    """
    # Which backends jax looked for in vain is no news to a user.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    # What listens to neither signal is left at once, without a traceback. A shell that
    # starts a command in the background would have it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)

    def guarded(argv: list[str]) -> None:
        try:
            if argv[1:] and not positional:
                raise UserError(
                    f"expected flags as --name=value, found {argv[1]!r}; see --help"
                )
            code = main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            processes.leave(USER_ERROR)
        except Exception as error:
            if not jax.distributed.is_initialized():
                raise
            if processes.tells_of_a_loss(error):
                processes.leave(processes.PEER_LOST)
            traceback.print_exc()
            processes.leave(1)
        except KeyboardInterrupt as interrupt:
            number = interrupt.args[0] if interrupt.args else signal.SIGINT
            print("error: interrupted; the same command continues", file=sys.stderr)
            processes.leave(SIGNALLED + number)
        sys.exit(code or 0)

    app.run(guarded, flags_parser=cli.parse)


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(number)


def cache_dir() -> pathlib.Path:
    """Where generated data and compiled programs are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "demetar"


class StopSignal:
    """Remembers a SIGINT or SIGTERM until the loop asks.

    Attributes:
      number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen within the context. A second signal acts at once, as by default."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        earlier = {number: signal.getsignal(number) for number in numbers}

        def remember(number: int, _: Any) -> None:
            self.number = number
            for each in numbers:
                signal.signal(each, earlier[each])
            # Not with print: the signal may have come within one.
            os.write(1, b"\nsaving and leaving; once more to leave at once\n")

        for number in numbers:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, earlier[number])


def progress(items: Iterable, description: str, total: int | None) -> Iterable:
    """The items, with a progress bar on stderr."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm.tqdm(items, description, total, mininterval=interval, unit=" molecules")


def positive_integers(flag: str, items: Iterable[str]) -> tuple[int, ...]:
    """The numbers of a flag that lists them.

    Raises:
      UserError: an item is no positive integer.
    """
    for item in items:
        if not item.isdecimal() or int(item) < 1:
            raise UserError(f"expected positive integers in --{flag}, found {item!r}")
    return tuple(map(int, items))


def markdown_table(rows: Sequence[Mapping[str, str]], rule: str = "---") -> str:
    """Rows of the same columns in Markdown, under the names of the first one.

    Args:
      rule: below every name; where its colons are says how the column is aligned.
    """

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join(
        [line(rows[0]), line(rule for _ in rows[0]), *(line(r.values()) for r in rows)]
    )


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder for what a command writes.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from None


def save_figure(path: pathlib.Path, figure: Figure) -> None:
    """Write a picture as PNG, atomically."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    checkpoint.write_bytes(path, content.getvalue())


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"python": platform.python_version(), **found}


def device() -> str:
    """The devices that compute, and the processor cores beside them."""
    first, count = jax.devices()[0], jax.device_count()
    kind = first.device_kind if first.platform != "cpu" else platform.machine()
    cores = len(os.sched_getaffinity(0))
    several = f"{count} x " if count > 1 else ""
    hosts = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{several}{first.platform} {kind}{hosts}, {cores} CPU cores"


def check_workdir(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Make sure that a work directory is free or that of a run.

    Args:
      workdir: it need not exist.
      config: settings of the run.

    Raises:
      UserError: it belongs to another run, or is no directory that can be read.
    """
    path = workdir / CONFIG_FILE
    try:
        content = path.read_text() if path.exists() else None
        others = [] if content or not workdir.exists() else list(workdir.iterdir())
        found = json.loads(content) if content else None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); {_ANOTHER}") from None
    if any(not checkpoint.is_temporary(other) for other in others):
        raise UserError(
            f"{workdir} holds files but no {CONFIG_FILE} of a run; {_ANOTHER}"
        )
    if found is None:
        return
    config = json.loads(json.dumps(config))
    changed = [
        f"{name} was {found.get(name)!r} and is now {config.get(name)!r}"
        for name in sorted({*found, *config})
        if found.get(name) != config.get(name)
    ]
    if changed:
        raise UserError(
            f"{workdir} belongs to another run: {'; '.join(changed)}; {_ANOTHER}, or "
            "give the command of that run to continue it"
        )


def claim_workdir(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Mark a work directory that `check_workdir` has let pass as that of a run.

    Raises:
      UserError: it cannot be written.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the work directory {workdir}: {error.strerror}; {_ANOTHER}"
        ) from None
    checkpoint.write_json(path, config)


def check_task(path: pathlib.Path, task: TaskSpec) -> None:
    """Make sure that the model at `path`, if there is one, fits a data set.

    Raises:
      UserError: the data set has other inputs or targets than the model was trained
        with, or the checkpoint is damaged.
    """
    if not os.path.exists(path):  # also where it may not be looked at
        return
    changed = task_differences(task, checkpoint.load_model(path).task, str(path))
    if changed:
        raise UserError(
            f"the data set {task.name!r} does not fit the trained model: it has "
            f"{changed}; give the data set of that model, or {_ANOTHER}"
        )


def task_differences(task: TaskSpec, known: TaskSpec, knower: str) -> str:
    """What a data set has that `knower`, of the task `known`, does not; '' if nothing.

    Sizes and statistics may differ.
    """
    changed = [
        f"{what} {_listed(getattr(task, field))} where {knower} knows "
        f"{_listed(getattr(known, field))}"
        for field, what in _TASK_FIELDS.items()
        if _listed(getattr(task, field)) != _listed(getattr(known, field))
    ]
    return "; ".join(changed)


def _listed(values: Any) -> str:
    """Names, vectors or heads of a task as one text, without their statistics."""
    if values is None or isinstance(values, (str, int)):
        return repr(values)
    texts = [
        f"{value.name} ({value.size} {value.kind} from {value.base or 'zero'})"
        if isinstance(value, Head)
        else f"{value.name} (parity {value.parity:+d})"
        if isinstance(value, VectorInput)
        else value
        for value in values
    ]
    return ", ".join(texts) or "none"
