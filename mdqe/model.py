"""MDQE: the network with methods to load it, segment and stream videos, and compute training losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from mdqe.inference.image import segment_image
from mdqe.inference.session import VideoSession, load_session
from mdqe.inference.whole import segment, start_whole
from mdqe.losses.criterion import Criterion, build_criterion
from mdqe.losses.targets import check_targets
from mdqe.modeling.network import Network
from mdqe.results.instances import VideoInstances
from mdqe.targets import ClipTargets
from mdqe.video.read import open_frames
from mdqe.weights.hub import PretrainedMixin

BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"  # always frames per second


class MDQE(PretrainedMixin, Network):
    """Video instance segmentation by mining discriminative query embeddings (CVPR 2023).

    Args:
        config: sizes and variants; `MDQEConfig.preset(name)` returns the published ones.

    The weights are random; `MDQE.from_pretrained` loads trained ones.
    """

    def segment(
        self,
        video: Any,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        progress: bool = False,
        cuda_graphs: bool = False,
    ) -> VideoInstances:
        """Find every instance of a video: its class, its score and its mask in every frame (paper Sec. 3.4).

        Args:
            video: a path, glob, URL or camera that `mdqe.video.read.open_frames` opens; an array or tensor
                (T, H, W, 3) uint8 RGB; or any iterable of frames, which are (H, W, 3) or paths of images. It is never
                held in memory as a whole.
            score_threshold: minimum score of an instance.
            multi_label: use the benchmark protocol instead: return every (track, class) pair above 0.05, at least 10.
            output_size: (height, width) of the masks; None: the size of the frames.
            progress: show a progress bar.
            cuda_graphs: on a GPU, run the network as CUDA graphs. They have not been run on a GPU yet.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: frames of another type or shape, frames that change size, no frames, or an invalid threshold.
        """
        frames = open_frames(video, ahead=self.config.window_length)
        shown = tqdm(frames, total=frames.count, unit=" frames", bar_format=BAR_FORMAT, disable=not progress)
        options: dict[str, Any] = {"output_size": output_size, "cuda_graphs": cuda_graphs}
        result = segment(self, shown, score_threshold=score_threshold, multi_label=multi_label, **options)
        return replace(result, fps=None if frames.fps is None else float(frames.fps))

    def stream(
        self,
        frames: Any,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        cuda_graphs: bool = False,
    ) -> Iterator[VideoInstances]:
        """As `segment`, but yield each window as soon as it is final, in memory that does not grow with the video.

        Track ids persist across windows. A window holds the tracks seen in it whose score so far passes the threshold.
        """
        session = start_whole(
            self,
            score_threshold=score_threshold,
            multi_label=multi_label,
            output_size=output_size,
            by_window=True,
            encoder_batch_size=None,
            cuda_graphs=cuda_graphs,
        )
        return session.run(open_frames(frames, ahead=self.config.window_length))

    def start(
        self,
        *,
        score_threshold: float = 0.3,
        multi_label: bool = False,
        output_size: tuple[int, int] | None = None,
        by_window: bool = False,
        encoder_batch_size: int | None = 1,
    ) -> VideoSession:
        """Start a session for frames that arrive one by one: `push` each frame, `flush` at the end.

        Arguments as in `segment` and `VideoSession`. `push` returns the results that became final: those of a frame
        become final `test_clip_length` − 1 frames after it, or with `by_window` in whole windows as in `stream`.
        """
        return VideoSession(
            self,
            score_threshold=score_threshold,
            multi_label=multi_label,
            output_size=output_size,
            by_window=by_window,
            encoder_batch_size=encoder_batch_size,
        )

    def resume(self, path: str | Path) -> VideoSession:
        """Resume a session that `VideoSession.save` wrote; on the same machine the results are equal to the bit.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: not a saved session, damaged, or saved by a model of another configuration, type or weights.
        """
        return load_session(self, path)

    def segment_image(self, image: Any, *, output_size: tuple[int, int] | None = None) -> VideoInstances:
        """Find every instance of one image by the COCO protocol: (query, class) pairs above 0.05, best first.

        Args:
            image: (H, W, 3) uint8 RGB: an array, a tensor or a PIL image.
            output_size: (height, width) of the masks; None: the size of the image.

        Returns:
            A result of one frame in which every row has its own id.

        Raises:
            ValueError: an image of another type or shape.
        """
        return segment_image(self, image, output_size)

    def loss(
        self, frames: Tensor, targets: Sequence[ClipTargets], *, criterion: Criterion | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted training losses of clips by name; training minimises their sum (paper Sec. 3.4).

        Args:
            frames: (B, T, 3, H, W) RGB in 0 … 255, any real type; smaller clips are padded with zeros on the right and
                at the bottom.
            targets: one per clip; their masks have the clip's own size, and their boxes are in pixels.
            criterion: other losses or weights than those of the configuration.

        Raises:
            TypeError: frames is not a tensor, or targets are not `ClipTargets`.
            ValueError: frames and targets do not fit each other, or frames of floating point are in 0 … 1.
        """
        check_targets(frames, targets)
        sizes = [(t.masks.shape[-2], t.masks.shape[-1]) for t in targets]
        output = self(frames, sizes, self.config.association_window)
        criterion = criterion or build_criterion(self.config)
        return criterion(output, [target.to(frames.device) for target in targets])
