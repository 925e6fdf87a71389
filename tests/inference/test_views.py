"""Views of frames: initial query positions, activation and tracks, once for every frame."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model

from mdqe import ClipTracker
from mdqe.inference.frame_buffer import encode_frames
from mdqe.inference.postprocess import ClipDetections
from mdqe.inference.session import VideoSession
from mdqe.inference.views import FrameView, frame_views


class Watched(ClipTracker):
    """Logs the frames of every clip and its tracks."""

    log: list[Any]

    def update(self, frame_indices, class_scores, mask_logits, embeddings):
        ids = super().update(frame_indices, class_scores, mask_logits, embeddings)
        self.log.append((list(frame_indices), {int(i) for i in ids if i >= 0}))
        return ids


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 3, 9, 12])
def test_views_of_every_frame(stride, frames):
    """Every frame once, in order, after a clip that contains it, with its own points and activation."""
    model, video = small_model(clip_stride=stride), moving_squares(frames, (60, 90))
    log: list[Any] = []
    session = VideoSession(model, on_frame=log.append)
    session.tracker = Watched(4, stride, 6, model.config.score_threshold)
    session.tracker.log = log
    list(session.run(video))

    views = [entry for entry in log if isinstance(entry, FrameView)]
    assert [view.frame for view in views] == list(range(frames))
    with torch.inference_mode():
        tokens = model.encode(video.permute(0, 3, 1, 2)[None])
        own = model.query_init.select(tokens.memory, tokens.spatial_shapes)
    clip: tuple[list[int], set[int]] = ([], set())
    for entry in log:
        if not isinstance(entry, FrameView):
            clip = entry
            continue
        assert entry.frame in clip[0]
        assert clip[1] <= set(entry.track_ids.tolist()) <= clip[1] | {-1}
        assert entry.points.shape == (16, 2)
        in_padding = entry.points * np.array([90 / 96, 60 / 64])  # of the padded frame
        distance = np.abs(in_padding[:, None] - own.coords[0, entry.frame].numpy()).max(-1)  # (Q, Q)
        assert distance.min(1).max() < 1e-9
        activation = own.activation[0, entry.frame].sigmoid().amax(0)[:8, :12]  # (60 / 8, 90 / 8) rounded up
        np.testing.assert_allclose(entry.activation, activation, rtol=1e-5)


def test_views_of_learned_queries():
    model, views = small_model(query_initialization=False), []
    list(VideoSession(model, on_frame=views.append).run(moving_squares(5)))
    assert [view.frame for view in views] == list(range(5))
    np.testing.assert_allclose(views[0].points, model.query_init.points.detach().sigmoid(), rtol=1e-9)
    assert not any(view.activation.any() for view in views)
    assert {view.activation.shape for view in views} == {(8, 12)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_near_duplicates_are_those_of_the_filter_in_any_type(dtype, autocast):
    """In bfloat16, similarities are multiples of 1/256, and 0.9886 would become 0.992."""
    found = torch.tensor([[1.0, 0.0]], dtype=dtype)
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.125], [1.0, 39 / 256]], dtype=dtype)  # 1, 0.992, 0.9886
    model = small_model(query_initialization=False)
    with torch.inference_mode():
        encoded = encode_frames(model, moving_squares(1).permute(0, 3, 1, 2), 0)
        detections = ClipDetections(torch.ones(1, 3), torch.ones(1, 1, 16, 24), found)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (view,) = frame_views(encoded, range(1), torch.zeros(1, 3, 2), embeddings, detections, torch.tensor([5]))
    assert view.track_ids.tolist() == [5, 5, -1]


def test_views_share_no_memory():
    views: list[FrameView] = []
    list(VideoSession(small_model(clip_stride=4), on_frame=views.append).run(moving_squares(5)))
    assert not any(np.shares_memory(a.track_ids, b.track_ids) for a, b in pairwise(views))


@pytest.mark.parametrize("by_window", [False, True])
def test_new_ids_by_those_of_the_tracker(by_window):
    """They are reported when the frame is final, after its view, and name the same masks."""
    video, found, log = moving_squares(9, (60, 90)), {}, []
    for relink in (False, True):
        callbacks = {"on_frame": log.append, "on_new_ids": lambda *ids: log.append(ids)} if relink else {}
        options = {"score_threshold": 0.0, "by_window": by_window, "keep_all": True, **callbacks}
        found[relink] = list(VideoSession(small_model(relink=relink, window_length=5), **options).run(video))
    viewed, renamed, frames = -1, 0, []
    for entry in log:
        if isinstance(entry, FrameView):
            viewed = entry.frame
            continue
        frame, ids = entry
        assert frame <= viewed and ids
        frames.append(frame)
        renamed += any(track != new for track, new in ids.items())
        old, new = (dict(zip(*masks_of(found[relink], frame), strict=True)) for relink in (False, True))
        assert sorted(ids.values()) == sorted(new)
        assert all(np.array_equal(old[track], new[one]) for track, one in ids.items())
    assert frames == list(range(9)) and renamed


def masks_of(results: list[Any], frame: int) -> tuple[list[int], np.ndarray]:
    """The ids and the masks of the tracks that are visible in a frame."""
    (one,) = [x for x in results if x.first_frame <= frame < x.first_frame + x.num_frames]
    masks = one.frame_masks(frame - one.first_frame)
    shown = masks.any(axis=(1, 2))
    return one.track_ids[shown].tolist(), masks[shown]
