"""The page of results in a browser: nothing fails, and the controls do what they say.

These tests need Chromium on the path, and skip without one.
"""

import html as escaping
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from experiments.page import content, html, scenes
from experiments.run import finished
from tests import page_motion_test, report_test

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"no {NAMES[0]} is installed"),
    pytest.mark.slow,
]
# Before anything else of the page: whatever goes wrong is kept.
WATCH = """<script>
window.faults = [];
for (const name of ["error", "unhandledrejection", "securitypolicyviolation"])
  window.addEventListener(name, (event) => window.faults.push(
    `${name}: ${event.message || event.reason || event.blockedURI}`));
for (const name of ["error", "warn"]) {
  const told = console[name];
  console[name] = (...words) => {
    window.faults.push(words.join(" "));
    told(...words);
  };
}
</script>"""
MOLECULE = {
    "kind": "molecule",
    "title": "test molecule 3, number 7 of QM9",
    "difficulty": "",
    "value": -7.5,
    "quantity": "homo",
    "unit": "meV",
    "errors": {},
    "models": [{"label": "schnet", "value": -7.0, "error": 0.5}],
    "symbols": ["O", "H", "H"],
    "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]],
    "bonds": [[0, 1], [0, 2]],
}


def write_runs(folder: pathlib.Path, mark: str) -> None:
    """Two models with checkpoints, a curve, molecules, and a run alone."""
    settings = {"start_frame": 3, "target_frame": 8, "num_train": 50}
    of_data: dict[str, Any] = {
        "dataset": "data",
        "fingerprint": mark,
        "settings": settings,
    }
    for number, name in enumerate(("linear", "newton")):
        errors = np.linspace(1, 2 + number, 5)[None]
        run = report_test.write_run(
            *(folder / name, errors),
            **{**of_data, "model": name, "num_params": 100 - number},
            test_loss_mean=1 + number,
            test_loss_interval=[0.9 + number, 1.2 + number],
        )
        page_motion_test.save(run, name)
    (folder / "linear/curve.csv").write_text(
        "epoch,train_loss,valid_loss\n1,3,4\n5,1,2\n"
    )
    report_test.write_run(
        folder / "molecules", dataset="qm9", target="homo", settings={}
    )
    report_test.write_run(folder / "record_alone", dataset="other")


@pytest.fixture
def page(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "runs", page_motion_test.write_data(tmp_path / "data"))
    wanted = scenes.Wanted((), (), tmp_path, tmp_path)
    monkeypatch.setattr(
        content.molecules, "show", lambda *_: scenes.Shown(scenes=[MOLECULE])
    )
    shown = content.gather(finished.read_runs(["runs"]), wanted)
    return html.render(shown, "Results")


def browse(folder: pathlib.Path, name: str, *flags: str) -> str:
    """Open a page in Chromium without a window; what it prints."""
    process = subprocess.run(
        [
            *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--hide-scrollbars"),
            *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
            *("--disable-dev-shm-usage", "--disable-background-networking"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"),
            *(f"--user-data-dir={folder / 'profile'}", *flags),
            (folder / name).as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return process.stdout


def drive(folder: pathlib.Path, page: str) -> dict[str, Any]:
    """What the driver of the tests finds on a page."""
    driver = pathlib.Path(__file__).with_name("support") / "drive_page.js"
    page = page.replace("<head>", f"<head>{WATCH}", 1)
    page = page.replace("</body>", f"<script>{driver.read_text()}</script></body>")
    (folder / "driven.html").write_text(page)
    dumped = browse(folder, "driven.html", "--dump-dom", "--window-size=500,900")
    outcome = re.search(r'<pre id="outcome">(.*?)</pre>', dumped, re.DOTALL)
    assert outcome, dumped[-2000:]
    found: dict[str, Any] = json.loads(escaping.unescape(outcome[1]))
    return found


def test_the_controls_change_what_is_shown_and_nothing_fails(page, tmp_path):
    found = drive(tmp_path, page)
    assert found["faults"] == []
    assert found["requests"] == []

    assert found["byError"] == found["byParamsFalling"] == ["linear", "newton"]
    assert found["byParams"] == ["newton", "linear"]
    assert found["sorted"] == "descending" and found["focusStays"]
    assert found["bars"] == 2
    assert found["legendLess"] == found["legend"] - 1 == 1
    assert "python -m experiments.nbody" in found["details"]
    difference = np.mean(np.linspace(1, 2, 5) - np.linspace(1, 3, 5))
    assert found["differences"][0].startswith(f"−{abs(difference):.3f} (")
    assert found["differences"][1] == "the reference"
    assert "of the samples have" in found["tip"]

    assert [own.split("squared")[0] for own in found["panels"]] == ["linear", "newton"]
    assert len(found["panelsLess"]) == 1
    assert len({*found["pictures"]}) == len(found["pictures"]) == 7
    assert found["clock"] == "t = 0.03 of 0.1"
    assert len(found["errors"]) == 2
    assert (found["playing"], found["paused"]) == ("Pause", "Play")

    assert found["light"][0] == "light" and found["dark"][0] == "dark"
    assert found["light"][1] != found["dark"][1]
    width, window = found["wide"]
    assert width <= window
    assert found["otherGroup"] == ["molecules"] and found["closestHidden"]
    assert "True homo: -7.5 meV. schnet predicts -7" in found["molecule"]
    assert "the data set other is not there" in found["nothing"]


def test_a_fault_of_the_page_is_seen(page, tmp_path):
    broken = page.replace("Page.startFigures();", "fetch('https://a.b/c');", 1)
    found = drive(tmp_path, broken)
    assert any("securitypolicyviolation" in fault for fault in found["faults"])


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fills_its_width_at_any_size(page, tmp_path, width):
    """In a frame of that width: a window of the browser is never below 500."""
    (tmp_path / "page.html").write_text(page)
    frame = f'<iframe src="page.html" width="{width}" height="1500" style="border:0">'
    host = f'<body style="margin:0;background:#f0f">{frame}</iframe></body>'
    (tmp_path / "host.html").write_text(host)
    picture = tmp_path / "picture.png"
    flags = (f"--screenshot={picture}", f"--window-size={max(width, 500)},1500")
    browse(tmp_path, "host.html", *flags)
    pixels = image.imread(picture)[:, :width, :3]
    assert pixels.shape[:2] == (1500, width)
    # The right margin is the page's own, empty from top to bottom: nothing sticks out.
    margin = pixels[:, -5:]
    assert np.ptp(margin.reshape(-1, 3), axis=0).max() < 0.02
    # And in the 3-D view there is something red, blue and green.
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    assert (spread > 0.3).mean() > 1e-3
