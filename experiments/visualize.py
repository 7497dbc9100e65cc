"""Draw what a model computes: features, paths, symmetry.

    python -m experiments.visualize --checkpoint=RUN --what=glyphs

glyphs: steerable features of each layer as functions on the sphere, at their nodes.
rotation: those of the turned system beside Wigner's D times the first ones. forward: a
film of the forward pass. attention: matrices, and lines on the system. equivariance:
the error of every layer and head under each group, and by direction. tensor_product:
the paths of the model's products. harmonics: the basis, which needs no model. What a
model does not have is answered with what it has.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import jax
from matplotlib.figure import Figure

from demetar import models, symmetry
from demetar.errors import UserError
from demetar.models import base
from demetar.nn import capture
from demetar.precision import precision
from demetar.settings import NOT_NEGATIVE, OUTPUT, Bounds, setting
from demetar.train import checkpoint
from demetar.visual import (
    animation,
    attention,
    directions,
    forward,
    glyphs,
    harmonics,
    paths,
    rotation,
    scene,
)
from demetar.visual import symmetry as by_layer
from experiments.run import cli, subjects
from experiments.run.subjects import Subject
from tools.command_line import CommandLine, Given

WHAT = (
    *("glyphs", "rotation", "forward", "attention", "equivariance"),
    *("tensor_product", "harmonics"),
)
NUM_ANGLES = 30  # of a film
MILLISECONDS = 90  # of a frame of it
TILT = 20.0  # degrees of the axis from the vertical of the picture
FLOOR = 1e-12  # an error in float64 below it is rounding


@dataclasses.dataclass(frozen=True)
class Options:
    """What is drawn, and where it goes."""

    what: str | None = setting(None, "What to draw. Required.", OUTPUT, choices=WHAT)
    out: str = setting(
        "pictures", "Folder for the pictures; created if missing.", OUTPUT
    )
    channel: int | None = setting(
        None,
        "Channel of the features.",
        OUTPUT,
        NOT_NEGATIVE,
        default_words="the strongest of each picture",
    )
    degree: int | None = setting(
        None,
        "Degree of the features that rotation shows.",
        OUTPUT,
        NOT_NEGATIVE,
        default_words="the highest",
    )
    lmax: int = setting(
        3, "Highest degree of harmonics.", OUTPUT, Bounds(least=0, most=harmonics.MOST)
    )
    film: str = setting(
        animation.GIF, "Format of films.", OUTPUT, choices=animation.KINDS
    )


LINE = CommandLine(Options, subjects.Options)
Pictures = Mapping[str, Figure | bytes]  # by the names of their files


def main(given: Given, _: list[str]) -> None:
    """Draw, and tell what was written."""
    options = given.read(Options)
    if not options.what:
        raise UserError(f"expected --what, one of {', '.join(WHAT)}")
    if options.what == "harmonics":
        found: Pictures = {"harmonics.png": harmonics.figure(options.lmax)}
    else:
        subject = subjects.find(given.read(subjects.Options))
        print(f"model     {subject.name}\nsystem    {subject.place}", flush=True)
        # GPUs would round products so much that no symmetry holds beyond 1e-3.
        jax.config.update("jax_default_matmul_precision", "highest")
        with precision(subject.dtype):
            found = MAKERS[options.what](subject, options)
    folder = pathlib.Path(options.out)
    cli.make_folder(folder)
    for name, picture in found.items():
        if isinstance(picture, Figure):
            cli.save_figure(folder / name, picture)
        else:
            checkpoint.write_bytes(folder / name, picture)
        print(f"wrote     {folder / name}")


def draw_glyphs(subject: Subject, options: Options) -> Pictures:
    """Features of all layers."""
    inside = subject.look()
    glyphs.require_layers(inside, subject.model)
    figure = glyphs.figure(inside, subject.layout, subject.title, options.channel)
    return {"glyphs.png": figure}


def draw_rotation(subject: Subject, options: Options) -> Pictures:
    """Features of the turned input and turned features, still and as a film."""
    layers = glyphs.require_layers(subject.look(), subject.model)
    shown = rotation.show(layers, options.channel, options.degree)
    own = subject.layout
    axis = scene.about(own.view[2], TILT) @ own.view[1]
    asked = (subject.task, subject.batch, subject.look, axis)
    still = rotation.turns(*asked)
    around = rotation.turns(*asked, [360 / NUM_ANGLES * k for k in range(NUM_ANGLES)])
    worst = max(turn.difference for turn in [*still, *around])
    told = (
        f"channel {shown.channel} of {shown.irrep}, layer {layers[shown.layer].number}"
    )
    print(
        f"largest difference between features of the turned input and Wigner's D "
        f"times those of the input, over {len(still) + len(around)} rotations, all "
        f"layers, degrees and channels, relative to the largest of the layer: "
        f"{worst:.1e}"
    )
    roomy = rotation.room(around, own)
    frames = (
        rotation.frame(turn, shown, roomy, f"{subject.title}: {told}")
        for turn in around
    )
    film = animation.encode(frames, [MILLISECONDS] * NUM_ANGLES, options.film)
    title = f"{subject.title}: {told}"
    return {
        "rotation.png": rotation.figure(still, shown, own, title),
        _film_name("rotation", options): film,
    }


def _film_name(name: str, options: Options) -> str:
    return f"{name}.gif" if options.film == animation.GIF else f"{name}.apng"


def draw_forward(subject: Subject, options: Options) -> Pictures:
    """The film of the forward pass."""
    own = subject.layout
    steps = forward.stages(
        *(subject.task, subject.batch.graph.nodes, subject.look(), own),
        *(subject.model, options.channel),
    )
    frames, times = forward.film(steps, own, subject.title)
    film = animation.encode(frames, times, options.film)
    return {_film_name("forward", options): film}


def draw_attention(subject: Subject, _: Options) -> Pictures:
    """All attentions of the model."""
    own = subject.layout
    found = attention.find(subject.look(), own, subject.model)
    for weights in found:
        print(attention.describe(weights))
    return {"attention.png": attention.figure(found, own, subject.title)}


def draw_equivariance(subject: Subject, _: Options) -> Pictures:
    """Errors by layer, and by direction for a model that breaks rotations."""
    errors = by_layer.errors(subject.recorder, subject.params, subject.batch)
    print(by_layer.table(errors))
    stated = models.model_class(subject.model).symmetry
    title = f"{subject.title}; it states {stated}"
    found = {"equivariance.png": by_layer.figure(errors, title)}
    worst = max(errors["float64"]["rotation"].values())
    if worst < FLOOR:
        breaks = stated in base.BREAK_ROTATIONS
        told = f"; {subject.model} states {stated}, which this system does not show"
        print(f"rotations are kept to {worst:.0e}{told if breaks else ''}")
        return found
    with precision("float64"):
        params, batch = symmetry.cast((subject.params, subject.batch), "float64")
        changes = directions.changes(subject.net, subject.task, params, batch)
    for name, change in changes.items():
        print(directions.describe(name, change))
    figure = directions.figure(changes, subject.title, FLOOR)
    return {**found, "directions.png": figure}


def draw_products(subject: Subject, _: Options) -> Pictures:
    """The tensor products of the model."""
    with capture.recording_products() as products:
        jax.eval_shape(
            lambda params: subject.net.apply(params, None, subject.batch.graph, False),
            subject.params,
        )
    shown = paths.different(products)
    if not shown:
        raise UserError(
            f"expected tensor products in {subject.model}, found none; it records "
            f"{subject.look().describe()}; models with products: segnn, nequip, "
            "equiformer, simple_network, tfn, se3_transformer"
        )
    for product in shown:
        print(paths.describe(product))
    title = f"tensor products of {subject.name}"
    return {"tensor_product.png": paths.figure(shown, subject.params, title)}


MAKERS: Mapping[str, Callable[[Subject, Options], Pictures]] = {
    "glyphs": draw_glyphs,
    "rotation": draw_rotation,
    "forward": draw_forward,
    "attention": draw_attention,
    "equivariance": draw_equivariance,
    "tensor_product": draw_products,
}

if __name__ == "__main__":
    cli.run(main, LINE)
