"""Videos annotated as in YouTube-VIS 2019 and 2021 and OVIS, for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdqe.annotations.files import Source
from mdqe.annotations.reader import VIDEOS
from mdqe.data.annotated import AnnotatedClips, Item
from mdqe.errors import InputError
from mdqe.targets import ClipTargets


class VideoClips(AnnotatedClips):
    """Clips of videos: frames near one another, in order (paper Sec. 4.1).

    Labels are positions in `category_ids`. Ids are positions among the objects of the video that are visible in the
    clip. Boxes are computed from the masks. Crowds and videos without objects are left out.

    Args:
        annotations: the JSON file.
        images: the folder that its "file_names" are relative to.
        clip_length: T.
        frame_range: the largest distance of the other frames from a clip's reference frame, which is drawn at random.
        options: as in `AnnotatedClips`; `augmentation` applies to whole clips.

    Raises:
        OSError, InputError: as in `AnnotatedClips`.
    """

    layout = VIDEOS

    def __init__(
        self, annotations: Source, images: str | Path, clip_length: int = 4, *, frame_range: int = 10, **options: Any
    ) -> None:
        if frame_range < 0:
            raise InputError(f"frame_range is {frame_range}, expected 0 or more")
        self.frame_range = frame_range
        super().__init__(annotations, images, clip_length, **options)

    def _draw(self, item: Item, frames: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ClipTargets]:
        chosen = sample_frames(frames, self.clip_length, self.frame_range, generator)
        read = {frame: self._read(item, frame) for frame in set(chosen)}
        clip = torch.stack([read[frame] for frame in chosen]).permute(0, 3, 1, 2)  # (T, 3, H, W), channels last
        labels, masks = map(torch.from_numpy, self.objects.draw(item, chosen))
        if self.augmentation is not None:
            clip, masks = self.augmentation(clip, masks, generator)
        return clip.contiguous(), ClipTargets.from_masks(labels, masks)


def sample_frames(frames: Sequence[int], clip_length: int, frame_range: int, generator: torch.Generator) -> list[int]:
    """The frames of a clip, in order: a reference frame and others at most `frame_range` from it.

    Every frame has the same probability of being the reference. No frame occurs twice unless there are too few: then
    all frames in the range occur, and some of them again.
    """
    reference = frames[int(torch.randint(len(frames), (), generator=generator))]
    near = [frame for frame in frames if frame != reference and abs(frame - reference) <= frame_range]
    missing = max(0, clip_length - 1 - len(near))
    picked = [near[i] for i in torch.randperm(len(near), generator=generator)[: clip_length - 1].tolist()]
    pool = [reference, *near]
    again = [pool[i] for i in torch.randint(len(pool), (missing,), generator=generator).tolist()]
    return sorted([reference, *picked, *again])
