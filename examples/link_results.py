"""Identities for detections from elsewhere: results of the shape of Ultralytics', and run lengths in a file.

    python examples/link_results.py

Neither needs its package: `Results` here has the attributes that an Ultralytics result has.
"""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import mdqe
from mdqe.data.synthetic import draw_video
from mdqe.results import rle

SIZE = (96, 144)


def results(drawing) -> list[SimpleNamespace]:
    """A result for each frame: `masks.data` (D, H, W), `boxes.conf` and `boxes.cls`, as floating-point tensors."""
    found = []
    for t in range(drawing.masks.shape[1]):
        order = np.flatnonzero(drawing.masks[:, t].any((1, 2)))[:: 1 - 2 * (t % 2)]
        masks = SimpleNamespace(data=torch.from_numpy(drawing.masks[order, t]).float())
        boxes = SimpleNamespace(
            conf=torch.full((len(order),), 0.9), cls=torch.from_numpy(drawing.labels[order]).float()
        )
        found.append(SimpleNamespace(masks=masks if len(order) else None, boxes=boxes))
    return found


def main() -> None:
    """Link both."""
    frames = results(draw_video(3, 2, frames=12, size=SIZE))

    linker = mdqe.Linker()
    for result in frames:  # for result in model("street.mp4", stream=True, retina_masks=True)
        masks = [] if result.masks is None else result.masks.data
        ids = linker.push(masks, result.boxes.conf, result.boxes.cls)
    print(f"Ultralytics: {linker.num_tracks} tracks, the last frame has {sorted(ids.tolist())}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.json"  # a list of run lengths for each frame
        path.write_text(json.dumps([rle.encode(one.masks.data > 0.5) if one.masks else [] for one in frames]))
        linked = mdqe.link(json.loads(path.read_text()), size=SIZE)
    print(f"run lengths: {len(linked)} tracks in {linked.num_frames} frames")


if __name__ == "__main__":
    main()
