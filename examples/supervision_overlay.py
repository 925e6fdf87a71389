"""Draw an overlay with the annotators of supervision.

pip install "mdqe[video,viz]"
python examples/supervision_overlay.py -o overlay.png
"""

import argparse
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

from mdqe import MDQE, VideoInstances
from mdqe.data import demo_scene


def draw(image: np.ndarray, result: VideoInstances, frame: int) -> np.ndarray:
    """Draw masks and labels on a frame (H, W, 3) uint8 RGB, with one colour per track."""
    detections = result.to_supervision(frame)
    labels = [
        f"{track} {name} {score:.2f}"
        for track, name, score in zip(
            detections.tracker_id, detections.data["class_name"], detections.confidence, strict=True
        )
    ]
    bgr = np.ascontiguousarray(image[..., ::-1])  # OpenCV's channel order; supervision draws in place
    bgr = sv.MaskAnnotator(color_lookup=sv.ColorLookup.TRACK).annotate(bgr, detections)
    bgr = sv.LabelAnnotator(color_lookup=sv.ColorLookup.TRACK, text_scale=0.4, text_padding=4).annotate(
        bgr, detections, labels
    )
    return bgr[..., ::-1]


def main() -> None:
    """Segment the scene of `mdqe demo` and draw its middle frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("overlay.png"))
    output = parser.parse_args().output
    video = demo_scene(frames=12).frames  # (T, H, W, 3)
    result = MDQE.from_pretrained("mdqe:tiny").segment(video)
    Image.fromarray(draw(video[6], result, 6)).save(output)
    print(f"{len(result)} instances; {output}")


if __name__ == "__main__":
    main()
