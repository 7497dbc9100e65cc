"""The table of several models: rows trained, skipped, listed, and failing alone."""

import csv

import pytest

from tests.support import nbody_folder

COMMAND = ("experiments.nbody_table", "--workdir=table", "--dataset=data")
QUICK = ("--epochs=2", "--eval_every=1", "--batch_size=4")


@pytest.mark.slow
def test_rows_are_listed_trained_and_skipped(run_module, tmp_path):
    nbody_folder.write(tmp_path / "data")
    arguments = [*COMMAND, *QUICK, "--models=linear,linear_map"]
    listed = run_module(*arguments, "--list_jobs")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[3] for line in listed.stdout.splitlines()] == [
        "--model=linear",
        "--model=linear_map",
    ]

    first = run_module(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("== linear") == 2
    with open(tmp_path / "table" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["linear", "linear_map"]
    assert {row["epochs"] for row in rows} == {"2"}
    assert "| linear_map |" in (tmp_path / "table" / "table.md").read_text()
    assert (tmp_path / "table" / "table.png").stat().st_size > 1000

    again = run_module(*arguments)
    assert again.returncode == 0 and "== linear" not in again.stdout
    assert not run_module(*arguments, "--list_jobs").stdout


@pytest.mark.slow
def test_a_row_that_fails_stops_no_other(run_module, tmp_path):
    nbody_folder.write(tmp_path / "data")
    broken = tmp_path / "table" / "linear"
    broken.mkdir(parents=True)
    (broken / "something").write_text("not of a run")
    process = run_module(*COMMAND, *QUICK, "--models=linear,linear_map")
    assert process.returncode == 2
    assert "1 of 2 rows are missing: linear" in process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "table" / "linear_map" / "record.json").exists()
    assert "linear_map" in (tmp_path / "table" / "table.md").read_text()


def test_an_unknown_row_is_refused_before_any_is_trained(run_module, tmp_path):
    process = run_module(*COMMAND, "--models=linear,alexnet")
    assert process.returncode == 2
    assert process.stderr.startswith("error: no model is called 'alexnet'")
    assert not (tmp_path / "table").exists()
