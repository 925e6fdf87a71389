"""ONNX programs equal the model for sizes and lengths that were not traced, and segment a video without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model

from mdqe import MDQE, VideoInstances
from mdqe.cli import main
from mdqe.data.synthetic import draw_video
from mdqe.export import export_model
from mdqe.export.programs import ClipDecoder, FrameEncoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLERANCE = 1e-4  # relative, Euclidean: float32 sums in another order
SHAPES = ((3, 80, 136), (1, 70, 200), (2, 128, 96), (5, 97, 131))  # frames, height, width; the first was traced
WITHOUT_TORCH = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as for a script
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as leaving:
    assert not leaving.code, leaving.code
assert "onnxruntime" in sys.modules and "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def small() -> MDQE:
    return small_model(decoder_layers=1, clip_length=2, test_clip_length=3).float()


@pytest.fixture(scope="module")
def small_folder(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "small"
    errors = export_model(small, folder, source="a test")
    assert set(errors) == {"values", "content", "coords", "mask_features", "association", "class_scores",
                           "mask_coefficients", "embeddings", "boxes"}  # fmt: skip
    assert max(errors.values()) < TOLERANCE
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    """The bundled model, exported by the command."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    assert main(["export", "--model", "mdqe:tiny", "--format", "onnx", "-o", str(folder)]) == 0
    return folder


def session(path: Path) -> "onnxruntime.InferenceSession":
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def outputs(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    running = session(path)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, inputs), strict=True))


def assert_equal(got: dict[str, np.ndarray], want: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(want)
    for name, x in want.items():
        error = float((torch.from_numpy(got[name]) - x).norm() / x.norm())
        assert got[name].shape == tuple(x.shape), name
        assert error < TOLERANCE, (name, error)


@torch.no_grad()
def assert_programs_equal(model: MDQE, folder: Path, shapes: tuple) -> None:
    for length, height, width in shapes:
        frames = torch.randint(0, 256, (length, 3, height, width), dtype=torch.uint8)
        encoding = FrameEncoder(model)(frames)
        encoded = outputs(folder / "encoder.onnx", {"frames": frames.numpy()})
        assert_equal(encoded, encoding)
        assert_equal(outputs(folder / "decoder.onnx", encoded), ClipDecoder(model)(**encoding))


def test_programs_equal_the_model(small, small_folder):
    assert_programs_equal(small, small_folder, SHAPES)


def test_programs_of_the_bundled_model(tiny_folder):
    assert_programs_equal(MDQE.from_pretrained("mdqe:tiny"), tiny_folder, SHAPES[1:3])


def test_only_standard_operators(small_folder):
    for part in ("encoder", "decoder"):
        model = onnx.load(small_folder / f"{part}.onnx")
        onnx.checker.check_model(model)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        assert {node.domain for node in model.graph.node} == {""}
        assert "GridSample" in {node.op_type for node in model.graph.node}


def test_the_description_matches_the_programs(small, small_folder):
    described = json.loads((small_folder / "model.json").read_text())
    assert described["config"] == small.config.to_dict()
    assert (described["format"], described["opset"], described["source"]) == ("onnx", 20, "a test")
    assert described["category_ids"] == [1, 2, 3]
    types = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    for part in ("encoder", "decoder"):
        running = session(small_folder / described[part]["file"])
        for side, ports in (("inputs", running.get_inputs()), ("outputs", running.get_outputs())):
            assert [x["name"] for x in described[part][side]] == [port.name for port in ports]
            assert [x["type"] for x in described[part][side]] == [types[port.type] for port in ports]
            for x, port in zip(described[part][side], ports, strict=True):
                fixed = [size if isinstance(size, int) else None for size in port.shape]
                assert [size if isinstance(size, int) else None for size in x["shape"]] == fixed
    assert described["encoder"]["inputs"][0]["shape"] == ["frames", 3, "height", "width"]


def run_example(folder: Path, video: Path, output: Path, threshold: float) -> VideoInstances:
    command = [sys.executable, "-c", WITHOUT_TORCH, EXAMPLES / "onnx_video.py", folder, video, "-o", output]
    done = subprocess.run(
        [str(part) for part in (*command, "--score-threshold", threshold, "--threads", 1)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return VideoInstances.load(output)


def assert_same_tracks(got: VideoInstances, want: VideoInstances) -> None:
    assert len(want) > 0
    np.testing.assert_array_equal(got.track_ids, want.track_ids)
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-3)
    assert got.categories == want.categories and got.category_ids == want.category_ids
    assert got.masks.shape == want.masks.shape
    assert (got.masks & want.masks).sum() / (got.masks | want.masks).sum() > 0.999


def test_a_video_without_torch(tiny_folder, tmp_path):
    """A video file that is resized has the windows, tracks and scores of `MDQE.segment`."""
    pytest.importorskip("av")
    from mdqe.video.write import VideoWriter

    video = tmp_path / "clip.mp4"
    with VideoWriter(video, 10) as writer:
        for image in draw_video(3, frames=15, size=(150, 200)).frames:
            writer.write(image)
    got = run_example(tiny_folder, video, tmp_path / "result.json", 0.1)
    want = MDQE.from_pretrained("mdqe:tiny", relink=False).segment(video, score_threshold=0.1)
    assert_same_tracks(got, want)
    assert got.fps == want.fps


def test_a_folder_of_images_without_torch(small, small_folder, tmp_path):
    """Clips longer than in training, noisy tracks, more than one window, and a shorter last clip."""
    image = pytest.importorskip("PIL.Image")
    frames = moving_squares(8, size=(96, 128))
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(frames):
        image.fromarray(frame.numpy()).save(tmp_path / "frames" / f"{i}.png")
    got = run_example(small_folder, tmp_path / "frames", tmp_path / "result.json", 0.02)
    assert_same_tracks(got, small.segment(frames, score_threshold=0.02))


@pytest.mark.slow
def test_reference_video(shared, tmp_path):
    """ResNet-50 with the weights and frames of the reference data, in the published sizes."""
    sys.path.append(str(Path(__file__).parents[1] / "parity"))
    import golden

    model = golden.model("r50_ovis").float()
    errors = export_model(model, tmp_path)
    assert max(errors.values()) < TOLERANCE
    frames = golden.full("r50_ovis", shared)["frames"].permute(0, 3, 1, 2)
    with torch.no_grad():
        encoding = FrameEncoder(model)(frames[:4])
        assert_equal(outputs(tmp_path / "encoder.onnx", {"frames": frames[:4].numpy()}), encoding)
        inputs = {name: x.numpy() for name, x in encoding.items()}
        assert_equal(outputs(tmp_path / "decoder.onnx", inputs), ClipDecoder(model)(**encoding))
