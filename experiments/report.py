"""A table of records, with published values beside ours.

    python -m experiments.report DIR... [--format=markdown|csv] [--out=FILE]
    python -m experiments.report DIR... --html=FILE

Every record.json in the folders is one line. Runs on the same test set are compared
sample by sample with the best of them, where their test_errors.npz are at hand.

--html writes a page for a browser instead, one file that needs no network: the table,
training curves, the tails of the errors, their cost, and the motion of some test
systems in 3-D. The motion needs the data set on this machine; what models predict of it
needs their checkpoints, from the folders or by --checkpoints.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from demetar import predict
from demetar.errors import UserError
from demetar.settings import DATA, MODEL, OUTPUT, setting
from demetar.train import checkpoint
from experiments.page import content, html, scenes
from experiments.protocols import published
from experiments.run import cli, finished, overwriting, run_files
from tools.command_line import MOST_DIGITS, CommandLine, Given


@dataclasses.dataclass(frozen=True)
class Options:
    """How the report is written."""

    format: str = setting(
        "markdown", "How the table is written.", OUTPUT, choices=("markdown", "csv")
    )
    out: str | None = setting(
        None, "File to write.", OUTPUT, default_words="the screen"
    )
    html: str | None = setting(None, "Page to write, .html or .htm.", OUTPUT)
    checkpoints: tuple[str, ...] = setting(
        (),
        "Trained models that the page shows too: work directories, checkpoints or "
        "pretrained:NAME.",
        MODEL,
    )
    systems: tuple[str, ...] = setting(
        (),
        "Numbers from 0 of the test samples that the page shows.",
        DATA,
        default_words="an easy one to the hardest of each test set",
    )
    data_dir: str | None = setting(
        None,
        "Folder of the generated data sets.",
        DATA,
        default_words="where experiments.nbody keeps them",
    )


LINE = CommandLine(Options, positional="DIR...")


def markdown(runs: Sequence[finished.Run]) -> str:
    """The records, their sources and the paired differences, as Markdown."""
    sources: list[str] = []
    rows = [_markdown_row(run.label, run.record, sources) for run in runs]
    parts = [cli.markdown_table(rows)]
    parts.append(
        "Test loss: mean ± standard deviation over seeds. Interval: bootstrap over "
        "test samples. Δ_EQ: mean relative equivariance error under rotations."
    )
    if sources:
        notes = (f"[{number}] {text}" for number, text in enumerate(sources, 1))
        parts.append("  \n".join(notes))
    units = {run.label: _unit(run.record) for run in runs}
    comparisons = [
        {
            "Run": label,
            "Best": comparison.best,
            "Difference": _fixed(comparison.difference, comparison.difference),
            "95 % interval": _interval(
                (comparison.low, comparison.high), comparison.difference
            ),
            "Unit": units[label],
            "Beyond chance": _beyond_chance(comparison),
        }
        for label, comparison in finished.compare(runs).items()
    ]
    if comparisons:
        parts.append("Paired differences to the best run on the same test samples:")
        parts.append(cli.markdown_table(comparisons))
    drawn = [
        {"Run": run.label, "Model": run.record["model"], **_drawn(run.record)}
        for run in runs
        if "generated" in run.record
    ]
    if drawn:
        parts.append("Molecules that were drawn, in % with 95 % intervals:")
        parts.append(cli.markdown_table(drawn))
    covered = [row for run in runs for row in _covered(run.label, run.record)]
    if covered:
        parts.append("Conformers that were drawn, means with 95 % intervals:")
        parts.append(cli.markdown_table(covered))
    return "\n\n".join(parts) + "\n"


def _covered(label: str, record: dict[str, Any]) -> list[dict[str, str]]:
    """What `experiments.run.conformer_drawing` measured: a row of the model, and more.

    The others are RDKit's.
    """
    found = record.get("conformers")
    if not found:
        return []
    own = record["model"]
    names = [own, *(name for name in found["rows"] if name != own)]
    return [
        {
            "Run": label,
            "Drawn by": name,
            "Conformers": f"{found['samples']:,}",
            **{
                _COVERAGE[measure]: _scaled(values, 100 if "cov" in measure else 1)
                for measure, values in found["rows"][name].items()
            },
        }
        for name in names
    ]


_COVERAGE = {
    "cov_recall": "COV recall / %",
    "mat_recall": "MAT recall / Å",
    "cov_precision": "COV precision / %",
    "mat_precision": "MAT precision / Å",
}


def _scaled(values: dict[str, Any], factor: int) -> str:
    """Mean and interval of a measure; None stands for what is not finite."""
    if None in [*values["mean"], *values["interval"]]:
        return "not finite"
    digits = 1 if factor == 100 else 3
    ends = (statistics.fmean(values["mean"]), *values["interval"])
    mean, low, high = (f"{factor * end:.{digits}f}" for end in ends)
    return f"{mean} ({low} to {high})"


def _drawn(record: dict[str, Any]) -> dict[str, str]:
    """What `experiments.run.drawing` measured of molecules, means over seeds."""
    found = record["generated"]

    def share(name: str) -> str:
        if None in found[name]:
            return "–"
        text = f"{100 * statistics.fmean(found[name]):.1f}"
        ends = [f"{100 * end:.1f}" for end in found["intervals"].get(name, ())]
        return text + (f" ({' to '.join(ends)})" if ends else "")

    return {
        "Molecules": f"{found['num_samples']:,}",
        "Stable atoms": share("stable_atoms"),
        "Stable molecules": share("stable_molecules"),
        "Valid": share("validity"),
        "Unique": share("uniqueness"),
        "Novel": share("novelty"),
        "Bound / nats": f"{statistics.fmean(found['nats']):.1f}",
        "Δ_EQ of drawing": f"{statistics.fmean(found['delta_eq']):.1e}",
        "s per molecule": f"{statistics.fmean(found['seconds_per_molecule']):.2g}",
    }


def _markdown_row(
    label: str, record: dict[str, Any], sources: list[str]
) -> dict[str, str]:
    """One line; a source that it cites is appended to `sources` if it is new."""
    mean, std = record["test_loss_mean"], record["test_loss_std"]
    several = len(record["seeds"]) > 1 and std is not None
    found = published.find(record)
    if found and found.source not in sources:
        sources.append(found.source)
    speed = record["steps_per_second"]
    return {
        "Run": label,
        "Model": record["model"],
        "Protocol": record["protocol"],
        "Data set": f"{record['dataset']}, {record['target']}",
        "Parameters": f"{record['num_params']:,}",
        "Epochs": f"{record['epochs']:,}",
        "Seeds": str(len(record["seeds"])),
        "Test loss": _fixed(mean, mean) + (f" ± {_fixed(std, mean)}" * several),
        "95 % interval": _interval(record["test_loss_interval"], mean),
        "Published": f"{found.loss:g} [{sources.index(found.source) + 1}]"
        if found
        else "–",
        "Unit": _unit(record),
        "Δ_EQ": _delta_eq(record["delta_eq"]),
        "ms per step": f"{1000 / speed:.3g}" if speed else "–",
        "Wall time (h:m:s)": _clock(record["wall_seconds"]),
        "Device": record["device"],
    }


def _beyond_chance(comparison: finished.Comparison) -> str:
    if not math.isfinite(comparison.low):
        return "not finite"
    return "yes" if comparison.low > 0 else "no"


def _fixed(value: float | None, reference: float | None) -> str:
    """`value` to as many decimals as show three digits of `reference`."""
    if value is None or not math.isfinite(value):
        return "not finite"  # JSON has no NaN
    finite = reference is not None and math.isfinite(reference)
    size = abs(reference if reference and finite else value)
    decimals = 2 - math.floor(math.log10(size)) if size else 2
    return f"{value:.{max(decimals, 0)}f}"


def with_unit(label: str, unit: str) -> str:
    """The label of an axis; a quantity without unit has none."""
    return f"{label} / {unit}" if unit else label


def _interval(ends: Sequence[float | None], reference: float | None) -> str:
    low, high = (_fixed(end, reference) for end in ends)
    return f"{low} to {high}"


def _unit(record: dict[str, Any]) -> str:
    """The unit of the errors; those of several heads are averaged as numbers."""
    unit = record["unit"]
    return f"mean of {unit}" if " and " in unit else unit


def _delta_eq(by_head: dict[str, float | None]) -> str:
    """A number for one head, else a number by name."""
    values = {
        head: "not finite" if value is None else f"{value:.1e}"
        for head, value in by_head.items()
    }
    if len(values) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{head} {value}" for head, value in values.items()) or "–"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def csv_text(runs: Sequence[finished.Run]) -> str:
    """The records with all digits, one line each, paired differences at the end."""
    comparisons = finished.compare(runs)
    rows = []
    for run in runs:
        record = {key: run.record[key] for key in run_files.ENTRIES}
        low, high = record.pop("test_loss_interval")
        record |= {"test_loss_low": low, "test_loss_high": high}
        found = published.find(record)
        del record["settings"]
        record["seeds"] = len(record["seeds"])
        record["delta_eq"] = _delta_eq(record["delta_eq"])
        record["published"] = found.loss if found else None
        record["source"] = found.source if found else None
        paired = comparisons.get(run.label)
        names = [field.name for field in dataclasses.fields(finished.Comparison)]
        record |= {f"paired_{name}": getattr(paired, name, None) for name in names}
        rows.append({"run": run.label, **record})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def main(given: Given, folders: Sequence[str]) -> None:
    """Print or write the report on the folders that are named on the command line."""
    if not folders:
        raise UserError(
            "expected the work directory of at least one run, found none; "
            "give it as in: python -m experiments.report runs"
        )
    options = given.read(Options)
    wanted = _wanted(options)
    _check_outputs(options)
    runs = finished.read_runs(folders)
    if options.html:
        write_page(runs, pathlib.Path(options.html), wanted)
        if "format" not in given and not options.out:
            return
    text = markdown(runs) if options.format == "markdown" else csv_text(runs)
    if options.out:
        checkpoint.write_bytes(options.out, text.encode())
    else:
        print(text, end="")


def _check_outputs(options: Options) -> None:
    """Make sure that neither file is written over a run, a model or the other.

    Raises:
      UserError: one would be.
    """
    kept = {"a model that is shown": list(map(predict.path_of, options.checkpoints))}
    if options.html:
        overwriting.check("html", pathlib.Path(options.html), kept)
        kept["what --html writes"] = [pathlib.Path(options.html)]
    if options.out:
        overwriting.check("out", pathlib.Path(options.out), kept)


def _wanted(options: Options) -> scenes.Wanted:
    """What the page is to show.

    Raises:
      UserError: flags of the page without a page, another ending than of HTML, or a
        test sample that is no number.
    """
    of_page = ("checkpoints", "systems", "data_dir")
    for name in of_page:
        if getattr(options, name) and not options.html:
            raise UserError(f"--{name} is of the page: give --html=FILE too")
    if options.html and pathlib.Path(options.html).suffix not in (".html", ".htm"):
        raise UserError(f"expected --html=FILE.html, found {options.html!r}")
    if options.html and not pathlib.Path(options.html).parent.is_dir():
        raise UserError(f"there is no folder for --html={options.html}; make it first")
    for text in options.systems:
        if not text.isdecimal() or len(text) > MOST_DIGITS:
            raise UserError(f"expected whole numbers in --systems, found {text!r}")
    root = cli.data_root(options.data_dir)
    systems = dict.fromkeys(map(int, options.systems))
    return scenes.Wanted(options.checkpoints, (*systems,), root, cli.cache_dir())


def write_page(
    runs: Sequence[finished.Run], path: pathlib.Path, wanted: scenes.Wanted
) -> None:
    """Write the page, and tell what it holds and lacks.

    Raises:
      UserError: it cannot be written, or would be too large.
    """
    shown = content.gather(runs, wanted)
    page = html.render(shown, "Results of demetar").encode()
    if len(page) > html.MOST_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.1f} MB, more than "
            f"{html.MOST_BYTES / 1e6:.0f}; name fewer folders or --systems"
        )
    checkpoint.write_bytes(path, page)
    print(f"{path}: " + "\n  ".join(html.describe(shown, len(page))))


if __name__ == "__main__":
    cli.run(main, LINE)
