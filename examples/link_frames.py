"""Turn any single-frame segmenter into a video segmenter: `ClipTracker` links its instances.

    python examples/link_frames.py

The segmenter in this example is a threshold, and the embeddings are mean colours. Balls fly behind a wall and keep
their ids. With a model such as Mask R-CNN, use pooled features as embeddings and convert the probabilities of its masks
with `masks.float().logit(eps=1e-4)`, as below: without `eps`, the logits of exact 0 and 1 are infinite.
"""

import argparse

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mdqe import ClipTracker, VideoInstances

COLOURS = np.array([[230, 60, 50], [70, 200, 80], [70, 110, 235]])
SHARPNESS = 12.0  # scale of the embeddings, which are compared by a softmax over dot products


def scene(frames: int, size: tuple[int, int] = (96, 160)) -> tuple[np.ndarray, np.ndarray]:
    """Balls that fly behind a wall: frames (T, H, W, 3) uint8, and the ball of each pixel or −1 (T, H, W)."""
    y, x = np.mgrid[: size[0], : size[1]]
    owner = np.full((frames, *size), -1)
    for ball, (row, speed) in enumerate(((20, 4.0), (48, -5.0), (76, 3.0))):
        for t in range(frames):
            column = (10 if speed > 0 else size[1] - 10) + speed * t
            owner[t][(x - column) ** 2 + (y - row) ** 2 < 11**2] = ball
    owner[:, :, 65:95] = -1  # the wall
    video = np.where(owner[..., None] >= 0, COLOURS[owner], 25)
    noise = np.random.default_rng(0).integers(-12, 13, video.shape)
    return (video + noise).clip(0, 255).astype(np.uint8), owner


def segment_frame(frame: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Segment the bright parts of a frame: scores (D, 1), mask logits (D, H, W) and embeddings (D, 3)."""
    parts, number = ndimage.label(frame.max(-1) > 60)
    masks = [parts == i for i in range(1, number + 1) if (parts == i).sum() > 30]
    masks = np.array(masks).reshape(-1, *frame.shape[:2])  # (D, H, W), also if D = 0
    colours = torch.tensor([frame[mask].mean(0).tolist() for mask in masks]).reshape(-1, 3)
    embeddings = F.normalize(colours - colours.mean(1, keepdim=True)) * SHARPNESS
    logits = torch.from_numpy(masks).float().logit(eps=1e-4)
    return torch.ones(len(masks), 1), logits, embeddings


def link(video: np.ndarray) -> VideoInstances:
    """Segment every frame separately and link the results."""
    # Clips of one frame do not overlap, so mask IoU cannot link them: use embeddings only.
    tracker = ClipTracker(test_clip_length=1, window_length=len(video), iou_weight=0.0)
    for t, frame in enumerate(video):
        scores, logits, embeddings = segment_frame(frame)
        tracker.update([t], scores, logits[:, None], embeddings)
    class_scores, logits = tracker.flush(last=True)  # (N, K), (N, T, H, W)
    scores, labels = class_scores.max(1)
    return VideoInstances.from_masks(scores, labels, range(len(scores)), logits > 0)


def main() -> None:
    """Link the instances of a scene and compare their identities with the ground truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36)
    video, owner = scene(parser.parse_args().frames)
    result = link(video)
    print(result)
    for i, mask in enumerate(result.masks):  # (T, H, W)
        balls, pixels = np.unique(owner[mask], return_counts=True)
        seen = np.flatnonzero(result.present[i])
        share, hidden = pixels.max() / pixels.sum(), seen[-1] - seen[0] + 1 - len(seen)
        print(
            f"track {result.track_ids[i]}: {share:.1%} ball {balls[pixels.argmax()]}, out of sight for {hidden} frames"
        )


if __name__ == "__main__":
    main()
