"""Segment a video with ONNX Runtime, without PyTorch.

    mdqe export --model mdqe:tiny --format onnx -o exported
    python examples/onnx_video.py exported street.mp4 -o street.json

It needs numpy, scipy, onnxruntime, and from mdqe only what reads videos and keeps results: modules that load no
PyTorch (`pip install --no-deps mdqe`). PyAV reads videos, Pillow images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy_tracker import Array, NumpyTracker, filter_clip

from mdqe.results.instances import VideoInstances
from mdqe.video.read import open_frames


def main() -> int:
    """The command line; the exit status is 2 where the input is of no use."""
    parser = argparse.ArgumentParser(description="Segment a video with ONNX Runtime, without PyTorch.")
    parser.add_argument("exported", type=Path, help="folder that mdqe export --format onnx wrote")
    parser.add_argument("video", help="a video file, or a folder of images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file of the result")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="least score (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime (default: one per core)")
    args = parser.parse_args()
    try:
        model = OnnxModel(args.exported, args.threads)
        frames = open_frames(args.video)
        result = segment(model, frames, args.score_threshold)
        result = replace(result, fps=None if frames.fps is None else float(frames.fps))
        result.save(args.output)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(result)
    return 0


class OnnxModel:
    """The two programs of an exported folder and what it says of them.

    Args:
        folder: what `mdqe export --format onnx` wrote.
        threads: of ONNX Runtime; 0: one per core.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if described["format"] != "onnx":
            raise ValueError(f"{folder} holds programs of the format {described['format']}, expected onnx")
        self.config = described["config"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                str(folder / described[part]["file"]), options, providers=onnxruntime.get_available_providers()
            )
            for part in ("encoder", "decoder")
        )

    def encode(self, frames: np.ndarray) -> dict[str, Array]:
        """Frames (T, 3, H, W) uint8 → what the decoder needs of them, frames first."""
        return _run(self.encoder, {"frames": frames})

    def decode(self, clip: dict[str, Array]) -> dict[str, Array]:
        """Encodings of a clip's frames → the instances found in it."""
        return _run(self.decoder, clip)


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def segment(model: OnnxModel, frames: Iterable[np.ndarray], score_threshold: float = 0.3) -> VideoInstances:
    """As `MDQE.segment`: frames (H, W, 3) uint8 RGB → the instances of the video, best first."""
    windows, scores = [], []
    for scores_of_window, window in track(model, frames):
        scores.append(scores_of_window)
        windows.append(window)
    if not windows:
        raise ValueError("the video has no frames")
    of_all = np.zeros((len(windows), len(scores[-1]), model.config["num_classes"]), np.float32)
    for i, known in enumerate(scores):  # a window before a track existed counts as 0
        of_all[i, : len(known)] = known
    final = 0.75 * of_all.sum(0) / len(windows) + 0.25 * of_all.max(0)  # (N, K)
    best = final.max(1, initial=0)
    ids = np.argsort(-best, kind="stable")
    ids = ids[best[ids] >= score_threshold]
    labels = final[ids].argmax(1) if len(ids) else ids
    return VideoInstances.concatenate(windows, scores=best[ids], labels=labels, track_ids=ids)


def track(model: OnnxModel, frames: Iterable[np.ndarray]) -> Iterator[tuple[Array, VideoInstances]]:
    """Windows as they become final: class scores (N, K) of all tracks so far, and the masks of the tracks in them."""
    config = model.config
    length, stride = config["test_clip_length"], config["clip_stride"]
    tracker = NumpyTracker(config)
    held: list[dict[str, Array]] = []  # encodings of the frames from `start` on
    start = count = 0
    size = resized = (0, 0)

    def run_clip() -> None:
        clip = {name: np.concatenate([frame[name] for frame in held[:length]]) for name in held[0]}
        found = model.decode(clip)
        limits = config["score_threshold"], 10 * config["detections_per_image"]
        tracker.update(start, filter_clip(found, clip["mask_features"], *limits))

    for frame in frames:
        if not count:
            size = frame.shape[:2]
            resized = resized_size(size, config["test_shorter_edge"], config["test_longer_edge"])
        held.append(model.encode(resize(frame, resized).transpose(2, 0, 1)[None]))
        count += 1
        if count == start + length:
            while start >= tracker.window_start + config["window_length"]:
                yield take(tracker, config, resized, size, last=False)
            run_clip()
            start, held = start + stride, held[stride:]
    if not count:
        return
    if start < count:  # the last clip is the first to reach past the end; it is cut there
        while start >= tracker.window_start + config["window_length"]:
            yield take(tracker, config, resized, size, last=False)
        run_clip()
    yield take(tracker, config, resized, size, last=True)


def take(
    tracker: NumpyTracker, config: dict, resized: tuple[int, int], size: tuple[int, int], last: bool
) -> tuple[Array, VideoInstances]:
    """End the tracker's window: see `track`."""
    first = tracker.window_start
    by_track, masks, length = tracker.take_window(last)
    scores = np.zeros((len(tracker.last_seen), config["num_classes"]), np.float32)
    for i, of_track in by_track.items():
        scores[i] = of_track
    ids = sorted({i for seen in masks.values() for i in seen})
    empty = np.zeros(size, bool)

    def masks_of(i: int) -> np.ndarray:
        frames = [masks.get(first + t, {}).get(i) for t in range(length)]
        return np.stack([empty if x is None else full_mask(x, resized, size) for x in frames])  # (frames, H, W)

    window = VideoInstances.from_masks(
        scores[ids].max(1, initial=0),
        scores[ids].argmax(1) if ids else np.zeros(0, np.int64),
        np.array(ids, np.int64),
        (masks_of(i) for i in ids),
        size=size,
        frames=length,
        first_frame=first,
        categories=config["categories"],
        category_ids=config["category_ids"] or range(1, config["num_classes"] + 1),
    )
    return scores, window


def resized_size(size: tuple[int, int], shorter: int | None, longer: int) -> tuple[int, int]:
    """(height, width) with the shorter edge brought to `shorter`, the longer at most to `longer`."""
    if shorter is None:
        return size
    scale = shorter / min(size)
    if max(size) * scale > longer:
        scale = longer / max(size)
    height, width = (max(int(edge * scale + 0.5), 1) for edge in size)
    return height, width


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frame (H, W, 3) uint8 → (*size, 3), antialiased bilinear: the bytes that PyTorch gives."""
    for axis, edge in ((1, size[1]), (0, size[0])):
        if frame.shape[axis] != edge:
            weights, bits = _resize_weights(frame.shape[axis], edge)
            # Whole numbers in float64: the products of NumPy's fast matrix multiplication are exact.
            total = np.moveaxis(np.tensordot(weights, frame.astype(np.float64), (1, axis)), 0, axis)
            frame = np.clip(np.floor((total + 2 ** (bits - 1)) / 2**bits), 0, 255).astype(np.uint8)
    return frame


def _resize_weights(before: int, after: int) -> tuple[np.ndarray, int]:
    """Triangle filter as whole numbers (after, before), in units of 2 ** −bits."""
    scale = before / after
    reach = max(scale, 1.0)
    center = scale * (np.arange(after)[:, None] + 0.5)  # (after, 1)
    pixel = np.arange(before)[None]
    inside = (pixel >= np.floor(center - reach + 0.5)) & (pixel < np.floor(center + reach + 0.5))
    weights = np.where(inside, np.maximum(1 - np.abs((pixel - center + 0.5) / reach), 0), 0)
    weights /= weights.sum(1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return np.floor(weights * 2**bits + 0.5), bits


def full_mask(logits: Array, resized: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Mask logits (h, w) at stride 4 of a padded frame → mask (H, W) bool of `size`."""
    rows, columns = (_upsample_weights(edge) for edge in logits.shape)
    fine = (rows @ logits @ columns.T)[: resized[0], : resized[1]] > 0
    if resized == size:
        return fine
    y, x = (
        np.minimum((np.arange(b, dtype=np.float32) * np.float32(a / b)).astype(int), a - 1)
        for a, b in zip(resized, size, strict=True)
    )  # the nearest pixel, as PyTorch finds it
    return fine[y[:, None], x]


def _upsample_weights(edge: int) -> Array:
    """Linear interpolation (4 · edge, edge): sample i lies at pixel 4i + 2, the edges are repeated."""
    place = np.clip((np.arange(4 * edge) - 2) / 4, 0, edge - 1)[:, None]
    return np.maximum(1 - np.abs(place - np.arange(edge)), 0).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
