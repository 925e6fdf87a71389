"""Frames → tensors and results → segmentation maps, with the names of `transformers`, which is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdqe.config import MDQEConfig
from mdqe.errors import InputError
from mdqe.inference.postprocess import filter_clips, window_masks
from mdqe.modeling.mask_head import MASK_STRIDE
from mdqe.modeling.preprocess import as_frame, normalize, resize, resized_size
from mdqe.results import rle
from mdqe.results.instances import VideoInstances
from mdqe.weights.folder import CONFIG_FILE, read_config
from mdqe.weights.source import open_source

if TYPE_CHECKING:
    from mdqe.modeling.network import ClipOutput


class MDQEImageProcessor:
    """Prepares the inputs of a model with this configuration and post-processes its results.

    `processor(video)` returns `pixel_values`: resized, normalised and padded frames. For every frame,
    `post_process_instance_segmentation` returns `segmentation` and `segments_info`, as Mask2Former's image processor in
    `transformers` does, but with ids that persist over the video.

    Args:
        config: configuration of the model.
    """

    model_input_names = ("pixel_values", "sizes")

    def __init__(self, config: MDQEConfig) -> None:
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        id_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **config_overrides: Any,
    ) -> MDQEImageProcessor:
        """Create the processor of a model without loading its weights. Arguments as in `MDQE.from_pretrained`."""
        fetch = open_source(
            id_or_folder, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(read_config(fetch(CONFIG_FILE)).replace(**config_overrides))

    def __call__(self, videos: Any, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Prepare one video, or several videos with the same number of frames.

        Args:
            videos: a frame: an (H, W, 3) uint8 RGB array or tensor, or a PIL image; a video: a (T, H, W, 3) array or
                tensor, a list of frames, or a path or another source for `mdqe.video.read.open_frames`; or a list of
                videos.
            dtype: of the pixel values; float64 for a model in float64.

        Returns:
            pixel_values: (B, T, 3, H, W), with zeros on the right and at the bottom.
            sizes: (height, width) of the frames of each video inside the padding. `model(**inputs)` takes these two.
            original_sizes: (height, width) of the given frames: `target_sizes` of the post-processing.

        Raises:
            InputError: no frames; frames of another type or shape, or of different sizes; videos of different lengths.
        """
        c = self.config
        mean, std = (torch.tensor(v, dtype=dtype) for v in (c.pixel_mean, c.pixel_std))
        clips, sizes, original_sizes = [], [], []
        for video in _videos(videos):
            frames: list[Tensor] = []
            original = None
            for frame in video:
                frames.append(as_frame(frame, len(frames), original))
                original = (frames[0].shape[0], frames[0].shape[1])
            if original is None:
                raise InputError("the video has no frames")
            size = resized_size(original, c.test_shorter_edge, c.test_longer_edge)
            clip = torch.stack([resize(frame.permute(2, 0, 1), size) for frame in frames])  # (T, 3, H, W)
            clips.append(normalize(clip, mean, std))
            sizes.append(size)
            original_sizes.append(original)
        lengths = [len(clip) for clip in clips]
        if len(set(lengths)) != 1:
            raise InputError(f"the videos have {lengths or 'no'} frames, expected at least one video, of equal lengths")
        height, width = (max(clip.shape[axis] for clip in clips) for axis in (-2, -1))
        padded = [F.pad(clip, (0, width - clip.shape[-1], 0, height - clip.shape[-2])) for clip in clips]
        return {"pixel_values": torch.stack(padded), "sizes": sizes, "original_sizes": original_sizes}

    preprocess = __call__

    def post_process_instance_segmentation(
        self,
        outputs: ClipOutput | VideoInstances | Sequence[VideoInstances],
        threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
    ) -> list[dict[str, Any]]:
        """Convert results to one dictionary per frame.

        Args:
            outputs: of `model.segment`, `session.push` or `model.stream`, with ids that persist over the video; or of
                `model(**inputs)`, with ids that persist over the clip.
            threshold: minimum score of a segment.
            target_sizes: (height, width) of the maps, one for each clip or result, or one for all. None: the size of
                the result, or of the padded frames. For `model(**inputs)` pass its `original_sizes`, which also removes
                the padding.
            return_coco_annotation: return the RLE of each segment instead of a map.
            return_binary_maps: return a mask of each segment instead of a map; masks may overlap.

        Returns:
            For every frame, clip by clip:
            - "segmentation": (H, W) int32 of segment ids, −1 for background; where segments overlap, the id of the best
              one. Or a list of {"size", "counts"}, or (N, H, W) bool, in the order of "segments_info".
            - "segments_info": the visible segments, best first: "id" of the track, "label_id", "was_fused" (always
              False) and "score".

        Raises:
            InputError: both kinds of output are requested, or the number of target_sizes is wrong.
        """
        from mdqe.modeling import network  # it loads timm

        if return_coco_annotation and return_binary_maps:
            raise InputError("return_coco_annotation and return_binary_maps are both True, expected at most one")
        if isinstance(outputs, VideoInstances):
            outputs = [outputs]
        number = len(outputs.mask_features) if isinstance(outputs, network.ClipOutput) else len(outputs)
        if target_sizes is not None and len(target_sizes) not in (1, number):
            raise InputError(f"target_sizes has {len(target_sizes)} entries, expected 1 or {number}")
        sizes: Sequence[tuple[int, int] | None] = [None] * number
        if target_sizes is not None:
            sizes = [(height, width) for height, width in target_sizes] * (number // len(target_sizes))
        if isinstance(outputs, network.ClipOutput):
            outputs = self._instances(outputs, sizes)
        frames: list[dict[str, Any]] = []
        for instances, size in zip(outputs, sizes, strict=True):
            instances = instances.above(threshold)
            instances = instances[np.argsort(-instances.scores, kind="stable")]
            for frame in range(instances.num_frames):
                segments = instances[instances.present[:, frame]]
                masks = _resized(segments.frame_masks(frame), size)
                visible = masks.any(axis=(1, 2))  # small segments may vanish
                frames.append(_describe(segments[visible], masks[visible], return_coco_annotation, return_binary_maps))
        return frames

    def _instances(self, outputs: ClipOutput, originals: Sequence[tuple[int, int] | None]) -> list[VideoInstances]:
        """The instances of each clip of a batch, at its original size or, if None, that of the padded frames."""
        c, last, features = self.config, outputs.layers[-1], outputs.mask_features
        found = filter_clips(
            last.class_logits.sigmoid(),
            last.mask_coefficients,
            last.embeddings,
            features,
            score_threshold=c.score_threshold,
            max_detections=10 * c.detections_per_image,
        )
        padded = (MASK_STRIDE * features.shape[-2], MASK_STRIDE * features.shape[-1])
        instances = []
        for clip, original in zip(found, originals, strict=True):
            size = padded if original is None else resized_size(original, c.test_shorter_edge, c.test_longer_edge)
            chunks = window_masks(clip.mask_logits, size, original or size, alignment=c.mask_alignment)
            masks = torch.cat(list(chunks))
            scores, labels = (x.cpu() for x in clip.class_scores.max(1))
            rows = scores.double(), labels, range(len(scores)), masks.cpu().numpy()
            instances.append(VideoInstances.from_masks(*rows))
        return instances


def _videos(source: Any) -> Iterator[Any]:
    """The videos of a source, each an iterable of frames."""
    from mdqe.video.read import Frames, open_frames

    if _axes(source) == 3:
        yield [source]
    elif _axes(source) == 5 or (isinstance(source, list | tuple) and source and _axes(source[0]) not in (2, 3)):
        for video in source:
            yield from _videos(video)
    elif isinstance(source, str | PathLike | Frames):
        yield open_frames(source)
    else:
        yield source


def _axes(source: Any) -> int:
    """Number of axes of an array or tensor; 3 for a PIL image, without importing PIL; 0 for others."""
    return 3 if hasattr(source, "getbands") else len(getattr(source, "shape", ()))


def _resized(masks: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Masks (N, H, W) bool, resized by nearest-neighbour interpolation."""
    if size is None or masks.shape[1:] == size:
        return masks
    if not len(masks):
        return np.zeros((0, *size), bool)
    return F.interpolate(torch.from_numpy(masks)[:, None].byte(), size=size)[:, 0].bool().numpy()


def _describe(segments: VideoInstances, masks: np.ndarray, as_rle: bool, as_maps: bool) -> dict[str, Any]:
    """The dictionary of one frame: N segments, best first, and their masks (N, H, W)."""
    segmentation: Any
    if as_rle:
        segmentation = [rle.to_coco(counts, masks.shape[1:]) for counts in rle.encode(masks)]
    elif as_maps:
        segmentation = torch.from_numpy(masks)
    else:
        segmentation = torch.full(masks.shape[1:], -1, dtype=torch.int32)
        for track, mask in zip(segments.track_ids[::-1], masks[::-1], strict=True):  # the best one overwrites others
            segmentation[torch.from_numpy(mask)] = int(track)
    rows = zip(segments.track_ids, segments.labels, segments.scores, strict=True)
    info = [
        {"id": int(track), "label_id": int(label), "was_fused": False, "score": round(float(score), 6)}
        for track, label, score in rows
    ]
    return {"segmentation": segmentation, "segments_info": info}
