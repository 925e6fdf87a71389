"""Masks as PNG images: numbers of objects, DAVIS, MOTS."""

import numpy as np
import pytest
import truths
from truths import Truth, png, scenes, write_frames

from mdqe.annotations.problems import Problems
from mdqe.importing.formats import import_annotations, open_source


def write(folder, videos: list[Truth], **options) -> dict[str, list[str]]:
    """A folder of PNG images per video; returns the names of the frames to come."""
    files = {}
    for video in videos:
        (folder / video.name).mkdir(parents=True)
        for t in range(truths.FRAMES):
            (folder / video.name / f"{t:05}.png").write_bytes(png(video.numbers(t), **options))
        files[video.name] = [f"{video.name}/{t:05}.jpg" for t in range(truths.FRAMES)]
    return files


@pytest.mark.parametrize(("bits", "step"), [(8, 3), (16, 300)])
def test_numbers_of_objects(tmp_path, bits, step):
    videos = scenes(("b", "a10", "a9"), step=step)
    files = write(tmp_path / "masks", videos, bits=bits)
    for video in videos:
        write_frames(tmp_path / "JPEGImages" / video.name)
    document = import_annotations(tmp_path / "masks")
    truths.assert_equal(document, [videos[2], videos[1], videos[0]], files)
    assert document["categories"] == [{"id": 1, "name": "object"}]
    truths.assert_loads(document, tmp_path / "JPEGImages", tmp_path / "annotations.json")
    # The frames may be elsewhere, in images of any kind.
    for video in videos:
        write_frames(tmp_path / "png" / video.name, pattern="{:05}.png")
    other = import_annotations(tmp_path / "masks", images=tmp_path / "png")
    assert other["videos"][0]["file_names"][0] == "a9/00000.png"
    assert other["annotations"] == document["annotations"]


def test_one_video_in_one_folder(tmp_path):
    (video,) = scenes(("clip",))
    write(tmp_path, [video])
    names = write_frames(tmp_path / "frames")
    document = import_annotations(tmp_path / "clip", images=tmp_path / "frames")
    truths.assert_equal(document, [video], {"clip": names})


def test_numbers_that_are_no_objects(tmp_path):
    (video,) = scenes(("v",))
    void = Truth("v", np.concatenate([video.masks, np.zeros_like(video.masks[:1])]), ["object"] * 9, [*video.ids, 255])
    void.masks[-1, 1, :5, :5] = True
    void.masks[:-1, 1, :5, :5] = False
    clean = Truth("v", void.masks[:-1], ["object"] * len(video.ids), video.ids)
    void = void._replace(categories=["object"] * len(void.ids))
    files = write(tmp_path / "masks", [void])
    write_frames(tmp_path / "JPEGImages" / "v")
    notes = Problems()
    truths.assert_equal(import_annotations(tmp_path / "masks", notes=notes), [void], files)
    place = tmp_path / "masks" / "v" / "00001.png"
    assert notes.lines() == [f"frames with an object 255 and others; --ignore 255 leaves it out (1): {place}"]
    notes = Problems()
    from mdqe.importing.document import DocumentBuilder

    builder = DocumentBuilder(open_source(tmp_path / "masks", None, None, notes, ignore={255}), notes)
    assert list(builder.read()) == files["v"]
    truths.assert_equal(builder.document(), [clean], files)
    assert notes.lines() == [f"frames with ignored pixel values, left out (1): {place}"]


@pytest.mark.parametrize("level", ["480p", "."])
def test_davis(tmp_path, level):
    videos = scenes(("bear", "camel"))
    void = [one._replace(masks=one.masks.copy()) for one in videos]
    void[1].masks[:, 2, 10:14] = False
    files = {}
    for video in void:
        (tmp_path / "DAVIS" / "Annotations" / level / video.name).mkdir(parents=True)
        for t in range(truths.FRAMES):
            numbers = video.numbers(t)
            if video.name == "camel" and t == 2:
                numbers[10:14] = 255
            path = tmp_path / "DAVIS" / "Annotations" / level / video.name / f"{t:05}.png"
            path.write_bytes(png(numbers, palette=True))
        names = write_frames(tmp_path / "DAVIS" / "JPEGImages" / level / video.name, truths.FRAMES + 1)
        files[video.name] = [f"{level}/{video.name}/{name}".removeprefix("./") for name in names[:-1]]
    notes = Problems()
    document = import_annotations(tmp_path / "DAVIS", notes=notes)
    truths.assert_equal(document, void, files)
    assert [line.split(" (")[0] for line in notes.lines()] == [
        "images without annotations, left out", "frames with void pixels, left out",
    ]  # fmt: skip
    assert notes.lines()[0].endswith(f"bear/00004.jpg; {level}/camel/00004.jpg".replace("./", ""))
    truths.assert_loads(document, tmp_path / "DAVIS" / "JPEGImages", tmp_path / "annotations.json")
    for inner in (tmp_path / "DAVIS" / "Annotations", tmp_path / "DAVIS" / "Annotations" / level):
        assert import_annotations(inner, format="davis") == document


def test_davis_2016(tmp_path):
    """One object, white on black."""
    masks = scenes(("goat",))[0].masks[:1]
    folder = tmp_path / "Annotations" / "480p" / "goat"
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks[0]):
        (folder / f"{t:05}.png").write_bytes(png(255 * mask))
    names = write_frames(tmp_path / "JPEGImages" / "480p" / "goat")
    document = import_annotations(tmp_path)
    truths.assert_equal(document, [Truth("goat", masks, ["object"], [1])], {"goat": [f"480p/goat/{n}" for n in names]})


def test_several_resolutions(tmp_path):
    videos = scenes(("bear",))
    for level in ("480p", "Full-Resolution"):
        write(tmp_path / "Annotations" / level, videos)
        write_frames(tmp_path / "JPEGImages" / level / "bear")
    with pytest.raises(ValueError, match="Annotations has 480p, Full-Resolution: name one of these folders"):
        import_annotations(tmp_path)
    document = import_annotations(tmp_path / "Annotations" / "480p", format="davis")
    assert document["videos"][0]["file_names"][0] == "480p/bear/00000.jpg"


def test_mots_images(tmp_path):
    videos = [one._replace(categories=["car", "pedestrian"] * 9) for one in scenes(("0000", "0001"))]
    videos = [
        one._replace(
            categories=one.categories[: len(one.ids)],
            ids=[1000 * (1 if kind == "car" else 2) + i for i, kind in zip(one.ids, one.categories, strict=False)],
        )
        for one in videos
    ]
    files = {}
    for video in videos:
        video.masks[:, 3, :3] = False
        (tmp_path / "instances" / video.name).mkdir(parents=True)
        for t in range(truths.FRAMES):
            numbers = video.numbers(t)
            if t == 3:
                numbers[:3] = 10000
            (tmp_path / "instances" / video.name / f"{t:06}.png").write_bytes(png(numbers, bits=16))
        names = write_frames(tmp_path / "images" / video.name, pattern="{:06}.png")
        files[video.name] = [f"{video.name}/{name}" for name in names]
    with pytest.raises(ValueError, match="may be id-png or mots-png; --format names the right one"):
        import_annotations(tmp_path / "instances", images=tmp_path / "images")
    notes = Problems()
    document = import_annotations(tmp_path / "instances", format="mots-png", images=tmp_path / "images", notes=notes)
    truths.assert_equal(document, videos, files)
    assert document["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
    assert notes.lines()[0].startswith("regions to ignore, left out (2): ")
    truths.assert_loads(document, tmp_path / "images", tmp_path / "annotations.json")
    (tmp_path / "instances" / "0001" / "000001.png").write_bytes(png(np.full(truths.SIZE, 7001), bits=16))
    with pytest.raises(ValueError, match=r"0001/000001.png: value 7001: class is 7; expected 1 \(car\), 2 \(pedes"):
        import_annotations(tmp_path / "instances", format="mots-png", images=tmp_path / "images")


def colours(folder):
    from PIL import Image

    Image.new("RGB", truths.SIZE[::-1]).save(folder / "masks" / "v" / "00002.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "masks" / "v" / "00002.png").write_bytes(b"\x89PNG\r\n"), "v/00002.png cannot be read"),
        (colours, "v/00002.png has colours; expected one channel with object ids"),
        (
            lambda f: (f / "JPEGImages" / "v" / "00001.jpg").unlink(),
            "v/00001.png has no frame: there is no image 00001",
        ),
        (
            lambda f: (f / "masks" / "v" / "00002.png").write_bytes(png(np.ones((4, 5)))),
            r"v/00002.png is for frames of 5x4; its frame has another size: .*v/00002.jpg \(72x48, not 5x4\)",
        ),
        (
            lambda f: [one.write_bytes(png(np.ones((4, 5)))) for one in (f / "masks" / "v").iterdir()],
            r"v/00000.png is for frames of 5x4; its frame has another size: .*v/00000.jpg \(72x48, not 5x4\)",
        ),
        (
            lambda f: [one.write_bytes(png(np.zeros(truths.SIZE))) for one in (f / "masks" / "v").iterdir()],
            r"no object is left in 1 videos; videos without an object, kept \(1\): v",
        ),
        (
            lambda f: (f / "JPEGImages" / "v" / "00001.png").write_bytes(png(np.ones(truths.SIZE))),
            "JPEGImages/v has 00001.jpg and 00001.png; expected one image for each name; --images names a folder of",
        ),
        (
            lambda f: (f / "JPEGImages").rename(f / "x"),
            "no such folder: .*JPEGImages, for the frames; --images names it",
        ),
        (
            lambda f: (f / "JPEGImages" / "v").rename(f / "JPEGImages" / "w"),
            "no such folder: .*JPEGImages/v, for the frames of v; --images names the folder of all",
        ),
    ],
)
def test_bad_input(tmp_path, change, message):
    write(tmp_path / "masks", scenes(("v",)))
    write_frames(tmp_path / "JPEGImages" / "v")
    change(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        import_annotations(tmp_path / "masks", format="id-png")
    assert "\n" not in str(caught.value)
