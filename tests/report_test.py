"""The table of run records: its numbers, its comparisons, and bad input."""

import csv
import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from demetar.errors import UserError
from demetar.types import Head
from experiments import report
from experiments.run import finished, records, run_files, statistics


def make_record(**changes: Any) -> dict:
    record = {
        "command": "python -m experiments.nbody --model=egnn",
        "model": "egnn",
        "fields": {},
        "dataset": "nbody_small",
        "fingerprint": "c0ffee",
        "target": "position",
        "unit": "length^2",
        "protocol": "paper: somebody 2021",
        "num_params": 134020,
        "epochs": 10000,
        "seeds": [1, 2],
        "best_epoch": [9000, 9500],
        "valid_loss": [0.0074, 0.0075],
        "test_loss": [0.00711, 0.00725],
        "test_loss_mean": 0.00718,
        "test_loss_std": 0.0000990,
        "test_loss_interval": [0.00631, 0.00822],
        "delta_eq": {"position": 2.34e-7},
        "compile_seconds": 4.0,
        "num_compiles": 2,
        "wall_seconds": 3723.4,
        "steps_per_second": 80.0,
        "versions": {},
        "device": "cpu x86_64, 2 CPU cores",
        "settings": {"start_frame": 30, "target_frame": 40, "num_train": 3000},
    }
    return record | changes


def write_run(
    folder: pathlib.Path, errors: np.ndarray | None = None, **changes: Any
) -> pathlib.Path:
    folder.mkdir(parents=True)
    if errors is not None:
        changes = {"test_loss": errors.mean(axis=1).tolist()} | changes
    (folder / finished.RECORD_FILE).write_text(json.dumps(make_record(**changes)))
    if errors is not None:
        np.savez(folder / finished.ERRORS_FILE, squared_errors=errors)
    return folder


def read_tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, one dictionary per line."""
    tables = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            lines = [
                [cell.strip() for cell in line.strip("|").split(" | ")]
                for line in block.strip().splitlines()
            ]
            header, rule, *rows = lines
            assert set(rule) == {"---"}
            tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def report_on(*folders: pathlib.Path) -> str:
    return report.markdown(finished.read_runs([str(folder) for folder in folders]))


def make_errors(num_seeds: int, shift: float = 0.0) -> np.ndarray:
    """[R, 499] errors of which most is common to all models."""
    common = np.random.default_rng(0).exponential(0.007, size=499)
    noise = np.random.default_rng(num_seeds).normal(0, 1e-4, size=(num_seeds, 499))
    return common + noise + shift


def test_one_record_is_one_line(tmp_path):
    text = report_on(write_run(tmp_path / "egnn"))
    ((row,),) = read_tables(text)
    assert row == {
        "Run": "egnn",
        "Model": "egnn",
        "Protocol": "paper: somebody 2021",
        "Data set": "nbody_small, position",
        "Parameters": "134,020",
        "Epochs": "10,000",
        "Seeds": "2",
        "Test loss": "0.00718 ± 0.00010",
        "95 % interval": "0.00631 to 0.00822",
        "Published": "0.0071 [1]",
        "Unit": "length^2",
        "Δ_EQ": "2.3e-07",
        "ms per step": "12.5",
        "Wall time (h:m:s)": "1:02:03",
        "Device": "cpu x86_64, 2 CPU cores",
    }
    assert "[1] Satorras, Hoogeboom, Welling 2021, arXiv 2102.09844" in text


def test_one_seed_has_no_deviation(tmp_path):
    folder = write_run(tmp_path / "egnn", seeds=[1], test_loss_std=None)
    ((row,),) = read_tables(report_on(folder))
    assert row["Test loss"] == "0.00718"


def test_published_value_is_that_of_the_same_task(tmp_path):
    settings = make_record()["settings"]
    write_run(tmp_path / "a", model="segnn")
    write_run(tmp_path / "b", model="another")
    write_run(tmp_path / "c", dataset="nbody")
    write_run(tmp_path / "d", settings=settings | {"start_frame": 20})
    write_run(tmp_path / "e", settings=settings | {"num_train": 100})
    write_run(tmp_path / "f")
    chosen = {"connectivity": "complete", "num_neighbors": None, "cues": "velocity"}
    write_run(tmp_path / "g", settings=settings | chosen | {"num_bodies": 5})
    write_run(tmp_path / "h", settings=settings | {"num_bodies": 20})
    write_run(tmp_path / "i", settings=settings | {"cues": "force"})
    write_run(tmp_path / "j", settings=settings | {"connectivity": "knn"})
    gravity = {"num_bodies": 100, "connectivity": "knn", "num_neighbors": 6}
    for name, num_train in (("k", 400), ("l", 10_000)):
        own = settings | gravity | {"num_train": num_train}
        write_run(tmp_path / name, settings=own, dataset="gravity", model="segnn")
    text = report_on(tmp_path)
    (rows,) = read_tables(text)
    published = [row["Published"] for row in rows]
    assert published[:6] == ["0.0043 [1]", "–", "–", "–", "–", "0.0071 [2]"]
    assert published[6:] == ["0.0071 [2]", "–", "–", "–", "–", "0.265 [3]"]
    assert "[1] Brandstetter et al. 2022" in text


def test_several_heads_are_named(tmp_path):
    folder = write_run(tmp_path / "x", delta_eq={"position": 1e-7, "velocity": 0.25})
    ((row,),) = read_tables(report_on(folder))
    assert row["Δ_EQ"] == "position 1.0e-07, velocity 2.5e-01"


def test_errors_of_both_kinds_of_loss_are_read_and_their_units_named(tmp_path):
    """A run whose heads have squared and absolute losses, as a training saves it."""
    heads = (
        Head("forces", "node_vector", unit="eV/Å"),
        Head("energy", "graph_scalar", unit="meV", error="absolute"),
    )
    unit = " and ".join(map(records.error_unit, heads))
    for name, shift in (("a", 0.0), ("b", 4e-4)):
        errors = make_errors(2, shift)
        folder = write_run(tmp_path / name, errors, unit=unit, target="both")
        records.save_errors(folder / finished.ERRORS_FILE, heads, errors)
    (first, _), (paired,) = read_tables(report_on(tmp_path))
    assert first["Unit"] == paired["Unit"] == "mean of (eV/Å)^2 and meV"
    assert (paired["Run"], paired["Best"]) == ("b", "a")
    assert paired["Difference"] == "0.000400"
    # Absolute errors alone have another unit, and are not compared with these.
    alone = make_errors(1, 1.0)
    folder = write_run(tmp_path / "c", alone, unit="meV", target="both")
    records.save_errors(folder / finished.ERRORS_FILE, heads[1:], alone)
    runs = finished.read_runs([str(tmp_path)])
    assert set(finished.compare(runs)) == {"b"}
    assert runs[2].errors is not None


def test_records_are_found_below_and_only_once(tmp_path):
    write_run(tmp_path / "runs" / "nbody" / "egnn")
    write_run(tmp_path / "runs" / "small" / "egnn")
    text = report_on(tmp_path / "runs", tmp_path / "runs" / "nbody" / "egnn")
    (rows,) = read_tables(text)
    assert [row["Run"] for row in rows] == ["nbody/egnn", "small/egnn"]


def test_runs_on_parts_of_a_test_set_are_not_compared(tmp_path):
    settings = make_record()["settings"]
    whole = write_run(tmp_path / "whole", make_errors(1))
    errors = make_errors(1)[:, :100]
    part = write_run(tmp_path / "part", errors, settings=settings | {"num_test": 100})

    assert not finished.compare(finished.read_runs([str(whole), str(part)]))
    same = write_run(tmp_path / "same", make_errors(2))
    assert finished.compare(finished.read_runs([str(whole), str(part), str(same)]))


def test_other_numbers_of_errors_on_one_test_set_are_refused(tmp_path):
    write_run(tmp_path / "whole", make_errors(1))
    write_run(tmp_path / "part", make_errors(1)[:, :100])
    with pytest.raises(UserError, match="part and whole .* 100 and 499 errors"):
        finished.compare(finished.read_runs([str(tmp_path)]))


def test_models_on_the_same_test_set_are_compared_pair_by_pair(tmp_path):
    best, close, worse = make_errors(3), make_errors(2), make_errors(1, shift=4e-4)
    best = best - best.mean(axis=0).mean() + close.mean()  # equally good on average
    best -= 1e-9
    write_run(tmp_path / "best", errors=best, model="segnn")
    write_run(tmp_path / "close", errors=close)
    write_run(tmp_path / "worse", errors=worse, model="linear")
    runs = finished.read_runs([str(tmp_path)])
    comparisons = finished.compare(runs)
    assert set(comparisons) == {"close", "worse"}
    found = comparisons["worse"]
    expected = statistics.paired_difference(worse, best)
    assert (found.difference, found.low, found.high) == expected
    np.testing.assert_allclose(found.difference, worse.mean() - best.mean(), rtol=1e-6)
    assert comparisons["close"].low < 0 < comparisons["close"].high
    _, rows = read_tables(report.markdown(runs))
    shown = {row["Run"]: row for row in rows}
    assert {row["Best"] for row in rows} == {"best"}
    assert shown["worse"]["Beyond chance"] == "yes"
    assert shown["close"]["Beyond chance"] == "no"
    assert shown["worse"]["Difference"] == f"{found.difference:.6f}"
    assert shown["worse"]["95 % interval"] == f"{found.low:.6f} to {found.high:.6f}"


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "decaf"},
        {"target": "velocity"},
        {"settings": {"start_frame": 20, "target_frame": 30}},
    ],
)
def test_other_test_sets_are_not_compared(tmp_path, changes):
    write_run(tmp_path / "a", errors=make_errors(1))
    write_run(tmp_path / "b", errors=make_errors(1, shift=1.0), **changes)
    assert finished.compare(finished.read_runs([str(tmp_path)])) == {}
    assert len(read_tables(report_on(tmp_path))) == 1


def test_runs_without_errors_are_left_out_of_the_comparison(tmp_path):
    write_run(tmp_path / "a", errors=make_errors(1))
    write_run(tmp_path / "b", errors=make_errors(1, shift=1.0))
    write_run(tmp_path / "c")
    assert set(finished.compare(finished.read_runs([str(tmp_path)]))) == {"b"}


def test_errors_of_other_samples_are_refused(tmp_path):
    write_run(tmp_path / "a", errors=make_errors(1))
    write_run(tmp_path / "b", errors=make_errors(1)[:, :7])
    with pytest.raises(UserError, match="hold 7 and 499|hold 499 and 7"):
        report_on(tmp_path)


def test_csv_holds_every_digit(tmp_path):
    write_run(tmp_path / "a", errors=make_errors(1))
    write_run(tmp_path / "b", errors=make_errors(1, shift=1e-3), model="another")
    text = report.csv_text(finished.read_runs([str(tmp_path)]))
    first, second = csv.DictReader(io.StringIO(text))
    assert first["run"] == "a" and first["paired_best"] == ""
    assert float(first["test_loss_std"]) == 0.0000990
    assert (first["test_loss_low"], first["test_loss_high"]) == ("0.00631", "0.00822")
    assert first["published"] == "0.0071" and second["published"] == ""
    assert second["paired_best"] == "a"
    np.testing.assert_allclose(float(second["paired_difference"]), 1e-3, rtol=1e-6)


def one_line_error(folder: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        report_on(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_record_is_named(tmp_path):
    assert f"record.json in {tmp_path}" in one_line_error(tmp_path)


@pytest.mark.parametrize("content", ["", '{"model": "eg', "\x00", "3"])
def test_an_unreadable_record_is_named(tmp_path, content):
    folder = write_run(tmp_path / "a")
    (folder / finished.RECORD_FILE).write_text(content)
    assert str(folder / finished.RECORD_FILE) in one_line_error(tmp_path)


def test_missing_keys_are_named(tmp_path):
    folder = write_run(tmp_path / "a")
    record = make_record()
    del record["unit"], record["device"]
    (folder / finished.RECORD_FILE).write_text(json.dumps(record))
    assert "record.json lacks unit, device; remove it" in one_line_error(tmp_path)


def test_damaged_errors_are_named(tmp_path):
    folder = write_run(tmp_path / "a", errors=make_errors(1))
    path = folder / finished.ERRORS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in one_line_error(tmp_path)


def test_the_command_writes_a_file_and_fails_in_one_line(tmp_path, run_module):
    write_run(tmp_path / "runs" / "egnn")
    command = "experiments.report"
    done = run_module(command, "runs", "--format=csv", "--out=table.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = report.csv_text(finished.read_runs([str(tmp_path / "runs")]))
    assert (tmp_path / "table.csv").read_text() == expected
    done = run_module(command, "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_report_is_not_written_over_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "egnn")
    (tmp_path / "page.html").symlink_to("runs/egnn/record.json")
    before = (tmp_path / "runs/egnn/record.json").read_bytes()
    for args, message in (
        (["--out=runs/egnn/record.json"], "a file of the run in runs/egnn; give a new"),
        (["--html=page.html"], "expected another --html than page.html, which is a"),
        (["--html=a.html", "--out=./a.html"], "which is what --html writes"),
    ):
        with pytest.raises(UserError, match=message):
            report.main(*report.LINE.parse(["runs", *args]))
    assert (tmp_path / "runs/egnn/record.json").read_bytes() == before
    assert not (tmp_path / "a.html").exists()


# --- What is not finite, and files of other runs ------------------------------------


def test_a_record_that_is_not_finite_is_shown_and_never_the_best(tmp_path):
    bad = make_errors(1)
    bad[0, 3] = np.nan
    nan = float("nan")
    changes: dict = {"test_loss": [nan], "test_loss_mean": nan, "test_loss_std": None}
    changes["test_loss_interval"] = [nan, nan]
    write_run(tmp_path / "a_bad", errors=bad, **changes)  # JSON with NaN
    nothing: dict = {"steps_per_second": None, "wall_seconds": None}
    nothing |= {"test_loss_mean": None, "test_loss_interval": [None, None]}
    write_run(tmp_path / "b_null", test_loss=[None, None], **nothing)
    write_run(tmp_path / "c_good", errors=make_errors(2, shift=1.0))
    rows, paired = read_tables(report_on(tmp_path))
    assert [row["Test loss"].split(" ±")[0] for row in rows] == [
        "not finite",
        "not finite",
        "0.00718",
    ]
    ((best, difference, chance),) = [
        (row["Best"], row["Difference"], row["Beyond chance"]) for row in paired
    ]
    assert (best, difference, chance) == ("c_good", "not finite", "not finite")
    runs = finished.read_runs([str(tmp_path)])
    assert len(list(csv.DictReader(io.StringIO(report.csv_text(runs))))) == 3
    # Where all are so there is nothing to compare with.
    assert finished.compare(runs[:2]) == {}


def test_errors_that_are_not_those_of_the_record_are_refused(tmp_path):
    folder = write_run(tmp_path / "a", errors=make_errors(1), test_loss=[0.5])
    error = one_line_error(tmp_path)
    assert f"{folder / finished.ERRORS_FILE} is not of" in error and "0.5" in error


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"seeds": 3}, "seeds"),
        ({"test_loss_interval": [1.0]}, "test_loss_interval"),
        ({"model": None}, "model"),
        ({"settings": []}, "settings"),
        ({"delta_eq": {"position": "small"}}, "delta_eq"),
        ({"num_params": "many"}, "num_params"),
        ({"eval": [{"dataset": "x"}]}, "eval"),
    ],
)
def test_a_record_of_another_make_is_named(tmp_path, changes, name):
    write_run(tmp_path / "a", **changes)
    error = one_line_error(tmp_path)
    assert f"record.json is no record: {name!r}" in error


def test_a_record_whose_settings_were_altered_is_refused(tmp_path):
    settings = make_record()["settings"]
    write_run(tmp_path / "a", run_id=run_files.run_id(settings))
    report_on(tmp_path)
    write_run(tmp_path / "b", run_id=run_files.run_id(settings | {"num_train": 3}))
    assert "record.json was altered: it names run" in one_line_error(tmp_path)


def test_errors_of_another_run_are_refused(tmp_path):
    settings, errors = make_record()["settings"], make_errors(1)
    own = run_files.run_id(settings)
    folder = write_run(tmp_path / "a", errors, run_id=own)
    assert f"belongs to no run, expected run {own[:12]}" in one_line_error(tmp_path)
    heads = (Head("position", "node_vector", unit="m"),)
    records.save_errors(folder / finished.ERRORS_FILE, heads, errors, "f" * 64)
    assert "belongs to run ffffffffffff" in one_line_error(tmp_path)
    records.save_errors(folder / finished.ERRORS_FILE, heads, errors, own)
    report_on(tmp_path)


def test_units_are_written_plainly_and_earlier_ones_understood():
    def squared(unit):
        return records.error_unit(Head("x", "node_vector", unit=unit))

    assert [squared(unit) for unit in ("m", "", "m / s")] == ["m^2", "", "(m / s)^2"]
    earlier = ["(m)^2", "()^2", "(m / s)^2", "eV", "(m)^2 and (Å)^2"]
    found = [records.same_unit(unit) for unit in earlier]
    assert found == ["m^2", "", "(m / s)^2", "eV", "m^2 and Å^2"]


def test_runs_of_earlier_releases_are_compared_with_those_of_this_one(tmp_path):
    write_run(tmp_path / "a", errors=make_errors(1), unit="(m)^2")
    write_run(tmp_path / "b", errors=make_errors(1, shift=1.0), unit="m^2")
    assert set(finished.compare(finished.read_runs([str(tmp_path)]))) == {"b"}


def test_committed_records_are_read(project_root):
    runs = finished.read_runs([str(project_root / "experiments" / "results")])
    assert len(runs) > 60 and any(run.errors is not None for run in runs)
