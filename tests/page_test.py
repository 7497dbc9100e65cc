"""The page of results: its data against the records, and one file alone."""

import base64
import json
import pathlib
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from demetar.errors import UserError
from experiments import report
from experiments.page import content, curves, html, scenes, tails
from experiments.protocols import published
from experiments.run import finished, statistics
from tests import report_test
from tools.command_line import Given

NOWHERE = pathlib.Path("no_such_folder")
WANTED = scenes.Wanted((), (), NOWHERE, NOWHERE)
# What XML is called; no browser asks for it.
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml")
COPIED = ("model", "test_loss_mean", "test_loss_interval", "num_params", "command")


def gathered(*folders: pathlib.Path) -> dict[str, Any]:
    return content.gather(finished.read_runs([str(own) for own in folders]), WANTED)


def data_of(page: str) -> dict[str, Any]:
    """The data that a page holds."""
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    found = re.search(pattern, page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


class Elements(HTMLParser):
    """Tags and attributes of a page, and whether all that is opened is closed."""

    EMPTY = ("meta", "link", "input", "img", "br", "wbr")

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def references(page: str) -> list[str]:
    """What a page would ask the network for."""
    asked = [
        value or ""
        for _, attributes in Elements(page).found
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster")
        if not (value or "").startswith(("#", "data:"))
    ]
    asked += re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket\(", page)
    text = page
    for name in NAMESPACES:
        text = text.replace(name, "")
    return asked + re.findall(r"(?:https?|wss?):/{2}[^\s\"'`<]*", text)


def errors_of(run: finished.Run) -> np.ndarray:
    assert run.errors is not None
    return run.errors


def write_two(folder: pathlib.Path) -> None:
    for name, shift, seeds in (("a", 0.0, 2), ("b", 1e-3, 1)):
        errors = np.abs(report_test.make_errors(seeds, shift))
        report_test.write_run(
            folder / name, errors, seeds=list(range(seeds)), test_loss_mean=1 + shift
        )


def test_the_page_is_one_valid_file_that_asks_for_nothing(tmp_path):
    write_two(tmp_path / "runs")
    page = html.render(gathered(tmp_path), "<Results> & more")
    elements = Elements(page)
    assert elements.open == []
    names = [own["id"] for _, own in elements.found if "id" in own]
    assert len(names) == len({*names})
    assert "<title>&lt;Results&gt; &amp; more</title>" in page
    assert references(page) == []
    assert "default-src 'none'" in page
    assert len(page.encode()) < 300_000  # without anything in 3-D

    for bad in ('<img src="https://a.b/c.png">', "<style>@import 'a'</style>"):
        assert references(page.replace("<main>", f"<main>{bad}")) != []


def test_what_is_drawn_in_3d_is_in_the_file_too():
    group: dict[str, Any] = {"scenes": [{}]}
    shown = {"runs": [], "notes": [], "groups": [group]}
    page = html.render(shown, "Results")
    assert "WebGLRenderer" in page
    assert Elements(page).open == []
    # three.js can load pictures and files. Nothing here asks it to, and the policy of
    # the page forbids it; no address is in it.
    assert [own for own in references(page) if "//" in own] == []


def test_the_data_are_those_of_the_records(tmp_path):
    write_two(tmp_path / "runs")
    runs = finished.read_runs([str(tmp_path)])
    data = data_of(html.render(gathered(tmp_path), "Results"))
    for own, run in zip(data["runs"], runs, strict=True):
        assert {name: own[name] for name in COPIED} == {
            name: run.record[name] for name in COPIED
        }
        found = published.find(run.record)
        assert found and own["published"]["loss"] == found.loss
    (group,) = data["groups"]
    (paired,) = group["paired"]
    assert group["runs"] == paired["runs"] == [0, 1]
    first, second = map(errors_of, runs)
    expected = statistics.paired_difference(first, second)
    np.testing.assert_allclose(paired["values"][0], expected, rtol=1e-4)
    assert "no_such_folder" not in json.dumps(data)
    assert "nbody_small is not there" in group["scenes_reason"]


def test_noise_is_no_property_of_molecules(tmp_path):
    changed = {"dataset": "qm9", "target": "position_noise and feature_noise"}
    settings = {"split": "egnn", "num_test": 499}
    folder = tmp_path / "run"
    report_test.write_run(
        folder, report_test.make_errors(1), settings=settings, **changed
    )
    (group,) = gathered(tmp_path)["groups"]
    assert "none of their properties" in group["scenes_reason"]


def test_runs_are_grouped_by_their_task_and_compared_on_the_same_data(tmp_path):
    write_two(tmp_path / "runs")
    errors = report_test.make_errors(1)
    report_test.write_run(tmp_path / "runs/c", errors, fingerprint="another")
    settings = report_test.make_record()["settings"]
    report_test.write_run(tmp_path / "runs/d", settings=settings | {"target_frame": 45})
    shown = gathered(tmp_path)
    assert [group["runs"] for group in shown["groups"]] == [[0, 1, 2], [3]]
    paired = shown["groups"][0]["paired"]
    assert [own["runs"] for own in paired] == [[0, 1], [2]]
    assert [len(own["values"]) for own in paired] == [1, 0]


def test_no_name_ends_the_script_that_holds_it(tmp_path):
    report_test.write_run(tmp_path / "runs", model="</script><b id=evil>\u2028")
    page = html.render(gathered(tmp_path), "Results")
    assert "evil" not in [own.get("id") for _, own in Elements(page).found]
    assert data_of(page)["runs"][0]["model"] == "</script><b id=evil>\u2028"


def test_what_is_not_finite_is_null(tmp_path):
    bad = {"test_loss_mean": None, "test_loss_interval": [None, None]}
    errors = np.full((1, 499), np.nan)
    report_test.write_run(tmp_path / "a", errors, test_loss=[None], **bad)
    report_test.write_run(tmp_path / "b", report_test.make_errors(1))
    data = data_of(html.render(gathered(tmp_path), "Results"))
    assert data["runs"][0]["test_loss_mean"] is None
    assert data["groups"][0]["paired"][0]["values"] == [[None, None, None]]


def test_differences_of_all_pairs_are_those_of_each_pair():
    random = np.random.default_rng(0)
    errors = [random.exponential(size=(seeds, 61)) for seeds in (1, 3, 2)]
    found = statistics.all_paired_differences(errors, num_resamples=500)
    for i, first in enumerate(errors):
        for j, second in enumerate(errors):
            expected = statistics.paired_difference(first, second, num_resamples=500)
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-9, atol=1e-12)


# --- The distribution of errors -----------------------------------------------------


def decode(text: str) -> np.ndarray:
    """As `Page.decode` of the page does it."""
    codes = np.frombuffer(base64.b64decode(text), "<u2").astype(float)
    return np.where(codes > 0, 10 ** (-20 + (codes - 1) / 65534 * 32), np.nan)


def test_samples_are_encoded_to_a_thousandth():
    errors = np.geomspace(1e-15, 1e6, 400).reshape(2, 200)
    mean = errors.mean(axis=0)
    np.testing.assert_allclose(decode(tails.encode(errors)), mean, rtol=6e-4)
    odd = decode(tails.encode(np.array([0.0, np.nan, np.inf, 1.0])))
    assert np.isnan(odd[:3]).all() and abs(odd[3] - 1) < 1e-3


def test_the_tail_is_that_of_the_worst_samples():
    errors = np.ones((1, 200))
    errors[0, 7] = 801.0
    tail = tails.describe(errors)
    np.testing.assert_allclose(tail["shares"], [0.802, 0.81, 0.82])  # 2, 10, 20 samples
    assert tail["above"][0] == 1 / 200 and tail["levels"][0] == 801
    assert tail["above"][-1] == 1 and tail["levels"][-1] == 1
    assert tails.describe(np.zeros((1, 9)))["shares"] == [0, 0, 0]


# --- Training curves ----------------------------------------------------------------


def write_metrics(folder: pathlib.Path, rows: list[dict[str, Any]]) -> pathlib.Path:
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def evaluation(epoch: int, valid: float | None = 2.0, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": [1, 3], "valid_loss": [valid, 4.0], **more}


def test_a_curve_is_the_mean_over_the_seeds(tmp_path):
    rows = [evaluation(1), evaluation(2), evaluation(2, 6.0), evaluation(3, None)]
    record = report_test.make_record()
    found = curves.of(write_metrics(tmp_path / "a", rows), record)["curve"]
    assert found["epoch"] == [1, 2, 3]  # a continued run writes epochs anew
    assert found["train"] == [2, 2, 2] and found["valid"][:2] == [3, 5]
    assert np.isnan(found["valid"][2])
    record["settings"] |= {"loss_transform": "log"}
    assert curves.of(tmp_path / "a", record)["curve"]["train"] is None
    assert "no metrics.jsonl" in curves.of(tmp_path, record)["curve_reason"]


def test_a_long_curve_keeps_its_ends_and_its_lowest_point(tmp_path):
    rows = [evaluation(epoch) for epoch in range(1, 2002)]
    rows[777]["valid_loss"] = [0, 0]
    record = report_test.make_record()
    found = curves.of(write_metrics(tmp_path / "a", rows), record)["curve"]
    assert len(found["epoch"]) <= curves.MOST_POINTS + 1
    assert {1, 778, 2001} <= {*found["epoch"]}


@pytest.mark.parametrize(
    "rows, words",
    [
        ([evaluation(1, run="f" * 64)], "is of another run"),
        ([evaluation(1), {"epoch": 2}], "an evaluation in line 2"),
        ([{**evaluation(1), "valid_loss": 3}], "an evaluation in line 1"),
    ],
)
def test_a_wrong_curve_is_refused_in_one_line(tmp_path, rows, words):
    folder = write_metrics(tmp_path / "a", rows)
    with pytest.raises(UserError, match=words) as error:
        curves.of(folder, report_test.make_record())
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_table_of_a_curve_may_have_unknown_cells(tmp_path):
    table = tmp_path / curves.CURVE_FILE
    table.write_text("epoch,train_loss,valid_loss\n2,,5\n4,1,3\n")
    found = curves.of(tmp_path, report_test.make_record())["curve"]
    assert found["epoch"] == [2, 4] and found["valid"] == [5, 3]
    table.write_text("epoch,seconds,train,valid\n2,17,1,3\n")
    found = curves.of(tmp_path, report_test.make_record())["curve"]
    assert found["train"] == [1] and found["valid"] == [3]
    for text, words in (
        ("epoch,loss\n2,5\n", "columns epoch, train_loss and valid_loss in line 1"),
        ("epoch,train,valid\n2,5\n", "expected 3 numbers in line 2"),
        ("epoch,train,valid\n2,5,x\n", "expected 3 numbers in line 2"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=words):
            curves.of(tmp_path, report_test.make_record())


# --- Published values ---------------------------------------------------------------


def test_published_values_of_molecules_are_those_of_the_same_training():
    record = report_test.make_record(dataset="qm9", model="egnn", target="zpve")
    record["unit"] = "meV"
    record["settings"] = {"split": "egnn", "num_train": 100_000}
    found = published.find(record)
    assert found is not None and found.loss == 1.55
    assert published.elsewhere(record) == ""
    record["settings"]["num_train"] = 10_000
    assert published.find(record) is None
    words = published.elsewhere(record)
    assert words.startswith("1.55 meV with 100,000 training molecules of split egnn")
    record |= {"model": "tfn"}  # whose row is short
    assert published.find(record) is None and published.elsewhere(record) == ""


def test_published_rows_of_molecules_have_twelve_targets_or_six():
    for _, (_, _, _, values) in published._QM9.items():
        assert len(values) in (6, 12)


# --- The command --------------------------------------------------------------------


def refused(arguments: dict[str, Any], folder: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        report.main(Given(arguments), [str(folder)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_command_writes_a_page_and_tells_what_it_lacks(tmp_path, capsys):
    write_two(tmp_path / "runs")
    page = tmp_path / "page.html"
    flags = {"html": str(page), "data_dir": str(tmp_path / "data")}
    report.main(Given(flags), [str(tmp_path / "runs")])
    out = capsys.readouterr().out
    assert out.startswith(f"{page}: 2 runs on 1 task, 0 training curves")
    assert "the data set nbody_small is not there" in out
    assert data_of(page.read_text())["runs"][1]["label"] == "b"


def test_bad_flags_of_the_page_are_refused_in_one_line(tmp_path):
    write_two(tmp_path / "runs")
    page = str(tmp_path / "page.html")
    assert "expected --html=FILE.html" in refused({"html": "a.pdf"}, tmp_path)
    assert "give --html=FILE too" in refused({"systems": ("1",)}, tmp_path)
    flags = {"html": page, "systems": ("1", "x")}
    assert "whole numbers in --systems, found 'x'" in refused(flags, tmp_path)
    other = str(tmp_path / "none" / "page.html")
    assert "there is no folder" in refused({"html": other}, tmp_path)
    flags = {"html": page, "checkpoints": ("pretrained:none",)}
    assert "no model is called 'pretrained:none'" in refused(flags, tmp_path)
    flags = {"html": page, "checkpoints": ("pretrained:schnet-qm9_homo",)}
    assert "no run is in the folders" in refused(flags, tmp_path)
    assert "expected a record.json in" in refused({"html": page}, tmp_path / "none")
    assert [own.name for own in tmp_path.iterdir()] == ["runs"]


def test_a_sample_that_there_is_not_is_refused(tmp_path):
    write_two(tmp_path / "runs")
    runs = finished.read_runs([str(tmp_path)])
    found = scenes.choose(runs, (3, 1), 499)
    assert list(found) == [3, 1]
    with pytest.raises(UserError, match="--systems from 0 to 498, .* found 499"):
        scenes.choose(runs, (499,), 499)


def test_samples_of_every_difficulty_are_chosen(tmp_path):
    write_two(tmp_path / "runs")
    runs = finished.read_runs([str(tmp_path)])
    found = scenes.choose(runs, (), 499)
    assert len(found) == len(scenes.QUANTILES)
    means = [errors_of(run).mean(axis=0) for run in runs]
    errors = np.log(np.stack(means)).mean(axis=0)
    numbers = list(found)
    assert list(np.argsort(errors[numbers])) == [0, 1, 2, 3, 4]
    assert numbers[-1] == errors.argmax() and found[numbers[-1]] == "the hardest"
    assert found[numbers[1]] == "harder than 50 %"


def test_the_committed_page_says_what_the_records_say(project_root):
    page = (project_root / "docs" / "results.html").read_text()
    assert len(page.encode()) < 3_000_000
    assert Elements(page).open == []
    assert [own for own in references(page) if "//" in own] == []
    runs = data_of(page)["runs"]
    assert len(runs) > 50
    for own in runs:
        path = project_root / "experiments/results" / own["label"] / "record.json"
        record = json.loads(path.read_text())
        named = {name: record[name] for name in COPIED}
        assert {name: own[name] for name in COPIED} == named, (
            f"docs/results.html is older than {path}; experiments/results/README.md "
            "has the command that writes it anew"
        )


def test_a_damaged_checkpoint_costs_the_motion_alone(tmp_path):
    write_two(tmp_path / "runs")
    (tmp_path / "runs/a/best.npz").write_bytes(b"PK")
    shown = gathered(tmp_path)
    assert len(shown["runs"]) == 2
    (note,) = shown["notes"]
    assert note.startswith("a is not in the player") and "best.npz" in note
