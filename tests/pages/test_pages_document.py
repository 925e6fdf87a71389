"""Whole HTML files: what is in them, and that foreign text stays text."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from clips_to_show import FRAMES, SIZE, annotations, results

from mdqe.pages.document import document
from mdqe.pages.pictures import jpeg, read_frames
from mdqe.pages.shown import read_shown
from mdqe.pages.viewer import viewer

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\" ' & \u2028 \ud800"


class Parts(HTMLParser):
    """Every element with its attributes and its text, as a browser would see them."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        self.elements.append(("", {}, []))

    def handle_data(self, text):
        if self.elements:
            self.elements[-1][2].append(text)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]


def test_the_policy_names_what_is_there():
    page = document("t", "<p>b</p>", style="p { color: red }", script="let x = 1 < 2;", data={"a": [1, None]})
    parts = Parts(page)
    (policy,) = [one["content"] for one, _ in parts.of("meta") if "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"

    def hashed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    data, script = parts.of("script")
    assert json.loads(data[1]) == {"a": [1, None]} and data[0]["type"] == "application/json"
    assert rules["script-src"] == hashed(script[1]) and script[1] == "let x = 1 < 2;"
    assert rules["style-src"] == hashed(parts.of("style")[0][1])
    assert "script-src" not in Parts(document("t", "", style="")).of("meta")[1][0]["content"]


def test_foreign_text_stays_text(save):
    shown = read_shown(save("a.json", annotations(HOSTILE)), video="a")
    page = viewer(shown)
    parts = Parts(page)
    assert [one.get("type") for one, _ in parts.of("script")] == ["application/json", None]
    assert not parts.of("img") and b"<!--" not in page
    data = json.loads(parts.of("script")[0][1])
    assert data["sides"][0]["tracks"][0]["category"] == HOSTILE
    assert Parts(document(HOSTILE, "", style="")).of("title")[0][1] == HOSTILE.replace("\ud800", "?")
    (attached,) = Parts(document("t", "", style="", attached=[HOSTILE[:-1]])).of("script")
    assert attached[0] == {"type": "text/plain", "id": "attached-0"} and "<" not in attached[1]


def test_the_page_holds_what_was_found(small_set):
    page = viewer(read_shown(small_set[1], small_set[0], "a"), score_threshold=0.5)
    data = json.loads(Parts(page).of("script")[0][1])
    assert (data["size"], data["length"], data["threshold"], data["pictures"]) == ([*SIZE], FRAMES, 0.5, 0)
    prediction, truth = data["sides"]
    assert [one["id"] for one in prediction["tracks"]] == [3, 4, 5], "best first"
    assert [one["id"] for one in truth["tracks"]] == [11, 12] and truth["tracks"][0]["score"] is None
    assert prediction["tracks"][0]["masks"] == [one and one["counts"] for one in results()[0]["segmentations"]], (
        "run lengths, not pixels"
    )
    assert not re.search(rb"(https?:)?//(?!\s)[a-z]", page.replace(b"// ", b"")), "no address"


def test_pictures_are_scaled_down_never_up():
    from PIL import Image

    image = np.full((60, 90, 3), 200, np.uint8)
    for width, expected in ((45, (45, 30)), (640, (90, 60))):
        head, code = jpeg(image, width).split(",")
        assert head == "data:image/jpeg;base64"
        opened = Image.open(io.BytesIO(base64.b64decode(code)))
        assert opened.size == expected and abs(int(np.asarray(opened).mean()) - 200) < 3


def test_frames_of_a_set_a_folder_and_a_video(small_set, images, tmp_path):
    from mdqe.video.write import VideoWriter

    shown = read_shown(small_set[1], small_set[0], "b")
    levels = [40 + 50 * t for t in range(FRAMES)]
    with VideoWriter(tmp_path / "b.mp4", 10) as writer:
        for level in levels:
            writer.write(np.full((*SIZE, 3), level, np.uint8))
    for source in (images, images / "b", tmp_path / "b.mp4"):
        found = [int(image.mean()) for image in read_frames(shown, str(source))]
        assert np.allclose(found, levels, atol=4), source


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda images: (images / "a" / "00002.png").unlink(), FileNotFoundError, "00002.png does not exist"),
        (lambda images: (images / "a" / "00002.png").write_text("no"), ValueError, "00002.png cannot be read"),
        (lambda images: (images / "a").rename(images / "c"), ValueError, "holds no images"),
    ],
)
def test_frames_that_are_missing(small_set, images, change, error, message):
    shown = read_shown(small_set[0], video="a")
    change(images)
    with pytest.raises(error, match=message):
        list(read_frames(shown, str(images)))


def test_frames_of_another_number_or_shape(small_set, images):
    from PIL import Image

    shown = read_shown(small_set[0], video="a")
    folder = images / "b"
    (folder / "00003.png").unlink()
    with pytest.raises(ValueError, match=r"b has 3 frames; the masks have 4"):
        list(read_frames(shown, str(folder)))
    for t in range(3, 6):
        Image.new("RGB", (60, 40)).save(folder / f"{t:05}.png")
    with pytest.raises(ValueError, match=r"b has more frames than the masks, which have 4"):
        list(read_frames(shown, str(folder)))
    for path in folder.iterdir():
        Image.new("RGB", (60, 60)).save(path)
    with pytest.raises(ValueError, match=r"frame 0 is 60x60; the masks are 60x40"):
        list(read_frames(shown, str(folder)))
