"""What a run writes for people: the same lines with and without an interruption."""

import json
import pathlib
import struct
import sys

import numpy as np
import pytest
from matplotlib.text import Annotation
from tensorboardX.proto import event_pb2
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from demetar.errors import UserError
from demetar.train import checkpoint, pictures, progress, writers


def make_metrics(epoch: int, num_seeds: int = 1) -> dict:
    losses = [0.5 / (epoch + k + 1) for k in range(num_seeds)]
    return {
        "epoch": epoch,
        "step": epoch * 30,
        "train_loss": losses,
        "valid_loss": np.asarray(losses, np.float32) * 2,
        "best_valid_loss": losses,
        "best_epoch": [epoch] * num_seeds,
        "learning_rate": 1e-3,
        "gradient_norm": [1.0] * num_seeds,
        "update_norm": [0.1] * num_seeds,
        "steps_per_second": 60.0,
        "graphs_per_second": 6000.0,
        "wall_seconds": 1.5,
    }


def make_writer(workdir, start_epoch=0, total_epochs=20, **kwargs):
    settings = {"learning_rate": 1e-3, "fields": {"num_layers": 3}, "clip": None}
    return writers.RunWriter(
        workdir, total_epochs, start_epoch, "python -m x --a=b", settings, **kwargs
    )


def read_lines(workdir: pathlib.Path) -> list[dict]:
    text = (workdir / writers.METRICS_FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def read_events(workdir: pathlib.Path) -> list[event_pb2.Event]:
    """Every event of a run, in the order in which TensorBoard reads them."""
    events = []
    for path in sorted(workdir.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def read_scalars(workdir: pathlib.Path) -> dict[str, dict[int, float]]:
    scalars: dict[str, dict[int, float]] = {}
    for event in read_events(workdir):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_one_line_per_evaluation_is_there_at_once(tmp_path):
    with make_writer(tmp_path, quiet=True) as writer:
        for epoch in (5, 10):
            writer.evaluation(make_metrics(epoch))
            assert read_lines(tmp_path)[-1]["epoch"] == epoch  # before it is closed
    assert read_lines(tmp_path)[0] == make_metrics(5) | {
        "valid_loss": [float(np.float32(0.5 / 6) * 2)]
    }


def test_a_loss_that_is_not_finite_is_null_and_leaves_a_gap(tmp_path):
    with make_writer(tmp_path, quiet=True) as writer:
        writer.evaluation(make_metrics(5) | {"valid_loss": [float("nan")]})
    assert read_lines(tmp_path)[0]["valid_loss"] == [None]
    assert "loss/valid" not in read_scalars(tmp_path)


@pytest.mark.parametrize("half_line", ['{"epoch": 4', '{"epoch": 4}', "4\n"])
def test_resumed_run_has_the_lines_of_an_uninterrupted_one(tmp_path, half_line):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    with make_writer(whole, quiet=True) as writer:
        for epoch in (5, 10, 15, 20):
            writer.evaluation(make_metrics(epoch))
    with make_writer(resumed, quiet=True) as writer:
        for epoch in (5, 10, 15):
            writer.evaluation(make_metrics(epoch))
    # The last checkpoint was at epoch 5; the kill fell into a write.
    with open(resumed / writers.METRICS_FILE, "a") as file:
        file.write(half_line)
    with make_writer(resumed, start_epoch=5, quiet=True) as writer:
        assert [line["epoch"] for line in read_lines(resumed)] == [5]
        for epoch in (10, 15, 20):
            writer.evaluation(make_metrics(epoch))
    name = writers.METRICS_FILE
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_tensorboard_is_told_to_forget_what_is_repeated(tmp_path):
    with make_writer(tmp_path, quiet=True) as writer:
        writer.evaluation(make_metrics(5))
    with make_writer(tmp_path, start_epoch=5, quiet=True):
        pass
    restarts = [event for event in read_events(tmp_path) if event.session_log.status]
    # TensorBoard hides earlier events whose step is not below that of a restart.
    assert [event.step for event in restarts] == [0, 6]


def test_a_fresh_start_drops_earlier_lines(tmp_path):
    for _ in range(2):
        with make_writer(tmp_path, quiet=True) as writer:
            writer.evaluation(make_metrics(0))
    assert [line["epoch"] for line in read_lines(tmp_path)] == [0]


def test_curves_of_one_and_of_several_seeds(tmp_path):
    with make_writer(tmp_path / "1", quiet=True) as writer:
        writer.evaluation(make_metrics(5))
    with make_writer(tmp_path / "3", quiet=True) as writer:
        writer.evaluation(make_metrics(5, num_seeds=3))
    one, three = read_scalars(tmp_path / "1"), read_scalars(tmp_path / "3")
    assert set(one) == {
        "loss/train",
        "loss/valid",
        "loss/best_valid",
        "optimizer/learning_rate",
        "optimizer/gradient_norm",
        "optimizer/update_norm",
        "speed/steps_per_second",
        "speed/graphs_per_second",
    }
    np.testing.assert_allclose(three["loss/train/seed_2"][5], 0.5 / 8)
    mean = np.mean([0.5 / 6, 0.5 / 7, 0.5 / 8])
    np.testing.assert_allclose(three["loss/train"][5], mean, rtol=1e-6)
    assert "optimizer/learning_rate/seed_0" not in three


def test_command_settings_and_final_metrics_stand_in_the_run_itself(tmp_path):
    with make_writer(tmp_path, quiet=True) as writer:
        writer.evaluation(make_metrics(20))
        writer.finish({"test_loss": [0.1, 0.3], "best_epoch": 15, "device": "cpu"})
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    values = {
        value.tag: value
        for event in read_events(tmp_path)
        for value in event.summary.value
    }
    text = values["command/text_summary"].tensor.string_val[0].decode()
    assert "python -m x --a=b" in text
    text = values["hyperparameters/text_summary"].tensor.string_val[0].decode()
    assert "| learning_rate | 0.001 |" in text
    np.testing.assert_allclose(values["final/test_loss"].simple_value, 0.2, rtol=1e-6)
    assert values["final/best_epoch"].simple_value == 15
    assert "final/device" not in values
    content = values["_hparams_/session_start_info"].metadata.plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["learning_rate"].number_value == 1e-3
    assert shown["fields"].string_value == "{'num_layers': 3}"


def test_a_picture_reaches_tensorboard(tmp_path):
    start = np.random.default_rng(0).normal(size=(5, 3))
    figure = pictures.motion_figure(start, start + 1, start + 1.1, "one system")
    with make_writer(tmp_path, quiet=True) as writer:
        writer.figure("motion", figure, 5)
    (image,) = [
        value.image
        for event in read_events(tmp_path)
        for value in event.summary.value
        if value.tag == "motion"
    ]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert (image.width, image.height) == (900, 520)


def test_motion_figure_shows_every_particle_from_start_to_both_ends():
    start = np.arange(15.0).reshape(5, 3)
    true, predicted = start + 1, start - [0, 1, 2]
    figure = pictures.motion_figure(start, true, predicted, "one system", unit="m")
    left, right = figure.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("x / m", "y / m")
    assert (right.get_xlabel(), right.get_ylabel()) == ("x / m", "z / m")
    error = np.mean((true - predicted) ** 2)
    assert figure.get_suptitle() == f"one system: mean squared error {error:.2g} m²"
    arrows = [text for text in right.texts if isinstance(text, Annotation)]
    assert len(arrows) == 10
    np.testing.assert_array_equal(arrows[2].xyann, start[1, [0, 2]])
    np.testing.assert_array_equal(arrows[2].xy, true[1, [0, 2]])
    np.testing.assert_array_equal(arrows[3].xy, predicted[1, [0, 2]])
    styles = [(arrow.arrowprops or {})["linestyle"] for arrow in arrows]
    assert styles == ["-", "--"] * 5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["start", "true", "predicted"]


@pytest.mark.filterwarnings("error")
def test_a_picture_holds_any_name_and_any_number(tmp_path):
    start = np.random.default_rng(0).normal(size=(5, 3))
    with make_writer(tmp_path, quiet=True) as writer:
        for factor in (1.0, 1e38, 1e300, np.inf, np.nan):
            for unit in (r"$\bad$", "\N{CJK UNIFIED IDEOGRAPH-7C73}"):
                far = (start * factor).astype(np.float64)
                figure = pictures.motion_figure(start, start + 1, far, unit, unit)
                writer.figure("motion", figure, 5)
    assert figure.axes[0].get_xlabel() == f"x / {unit}"


def test_pictures_leave_no_global_state():
    start = np.zeros((5, 3))
    pictures.motion_figure(start, start, start, "still")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_without_a_terminal_the_first_and_last_lines_are_printed(tmp_path, capsys):
    with make_writer(tmp_path) as writer:
        for epoch in range(1, 21):
            writer.evaluation(make_metrics(epoch, num_seeds=2))
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "epoch 1/20  train 0.20833  valid 0.41667  best 0.20833 at 1"
    )
    assert "ETA 00:09  60 steps/s  (mean of 2 seeds)" in first
    assert last.startswith("epoch 20/20")


def test_a_run_that_stops_early_still_prints_its_last_line(tmp_path, capsys):
    with make_writer(tmp_path) as writer:
        for epoch in (1, 2, 3):
            writer.evaluation(make_metrics(epoch))
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch 3/20")


def test_lines_come_again_after_a_while(tmp_path, capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with make_writer(tmp_path) as writer:
        for epoch in range(1, 21):
            writer.evaluation(make_metrics(epoch))
            clock[0] += 2.5
    epochs = [line.split("/")[0] for line in capsys.readouterr().out.splitlines()]
    assert epochs == [f"epoch {epoch}" for epoch in (1, 5, 9, 13, 17, 20)]


def test_on_a_terminal_one_line_is_refreshed_in_place(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with make_writer(tmp_path) as writer:
        for epoch in (10, 20):
            writer.evaluation(make_metrics(epoch))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.count("\r") >= 2
    assert "epoch 20/20  train 0.02381" in printed.split("\r")[-1]


def test_quiet_prints_nothing(tmp_path, capsys):
    with make_writer(tmp_path, quiet=True) as writer:
        writer.evaluation(make_metrics(20))
    assert capsys.readouterr().out == ""


def test_a_work_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        make_writer(tmp_path / "file" / "run", quiet=True)


FULL_DISK = """
import json, pathlib, resource, sys
from demetar.errors import UserError
from demetar.train import writers

metrics = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    with writers.RunWriter(pathlib.Path("run"), 1000, 0, "", {}, quiet=True) as writer:
        for epoch in range(1000):
            writer.evaluation(metrics | {"epoch": epoch})
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_no_space_on_the_disk_is_told_in_one_line(tmp_path, run_python):
    metrics = json.dumps(checkpoint.to_json(make_metrics(0)))
    # A writer in a thread of its own would wait for ever.
    done = run_python(["-c", FULL_DISK, metrics], timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot write run/metrics.jsonl: File too large; free space" in done.stdout
    # What was written whole is kept, and the next start drops the rest.
    with make_writer(tmp_path / "run", start_epoch=3, quiet=True):
        pass
    assert [line["epoch"] for line in read_lines(tmp_path / "run")] == [0, 1, 2, 3]
