"""Accuracy of the association of queries across frames (paper Sec. 3.2 and Table 1b), against known identities.

    python examples/association.py
    python examples/association.py --model RUN --difficulty standard --clip-lengths 4 --windows 0 5

A query of a clip's central frame that lies on a visible object is counted once for each other frame in which at least
one query lies on the same object. It is associated correctly if its match in that frame lies on this object too.
Window 0 is no association: the match is the query of the same cell.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mdqe import MDQE
from mdqe.cli import say
from mdqe.data.synthetic import DIFFICULTIES, Drawing, draw_video
from mdqe.modeling.query_init import FrameQueries, QueryInitializer

SEED = 2026  # not used for training


def frame_queries(model: MDQE, frames: np.ndarray, batch: int = 8) -> tuple[FrameQueries, tuple[int, int]]:
    """The queries of each frame of a video (T, H, W, 3), before association, as one clip; and the padded (H, W)."""
    if not isinstance(model.query_init, QueryInitializer):
        raise SystemExit("the model has learned queries, which have no place in the frame")
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]  # (1, T, 3, H, W)
    parts = []
    for part in images.split(batch, 1):
        memory, shapes, _ = model.encode(part.to(model.device))
        parts.append(model.query_init.select(memory, shapes))
    h, w = shapes[0]
    content, coords, embeddings = (torch.cat([part[i] for part in parts], 1) for i in range(3))
    return FrameQueries(content, coords, embeddings, None), (8 * h, 8 * w)


def objects_at(coords: Tensor, drawing: Drawing, padded: tuple[int, int]) -> np.ndarray:
    """The object under each query (T, Q); −1 for the background. coords (T, Q, 2) are relative to the padded frame."""
    masks = drawing.masks
    height, width = masks.shape[2:]
    nearest = np.where(masks.any(0), masks.argmax(0), -1)  # (T, H, W); visible masks do not overlap
    nearest = np.pad(nearest, ((0, 0), (0, padded[0] - height), (0, padded[1] - width)), constant_values=-1)
    x, y = (coords.double().cpu().numpy() * padded[::-1]).astype(int).transpose(2, 0, 1)
    x, y = x.clip(0, padded[1] - 1), y.clip(0, padded[0] - 1)
    return np.take_along_axis(nearest.reshape(len(nearest), -1), y * padded[1] + x, 1)


def matches(model: MDQE, queries: FrameQueries, length: int, window: float) -> Iterator[tuple[int, Tensor]]:
    """The first frame of each clip, and the coords (T, Q, 2) of its associated queries. Clips start at every frame."""
    for first in range(queries.coords.shape[1] - length + 1):
        clip = FrameQueries(*(x[:, first : first + length] for x in queries[:3]), None)
        if window > 0:  # the argument is a distance to one side, the paper's w a width
            clip = model.query_init.associate(clip, window / 2)
        yield first, clip.coords[0]


def count(before: np.ndarray, after: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """[correct, all, correct, all] of one clip; the last two for objects that are hidden by half or more.

    Args:
        before, after: objects (T, Q) under the queries before and after association.
        hidden: the hidden share (N, T) of each object, in the central frame or in the other one.
    """
    center = (len(before) - 1) // 2
    totals = np.zeros(4, int)
    for frame in range(len(before)):
        if frame == center:
            continue
        target = before[center]
        counted = (target >= 0) & np.isin(target, before[frame])
        right = counted & (after[frame] == target)
        severe = counted & (np.fmax(hidden[:, center], hidden[:, frame])[target] >= 0.5)
        totals += right.sum(), counted.sum(), (right & severe).sum(), severe.sum()
    return totals


@torch.inference_mode()
def measure(model: MDQE, drawings: list[Drawing], lengths: list[int], windows: list[float]) -> dict:
    """The counts, as in `count`, of all clips for each clip length and window."""
    totals = {(length, window): np.zeros(4, int) for length in lengths for window in windows}
    for number, drawing in enumerate(drawings, 1):
        queries, padded = frame_queries(model, drawing.frames)
        before = objects_at(queries.coords[0], drawing, padded)
        for (length, window), total in totals.items():
            for first, coords in matches(model, queries, length, window):
                part = slice(first, first + length)
                shown = drawing._replace(masks=drawing.masks[:, part])
                total += count(before[part], objects_at(coords, shown, padded), drawing.hidden[:, part])
        say(f"video {number} of {len(drawings)}")
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mdqe:tiny", help="folder or mdqe:NAME (default: %(default)s)")
    parser.add_argument("--difficulty", choices=DIFFICULTIES, default="occluded", help="default: %(default)s")
    parser.add_argument("--videos", type=int, default=20, help="number of scenes (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=40, help="frames of a scene (default: %(default)s)")
    parser.add_argument("--size", default="384x256", help="width and height in pixels (default: %(default)s)")
    parser.add_argument("--clip-lengths", type=int, nargs="+", default=[3, 5, 7], help="default: 3 5 7")
    parser.add_argument("--windows", type=float, nargs="+", default=[0, 3, 5, 7, 1000],
                        help="cells per frame, both sides together (default: 0 3 5 7 1000)")  # fmt: skip
    args = parser.parse_args()
    model = MDQE.from_pretrained(args.model, dtype=torch.float32).eval()
    width, height = map(int, args.size.split("x"))
    scene = {"frames": args.frames, "size": (height, width), "difficulty": args.difficulty}
    drawings = [draw_video(SEED, i, **scene) for i in range(args.videos)]
    totals = measure(model, drawings, args.clip_lengths, args.windows)
    print("| clip length | window | queries | correct | of hidden objects | correct |\n|---|---|---|---|---|---|")
    for (length, window), (right, counted, right_severe, severe) in totals.items():
        shares = [f"{100 * a / b:.1f} %" if b else "–" for a, b in ((right, counted), (right_severe, severe))]
        print(f"| {length} | {window:g} | {counted} | {shares[0]} | {severe} | {shares[1]} |")


if __name__ == "__main__":
    main()
