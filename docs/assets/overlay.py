"""Draws docs/assets/overlay.png: `python docs/assets/overlay.py`."""

from pathlib import Path

from mdqe import VideoInstances
from mdqe.data.synthetic import CATEGORIES, demo_scene
from mdqe.video.overlay import draw_result
from mdqe.video.sheet import contact_sheet, save_png

scene = demo_scene()
number = len(scene.labels)
truth = VideoInstances.from_masks([1.0] * number, scene.labels, range(number), scene.masks, categories=CATEGORIES)
chosen = [4, 16, 28, 40]
images = [draw_result(scene.frames[i], truth, i) for i in chosen]
save_png(contact_sheet(images, [f"frame {i}" for i in chosen]), Path(__file__).with_suffix(".png"))
