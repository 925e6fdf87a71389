"""Images annotated as COCO is, as clips of a camera that moves: pseudo-clips."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdqe.annotations.training_ import IMAGES, Item
from mdqe.data.annotated import AnnotatedClips
from mdqe.targets import ClipTargets

COCO_TO: dict[str, dict[int, int]] = {
    "ytvis_2019": {
        1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32, 23: 20, 24: 30,
        25: 22, 35: 33, 36: 33, 41: 5, 42: 27, 43: 40,
    },
    "ytvis_2021": {
        1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12, 23: 2, 24: 40,
        25: 18, 34: 14, 35: 31, 36: 31, 41: 29, 42: 33, 43: 34,
    },
    "ovis": {
        1: 1, 2: 21, 3: 25, 4: 22, 5: 23, 6: 25, 8: 25, 9: 24, 17: 3, 18: 4, 19: 5, 20: 6, 21: 7, 22: 8, 23: 9, 24: 10,
        25: 11,
    },
}  # fmt: skip
"""COCO's category ids as those of video data sets, for `category_map`; other categories of COCO have no counterpart."""


class PseudoClips(AnnotatedClips):
    """Clips of T views of one image.

    `augmentation` is drawn anew for every frame, so that the image moves; smaller frames have zeros right and below.
    Labels, boxes and what is left out are as in `VideoClips`.

    Args:
        annotations: the JSON file.
        images: the folder that its "file_name"s are relative to.
        clip_length: T.
        augmentation: of each frame; None leaves all as they are.
        category_ids: the category id of each label; None: the file's own, in ascending order.
        category_map: from the file's category ids to those of `category_ids`, such as COCO_TO["ovis"]; what it lacks is
            left out.
        check_images, skip_bad, progress: as in `VideoClips`.

    Raises:
        DataError, OSError, ValueError: as `VideoClips`.
    """

    layout = IMAGES

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        (frame,) = frames
        image = self._read(item, frame)[None].permute(0, 3, 1, 2)  # (1, 3, H, W), channels last
        labels, masks = map(torch.from_numpy, self.annotations.draw(item, frames))  # (K,), (K, 1, H, W)
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
