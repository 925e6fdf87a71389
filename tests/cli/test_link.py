"""`mdqe link`: from the detections of single frames in every form to identities, an overlay and a page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdqe import VideoInstances
from mdqe.cli.link import folder_name
from mdqe.data.synthetic import CATEGORIES, draw_video
from mdqe.results import rle

SIZE, FRAMES = (48, 64), 6


@pytest.fixture(scope="module")
def drawing():
    return draw_video(4, 1, frames=FRAMES, size=SIZE)


@pytest.fixture
def frames(tmp_path, drawing):
    """The frames of the drawing."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for t, frame in enumerate(drawing.frames):
        Image.fromarray(frame).save(folder / f"{t:04d}.png")
    return folder


def detections(drawing):
    """Each frame's labels and run lengths, in an order that alternates."""
    for t in range(FRAMES):
        order = [i for i in range(len(drawing.masks)) if drawing.masks[i, t].any()][:: 1 - 2 * (t % 2)]
        counts = rle.encode(drawing.masks[order, t])
        yield [(int(drawing.labels[i]), rle.to_coco(one, SIZE)) for i, one in zip(order, counts, strict=True)]


def write_coco(folder, drawing):
    images = [{"id": t, "file_name": f"{t:04d}.png", "height": 48, "width": 64} for t in range(FRAMES)]
    found = [(t, *one) for t, frame in enumerate(detections(drawing)) for one in frame]
    annotations = [
        {"id": i + 1, "image_id": t, "category_id": label + 1, "segmentation": mask, "score": 0.8, "iscrowd": 0}
        for i, (t, label, mask) in enumerate(found)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(document))
    return folder / "coco.json"


def write_detectron2(folder, drawing, name=int):
    found = [(t, *one) for t, frame in enumerate(detections(drawing)) for one in frame]
    results = [
        {"image_id": name(t), "category_id": label, "bbox": [0, 0, 1, 1], "score": 0.8, "segmentation": mask}
        for t, label, mask in found
    ]
    (folder / "coco_instances_results.json").write_text(json.dumps(results))
    return folder / "coco_instances_results.json"


def write_png(folder, drawing):
    (folder / "masks").mkdir()
    for t in range(FRAMES):
        numbers = np.zeros(SIZE, np.uint8)
        for i, mask in enumerate(drawing.masks[:: 1 - 2 * (t % 2), t]):
            numbers[mask] = 10 + i
        Image.fromarray(numbers).save(folder / "masks" / f"{t:04d}.png")
    return folder / "masks"


def assert_linked(path, drawing):
    result = VideoInstances.load(path / "instances.json")
    seen = drawing.masks.any(axis=(1, 2, 3))
    assert len(result) == seen.sum()
    masks = {one.tobytes() for one in result.masks}
    assert masks == {one.tobytes() for one in drawing.masks[seen]}  # each object in all frames
    return result


@pytest.mark.parametrize("form", ["coco", "detectron2", "names", "png"])
def test_every_format_is_linked(run, tmp_path, drawing, frames, form):
    write = {"coco": write_coco, "detectron2": write_detectron2, "png": write_png}
    write["names"] = lambda folder, drawing: write_detectron2(folder, drawing, "{:04d}".format)
    source = write[form](tmp_path, drawing)
    status, out, err = run("link", source, "--images", frames, "-o", tmp_path / "out", "--score-threshold", "0.5")
    assert status == 0, err
    folder = tmp_path / "out" / source.stem
    assert out == f"{folder}\n" and f"instances in {FRAMES} frames" in err
    result = assert_linked(folder, drawing)
    if form == "coco":
        assert sorted(map(result.category, range(len(result)))) == sorted(CATEGORIES[i] for i in drawing.labels)
    page = (folder / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == FRAMES
    assert (folder / "overlay.mp4").stat().st_size > 0 and (folder / "sheet.png").is_file()


def polygon(*corners):
    return {"x": [float(x) for x, _ in corners], "y": [float(y) for _, y in corners]}


def test_lists_of_ultralytics_and_shapes_of_labelme(run, tmp_path, frames):
    """A square that moves, as polygons."""
    lists = []
    for t in range(FRAMES):
        corners = [(5 + 4 * t, 10), (20 + 4 * t, 10), (20 + 4 * t, 30), (5 + 4 * t, 30)]
        box = {"x1": 5.0, "y1": 10.0, "x2": 20.0, "y2": 30.0}
        lists.append([{"name": "cat", "class": 15, "confidence": 0.9, "box": box, "segments": polygon(*corners)}])
        shape = {"label": "cat", "points": corners, "group_id": None, "shape_type": "polygon"}
        head = {"imagePath": f"{t:04d}.png", "imageHeight": 48, "imageWidth": 64}
        (frames / f"{t:04d}.json").write_text(json.dumps(head | {"shapes": [shape]}))
    lists[2] += [lists[2][0] | {"segments": polygon(*corners)} for corners in ([], [(50, 10), (51, 10)])]  # tiny masks
    (tmp_path / "yolo.json").write_text(json.dumps(lists))
    for source, name in ((tmp_path / "yolo.json", "yolo"), (frames, "frames")):
        status, _, err = run("link", source, "--images", frames, "-o", tmp_path / "out", "--no-video")
        assert status == 0, err
        left_out = "polygon has fewer than three corners, left out (2): frame 2, detection 1; frame"
        assert (left_out in err) == (name == "yolo")
        result = VideoInstances.load(tmp_path / "out" / name / "instances.json")
        assert len(result) == 1 and result.category(0) == "cat" and result.present.all()
        assert not (tmp_path / "out" / name / "overlay.mp4").exists()
    status, _, err = run("link", tmp_path / "yolo.json", "-o", tmp_path / "out")
    assert status == 2 and "name the folder of the frames with --images" in err


def test_missing_frames_are_reported_before_the_linking(run, tmp_path, drawing):
    source = write_coco(tmp_path, drawing)
    status, out, err = run("link", source, "--frames", tmp_path / "typo.mp4", "-o", tmp_path / "out")
    assert (status, out) == (2, "") and not (tmp_path / "out").exists()
    assert err == f"mdqe link: error: no such file: {tmp_path / 'typo.mp4'}\n"


def test_without_frames_there_are_identities_and_a_page(run, tmp_path, drawing):
    source = write_detectron2(tmp_path, drawing)
    status, _, err = run("link", source, "-o", tmp_path / "out")
    assert status == 0 and "no overlay: name the frames with --frames" in err
    assert_linked(tmp_path / "out" / source.stem, drawing)
    assert (tmp_path / "out" / source.stem / "page.html").stat().st_size > 1000


@pytest.mark.parametrize("form", ["davis", "mots", "mots-png", "cvat"])
def test_given_identities_are_not_used(run, tmp_path, drawing, frames, form):
    """Results of the linker, written in a format with identities, are linked as the detections were."""
    source = write_coco(tmp_path, drawing)
    document = json.loads(source.read_text())
    names = ("car", "pedestrian") if form.startswith("mots") else CATEGORIES
    categories = [{"id": i + 1, "name": names[i % len(names)]} for i in range(len(CATEGORIES))]
    source.write_text(json.dumps(document | {"categories": categories}))
    status, _, err = run("link", source, "--images", frames, "-o", tmp_path / "out", "--no-video")
    assert status == 0, err
    written = tmp_path / "written"
    status, _, err = run("write", tmp_path / "out" / "coco" / "instances.json", "-o", written, "--format", form)
    assert status == 0, err
    folder = tmp_path / "JPEGImages" / "coco"
    folder.mkdir(parents=True)
    for t, path in enumerate(sorted(frames.iterdir())):
        path.rename(folder / f"{t:05d}.png")
    options = ["--format", form] if form == "mots-png" else []  # or the images may be id-png
    status, _, err = run("link", written, "--images", folder.parent, "-o", tmp_path / "again", "--no-video", *options)
    assert status == 0, err
    assert f"objects with identities in the form {form}, which are linked anew (1): {written}" in err
    folders = tmp_path / "again" / "coco", tmp_path / "out" / "coco"
    result, before = (VideoInstances.load(one / "instances.json") for one in folders)
    assert (len(result), result.num_frames, result.size) == (len(before), FRAMES, SIZE)
    if form != "cvat":  # has polygons
        assert {one.tobytes() for one in result.masks} == {one.tobytes() for one in before.masks}


@pytest.mark.parametrize("kept", [FRAMES - 2, FRAMES - 1])
def test_other_numbers_of_frames_are_warned_about(run, tmp_path, drawing, frames, kept):
    """The page has no pictures if there are too few. Names do not tell which frames have no detections."""
    lists = json.loads(write_detectron2(tmp_path, drawing, "frame {}".format).read_text())
    (tmp_path / "few.json").write_text(json.dumps([one for one in lists if one["image_id"] != f"frame {FRAMES - 1}"]))
    for path in sorted(frames.iterdir())[kept:]:
        path.unlink() if kept < FRAMES - 1 else None
    status, _, err = run("link", tmp_path / "few.json", "--frames", frames, "-o", tmp_path / "out", "--no-video")
    page = (tmp_path / "out" / "few" / "page.html").read_text()
    number, end, pictures = (kept, "the page has no pictures", 0) if kept < FRAMES - 1 else (FRAMES, "the first are", 5)
    assert status == 0
    assert f"warning: few: folder {frames} has {number} frames, and the input has {FRAMES - 1}; {end}" in err
    assert page.count("data:image/jpeg;base64,") == pictures


def test_frames_of_another_size_are_named(run, tmp_path, drawing, frames):
    """Also an empty frame has a size."""
    source = write_coco(tmp_path, drawing)
    document = json.loads(source.read_text())
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] > 0]
    document["images"][0] |= {"height": 32, "width": 64}
    source.write_text(json.dumps(document))
    Image.new("RGB", (64, 32)).save(frames / "0000.png")
    status, _, err = run("link", source, "--images", frames, "-o", tmp_path / "out")
    assert status == 2
    assert f"{source}: frame 0001.png is 64x48; expected 64x32, the size of frame 0000.png" in err
    lists = json.loads(write_detectron2(tmp_path, drawing).read_text())
    lists[-1]["segmentation"] = rle.to_coco(rle.encode(np.ones((1, 64, 48), bool))[0], (64, 48))
    (tmp_path / "other.json").write_text(json.dumps(lists))
    status, _, err = run("link", tmp_path / "other.json", "-o", tmp_path / "out")
    message = f'"segmentation" is of 48x64 in frame {FRAMES - 1}; expected 64x48, as in result 0 (frame 0)'
    assert status == 2 and f"result {len(lists) - 1}" in err and message in err, err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "without results"),
        ('[{"image_id": 1}]', 'no "segmentation"'),
        ('[{"image_id": null}]', '"image_id" is None; expected a number or a name'),
        ('[{"image_id": 1, "category_id": 1, "score": 2, "segmentation": {"size": [2, 2], "counts": [4]}}]', "0 to 1"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": {"size": [9, 9], "counts": [4]}}]', "invalid: counts"),
        ('[{"image_id": 0}, {"image_id": 1000000000000}]', 'no "segmentation"'),
        ("{}", 'no "categories"'),
    ],
)
def test_bad_files(run, tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    status, out, err = run("link", tmp_path / "results.json", "-o", tmp_path / "out")
    assert (status, out) == (2, "") and message in err and err.count("\n") <= 2


@pytest.mark.parametrize("arguments", [("",), ("masks", "--images", ""), ("masks", "--images", ".", "--frames", "")])
def test_empty_names_are_not_the_current_folder(run, tmp_path, drawing, frames, monkeypatch, arguments):
    write_png(frames, drawing)
    monkeypatch.chdir(frames)
    status, _, err = run("link", *arguments, "-o", tmp_path / "out")
    assert status == 2 and ("'' is not a path" in err or "video is '', expected" in err), err


def test_frames_without_detections_have_a_result_without_instances(run, tmp_path, drawing, frames):
    source = write_coco(tmp_path, drawing)
    document = json.loads(source.read_text())
    crowds = [one | {"iscrowd": 1} for one in document["annotations"]]
    source.write_text(json.dumps(document | {"annotations": crowds}))
    status, _, err = run("link", source, "--images", frames, "-o", tmp_path / "out")
    assert status == 0, err
    result = VideoInstances.load(tmp_path / "out" / "coco" / "instances.json")
    assert (len(result), result.num_frames, result.size) == (0, FRAMES, SIZE)


def test_videos_have_folders_of_their_own_inside_the_output(run, tmp_path, drawing, frames):
    source = write_coco(tmp_path, drawing)
    document = json.loads(source.read_text())
    for names, message in ((("a/b", "a_b"), "several videos whose results would be in"), (("..", "x"), "")):
        images = [one | {"video_id": one["id"] % 2 + 1} for one in document["images"]]
        videos = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        source.write_text(json.dumps(document | {"images": images, "videos": videos}))
        status, _, err = run("link", source, "--images", frames, "-o", tmp_path / "out" / "in")
        assert status == (2 if message else 0) and message in err, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in"]
    assert sorted(path.name for path in (tmp_path / "out" / "in").iterdir()) == ["coco", "x"]


@pytest.mark.parametrize(
    ("source", "name"), [(".", "inner"), ("..", "street"), ("../", "street"), ("x/..", "inner"), ("/", "video")]
)
def test_every_source_names_a_folder_inside_the_output(tmp_path, monkeypatch, source, name):
    """A detector's video has the name of the source, which is empty for "."."""
    (tmp_path / "street" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "street" / "inner")
    assert folder_name(Path(source).stem, Path(source)) == name


@pytest.mark.parametrize(("size", "fits"), [((32, 40), False), ((96, 128), False), ((49, 65), True)])
def test_the_overlay_needs_frames_of_the_size_of_the_masks(run, tmp_path, drawing, size, fits):
    """Masks would be in wrong places otherwise. Padding to even edges is cut off."""
    source, folder = write_detectron2(tmp_path, drawing), tmp_path / "others"
    folder.mkdir()
    for t in range(FRAMES):
        Image.new("RGB", size[::-1]).save(folder / f"{t:04d}.png")
    status, _, err = run("link", source, "--frames", folder, "-o", tmp_path / "out")
    message = f"folder {folder}: frame 0 is {size[1]}x{size[0]}, expected 64x48, the size of the masks"
    assert status == (0 if fits else 2) and (message in err) != fits, err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_detector_on_a_device_that_is_not_there(run, tmp_path, frames):
    name = "torchvision:maskrcnn_resnet50_fpn_v2"
    status, _, err = run("link", frames, "--detector", name, "--device", "cuda", "-o", tmp_path / "out")
    assert status == 2 and "finds no CUDA device" in err and err.count("\n") == 1


def test_a_detector_needs_no_format_and_no_images(run, tmp_path, frames):
    name = "torchvision:maskrcnn_resnet50_fpn_v2"
    for option, value in (("--format", "coco"), ("--images", frames)):
        status, _, err = run("link", frames, "--detector", name, option, value, "-o", tmp_path / "out")
        assert status == 2 and "--format and --images are for files of detections" in err


def test_unknown_detectors_and_missing_weights(run, tmp_path, frames, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("torchvision:resnet50", "yolo"):
        status, _, err = run("link", frames, "--detector", name, "-o", tmp_path / "out")
        assert status == 2 and f"the detector {name!r} is unknown, expected torchvision:maskrcnn" in err
    status, _, err = run("link", frames, "--detector", "torchvision:maskrcnn_resnet50_fpn_v2", "-o", tmp_path / "out")
    assert status == 2 and "are not there: " in err and str(tmp_path) in err and err.count("\n") == 1


@pytest.mark.parametrize("first", [0, 1])
def test_frames_of_a_video_without_detections_at_both_ends(run, tmp_path, drawing, frames, first):
    """Result files have only frames with detections; the video has the number of all."""
    path = write_detectron2(tmp_path, drawing, lambda t: t + first)
    results = json.loads(path.read_text())
    empty = {first + t for t in (0, FRAMES - 1) if first + t}  # image_id 0 tells that frames are counted from 0
    path.write_text(json.dumps([one for one in results if one["image_id"] not in empty]))
    status, _, err = run("link", path, "--frames", frames, "-o", tmp_path / "out")
    assert status == 0 and "the input has" not in err, err
    assert ("taken as frames counted from 1" in err) == (first == 1)
    found = VideoInstances.load(tmp_path / "out" / path.stem / "instances.json")
    seen = np.array([[one is not None for one in track] for track in found.rles]).any(0)
    assert len(seen) == FRAMES and not seen[-1] and seen[0] == (first == 0) and seen[1 - first : -1].any()


def test_numbers_from_1_of_images_from_0_are_noted(run, tmp_path, drawing, frames):
    path = write_detectron2(tmp_path, drawing)
    path.write_text(json.dumps([one for one in json.loads(path.read_text()) if one["image_id"]]))
    status, _, err = run("link", path, "--images", frames, "-o", tmp_path / "out")
    assert status == 0 and "without image_id 0, taken as the numbers in the names of images (1): 1 is 0001.png" in err


def test_an_image_without_a_png_is_a_frame_without_detections(run, tmp_path, drawing, frames):
    masks = write_png(tmp_path, drawing)
    (masks / "0001.png").unlink()
    status, _, err = run("link", masks, "--images", frames, "-o", tmp_path / "out")
    assert status == 0 and "images without a file, taken as frames without detections (1): 0001.png" in err, err
    (result,) = (tmp_path / "out").rglob("instances.json")
    found = VideoInstances.load(result)
    seen = np.array([[one is not None for one in track] for track in found.rles]).any(0)
    assert len(seen) == FRAMES and not seen[1] and seen[2]


def test_lists_with_a_byte_order_mark_or_blanks_and_strings_of_lists(run, tmp_path, drawing, frames):
    path = write_detectron2(tmp_path, drawing)
    text = path.read_text()
    for before in ("\ufeff", " " * 5000):
        path.write_text(before + text, encoding="utf-8")
        assert run("link", path, "--frames", frames, "-o", tmp_path / "out")[0] == 0
    square = {"x": [4, 20, 20, 4], "y": [4, 4, 20, 20]}
    lists = [[{"name": "cat", "confidence": 0.9, "segments": square}] for _ in range(FRAMES)]
    path.write_text(json.dumps([json.dumps(one) for one in lists]))
    status, _, err = run("link", path, "--images", frames, "-o", tmp_path / "out")
    assert status == 0, err
    path.write_text(json.dumps(["[" for _ in lists]))
    status, _, err = run("link", path, "--images", frames, "-o", tmp_path / "out")
    assert status == 2 and "frame 0 is a string that is not JSON" in err
    lists[0][0]["segments"] = {axis: [value / 64 for value in values] for axis, values in square.items()}
    path.write_text(json.dumps(lists))
    status, _, err = run("link", path, "--images", frames, "-o", tmp_path / "out")
    assert status == 2 and "between 0 and 1; expected pixels" in err


def test_crowds_are_left_out_with_a_note(run, tmp_path, drawing, frames):
    path = write_coco(frames, drawing)
    document = json.loads(path.read_text())
    document["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(document))
    status, _, err = run("link", path, "--images", frames, "-o", tmp_path / "out")
    assert status == 0 and "frames with crowds, which are left out (1): 0000.png" in err, err
