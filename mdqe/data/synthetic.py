"""The synthetic set: endless videos of textured shapes that move, deform, cross and hide one another.

Scene `index` of `seed` is the same, byte for byte, on every machine. `mdqe.data.scene` says what is in a scene,
`mdqe.data.synthetic_files` writes a set to disk.
"""

import numpy as np
import torch
from torch import Tensor

from mdqe.data.render import Drawing, render
from mdqe.data.scene import DIFFICULTIES, Difficulty, draw_scene
from mdqe.data.shapes import CATEGORIES
from mdqe.errors import InputError
from mdqe.targets import ClipTargets

__all__ = [
    "CATEGORIES",
    "DIFFICULTIES",
    "Difficulty",
    "Drawing",
    "SyntheticClips",
    "clip_targets",
    "demo_scene",
    "draw_video",
    "generate",
]

DEMO = 46_368, 14  # seed and index of the scene to show: keep the seed out of training


def generate(
    seed: int,
    index: int = 0,
    *,
    frames: int = 12,
    size: tuple[int, int] = (128, 192),
    difficulty: str | Difficulty = "standard",
) -> tuple[np.ndarray, ClipTargets]:
    """A video of the synthetic set and what is known of it; arguments and errors as `draw_video`.

    Returns:
        frames (T, H, W, 3) uint8, RGB, and the targets of `clip_targets`.
    """
    drawing = draw_video(seed, index, frames=frames, size=size, difficulty=difficulty)
    return drawing.frames, clip_targets(drawing)


def draw_video(
    seed: int,
    index: int = 0,
    *,
    frames: int = 12,
    size: tuple[int, int] = (128, 192),
    difficulty: str | Difficulty = "standard",
    start: int = 0,
    scene_frames: int | None = None,
) -> Drawing:
    """A video of the synthetic set, or a part of it.

    Args:
        seed, index: which scene: whole numbers, 0 … 2⁶⁴ − 1.
        frames: T.
        size: H and W in pixels, 16 or more each; a scene looks the same in every size of the same proportions.
        difficulty: one of DIFFICULTIES, or a dial of one's own.
        start: the scene's frame to begin with.
        scene_frames: the scene's whole length, `start + frames` unless given; shapes cross at some time within it.

    Returns:
        The frames and, for each of N shapes, its category, its exact visible mask and how much of it is hidden.

    Raises:
        ValueError: a value out of range.
    """
    length = start + frames if scene_frames is None else scene_frames
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise InputError(f"difficulty is {difficulty!r}; expected {', '.join(DIFFICULTIES)} or a Difficulty")
        difficulty = DIFFICULTIES[difficulty]
    if not (0 <= seed < 2**64 and 0 <= index < 2**64):
        raise InputError(f"seed and index are {seed} and {index}; expected 0 to 2**64 - 1")
    if frames < 1 or start < 0 or start + frames > length:
        raise InputError(f"frames is {frames} from {start} on, of a scene of {length}; expected 1 or more within it")
    if min(size) < 16:
        raise InputError(f"size is {size[0]}x{size[1]}; expected a height and a width of 16 or more")
    half = 0.5 * size[1] / min(size), 0.5 * size[0] / min(size)
    scene = draw_scene(seed, index, length, half, difficulty)
    return render(scene, range(start, start + frames), size)


def clip_targets(drawing: Drawing) -> ClipTargets:
    """What there is to find in a drawing: the K shapes that are seen in any of its frames.

    Labels are places in CATEGORIES. Ids are the shapes' numbers in the scene, so a shape has the same id in every clip
    of it. Boxes hold the visible pixels, the right and bottom edges exclusive.
    """
    return ClipTargets.from_masks(torch.from_numpy(drawing.labels), torch.from_numpy(drawing.masks))


class SyntheticClips:
    """Scenes that are drawn when a clip of them is asked for: a `mdqe.data.loader.ClipSource`.

    Args:
        length: number of scenes; there are more than any training draws unless it says otherwise.
        seed: of the scenes; choose another for validation.
        frames: T of a clip.
        size: H and W.
        difficulty: as in `draw_video`.
        scene_frames: length of the scenes that clips are cut from.
        flip: how often a clip is mirrored left to right, 0 … 1.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        length: int = 2**40,
        seed: int = 0,
        *,
        frames: int = 4,
        size: tuple[int, int] = (128, 192),
        difficulty: str | Difficulty = "standard",
        scene_frames: int = 16,
        flip: float = 0.0,
    ) -> None:
        self.length, self.seed, self.frames, self.size = length, seed, frames, size
        self.difficulty, self.scene_frames, self.flip = difficulty, scene_frames, flip
        if length < 1:
            raise InputError(f"length is {length}; expected 1 or more")
        if not 0 <= flip <= 1:
            raise InputError(f"flip is {flip}; expected 0 to 1")
        self.clip(0, torch.Generator())  # checks the rest

    def __len__(self) -> int:
        return self.length

    def clip(self, index: int, generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        """A clip of scene `index`: frames (T, 3, H, W) uint8 and targets. `generator` decides where it starts."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        starts = max(1, self.scene_frames - self.frames + 1)
        drawing = draw_video(
            self.seed,
            index,
            frames=self.frames,
            size=self.size,
            difficulty=self.difficulty,
            start=int(torch.randint(starts, (), generator=generator)),
            scene_frames=self.scene_frames,
        )
        if torch.rand((), generator=generator) < self.flip:
            masks = np.ascontiguousarray(drawing.masks[..., ::-1])
            drawing = drawing._replace(frames=drawing.frames[:, :, ::-1], masks=masks)
        frames = torch.from_numpy(np.ascontiguousarray(drawing.frames.transpose(0, 3, 1, 2)))  # (T, 3, H, W)
        return frames, clip_targets(drawing)


def demo_scene(frames: int = 48, size: tuple[int, int] = (256, 384)) -> Drawing:
    """A scene of standard difficulty to show, which no training seed contains."""
    seed, index = DEMO
    return draw_video(seed, index, frames=frames, size=size)
