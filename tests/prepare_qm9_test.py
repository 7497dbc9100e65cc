"""`tools.prepare_qm9` and its downloads, from a server that fails in every way."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from demetar.data import molecule_files, molecules
from demetar.errors import UserError
from tests import qm9_test
from tools import download, prepare_qm9

CONTENT = np.random.default_rng(0).bytes(700_000)  # more than one chunk


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: what is asked for is what goes wrong."""

    asked: list[str] = []
    content = CONTENT

    def do_GET(self):
        self.asked.append(self.path)
        content = self.content
        if self.path == "/absent":
            return self.send_error(404)
        if self.path == "/busy":
            return self.send_error(503)
        if self.path == "/later" and self.asked.count("/later") < 2:
            return self.send_error(500)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/truncated":
            content = content[: len(content) // 2]
        elif self.path == "/corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Handler.asked, Handler.content = [], CONTENT
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def make_file(server, *paths, content=CONTENT, **changes):
    digest = hashlib.sha256(content).hexdigest()
    addresses = [f"{server}/{path}" for path in paths]
    file = download.File("data.bin", len(content), digest, addresses)
    return file._replace(**changes)


def fetch(file, folder, **more):
    return download.fetch(file, folder, pause=0.0, timeout=10.0, quiet=True, **more)


@pytest.mark.parametrize("bad", ["absent", "busy", "truncated", "corrupt"])
def test_a_mirror_that_fails_is_followed_by_the_next(server, tmp_path, bad):
    path = fetch(make_file(server, bad, "good"), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert Handler.asked == [f"/{bad}", "/good"]
    assert [other.name for other in path.parent.iterdir()] == ["data.bin"]


def test_what_is_there_is_not_fetched_again_unless_damaged(server, tmp_path):
    file = make_file(server, "good")
    path = fetch(file, tmp_path)
    assert fetch(file, tmp_path) == path and Handler.asked == ["/good"]
    path.write_bytes(CONTENT[:-1])
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert Handler.asked == ["/good"] * 2


def test_a_second_round_may_help(server, tmp_path):
    assert fetch(make_file(server, "later"), tmp_path).read_bytes() == CONTENT
    assert Handler.asked == ["/later"] * 2


def test_every_reason_is_told_and_nothing_left_behind(server, tmp_path):
    file = make_file(server, "absent", "truncated", "corrupt")
    file = file._replace(addresses=[*file.addresses, "http://127.0.0.1:1/closed"])
    with pytest.raises(UserError) as caught:
        fetch(file, tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "fetch it by hand" in message
    for part in (
        *("absent: HTTP Error 404", "truncated: ", "350,000"),
        *("corrupt: expected SHA-256", "closed: <urlopen error"),
    ):
        assert part in message, part
    assert len(Handler.asked) == 6 and not list(tmp_path.iterdir())


def test_a_file_of_another_size(server, tmp_path):
    for size, found in ((10, "more than 10"), (len(CONTENT) + 5, "700,000")):
        with pytest.raises(UserError, match=f"expected {size:,} bytes, found {found}"):
            fetch(make_file(server, "good", size=size), tmp_path, attempts=1)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*choose another folder"):
        fetch(make_file(server, "good"), tmp_path / "file")
    (tmp_path / "data.bin").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*data\.bin"):
        fetch(make_file(server, "good"), tmp_path)


def parse(*arguments):
    given, _ = prepare_qm9.LINE.parse(arguments)
    return given


def test_download_and_prepare(server, tmp_path, monkeypatch, capsys):
    """From the archive on the server to the file that is mapped."""
    archive = tmp_path / "here.tar.bz2"
    texts = [qm9_test.GDB.format(index=index) for index in (1, 2)]
    qm9_test.write_archive(archive, texts)
    Handler.content = archive.read_bytes()
    served = make_file(server, "busy", "good", content=Handler.content)
    served = served._replace(name=molecule_files.ARCHIVE)
    monkeypatch.setattr(prepare_qm9, "ARCHIVE", served)
    out = tmp_path / "made" / "qm9.npz"
    prepare_qm9.run(parse("--download", f"--out={out}"))
    assert "2 molecules, fingerprint" in capsys.readouterr().out
    known = molecules.read(out)
    assert known.index.tolist() == [1, 2] and known.source == "qm9"
    assert (out.parent / molecule_files.ARCHIVE).exists()
    assert Handler.asked == ["/busy", "/good"]
    # And from what was fetched, without the network.
    again = tmp_path / "again.npz"
    prepare_qm9.run(parse(f"--source={out.parent / served.name}", f"--out={again}"))
    assert molecules.read(again).fingerprint == known.fingerprint
    # Nor is anything else replaced, unless that is asked for.
    flags = (f"--source={out.parent / served.name}", f"--out={again}")
    prepare_qm9.run(parse(*flags))
    assert "again.npz is there already, 2 molecules" in capsys.readouterr().out
    again.write_text("precious")
    with pytest.raises(UserError, match="holds something else; pass --overwrite"):
        prepare_qm9.run(parse(*flags))
    assert again.read_text() == "precious"
    prepare_qm9.run(parse(*flags, "--overwrite"))
    assert molecules.read(again).fingerprint == known.fingerprint
    with pytest.raises(UserError, match="another --out than the source"):
        prepare_qm9.run(parse(f"--source={again}", f"--out={again}"))
    with pytest.raises(UserError, match=r"expected --out=FILE\.npz, found None"):
        prepare_qm9.run(parse())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=absent"], "error: expected a folder, or a file"),
        (["--source="], "error: expected --source=FILE or FOLDER, found an empty"),
        (["mine.xyz"], "error: expected flags as --name=value, found 'mine.xyz'"),
    ],
)
def test_bad_input_is_one_line(run_python, tmp_path, arguments, message):
    done = run_python(["-m", "tools.prepare_qm9", "--out=x.npz", *arguments])
    assert done.returncode == 2 and not (tmp_path / "x.npz").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
