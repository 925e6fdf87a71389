"""Random geometric augmentation, the same for all frames of a clip and their masks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from mdqe.errors import InputError
from mdqe.modeling.preprocess import resize, resized_size

CROPS = ("absolute_range", "relative_range")
_CROPPED_EDGES = (400, 500, 600)  # shorter edges before a crop in pixels
_CROPPED_LONGER_EDGE = 1333  # and the maximum longer edge
_CENTRE = (0.4, 0.6)  # range of the centre of a rotation, relative to the width and to the height

Clip = tuple[Tensor, Tensor]  # frames (T, 3, H, W) and masks (K, T, H, W), both uint8


class ClipAugmentation:
    """Crop, resize, flip and rotate a clip, in this order.

    Crops are those of Detectron2. "absolute_range" resizes the shorter edge to 400, 500 or 600 and crops a height and a
    width from `crop_size[0]` to `crop_size[1]` pixels. "relative_range" crops at least the share `crop_size[0]` of the
    height and `crop_size[1]` of the width.

    Args:
        shorter_edges: sizes in pixels, one of which is chosen for the shorter edge; empty: frames are not resized.
        longer_edge: maximum longer edge of a resized frame.
        crop_type: one of CROPS, or None.
        crop_size: the parameters of `crop_type`.
        crop_probability: probability of a crop.
        flip: probability of a horizontal flip.
        rotation: maximum angle of a rotation about a point near the centre, in degrees.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        shorter_edges: Sequence[int] = (),
        longer_edge: int = 1333,
        *,
        crop_type: str | None = None,
        crop_size: tuple[float, float] = (384, 600),
        crop_probability: float = 0.5,
        flip: float = 0.5,
        rotation: float = 0.0,
    ) -> None:
        self.shorter_edges, self.longer_edge = tuple(shorter_edges), longer_edge
        self.crop_type, self.crop_size, self.crop_probability = crop_type, tuple(crop_size), crop_probability
        self.flip, self.rotation = flip, rotation
        if any(edge < 1 for edge in (*self.shorter_edges, longer_edge)):
            raise InputError(
                f"shorter_edges is {self.shorter_edges} and longer_edge is {longer_edge}, expected at least 1 pixel"
            )
        if crop_type not in (None, *CROPS):
            raise InputError(f"crop_type is {crop_type!r}, expected {', '.join(CROPS)} or None")
        low, high = self.crop_size
        if crop_type == "absolute_range" and not (1 <= low <= high and low == int(low) and high == int(high)):
            raise InputError(f"crop_size is {self.crop_size}, expected the minimum and the maximum edge in pixels")
        if crop_type == "relative_range" and not (0 < low <= 1 and 0 < high <= 1):
            raise InputError(f"crop_size is {self.crop_size}, expected shares of the height and the width in (0, 1]")
        for name, most in (("crop_probability", 1), ("flip", 1), ("rotation", 180)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 to {most}")

    def __call__(self, frames: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment frames (T, 3, H, W) uint8 and masks (K, T, H, W) bool. The height and width can change."""
        clip = frames, masks.view(torch.uint8)
        if self.crop_type is not None and _uniform(0, 1, generator) < self.crop_probability:
            clip = self._crop(clip, generator)
        if self.shorter_edges:
            clip = _resized(clip, _one_of(self.shorter_edges, generator), self.longer_edge)
        if _uniform(0, 1, generator) < self.flip:
            clip = tvf.horizontal_flip(clip[0]), tvf.horizontal_flip(clip[1])
        if self.rotation:
            angle = _uniform(-self.rotation, self.rotation, generator)
            across, down = (_uniform(*_CENTRE, generator) for _ in range(2))
            centre = [across * clip[0].shape[-1], down * clip[0].shape[-2]]
            turned = tvf.rotate(clip[0], angle, InterpolationMode.BILINEAR, center=centre)
            clip = turned, tvf.rotate(clip[1], angle, center=centre)
        return clip[0].contiguous(), clip[1].contiguous().view(torch.bool)

    def _crop(self, clip: Clip, generator: torch.Generator) -> Clip:
        if self.crop_type == "absolute_range":
            clip = _resized(clip, _one_of(_CROPPED_EDGES, generator), _CROPPED_LONGER_EDGE)
            low, high = (int(edge) for edge in self.crop_size)
            whole = clip[0].shape[-2:]
            size = [min(edge, low) + _below(min(edge, high) - min(edge, low) + 1, generator) for edge in whole]
        else:
            whole = clip[0].shape[-2:]
            least = zip(whole, self.crop_size, strict=True)
            size = [max(1, int(edge * _uniform(share, 1, generator) + 0.5)) for edge, share in least]
        top, left = (_below(edge - kept + 1, generator) for edge, kept in zip(whole, size, strict=True))
        return tvf.crop(clip[0], top, left, *size), tvf.crop(clip[1], top, left, *size)


def _resized(clip: Clip, shorter_edge: int, longer_edge: int) -> Clip:
    """Resize frames with interpolation, and masks by sampling at the centres of the new pixels."""
    frames, masks = clip
    size = resized_size((frames.shape[-2], frames.shape[-1]), shorter_edge, longer_edge)
    if masks.shape[0]:
        masks = tvf.resize(masks, list(size), InterpolationMode.NEAREST_EXACT)
    else:
        masks = masks.new_zeros((*masks.shape[:-2], *size))
    return resize(frames, size), masks


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _below(stop: int, generator: torch.Generator) -> int:
    return int(torch.randint(stop, (), generator=generator))


def _one_of(options: Sequence[int], generator: torch.Generator) -> int:
    return options[_below(len(options), generator)]
