"""A forward pass as a film: what the nodes know after each layer, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demetar.errors import UserError
from demetar.nn.steerable import Irrep
from demetar.types import Nodes, TaskSpec
from demetar.visual import attention, glyphs
from demetar.visual.inside import Inside
from demetar.visual.layout import Layout

MOST_IRREPS = 4  # panels of features
_BETWEEN = 4  # frames from one stage to the next
_SHORT, _LONG = 90, 900  # milliseconds of a frame in between, and of a stage
_VELOCITY, _MOVED = "#6b9a4b", "#d1495b"  # arrows of the input and of the output
_LINES = (0.35, 0.50, 0.68)
_WIDEST = 0.5  # of a glyph's radius


@dataclasses.dataclass(frozen=True)
class Stage:
    """What there is at one time.

    Attributes:
      name: of the stage.
      features: {irrep: [2l + 1, n]} of one channel each, by the largest of any stage.
      asked: [n, n] attention of the layer, by the largest; 0 without.
      arrows: [n, 3] from the nodes, in lengths of the picture; 0 without.
      color: of the arrows.
    """

    name: str
    features: dict[Irrep, np.ndarray]
    asked: np.ndarray
    arrows: np.ndarray
    color: str = _VELOCITY

    def towards(self, other: Stage, share: float) -> Stage:
        """What is between this stage and the next one."""

        def mixed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            found: np.ndarray = (1 - share) * first + share * second
            return found

        later = share >= 0.5
        nearest = other if later else self
        fading = nearest.arrows * abs(2 * share - 1)
        return Stage(
            nearest.name,
            {ir: mixed(own, other.features[ir]) for ir, own in self.features.items()},
            mixed(self.asked, other.asked),
            fading,
            nearest.color,
        )


def stages(
    task: TaskSpec,
    nodes: Nodes,
    inside: Inside,
    layout: Layout,
    model: str,
    channel: int | None = None,
) -> list[Stage]:
    """Input, layers or attentions, and output.

    Raises:
      UserError: the model records neither features nor attention.
    """
    layers = inside.layers
    found = attention.find(inside, layout, model) if inside.attention else []
    if not layers and not found:
        raise UserError(
            f"expected steerable features or attention in {model}, found neither; it "
            f"records {inside.describe()}"
        )
    irreps = glyphs.irreps_of(layers)[-MOST_IRREPS:]
    shown = [
        _features(inside, irreps, number, channel) for number in range(len(layers))
    ]
    asked = [_by_largest(own.asked) for own in found]
    names = [f"layer {layer.number}" for layer in layers] or [w.title for w in found]
    count = len(layout.names)
    nothing = {irrep: np.zeros((2 * irrep.l + 1, count)) for irrep in irreps}
    still, none = np.zeros((count, 3)), np.zeros((count, count))
    velocities = _arrows(_input_vectors(task, nodes, count), layout)
    steps = [Stage("input", nothing, none, velocities)]
    for number, name in enumerate(names):
        own = shown[number] if shown else nothing
        lines = asked[number] if number < len(asked) else none
        steps.append(Stage(name, own, lines, still))
    moved = _arrows(_output_vectors(task, inside, count), layout)
    last = steps[-1].features
    return [*steps, Stage(_told(task, inside), last, none, moved, _MOVED)]


def _features(
    inside: Inside, irreps: Sequence[Irrep], number: int, channel: int | None
) -> dict[Irrep, np.ndarray]:
    """One channel of each irrep after a layer, by the largest of any layer.

    It is the strongest channel of the last layer that has the irrep.
    """
    found = {}
    for irrep in irreps:
        own = [layer for layer in inside.layers if irrep in layer.features]
        chosen = glyphs.choose(own[-1], irrep, channel)
        layer = inside.layers[number]
        count = chosen.values.shape[1]
        values = layer.features.get(irrep, np.zeros((2 * irrep.l + 1, count, 0)))
        same = values.shape[-1] == chosen.count
        rows = [one.features[irrep] for one in own]
        rows = [
            one[..., chosen.channel] for one in rows if one.shape[-1] == chosen.count
        ]
        size = max(np.linalg.norm(one, axis=0).max() for one in rows)
        picked = values[..., chosen.channel] if same else np.zeros_like(chosen.values)
        found[irrep] = picked / size if size else picked
    return found


def _by_largest(asked: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(asked - np.diag(np.diag(asked)))
    largest = found.max(initial=0)
    return found / largest if largest else found


def _input_vectors(task: TaskSpec, nodes: Nodes, count: int) -> np.ndarray:
    if not task.vectors:
        return np.zeros((count, 3))
    return np.asarray(nodes.vectors, np.float64)[:count, 0]


def _output_vectors(task: TaskSpec, inside: Inside, count: int) -> np.ndarray:
    for head in task.heads:
        if head.kind == "node_vector":
            return inside.outputs[head.name][:, 0].astype(np.float64)
    return np.zeros((count, 3))


def _arrows(vectors: np.ndarray, layout: Layout) -> np.ndarray:
    """Vectors in lengths of the picture: the longest is two glyphs."""
    longest = np.linalg.norm(vectors, axis=1).max(initial=0)
    return vectors * (2.2 * layout.radius / longest) if longest else vectors


def _told(task: TaskSpec, inside: Inside) -> str:
    """The name of the last stage, with the output if that is one number."""
    head = task.heads[0]
    values = inside.outputs[head.name]
    if values.size == 1:
        return f"output: {head.name} {float(values.ravel()[0]):.3g}"
    return f"output: {head.name}"


def film(
    steps: Sequence[Stage], layout: Layout, title: str
) -> tuple[Iterator[Figure], list[int]]:
    """The frames, and how many milliseconds each is shown."""
    frames: list[tuple[float, Stage]] = []
    times: list[int] = []
    for number, stage in enumerate(steps):
        frames.append((number, stage))
        times.append(_LONG)
        if number + 1 < len(steps):
            for between in range(1, _BETWEEN + 1):
                share = between / (_BETWEEN + 1)
                eased = share * share * (3 - 2 * share)  # slow at both ends
                moving = stage.towards(steps[number + 1], eased)
                frames.append((number + eased, moving))
                times.append(_SHORT)
    names = [stage.name for stage in steps]
    made = (_frame(place, own, names, layout, title) for place, own in frames)
    return made, times


def _frame(
    place: float, stage: Stage, names: Sequence[str], layout: Layout, title: str
) -> Figure:
    """One picture: the system, the features, and where the pass stands."""
    irreps = list(stage.features)
    width, height = layout.panel(2.4 if irreps else 4.0)
    figure = Figure(figsize=(width * (1 + len(irreps)) + 0.2, height + 1.1), dpi=68)
    grid = figure.add_gridspec(
        2,
        1 + len(irreps),
        height_ratios=(height, 0.55),
        left=0.01,
        right=0.99,
        top=0.82,
        bottom=0.02,
        hspace=0.05,
        wspace=0.03,
    )
    _draw_system(figure.add_subplot(grid[0, 0]), stage, layout)
    steps = glyphs.resolution(4 * len(irreps) * len(layout.names))
    for column, irrep in enumerate(irreps, 1):
        axes = figure.add_subplot(grid[0, column])
        picture = layout.scene()
        chosen = glyphs.Chosen(irrep, 0, 1, stage.features[irrep])
        largest = np.sqrt((2 * irrep.l + 1) / (4 * np.pi))  # of a norm of 1
        radius = layout.radius
        glyphs.add_features(picture, layout.positions, chosen, radius, steps, largest)
        picture.draw(axes, layout.limits)
        axes.set_title(glyphs.describe(irrep), fontsize=9)
    _draw_progress(figure.add_subplot(grid[1, :]), place, names)
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def _draw_system(axes: Axes, stage: Stage, layout: Layout) -> None:
    picture = layout.scene()
    widest = _WIDEST * layout.radius
    for i, j in np.argwhere(np.triu(stage.asked + stage.asked.T, 1) > 0):
        widths = widest * stage.asked[j, i], widest * stage.asked[i, j]
        ends = layout.positions[i], layout.positions[j]
        picture.add_band(*ends, widths, _LINES)
    layout.add_balls(picture, 0.36)
    for start, arrow in zip(layout.positions, stage.arrows, strict=True):
        if np.linalg.norm(arrow) > 0.05 * layout.radius:
            picture.add_arrow(start, start + arrow, stage.color)
    layout.add_names(picture, 0.5)
    picture.draw(axes, layout.limits)
    axes.set_title(stage.name, fontsize=10, fontweight="bold", parse_math=False)


def _draw_progress(axes: Axes, place: float, names: Sequence[str]) -> None:
    """A line with a mark for each stage."""
    last = len(names) - 1
    axes.plot([0, last], [0, 0], color="0.85", linewidth=3, zorder=1)
    axes.plot([0, place], [0, 0], color="0.45", linewidth=3, zorder=2)
    axes.plot(np.arange(last + 1), np.zeros(last + 1), "o", color="0.6", markersize=5)
    axes.plot(place, 0, "o", color=_MOVED, markersize=8, zorder=3)
    for number, name in enumerate(names):
        short = name.partition(":")[0].replace(" encoder, layer", "")
        short = short.removesuffix(" attention")
        axes.text(number, -0.9, short, fontsize=7, ha="center", parse_math=False)
    axes.set_xlim(-0.4, last + 0.4)
    axes.set_ylim(-1.4, 0.8)
    axes.set_axis_off()
