"""Videos annotated as YouTube-VIS 2019 and 2021 and OVIS are, for training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mdqe.annotations.training_ import VIDEOS, Item
from mdqe.data.annotated import AnnotatedClips
from mdqe.data.augment import ClipAugmentation
from mdqe.errors import InputError
from mdqe.targets import ClipTargets


class VideoClips(AnnotatedClips):
    """Clips of videos: frames near one another, in order (paper Sec. 4.1).

    Labels are places in `category_ids`. Ids are places among the objects of the video that are seen in the clip. Boxes
    hold the masks tightly, so the file's own are not used. Crowds are left out, and videos without objects.

    Args:
        annotations: the JSON file.
        images: the folder that its "file_names" are relative to.
        clip_length: T.
        frame_range: how far from a clip's reference frame, which is any, the others may lie.
        augmentation: of whole clips; None leaves them as they are.
        category_ids: the category id of each label; None: the file's own, in ascending order.
        category_map: from the file's category ids to those of `category_ids`; what it lacks is left out.
        check_images: look at every image's header before training.
        skip_bad: go on without what is wrong, after a warning that lists it.
        progress: show a progress bar while images are checked.

    Raises:
        DataError: the file is not in this format; or anything in it or in the images is wrong, all of it listed.
        OSError: the file cannot be read.
        ValueError: a value out of range.
    """

    layout = VIDEOS

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        clip_length: int = 4,
        *,
        frame_range: int = 10,
        augmentation: ClipAugmentation | None = None,
        category_ids: Sequence[int] | None = None,
        category_map: Mapping[int, int] | None = None,
        check_images: bool = True,
        skip_bad: bool = False,
        progress: bool = False,
    ) -> None:
        if frame_range < 0:
            raise InputError(f"frame_range is {frame_range}, expected 0 or more")
        self.frame_range = frame_range
        super().__init__(
            annotations,
            images,
            clip_length,
            augmentation=augmentation,
            category_ids=category_ids,
            category_map=category_map,
            check_images=check_images,
            skip_bad=skip_bad,
            progress=progress,
        )

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        chosen = sample_frames(frames, self.clip_length, self.frame_range, generator)
        read = {frame: self._read(item, frame) for frame in set(chosen)}
        clip = torch.stack([read[frame] for frame in chosen]).permute(0, 3, 1, 2)  # (T, 3, H, W), channels last
        labels, masks = map(torch.from_numpy, self.annotations.draw(item, chosen))
        if self.augmentation is not None:
            clip, masks = self.augmentation(clip, masks, generator)
        return clip.contiguous(), ClipTargets.from_masks(labels, masks)


def sample_frames(frames: Sequence[int], clip_length: int, frame_range: int, generator: torch.Generator) -> list[int]:
    """The frames of a clip, in order: a reference frame and others at most `frame_range` from it.

    Any frame is as likely as any other to be the reference. No frame comes twice, unless there are too few: then all
    that are near enough come, and some of them again.
    """
    reference = frames[int(torch.randint(len(frames), (), generator=generator))]
    near = [frame for frame in frames if frame != reference and abs(frame - reference) <= frame_range]
    missing = max(0, clip_length - 1 - len(near))
    picked = [near[i] for i in torch.randperm(len(near), generator=generator)[: clip_length - 1].tolist()]
    pool = [reference, *near]
    again = [pool[i] for i in torch.randint(len(pool), (missing,), generator=generator).tolist()]
    return sorted([reference, *picked, *again])
