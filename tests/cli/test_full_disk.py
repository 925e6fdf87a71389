"""A full disk ends every command that writes in one line that names the file, and keeps what was complete.

Two kinds of full disk: files that cannot grow (RLIMIT_FSIZE, "File too large"), which every user can set, and a small
file system ("No space left on device"), which only root can mount. Each command is repeated with more and more room
until it succeeds, so that every file that it writes is the one that fails.
"""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from official_layout import layout
from PIL import Image
from test_train import CONFIG

from mdqe import VideoInstances
from mdqe.data.synthetic_files import write_set
from mdqe.training.run_state import load_state

resource = pytest.importorskip("resource")
PAGE = 4096
DATA = Path(__file__).parents[1] / "evaluation" / "data"
RESULTS, ANNOTATIONS = DATA / "vis_small_results.json", DATA / "vis_small_annotations.json"
CPU = ("--device", "cpu")
Room = Callable[[Path, int], Iterator[None]]


@contextmanager
def small_files(folder: Path, room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes. Python ignores the signal that comes with the error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(room, PAGE), limits[1]))  # pytest's own files need a page
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """The file system of the folder has `room` bytes left."""
    filler = folder.parent / "filler"
    status = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(PAGE, status.f_bavail * status.f_frsize - room))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(params=["small files", pytest.param("small disk", marks=pytest.mark.slow)])
def disk(request, tmp_path) -> tuple[Path, Room, int]:
    """The folder to write to, a context that limits its room, and the number of the error."""
    if request.param == "small files":
        yield tmp_path, small_files, errno.EFBIG
        return
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(mounted)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root mounts a small file system")
    try:
        (mounted / "out").mkdir()
        yield mounted / "out", small_disk, errno.ENOSPC
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)  # libav keeps a file open whose writing failed


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fill(run, disk) -> Callable[..., list[dict[str, bytes]]]:
    """fill(command, …, before=…, keep=…) -> the files that each failure left, and at last those of the success.

    `before(folder)` prepares the folder for each attempt. The command has the folder's path where it has OUT.
    """
    home, limited, number = disk

    def call(
        *command: object, before: Callable[[Path], None] = Path.mkdir, first: int = 0, factor: int = 2
    ) -> list[dict[str, bytes]]:
        left, room = [], first
        while True:
            out = home / "run"
            before(out)
            arguments = [str(one).replace("OUT", str(out)) for one in command]
            with limited(home, room):
                status, _, stderr = run(*arguments)
            left.append(files(out) if out.exists() else {})
            shutil.rmtree(out, ignore_errors=True)
            if status == 0:
                assert len(left) > 1, "the room was never too small"
                return left
            lines = stderr.splitlines()
            assert status in (1, 2) and "Traceback" not in stderr and "Exception" not in stderr, (room, stderr)
            assert lines[-1].startswith(f"mdqe {command[0]}: error: ") and os.strerror(number) in lines[-1], stderr
            assert str(out) in lines[-1], lines[-1]  # the file, by its path
            assert sum("error" in line for line in lines) == 1, stderr
            room = max(factor * room, PAGE)

    return call


def write_old(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_text("old")

    return prepare


def partial_files(left: dict[str, bytes]) -> list[str]:
    return [name for name in left if ".partial" in name]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A set of two videos, whose annotations are larger than a page."""
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    list(write_set(folder, videos=2, frames=4, size=(96, 128)))
    return folder


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """Object numbers as PNG images with many runs."""
    folder = tmp_path_factory.mktemp("masks")
    random = np.random.default_rng(0)
    for home in ("JPEGImages", "masks"):
        (folder / home / "v").mkdir(parents=True)
        for t in range(3):
            Image.fromarray(random.integers(0, 2, (96, 128), dtype=np.uint8)).save(folder / home / "v" / f"{t}.png")
    return folder / "masks"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("split", ANNOTATIONS, "-o", "OUT", "--share", "0.3"), "dev.json"),
        (("submit", RESULTS, "--data", ANNOTATIONS, "-o", "OUT/s.zip"), "s.zip"),
        (("evaluate", RESULTS, "--data", ANNOTATIONS, "-o", "OUT"), "precision_recall.csv"),
    ],
)
def test_documents(fill, command, name):
    """An old file is complete until the new one is."""
    *failed, complete = fill(*command, before=write_old(name))
    assert complete[name] != b"old"
    for left in failed:
        assert left[name] in (b"old", complete[name]) and not partial_files(left)
        assert all(content == complete[other] for other, content in left.items() if other != name)


def test_import(fill, masks):
    *failed, complete = fill("import", masks, "-o", "OUT/a.json", before=write_old("a.json"))
    assert all(left == {"a.json": b"old"} for left in failed)
    assert json.loads(complete["a.json"])["videos"]


@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_write(fill, tmp_path, format):
    """Shapes of LabelMe appear for a whole video or not at all."""
    masks = np.random.default_rng(0).random((2, 3, 160, 200)) < 0.5
    for name in ("a", "b"):
        (tmp_path / "results" / name).mkdir(parents=True)
        VideoInstances.from_masks([0.5, 0.6], [0, 0], [1, 2], masks).save(
            tmp_path / "results" / name / "instances.json"
        )
    output, before = ("OUT/a.json", write_old("a.json")) if format == "coco" else ("OUT", lambda folder: None)
    *failed, complete = fill("write", tmp_path / "results", "-o", output, "--format", format, before=before)
    if format == "coco":
        assert all(left == {"a.json": b"old"} for left in failed)
    else:
        first = {name: content for name, content in complete.items() if name.startswith("a/")}
        assert len(complete) == 6 and len(first) == 3 and all(left in ({}, first) for left in failed)


def test_view(fill, shapes):
    command = ("view", shapes / "annotations.json", "--frames", shapes / "JPEGImages", "--video", 1, "-o", "OUT/v.html")
    *failed, complete = fill(*command, before=write_old("v.html"))
    assert all(left == {"v.html": b"old"} for left in failed) and b"</html>" in complete["v.html"]


@pytest.mark.parametrize("images", [("--images", "png"), ("--mp4",)])
def test_make_data(fill, images):
    options = ("--videos", 2, "--frames", 3, "--size", "96x64", *images)
    *failed, complete = fill("make-data", "-o", "OUT", *options, before=lambda folder: None)
    assert all(left == {} for left in failed) and "annotations.json" in complete


def test_segment(fill, tiny_model, make_clip):
    clip = make_clip(frames=9)
    options = ("-o", "OUT", "--model", tiny_model, "--score-threshold", 0, *CPU)
    *failed, complete = fill("segment", clip, *options)
    assert {"clip/instances.json", "clip/overlay.mp4"} <= complete.keys()
    for left in failed:
        assert not partial_files(left)
        assert all(content == complete[name] for name, content in left.items() if name == "clip/instances.json")


def test_segment_keeps_what_was_complete(fill, tiny_model, make_clip):
    """The results of an earlier run stay if the new ones cannot be written."""
    old = VideoInstances.from_masks([0.5], [0], [1], np.ones((1, 2, 4, 4), bool))

    def before(folder: Path) -> None:
        (folder / "clip").mkdir(parents=True)
        old.save(folder / "clip" / "instances.json")
        kept.append((folder / "clip" / "instances.json").read_bytes())

    kept: list[bytes] = []
    options = ("-o", "OUT", "--model", tiny_model, "--score-threshold", 0, "--no-video", *CPU)
    *failed, complete = fill("segment", make_clip(frames=9), *options, before=before)
    assert failed[0]["clip/instances.json"] == kept[0] != complete["clip/instances.json"]
    assert all(left["clip/instances.json"] in (kept[0], complete["clip/instances.json"]) for left in failed)


@pytest.mark.slow
def test_demo(fill, tiny_model):
    *failed, _ = fill("demo", "-o", "OUT", "--model", tiny_model, *CPU)
    assert not any(map(partial_files, failed))


def test_evaluate_a_model(fill, tiny_model, shapes, tmp_path):
    """Complete results of videos stay, and the next run uses them."""
    data = tmp_path / "set"
    shutil.copytree(shapes, data)
    document = json.loads((data / "annotations.json").read_text())
    for category, name in zip(document["categories"], ("cat", "dog", *"abcd"), strict=True):
        category["name"] = name
    (data / "annotations.json").write_text(json.dumps(document))
    *failed, complete = fill("evaluate", "--model", tiny_model, "--data", data, "-o", "OUT", *CPU)
    assert {"results.json", "numbers.json", "report.html"} <= complete.keys()
    for left in failed:
        assert not partial_files(left)
        assert all(content == complete[name] for name, content in left.items() if name.startswith("videos/"))


@pytest.mark.slow
def test_train(fill, tmp_path):
    """The last checkpoint is complete, and the run continues."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = ("--config", tmp_path / "config.json", "--data", "synthetic:easy", "--size", "96x64", "--batch", 1, *CPU)
    command = ("train", "-o", "OUT", "--steps", 2, "--save-every", 1, "--log-every", 1, *options)
    *failed, complete = fill(*command, before=lambda folder: None)
    assert {"checkpoint.pt", "metrics.csv", "model.safetensors", "run.json"} <= complete.keys()
    saved = 0
    for left in failed:
        assert not partial_files(left)
        if "checkpoint.pt" in left:
            (tmp_path / "checkpoint.pt").write_bytes(left["checkpoint.pt"])
            assert load_state(tmp_path / "checkpoint.pt")["step"] in (1, 2)
            saved += 1
    assert saved or len(failed) > 1


@pytest.mark.slow
def test_export(fill, tiny_model):
    *failed, complete = fill(
        "export", "--format", "torch", "--model", tiny_model, "-o", "OUT", first=4 * 2**20, factor=32
    )
    assert "model.json" in complete
    assert all("model.json" not in left and not partial_files(left) for left in failed)


@pytest.mark.slow
def test_convert(run, disk, tmp_path):
    """The whole model is larger than the file system: both attempts fail, in the weights and in an empty room."""
    home, limited, number = disk
    state = {name: torch.zeros(1).expand(shape) for name, shape in layout("resnet50", 256, 25, 4).items()}
    torch.save({"model": state}, tmp_path / "official.pth")
    for room in (0, 2**20):
        with limited(home, room):
            status, out, err = run("convert", tmp_path / "official.pth", "-o", home / "model")
        assert (status, out) == (2, "") and "Traceback" not in err
        weights = home / "model" / "model.safetensors"
        assert err.splitlines()[-1] == f"mdqe convert: error: {weights}: {os.strerror(number)}"
        assert files(home / "model") == {}
