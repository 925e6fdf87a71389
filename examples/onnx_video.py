"""Segment a video with ONNX Runtime, without PyTorch.

    mdqe export --model mdqe:tiny --format onnx -o exported
    python examples/onnx_video.py exported street.mp4 -o street.json

It needs numpy, scipy and onnxruntime. PyAV reads videos and Pillow reads images. From mdqe it uses only the modules
that read videos and store results. They do not load PyTorch (`pip install --no-deps mdqe`). Track ids are those of the
tracker, whatever `relink` is in the configuration.
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

from mdqe import VideoInstances
from mdqe.video.read import open_frames


def main() -> int:
    """Run the command line. The exit status is 2 for invalid input."""
    parser = argparse.ArgumentParser(description="Segment a video with ONNX Runtime, without PyTorch.")
    parser.add_argument("exported", type=Path, help="folder written by mdqe export --format onnx")
    parser.add_argument("video", help="a video file, or a folder of images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file of the result")
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, help="minimum score of an instance (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="number of threads of ONNX Runtime (default: one per core)"
    )
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
    """The two programs of an exported folder, and the configuration of the model.

    Args:
        folder: written by `mdqe export --format onnx`.
        threads: number of threads of ONNX Runtime; 0 for one per core.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if description["format"] != "onnx":
            raise ValueError(f"{folder} contains programs in the format {description['format']}, expected onnx")
        self.config = description["config"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                str(folder / description[part]["file"]), options, providers=onnxruntime.get_available_providers()
            )
            for part in ("encoder", "decoder")
        )

    def encode(self, frames: np.ndarray) -> dict[str, Array]:
        """Encode frames (T, 3, H, W) uint8: inputs of the decoder, with the frames in the first dimension."""
        return _run(self.encoder, {"frames": frames})

    def decode(self, clip: dict[str, Array]) -> dict[str, Array]:
        """Decode the encodings of a clip's frames: predictions for the clip."""
        return _run(self.decoder, clip)


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def segment(model: OnnxModel, frames: Iterable[np.ndarray], score_threshold: float = 0.3) -> VideoInstances:
    """Segment frames (H, W, 3) uint8 RGB, as `MDQE.segment` does. Returns the instances of the video, best first."""
    windows, scores = [], []
    for window_scores, window in track(model, frames):
        scores.append(window_scores)
        windows.append(window)
    if not windows:
        raise ValueError("the video has no frames")
    padded = np.zeros((len(windows), len(scores[-1]), model.config["num_classes"]), np.float32)
    for i, window_scores in enumerate(scores):  # windows before a track existed count as 0
        padded[i, : len(window_scores)] = window_scores
    final = 0.75 * padded.sum(0) / len(windows) + 0.25 * padded.max(0)  # (N, K)
    best = final.max(1, initial=0)
    ids = np.argsort(-best, kind="stable")
    ids = ids[best[ids] >= score_threshold]
    labels = final[ids].argmax(1) if len(ids) else ids
    return VideoInstances.concatenate(windows, scores=best[ids], labels=labels, track_ids=ids)


def track(model: OnnxModel, frames: Iterable[np.ndarray]) -> Iterator[tuple[Array, VideoInstances]]:
    """Yield each window when it is final: class scores (N, K) of all tracks so far, and the masks of its tracks."""
    config = model.config
    length, stride = config["test_clip_length"], config["clip_stride"]
    tracker = NumpyTracker(config)
    encodings: list[dict[str, Array]] = []  # of the frames from `start` on
    start = count = 0
    size = resized = (0, 0)

    def run_clip() -> None:
        clip = {name: np.concatenate([frame[name] for frame in encodings[:length]]) for name in encodings[0]}
        predictions = model.decode(clip)
        limits = config["score_threshold"], 10 * config["detections_per_image"]
        tracker.update(start, filter_clip(predictions, clip["mask_features"], *limits))

    for frame in frames:
        if not count:
            size = frame.shape[:2]
            resized = resized_size(size, config["test_shorter_edge"], config["test_longer_edge"])
        encodings.append(model.encode(resize(frame, resized).transpose(2, 0, 1)[None]))
        count += 1
        if count == start + length:
            while start >= tracker.window_start + config["window_length"]:
                yield take_window(tracker, config, resized, size, last=False)
            run_clip()
            start, encodings = start + stride, encodings[stride:]
    if not count:
        return
    if start < count:  # the last clip is the first one that reaches past the end; it is shortened
        while start >= tracker.window_start + config["window_length"]:
            yield take_window(tracker, config, resized, size, last=False)
        run_clip()
    yield take_window(tracker, config, resized, size, last=True)


def take_window(
    tracker: NumpyTracker, config: dict, resized: tuple[int, int], size: tuple[int, int], last: bool
) -> tuple[Array, VideoInstances]:
    """End the window of the tracker. Returns what `track` yields."""
    first = tracker.window_start
    by_track, masks, length = tracker.take_window(last)
    scores = np.zeros((len(tracker.last_seen), config["num_classes"]), np.float32)
    for i, track_scores in by_track.items():
        scores[i] = track_scores
    ids = sorted({i for seen in masks.values() for i in seen})
    empty = np.zeros(size, bool)

    def masks_of(i: int) -> np.ndarray:
        frames = [masks.get(first + t, {}).get(i) for t in range(length)]
        return np.stack(
            [empty if x is None else full_mask(x, resized, size, config["mask_alignment"]) for x in frames]
        )  # (frames, H, W)

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
    """(height, width) with the shorter edge resized to `shorter`, and the longer edge to at most `longer`."""
    if shorter is None:
        return size
    scale = shorter / min(size)
    if max(size) * scale > longer:
        scale = longer / max(size)
    height, width = (max(int(edge * scale + 0.5), 1) for edge in size)
    return height, width


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a frame (H, W, 3) uint8 → (*size, 3), bilinear with antialiasing, with the same bytes as PyTorch."""
    for axis, edge in ((1, size[1]), (0, size[0])):
        if frame.shape[axis] != edge:
            weights, bits = _resize_weights(frame.shape[axis], edge)
            # Integers in float64: NumPy's fast matrix product is exact.
            total = np.moveaxis(np.tensordot(weights, frame.astype(np.float64), (1, axis)), 0, axis)
            frame = np.clip(np.floor((total + 2 ** (bits - 1)) / 2**bits), 0, 255).astype(np.uint8)
    return frame


def _resize_weights(before: int, after: int) -> tuple[np.ndarray, int]:
    """Triangle filter as integers (after, before), in units of 2 ** −bits."""
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


def full_mask(logits: Array, resized: tuple[int, int], size: tuple[int, int], alignment: str) -> np.ndarray:
    """Mask logits (h, w) at stride 4 of the padded frame → mask (H, W) bool of `size`."""
    if alignment == "centered":  # sample i at pixel 4i + 1.5 of the resized frame
        places = [((np.arange(b) + 0.5) * a / b - 2) / 4 for a, b in zip(resized, size, strict=True)]
        rows, columns = (_linear_weights(edge, place) for edge, place in zip(logits.shape, places, strict=True))
        return rows @ logits @ columns.T > 0
    rows, columns = (_linear_weights(edge, (np.arange(4 * edge) - 2) / 4) for edge in logits.shape)  # pixel 4i + 2
    fine = (rows @ logits @ columns.T)[: resized[0], : resized[1]] > 0
    if resized == size:
        return fine
    y, x = (
        np.minimum((np.arange(b, dtype=np.float32) * np.float32(a / b)).astype(int), a - 1)
        for a, b in zip(resized, size, strict=True)
    )  # nearest pixel, as in PyTorch
    return fine[y[:, None], x]


def _linear_weights(edge: int, place: Array) -> Array:
    """Linear interpolation (places, edge) between the samples of an axis; the border is repeated."""
    place = np.clip(place, 0, edge - 1)[:, None]
    return np.maximum(1 - np.abs(place - np.arange(edge)), 0).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
