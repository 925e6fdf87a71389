"""`mdqe app` as a visitor sees it, and as one with bad intentions does."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mdqe[demo]'")

from mdqe import MDQE
from mdqe.cli.app_page import COLUMNS, Desk, page, track_rows
from mdqe.data.synthetic import demo_scene
from mdqe.results.instances import VideoInstances
from mdqe.video.write import VideoWriter

# The command, in a process that notes every connection to another machine and every name that is looked up.
PROGRAM = """
import sys
def note(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", None):
        print("NETWORK", arguments[0], file=sys.stderr, flush=True)
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("NETWORK", arguments[1], file=sys.stderr, flush=True)
sys.addaudithook(note)
from mdqe.cli import main
sys.exit(main(sys.argv[1:]))
"""
BROWSER = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1000"
)


class Server(NamedTuple):
    process: subprocess.Popen
    address: str
    errors: list[str]
    folder: Path
    """Where temporary folders are made."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-c", PROGRAM, "app", "--port", "0", "--max-upload", "1", "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    address = process.stdout.readline().strip()
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address), "".join(errors)
        wait_for(lambda: ask(f"{address}/config")[0] == 200)
        yield Server(process, address, errors, folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "scene.mp4"
    with VideoWriter(path, 12) as writer:
        for image in demo_scene(frames=8, size=(128, 192)).frames:
            writer.write(image)
    return path


def wait_for(found: Callable[[], Any], seconds: float = 180) -> Any:
    """What `found` gives, as soon as it is anything."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := found():
                return value
        except Exception:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def ask(url: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, name: str, content: bytes) -> tuple[int, bytes]:
    body = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return ask(
        f"{address}/gradio_api/upload", body + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"
    )


# With good intentions.


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: pip install selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("there is no chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (*BROWSER.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


def requested(browser) -> set[str]:
    """The machines that the browser asked for something since this was asked last."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {url.split("/")[2] for url in urls if url.startswith(("http", "ws"))}


def status(browser) -> str:
    (line,) = browser.find_elements("css selector", "#status textarea, #status input")
    return line.get_property("value")


def cells(browser) -> list[str]:
    """The table's, row by row, the column names first."""
    return browser.find_element("id", "tracks").text.split("\n")[1:]


def test_a_visitor_uploads_sees_and_downloads(server, browser, clip, tmp_path):
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

    if "MDQE_SCREENSHOT" in os.environ:  # a picture for the documentation
        browser.save_screenshot(os.environ["MDQE_SCREENSHOT"])
    assert requested(browser) == {server.address.removeprefix("http://")}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_fits_a_telephone(server, browser):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(server.address)
    wait_for(lambda: browser.find_element("css selector", "#tracks th"))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390


def test_the_last_result_leaves_the_page_before_its_files_go(tmp_path, clip):
    """Or a click on the download would find nothing while the next video is under way."""
    uploaded = shutil.copy(clip, tmp_path)
    desk = Desk({"mdqe:tiny": MDQE.from_pretrained("mdqe:tiny")}, tmp_path)
    segment = next(event.fn for event in page(desk).fns.values() if len(event.inputs) == 3)
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


def test_what_is_no_video_is_told_in_the_page(server, browser, tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video at all")
    browser.get(server.address)
    wait_for(lambda: browser.find_element("css selector", "#upload input[type=file]")).send_keys(
        str(tmp_path / "notes.mp4")
    )
    wait_for(lambda: browser.find_element("css selector", "#upload video"))
    browser.find_element("id", "start").click()
    wait_for(lambda: status(browser))
    assert status(browser) == "notes.mp4 is not a video, or it is cut off so that its frames cannot be found"
    assert "Traceback" not in browser.page_source and "Traceback" not in "".join(server.errors)


# With bad ones.


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
def test_no_file_of_the_server_is_reached(server, path):
    code, body = ask(server.address + path)
    assert code in (403, 404)
    assert b"root:" not in body and b"PATH=" not in body


def test_files_of_gradio_and_of_the_folder_where_it_was_started_are_not_reached(server):
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


def test_a_file_beyond_the_limit_is_refused_and_nothing_of_it_is_kept(server):
    held = {path for path in server.folder.rglob("*") if path.is_file()}
    code, body = upload(server.address, "large.mp4", bytes(2_000_000))
    assert code == 413 and b"maximum allowed size" in body
    assert {path for path in server.folder.rglob("*") if path.is_file()} == held
    code, body = upload(server.address, "../../../small.mp4", bytes(900_000))
    assert code == 200
    (kept,) = json.loads(body)
    assert Path(kept).resolve().is_relative_to(server.folder) and Path(kept).name == "small.mp4"


def test_it_ends_with_ctrl_c_having_called_nobody_and_kept_nothing(server):
    """The last test: the server is gone then."""
    assert [path.name.startswith("mdqe-app-") for path in server.folder.iterdir()] == [True]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0
    assert list(server.folder.iterdir()) == []
    assert [line for line in server.errors if "NETWORK" in line or "Traceback" in line] == []
