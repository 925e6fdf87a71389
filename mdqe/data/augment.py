"""Geometry that is changed at random: the same for all frames of a clip and their masks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from mdqe.errors import InputError
from mdqe.modeling.preprocess import resize, resized_size

CROPS = ("absolute_range", "relative_range")
_CROPPED_EDGES = (400, 500, 600)  # shorter edges before a crop of so many pixels, and the longest
_CROPPED_LONGER_EDGE = 1333
_CENTRE = (0.4, 0.6)  # where the centre of a rotation lies, of the width and of the height


class ClipAugmentation:
    """Crop, resize, flip and turn a clip, in this order.

    Crops are those of Detectron2: "absolute_range" takes a height and a width of `crop_size[0]` to `crop_size[1]`
    pixels, after the shorter edge was resized to 400, 500 or 600; "relative_range" takes at least the share
    `crop_size[0]` of the height and `crop_size[1]` of the width.

    Args:
        shorter_edges: one of these, in pixels, becomes the shorter edge; empty leaves frames as large as they are.
        longer_edge: unless the longer edge would pass this.
        crop_type: one of CROPS, or None.
        crop_size: as above.
        crop_probability: how often a clip is cropped.
        flip: how often it is mirrored left to right.
        rotation: largest angle, in degrees, by which it is turned about a point near its centre.

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
            raise InputError(f"edges are {self.shorter_edges} and at most {longer_edge}, expected 1 or more pixels")
        if crop_type not in (None, *CROPS):
            raise InputError(f"crop_type is {crop_type!r}, expected {', '.join(CROPS)} or None")
        low, high = self.crop_size
        if crop_type == "absolute_range" and not (1 <= low <= high and low == int(low) and high == int(high)):
            raise InputError(f"crop_size is {self.crop_size}, expected a smallest and a largest edge in whole pixels")
        if crop_type == "relative_range" and not (0 < low <= 1 and 0 < high <= 1):
            raise InputError(f"crop_size is {self.crop_size}, expected shares of height and width, up to 1")
        for name, value, most in (
            ("crop_probability", crop_probability, 1),
            ("flip", flip, 1),
            ("rotation", rotation, 180),
        ):
            if not 0 <= value <= most:
                raise InputError(f"{name} is {value}, expected 0 to {most}")

    def __call__(self, frames: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Another view of frames (T, 3, H, W) uint8 and masks (K, T, H, W) bool; both have its size."""
        clip = tv_tensors.Video(frames), tv_tensors.Mask(masks.view(torch.uint8))
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
        frames, masks = (x.as_subclass(Tensor).contiguous() for x in clip)
        return frames, masks.view(torch.bool)

    def _crop(
        self, clip: tuple[tv_tensors.Video, tv_tensors.Mask], generator: torch.Generator
    ) -> tuple[tv_tensors.Video, tv_tensors.Mask]:
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


def _resized(
    clip: tuple[tv_tensors.Video, tv_tensors.Mask], shorter_edge: int, longer_edge: int
) -> tuple[tv_tensors.Video, tv_tensors.Mask]:
    """A mask's pixel is the one of the larger mask that lies at its centre."""
    frames, masks = clip
    size = resized_size(tuple(frames.shape[-2:]), shorter_edge, longer_edge)
    if masks.shape[0]:
        exact = tvf.resize(masks.as_subclass(Tensor), list(size), InterpolationMode.NEAREST_EXACT)
    else:
        exact = masks.new_zeros((*masks.shape[:-2], *size))
    return resize(frames, size), tv_tensors.wrap(exact, like=masks)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _below(stop: int, generator: torch.Generator) -> int:
    return int(torch.randint(stop, (), generator=generator))


def _one_of(options: Sequence[int], generator: torch.Generator) -> int:
    return options[_below(len(options), generator)]
