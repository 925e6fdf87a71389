"""Draws docs/assets/overlay.png: `python docs/assets/overlay.py`."""

from pathlib import Path

from mdqe import MDQE
from mdqe.data import demo_scene
from mdqe.video.overlay import contact_sheet, draw_result, save_png

scene = demo_scene()
result = MDQE.from_pretrained("mdqe:tiny").segment(scene.frames)
chosen = [9, 13, 17, 21]  # the dark disc passes behind another
images = [draw_result(scene.frames[i], result, i) for i in chosen]
save_png(contact_sheet(images, [f"frame {i}" for i in chosen]), Path(__file__).with_suffix(".png"))
