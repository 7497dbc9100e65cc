"""One file of HTML with everything in it: style, scripts, three.js and the data.

Its policy forbids the browser every request: what is not in the file is not shown.
"""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.page import content

TEMPLATE, STYLE = "page.html", "page.css"
# In this order; the last one starts the page.
SCRIPTS = (
    *("base.js", "charts.js", "table.js", "figures.js"),
    *("scene.js", "player.js", "main.js"),
)
THREE = "three.module.min.js"
MOST_BYTES = 6_000_000


def render(shown: Mapping[str, Any], title: str) -> str:
    """The page.

    Args:
      shown: of `content.gather`.
      title: of the page, and its first heading.
    """
    has_scenes = any(group["scenes"] for group in shown["groups"])
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _read(STYLE),
        "DATA": content.to_json(shown),
        "THREE": _read(THREE) if has_scenes else "",
        "SCRIPTS": "\n".join(map(_read, SCRIPTS)),
    }
    return _filled(_read(TEMPLATE), parts)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every {{NAME}} replaced; what is put in is not searched."""
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def _read(name: str) -> str:
    """A file of this folder; a script may not end the element that holds it."""
    text = importlib.resources.files("experiments.page").joinpath(name).read_text()
    if name.endswith(".js") and "</script" in text:
        raise ValueError(f"{name} would end the script element that it is put into")
    return text


def describe(shown: Mapping[str, Any], size: int) -> Sequence[str]:
    """Lines for the screen: what the page holds, and what it lacks."""
    runs, groups = shown["runs"], shown["groups"]
    curves = sum(run["curve"] is not None for run in runs)
    scenes = sum(len(group["scenes"]) for group in groups)
    first = (
        f"{_count(runs, 'run')} on {_count(groups, 'task')}, {curves} training curves, "
        f"{scenes} test samples in the player, {size / 1e6:.2f} MB"
    )
    reasons = [
        f"{group['name']}: {group['scenes_reason']}"
        for group in groups
        if group["scenes_reason"]
    ]
    return [first, *reasons, *shown["notes"]]


def _count(items: Sequence[Any], name: str) -> str:
    return f"{len(items)} {name}" + ("" if len(items) == 1 else "s")
