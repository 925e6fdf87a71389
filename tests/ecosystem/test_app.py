"""`mdqe app` in a browser, and requests that attack it."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import chromium, requests
from running_app import Server, ask, running_app, upload, wait_for

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mdqe[demo]'")

from mdqe import MDQE
from mdqe.cli.app_page import COLUMNS, Service, page, track_rows
from mdqe.data.synthetic import demo_scene
from mdqe.results.instances import VideoInstances
from mdqe.video.write import VideoWriter


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running_app(tmp_path_factory.mktemp("temporary")) as server:
        yield server


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "scene.mp4"
    with VideoWriter(path, 12) as writer:
        for image in demo_scene(frames=8, size=(128, 192)).frames:
            writer.write(image)
    return path


# The page in a browser.


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path) as driver:
        yield driver


def status(browser) -> str:
    (line,) = browser.find_elements("css selector", "#status textarea, #status input")
    return line.get_property("value")


def cells(browser) -> list[str]:
    """The cells of the table, row by row, after the column names."""
    return browser.find_element("id", "tracks").text.split("\n")[1:]


def check_one_screen(browser, width: int, height: int) -> None:
    """The input is beside the result, they take the width of the window, and nothing needs scrolling."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wait_for(lambda: browser.execute_script("return innerWidth") == width)
    script = "return document.getElementById(arguments[0]).getBoundingClientRect().toJSON()"
    names = ("upload", "start", "status", "overlay", "tracks", "download")
    upload, *left, overlay, tracks, download = (browser.execute_script(script, name) for name in names)
    assert all(one["right"] <= upload["right"] < overlay["left"] for one in left)
    assert upload["top"] == overlay["top"]
    assert max(one["bottom"] for one in (*left, tracks, download)) <= height
    assert upload["left"] <= 40 and width - overlay["right"] <= 40


def test_uploading_segmenting_and_downloading(server, browser, clip, tmp_path):
    expected = MDQE.from_pretrained("mdqe:tiny").segment(clip)
    assert len(expected) > 1
    browser.get(server.address)
    wait_for(lambda: browser.find_element("css selector", "#upload input[type=file]")).send_keys(str(clip))
    wait_for(lambda: browser.find_element("css selector", "#upload video"))
    browser.find_element("id", "start").click()
    wait_for(lambda: "instances" in status(browser))
    assert status(browser).startswith(f"{len(expected)} instances in 8 frames, ")

    wait_for(lambda: len(cells(browser)) > len(COLUMNS))
    assert cells(browser) == [*COLUMNS, *(str(cell) for row in track_rows(expected) for cell in row)]
    played = "const v = document.querySelector('#overlay video'); return v && v.readyState > 1 && v.videoWidth"
    assert wait_for(lambda: browser.execute_script(played)) == 192

    browser.find_element("id", "download").click()
    (path,) = wait_for(lambda: list((tmp_path / "downloads").glob("*.json")))
    found = VideoInstances.load(path)
    assert found.track_ids.tolist() == expected.track_ids.tolist()
    assert np.array_equal(found.masks, expected.masks)

    for width in (1100, 1600, 1280):
        check_one_screen(browser, width, 800)
    if "MDQE_SCREENSHOT" in os.environ:  # a picture for the documentation
        browser.save_screenshot(os.environ["MDQE_SCREENSHOT"])
    hosts = {url.split("/")[2] for url in requests(browser) if url.startswith(("http", "ws"))}
    assert hosts == {server.address.removeprefix("http://")}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_fits_a_phone(server, browser):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(server.address)
    wait_for(lambda: browser.find_element("css selector", "#tracks th"))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390


def test_the_last_result_is_removed_from_the_page_before_its_files_are_deleted(tmp_path, clip):
    """Otherwise a download would fail while the next video is segmented."""
    uploaded = shutil.copy(clip, tmp_path)
    service = Service({"mdqe:tiny": MDQE.from_pretrained("mdqe:tiny")}, tmp_path)
    segment = next(event.fn for event in page(service).fns.values() if len(event.inputs) == 3)
    visitor = SimpleNamespace(session_hash="abc")
    *_, (_, overlay, table, download) = segment(uploaded, "mdqe:tiny", 0.3, visitor)
    assert overlay.is_file() and table and download.interactive

    again = segment(uploaded, "mdqe:tiny", 0.9, visitor)
    message, nothing, rows, download = next(again)
    assert (message, nothing, rows, download.interactive) == ("", None, [], False)
    assert overlay.is_file()
    message, newer, _, download = next(again)
    assert "instances" in message and newer.is_file() and download.interactive
    assert not overlay.exists()


def test_the_page_shows_the_error_of_a_file_that_is_not_a_video(server, browser, tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video at all")
    browser.get(server.address)
    wait_for(lambda: browser.find_element("css selector", "#upload input[type=file]")).send_keys(
        str(tmp_path / "notes.mp4")
    )
    wait_for(lambda: browser.find_element("css selector", "#upload video"))
    browser.find_element("id", "start").click()
    wait_for(lambda: status(browser))
    assert status(browser) == "notes.mp4 is not a video, or it is truncated and its frames cannot be located"
    assert "Traceback" not in browser.page_source and "Traceback" not in "".join(server.errors)


# Attacks.


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=/proc/self/environ", "/gradio_api/file=..%2fetc%2fpasswd",
        "/gradio_api/file=%2fetc%2fpasswd", "/gradio_api/file=//etc/passwd", "/gradio_api/file=file:///etc/passwd",
        "/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets/..%2f..%2fconfig.json", "/gradio_api/file=http://127.0.0.1:9/", "/svelte/..%2f..%2fetc%2fpasswd",
        "/gradio_api/proxy=http://127.0.0.1:9/", "/gradio_api/custom_component/x/client/y/..%2f..%2fetc%2fpasswd",
        "/gradio_api/deep_link?session_hash=x", "/monitoring", "/gradio_api/profiling/traces", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_files_of_the_server_are_not_served(server, path):
    code, body = ask(server.address + path)
    assert code in (403, 404)
    assert b"root:" not in body and b"PATH=" not in body


def test_files_of_gradio_and_of_the_current_folder_are_not_served(server):
    import gradio

    for file in (Path(gradio.__file__), Path.cwd() / "x.txt", server.folder):
        assert ask(f"{server.address}/gradio_api/file={file}")[0] == 403


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "http://127.0.0.1:9/x.mp4"])
def test_a_file_that_was_not_uploaded_is_not_segmented(server, path):
    config = json.loads(ask(f"{server.address}/config")[1])
    number = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 3)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = {"data": [file, "mdqe:tiny", 0.3], "fn_index": number, "session_hash": "abc", "trigger_id": None}
    answer = ask(f"{server.address}/gradio_api/queue/join", json.dumps(event).encode())
    assert answer == (403, b"not allowed")


def test_an_upload_above_the_limit_is_rejected_and_not_stored(server):
    before = {path for path in server.folder.rglob("*") if path.is_file()}
    code, body = upload(server.address, "large.mp4", bytes(2_000_000))
    assert code == 413 and b"maximum allowed size" in body
    assert {path for path in server.folder.rglob("*") if path.is_file()} == before
    code, body = upload(server.address, "../../../small.mp4", bytes(900_000))
    assert code == 200
    (kept,) = json.loads(body)
    assert Path(kept).resolve().is_relative_to(server.folder) and Path(kept).name == "small.mp4"


def test_ctrl_c_stops_it_without_connections_and_files(server):
    """The last test, because it stops the server."""
    assert [path.name.startswith("mdqe-app-") for path in server.folder.iterdir()] == [True]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0
    assert list(server.folder.iterdir()) == []
    assert [line for line in server.errors if "NETWORK" in line or "Traceback" in line] == []
