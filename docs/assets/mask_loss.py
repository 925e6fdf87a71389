"""Draws mask_loss.png: M, M_o and the weights of the inter-instance mask loss where fish cross.

    python docs/assets/mask_loss.py

The regions are the library's own; only the scene is made up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mdqe.losses import InterInstanceMaskLoss

HEIGHT, WIDTH = 400, 600
FISH = (  # centre, length, heading in degrees, colour; the first swims in front
    ((0.47, 0.46), 0.52, 8, (236, 130, 48)),
    ((0.60, 0.60), 0.56, -28, (70, 150, 190)),
    ((0.33, 0.50), 0.46, 152, (200, 84, 120)),
    ((0.86, 0.20), 0.22, 10, (110, 170, 90)),
)
TARGET, NEIGHBOR, GREY, RED = (38, 166, 91), (214, 69, 65), (225, 226, 228), (192, 57, 43)


def fish(center: tuple[float, float], length: float, heading: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Silhouette (H, W) and the place along and across the body of every pixel, in lengths."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    dx, dy = x / HEIGHT - center[0] * WIDTH / HEIGHT, y / HEIGHT - center[1]
    c, s = np.cos(np.deg2rad(heading)), np.sin(np.deg2rad(heading))
    along, across = (c * dx + s * dy) / length, (c * dy - s * dx) / length
    body = (along / 0.42) ** 2 + (across / (0.19 + 0.05 * along)) ** 2 < 1
    tail = (along < -0.3) & (along > -0.62) & (np.abs(across) < 0.55 * (-0.27 - along))
    fin = (np.abs(along + 0.02) < 0.14) & (across < 0) & (across > -0.27 + 0.6 * np.abs(along + 0.1))
    return body | tail | fin, along, across


def scene() -> tuple[np.ndarray, np.ndarray]:
    """The picture (H, W, 3) and the visible masks (K, H, W)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ripples = 6 * np.sin(x / 34 + 2 * np.sin(y / 46)) + 4 * np.sin(y / 18)
    picture = np.stack([28 + 0.02 * y + 0 * x, 62 + 0.06 * y, 84 + 0.08 * y], -1) + ripples[..., None]
    masks = np.zeros((len(FISH), HEIGHT, WIDTH), bool)
    for k in reversed(range(len(FISH))):
        shape, along, across = fish(*FISH[k][:3])
        stripes = 0.8 + 0.2 * np.tanh(4 * np.sin(along * 26 + 5 * across**2))
        light = stripes * (1.0 - 0.9 * across)
        picture[shape] = (np.array(FISH[k][3]) * light[..., None])[shape]
        eye = (along - 0.3) ** 2 + (across + 0.05) ** 2 < 0.035**2
        picture[eye & shape] = 20
        masks[k] = shape
        masks[k + 1 :] &= ~shape
    return picture.clip(0, 255).astype(np.uint8), masks


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Tight boxes (K, 4) xyxy in [0, 1] of masks (K, H, W)."""
    out = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = (columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT)
        out.append(edges)
    return np.array(out)


def paint(picture: np.ndarray, *regions: tuple[np.ndarray, tuple[int, int, int]], ground: float) -> Image.Image:
    """Regions in their colours over the greyed picture."""
    grey = picture.mean(-1, keepdims=True).repeat(3, -1)
    out = ground * np.array(GREY) + (1 - ground) * grey
    for region, colour in regions:
        out[region] = 0.8 * np.array(colour) + 0.2 * grey[region]
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


def main() -> None:
    picture, masks = scene()
    boxes = boxes_of(masks)
    loss = InterInstanceMaskLoss()
    inputs = torch.from_numpy(masks)[:, None], torch.from_numpy(boxes)[:, None]
    emphasis, others = (r[0, 0].numpy() for r in loss.regions(*inputs))  # of the first fish
    near = loss.neighbors(inputs[1])[0].tolist()
    font = ImageFont.load_default(size=20)

    first = Image.fromarray(picture)
    draw = ImageDraw.Draw(first)
    for k, box in enumerate(boxes * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])):
        colour = TARGET if k == 0 else NEIGHBOR if near[k] else (240, 240, 240)
        draw.rectangle([*box[:2], *(box[2:] - 1)], outline=colour, width=3)
    panels = [
        (first, "object, neighbours (box IoU > 0.1), others"),
        (paint(picture, (masks[0], TARGET), (others, NEIGHBOR), ground=0.75), "M and, outside it, M_o"),
        (paint(picture, (emphasis, RED), ground=0.75), "BCE: weight 2 here, 1 elsewhere"),
        (paint(picture, (masks[0], TARGET), (others, (40, 40, 40)), ground=0.9), "Dice: fill M, keep M_o empty"),
    ]
    gap, caption = 12, 34
    sheet = Image.new("RGB", (2 * WIDTH + 3 * gap, 2 * (HEIGHT + caption) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (panel, text) in enumerate(panels):
        left, top = gap + i % 2 * (WIDTH + gap), gap + i // 2 * (HEIGHT + caption)
        sheet.paste(panel, (left, top))
        draw.text((left, top + HEIGHT + 5), text, fill=(40, 40, 40), font=font)
    sheet.save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
