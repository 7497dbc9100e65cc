"""The curve of test errors over training samples."""

import numpy as np
import pytest

from demetar.errors import UserError
from experiments import learning_curve
from experiments.run import finished
from tests import report_test


def write_runs(folder, **changes):
    """Two models with 300 and 30 samples; errors fall with the number of samples."""
    for model, scale in (("egnn", 1.0), ("newton", 0.1)):
        for num_train in (300, 30):
            loss = scale / num_train
            settings = report_test.make_record()["settings"]
            report_test.write_run(
                folder / f"{model}_{num_train}",
                model=model,
                settings={**settings, "num_train": num_train},
                test_loss_mean=loss,
                test_loss_interval=[0.9 * loss, 1.2 * loss],
                **changes,
            )
    return finished.read_runs([str(folder)])


def test_points_are_sorted_by_the_number_of_samples(tmp_path):
    found = learning_curve.points(write_runs(tmp_path))
    assert list(found) == ["egnn", "newton"]
    for model, scale in (("egnn", 1.0), ("newton", 0.1)):
        loss = scale / np.array([30, 300])
        expected = np.stack([[30, 300], loss, 0.9 * loss, 1.2 * loss], axis=1)
        np.testing.assert_allclose(found[model], expected)


def test_a_model_has_a_line_for_each_set_of_its_fields(tmp_path):
    for lmax in (0, 2):
        for num_train in (30, 300):
            settings = report_test.make_record()["settings"]
            report_test.write_run(
                tmp_path / f"{lmax}_{num_train}",
                model="nequip",
                fields={"hidden_size": 16, "lmax": lmax},
                settings={**settings, "num_train": num_train},
            )
    write_runs(tmp_path)
    found = learning_curve.points(finished.read_runs([str(tmp_path)]))
    names = ["egnn", "nequip, lmax=0", "nequip, lmax=2", "newton"]
    assert sorted(found) == names
    assert all(len(rows) == 2 for rows in found.values())


def test_runs_of_other_test_sets_are_refused(tmp_path):
    runs = write_runs(tmp_path / "one")
    others = write_runs(tmp_path / "two", fingerprint="another")
    with pytest.raises(UserError, match="one test set, found several"):
        learning_curve.points([*runs, *others])


def test_the_command_draws_and_refuses_in_one_line(run_module, tmp_path):
    write_runs(tmp_path / "runs")
    command = "experiments.learning_curve"
    done = run_module(command, "runs", "--out=curve.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    other = run_module(command, "runs", "--out=curve.txt")
    assert other.returncode == 2
    assert other.stderr == "error: expected --out=FILE.png, found 'curve.txt'\n"
