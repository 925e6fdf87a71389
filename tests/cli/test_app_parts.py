"""The parts of `mdqe app` without Gradio: the service behind it and the command line."""

import json
import os
import socket
import sys
import threading
import time

import numpy as np
import pytest

from mdqe import MDQE
from mdqe.cli import app_page
from mdqe.cli.app_page import COLUMNS, Response, Service, track_rows
from mdqe.results.instances import VideoInstances

# The service.


@pytest.fixture
def service(tiny_model, tmp_path) -> Service:
    return Service({"tiny": MDQE.from_pretrained(tiny_model)}, tmp_path)


def ignore(*progress) -> None:
    pass


def test_the_service_returns_the_result_of_the_library(service, make_clip):
    clip, calls = make_clip(), []
    response = service.segment(str(clip), "tiny", 0.0, "ann", lambda *call: calls.append(call))
    found = VideoInstances.load(response.file)
    expected = service.models["tiny"].segment(clip, score_threshold=0)
    assert np.array_equal(found.masks, expected.masks)
    assert [row[:2] for row in response.table] == [[t, expected.category(i)] for i, t in enumerate(expected.track_ids)]
    assert [row[5] for row in response.table] == expected.present.sum(1).tolist()
    assert response.overlay.exists()
    assert f"{len(expected)} instances in 9 frames" in response.message
    assert calls == [(1, i, 9) for i in range(9)] + [(2, i, 9) for i in range(9)]
    document = json.loads(response.file.read_text())
    assert (document["source"], document["model"]) == ("clip.mp4", "tiny"), "names without folders of the server"
    config = service.models["tiny"].config
    wanted = {"score_threshold": 0.0, "shorter_edge": config.test_shorter_edge, "relink": config.relink}
    assert document["settings"].items() >= wanted.items()


def test_rows_of_tracks():
    masks = np.zeros((2, 6, 4, 4), bool)
    masks[0, [1, 4]] = True
    result = VideoInstances.from_masks([0.98765, 0.5], [1, 0], [7, 3], masks, categories=("cat", "dog"))
    assert len(COLUMNS) == len(track_rows(result)[0])
    assert track_rows(result) == [[7, "dog", 0.988, 1, 4, 2], [3, "cat", 0.5, "", "", 0]]


def test_wrong_requests_get_a_message(service, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    text = str(tmp_path / "clip.mp4")
    for path, name, message in (
        (text, "tiny", "clip.mp4 is not a video, or it is truncated and its frames cannot be located"),
        (None, "tiny", "Choose a video first."),
        ("/etc/passwd", "tiny", "This is not an uploaded file."),
        (text, "/etc", "There is no model '/etc'."),
    ):
        assert service.segment(path, name, 0.3, "ann", ignore) == Response(message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/srv/secret/x.json"), "The results could not be written."),
        (MemoryError(), "There is not enough memory for this video; a smaller video may fit."),
    ],
)
def test_messages_for_visitors_have_no_details_of_the_server(service, make_clip, monkeypatch, error, message):
    def failing(*arguments):
        raise error

    monkeypatch.setattr(app_page, "segment_video", failing)
    assert service.segment(str(make_clip()), "tiny", 0.3, "ann", ignore).message == message


def test_a_bug_is_not_hidden(service, make_clip, monkeypatch):
    monkeypatch.setattr(app_page, "segment_video", lambda *arguments: {}["x"])
    with pytest.raises(KeyError):
        service.segment(str(make_clip()), "tiny", 0.3, "ann", ignore)


def test_a_visitor_stops_only_the_own_video(service, make_clip):
    def on_frame(passes, index, count):
        service.stop("bob")
        if index == 3:
            service.stop("ann")

    assert service.segment(str(make_clip()), "tiny", 0.3, "ann", on_frame).message == "Stopped."
    assert "mdqe-read-ahead" not in [thread.name for thread in threading.enumerate()]


def test_the_last_result_of_a_visitor_is_kept(service, make_clip, tmp_path):
    clip = str(make_clip(frames=2))
    first, other, second = [service.segment(clip, "tiny", 0.3, who, ignore) for who in ("ann", "bob", "ann")]
    assert [response.file.exists() for response in (first, other, second)] == [False, True, True]
    service.leave("ann")
    service.leave("nobody")
    assert [path.parent for path in tmp_path.glob("run-*/instances.json")] == [other.file.parent]


def test_old_files_are_deleted(service, make_clip, tmp_path):
    """Results of visitors who left without a word, finished uploads and interrupted ones; not what is in use."""
    service.folder = tmp_path / "served"
    for name in ("upload", "recent"):
        (service.folder / name).mkdir(parents=True)
        (service.folder / name / "clip.mp4").write_bytes(make_clip(frames=4).read_bytes())
    (service.folder / "tmpabc").write_bytes(b"the beginning of an upload")
    old, new = [service.segment(str(service.folder / "recent" / "clip.mp4"), "tiny", 0.3, who, ignore) for who in "ab"]

    def age(*entries):
        for entry in entries:
            for path in (entry, *entry.rglob("*")):
                os.utime(path, (time.time() - 2 * 86400,) * 2)

    age(*(path for path in service.folder.iterdir() if path not in (service.folder / "recent", new.file.parent)))
    used = []

    def on_frame(*progress):
        age(*(path for path in service.folder.iterdir() if path.name in ("upload", *used)))
        used.extend({path.name for path in service.folder.glob("run-*")} - {old.file.parent.name, new.file.parent.name})
        service.delete_old()

    response = service.segment(str(service.folder / "upload" / "clip.mp4"), "tiny", 0.3, "c", on_frame)
    kept = {path.name for path in service.folder.iterdir()}
    assert response.file.exists(), "it was running"
    assert kept == {"upload", "recent", new.file.parent.name, response.file.parent.name}
    age(service.folder)
    age(*service.folder.iterdir())
    service.delete_old()
    assert list(service.folder.iterdir()) == [] and service._jobs == {}


def test_old_files_are_deleted_while_nobody_comes(service, tmp_path):
    service.folder = tmp_path / "served"
    (service.folder / "run-x").mkdir(parents=True)
    with service.cleaning(every=0.02, kept=0.1):
        deadline = time.monotonic() + 20
        while (service.folder / "run-x").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


# The command line.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", "65536"), "'65536' is not a whole number from 0 to 65535"),
        (("--port", "web"), "'web' is not a whole number from 0 to 65535"),
        (("--allow-host", "app:80"), "'app:80' is not a host name or an address, such as app.example.org"),
        (("--allow-host", "*"), "'*' is not a host name"),
        (("--max-upload", "0"), "'0' is not a whole number from 1 to 1000000"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0"),
        (("--host", ""), "--host is empty"),
        (("--host", "a" * 70), "expected an address such as 127.0.0.1"),
    ],
)
def test_bad_options_are_one_line_and_status_2(run, options, says):
    status, out, err = run("app", "--port", "0", *options)
    assert (status, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1


def test_a_port_that_is_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("app", "--port", port)
    assert (status, out) == (2, "")
    assert err.startswith(f"mdqe app: error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose")
    assert len(err.splitlines()) == 1


def test_without_gradio_the_error_has_the_install_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("mdqe.cli.app._confine_gradio", lambda folder: None)
    status, out, err = run("app", "--port", 0)
    assert (status, out) == (2, "")
    assert err == "mdqe app: error: the web app needs Gradio: pip install 'mdqe[demo]'\n"
