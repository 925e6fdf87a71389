"""Images annotated as in COCO: as clips of a moving camera (pseudo-clips), and their categories as those of videos."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mdqe.annotations.reader import IMAGES
from mdqe.data.annotated import AnnotatedClips, Item
from mdqe.errors import InputError
from mdqe.targets import ClipTargets

_COUNTERPARTS = {
    "bicycle": ("motorbike",), "motorcycle": ("motorbike",), "car": ("sedan", "vehical"), "bus": ("vehical",),
    "truck": ("vehical",), "frisbee": ("flying disc",), "skis": ("snowboard",),
}  # fmt: skip
"""What COCO's categories are mapped to, as in the paper's code, where the target has no category of the same name."""


def map_categories(own: Mapping[int, str], names: Sequence[str], ids: Sequence[int]) -> dict[int, int]:
    """From the category ids of a file to those of a target, for `category_map`.

    Categories are matched by name; case and underscores do not matter. COCO's categories, recognised by their names,
    are mapped to YouTube-VIS and OVIS as in the paper's code: some have a counterpart with another name; "mouse", which
    is a computer mouse, has none; and "bird" has none where birds are divided into several categories, as in OVIS.

    Args:
        own: names by id of the file.
        names, ids: of the target.

    Raises:
        InputError: they have no category in common.
    """
    target = {_plain(name): one for name, one in zip(names, ids, strict=True)}
    plain = {one: _plain(name) for one, name in own.items()}
    counterparts: Mapping[str, tuple[str, ...]] = {}
    if {*_COUNTERPARTS, "mouse", "keyboard", "bird"} <= set(plain.values()):  # COCO
        counterparts = _COUNTERPARTS
        target.pop("mouse", None)
        if "poultry" in target:
            target.pop("bird", None)
    mapped = {}
    for one, name in plain.items():
        found = next((choice for choice in (name, *counterparts.get(name, ())) if choice in target), None)
        if found is not None:
            mapped[one] = target[found]
    if not mapped:
        raise InputError(f"none of its categories is one of {', '.join(names[:10])}, …")
    return mapped


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


class PseudoClips(AnnotatedClips):
    """Clips of T views of one image.

    `augmentation` is drawn separately for each frame, so that the objects move. Smaller frames are padded with zeros on
    the right and at the bottom. Labels and boxes are as in `VideoClips`, and crowds and images without objects are left
    out. Arguments and errors are as in `AnnotatedClips`.
    """

    layout = IMAGES

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        (frame,) = frames
        image = self._read(item, frame)[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
        labels, masks = map(torch.from_numpy, self.objects.draw(item, frames))  # (K,), (K, 1, H, W)
        views = [(image, masks)] * self.clip_length
        if self.augmentation is not None:
            views = [self.augmentation(image, masks, generator) for _ in views]
        height, width = (max(view.shape[axis] for view, _ in views) for axis in (-2, -1))
        clip = image.new_zeros(self.clip_length, 3, height, width)
        moved = masks.new_zeros(len(labels), self.clip_length, height, width)
        for t, (view, mask) in enumerate(views):
            clip[t, :, : view.shape[-2], : view.shape[-1]] = view[0]
            moved[:, t, : view.shape[-2], : view.shape[-1]] = mask[:, 0]
        return clip, ClipTargets.from_masks(labels, moved)
