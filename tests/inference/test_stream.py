"""Near-online inference: every frame is encoded once, and the result is that of a plain run, clip by clip."""

import gc
import re
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model
from torch import Tensor, nn

from mdqe import MDQE, ClipTracker, VideoInstances
from mdqe.inference.postprocess import filter_clip
from mdqe.inference.session import VideoSession
from mdqe.inference.views import FrameView
from mdqe.inference.windows import window_masks
from mdqe.modeling.preprocess import resize, resized_size


class PlainTracks(NamedTuple):
    """What a plain run finds of a video."""

    class_scores: Tensor
    """(windows, N, K)."""
    masks: np.ndarray
    """(N, T, H, W) bool."""
    clips: list[list[int]]


def plain_run(model: MDQE, video: Tensor) -> PlainTracks:
    """Clip by clip through `MDQE.forward`, nothing kept from one to the next but the tracker."""
    c = model.config
    size = (video.shape[1], video.shape[2])
    resized = resized_size(size, c.test_shorter_edge, c.test_longer_edge)
    frames = resize(video.permute(0, 3, 1, 2), resized)
    tracker = ClipTracker(c.test_clip_length, c.clip_stride, c.window_length, c.score_threshold)
    windows, clips = [], []
    for start in range(0, len(video), c.clip_stride):
        while start >= tracker.window_start + c.window_length:
            windows.append(tracker.flush())
        clips.append(list(range(start, min(start + c.test_clip_length, len(video)))))
        with torch.inference_mode():
            out = model(frames[None, clips[-1]])
        last = out.layers[-1]
        found = filter_clip(
            last.class_logits[0].sigmoid(), last.mask_coefficients[0], last.embeddings[0], out.mask_features[0],
            score_threshold=c.score_threshold, max_detections=10 * c.detections_per_image,
        )  # fmt: skip
        tracker.update(clips[-1], *found)
        if start + c.test_clip_length > len(video):
            break
    windows.append(tracker.flush(last=True))
    number = tracker.num_tracks
    scores = torch.stack([torch.cat([s, s.new_zeros(number - len(s), s.shape[1])]) for s, _ in windows])
    masks = np.zeros((number, len(video), *size), bool)
    first = 0
    for _, logits in windows:
        if len(logits):
            chunk = torch.cat(list(window_masks(logits, resized, size))).numpy()
            masks[: len(chunk), first : first + logits.shape[1]] = chunk
        first += logits.shape[1]
    assert first == len(video)
    return PlainTracks(scores, masks, clips)


def check(model: MDQE, video: Tensor) -> VideoInstances:
    """The session's result is the plain run's."""
    plain = plain_run(model, video)
    result = model.segment(video, score_threshold=0)
    assert result.masks.shape == plain.masks.shape
    order = result.track_ids.argsort()
    assert result.track_ids[order].tolist() == list(range(len(plain.masks)))
    scores = 0.75 * plain.class_scores.mean(0) + 0.25 * plain.class_scores.amax(0)
    np.testing.assert_allclose(result.scores[order], scores.amax(1), rtol=1e-10)
    assert result.labels[order].tolist() == scores.argmax(1).tolist()
    np.testing.assert_array_equal(result.masks[order], plain.masks)
    return result


# What differs from four-frame clips at every frame of 64×96 and windows of six.
CASES: dict[str, tuple[int, tuple[int, int], dict[str, Any]]] = {
    "three windows": (15, (64, 96), {}),
    "one frame": (1, (64, 96), {}),
    "shorter than a clip": (3, (64, 96), {}),
    "exactly a clip": (4, (64, 96), {}),
    "a window and a frame": (7, (64, 96), {}),
    "stride 2": (14, (64, 96), {"clip_stride": 2}),
    "stride 3": (13, (64, 96), {"clip_stride": 3}),
    "stride of a whole clip": (12, (64, 96), {"clip_stride": 4, "window_length": 8}),
    "an end without window": (17, (64, 96), {"clip_stride": 2, "window_length": 8}),
    "windows shorter than clips": (7, (64, 96), {"window_length": 2}),
    "clips of 3, trained with 4": (9, (64, 96), {"test_clip_length": 3}),
    "clips of 5, trained with 4": (9, (64, 96), {"test_clip_length": 5}),
    "clips of 2, trained with 4": (9, (64, 96), {"test_clip_length": 2}),
    "clips of 4, trained with 3": (9, (64, 96), {"clip_length": 3}),
    "clips of 1": (8, (64, 96), {"test_clip_length": 1}),
    "trained with images": (8, (64, 96), {"clip_length": 1, "test_clip_length": 5}),
    "odd size": (7, (67, 101), {}),
    "resized": (7, (50, 120), {"test_shorter_edge": 40, "test_longer_edge": 90}),
    "instance to object": (7, (64, 96), {"decoder": "i2o"}),
    "learned queries": (7, (64, 96), {"query_initialization": False}),
    "no association": (7, (64, 96), {"query_association": False}),
    "no temporal attention": (7, (64, 96), {"temporal_cross_attention": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_run(case):
    frames, size, options = CASES[case]
    result = check(small_model(**options), moving_squares(frames, size))
    assert len(result) > 0
    assert result.masks.any()


def test_published_backbone_of_101_layers():
    check(small_model(backbone="resnet101", stride_in_1x1=True), moving_squares(3))


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model()


def push_all(session: VideoSession, video: Tensor) -> list[VideoInstances]:
    return [window for frame in video for window in session.push(frame)] + session.flush()


def test_frames_encoded_together_make_no_difference(model):
    video = moving_squares(15)
    results = {}
    for at_once in (None, 1, 3, 4, 7, 100):
        windows = push_all(VideoSession(model, score_threshold=0, by_window=True, frames_at_once=at_once), video)
        results[at_once] = VideoInstances.concatenate(windows)
    first = results.pop(None)
    assert len(first) > 5
    for result in results.values():
        np.testing.assert_array_equal(result.track_ids, first.track_ids)
        np.testing.assert_array_equal(result.labels, first.labels)
        np.testing.assert_allclose(result.scores, first.scores, rtol=1e-10)
        np.testing.assert_array_equal(result.masks, first.masks)


@pytest.mark.parametrize("options", [{}, {"clip_stride": 3}, {"test_clip_length": 5}, {"decoder": "i2o"}])
def test_every_frame_is_computed_once(options):
    model, frames = small_model(**options), 15
    counts: Counter[str] = Counter()

    def count(name: str, axis: int) -> Any:
        return lambda _, inputs, __: counts.update({name: inputs[0].shape[axis]})

    model.backbone.register_forward_hook(count("backbone", 0))
    model.mask_head.register_forward_hook(count("mask head", 1))
    model.query_init.activation_head.register_forward_hook(count("activation", 0))
    for i, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(count(f"encoder {i}", 0))
    for i, layer in enumerate(model.decoder.layers):
        for level in ("frame", "clip"):
            getattr(layer, level).cross_attn.value_proj.register_forward_hook(count(f"values {i} {level}", 1))
    model.segment(moving_squares(frames), score_threshold=0)
    assert len(counts) == 3 + 1 + 2 * 2
    assert set(counts.values()) == {frames}


def held_bytes(session: VideoSession) -> int:
    """Bytes of all tensors and arrays that the session keeps alive, apart from the model and one row per track."""
    seen, storages = {id(session.model), id(session.config)}, {}
    tracks = session.tracker.num_tracks
    stack: list[Any] = [session]
    while stack:
        held = stack.pop()
        if id(held) in seen or isinstance(held, type | nn.Module) or callable(held):
            continue
        seen.add(id(held))
        if isinstance(held, Tensor):
            if held.ndim > 2 or len(held) != tracks:
                storage = held.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(held, np.ndarray):
            storages[id(held)] = held.nbytes
        else:
            stack += gc.get_referents(held)
    return sum(storages.values())


def test_memory_does_not_grow_with_the_video(model):
    """The same scene again and again: what is held at the same point of a window stays the same."""
    session, scene = VideoSession(model, frames_at_once=3), moving_squares(6, (32, 64))
    held = {}
    for t in range(200):
        session.push(scene[t % 6])
        held[t] = held_bytes(session)
    assert session.tracker.num_tracks > 3
    assert max(held[t] for t in range(194, 200)) <= max(held[t] for t in range(54, 60))
    assert max(held.values()) < 1.2 * max(held[t] for t in range(60))
    session.flush()
    assert session._encoded is None


def test_windows_of_a_stream(model):
    video = moving_squares(15)
    whole = model.segment(video, score_threshold=0)
    chunks = list(model.stream(video, score_threshold=0))
    assert [(c.first_frame, c.num_frames) for c in chunks] == [(0, 6), (6, 6), (12, 3)]
    assert any(set(a.track_ids) & set(b.track_ids) for a, b in pairwise(chunks))
    joined = VideoInstances.concatenate(chunks)
    order, wanted = joined.track_ids.argsort(), whole.track_ids.argsort()
    np.testing.assert_array_equal(joined.track_ids[order], whole.track_ids[wanted])
    np.testing.assert_array_equal(joined.masks[order], whole.masks[wanted])
    final = dict(zip(whole.track_ids.tolist(), whole.scores.tolist(), strict=True))
    for track, score in zip(chunks[-1].track_ids.tolist(), chunks[-1].scores.tolist(), strict=True):
        assert score == final[track]


def test_windows_hold_the_tracks_that_pass_so_far(model):
    """A window's scores are those of the windows up to it; what is below the threshold or not seen is left out."""
    video = moving_squares(15)
    plain, threshold = plain_run(model, video), 0.15
    kept = 0
    for k, chunk in enumerate(model.stream(video, score_threshold=threshold), start=1):
        scores = (0.75 * plain.class_scores[:k].mean(0) + 0.25 * plain.class_scores[:k].amax(0)).amax(1)
        shown = plain.masks[:, chunk.first_frame : chunk.first_frame + chunk.num_frames].any((1, 2, 3))
        expected = {int(i): float(scores[i]) for i in np.flatnonzero(shown) if scores[i] >= threshold}
        got = dict(zip(chunk.track_ids.tolist(), chunk.scores.tolist(), strict=True))
        assert got == pytest.approx(expected, rel=1e-10)
        assert (np.diff(chunk.scores) <= 0).all()
        kept += len(got)
    assert 0 < kept < plain.masks.any((2, 3)).sum()


def test_a_threshold_selects_from_the_same_tracks(model):
    video = moving_squares(15)
    every = model.segment(video, score_threshold=0)
    threshold = float(np.median(every.scores))
    some = model.segment(video, score_threshold=threshold)
    expected = every.above(threshold)
    assert 0 < len(some) < len(every)
    np.testing.assert_array_equal(some.track_ids, expected.track_ids)
    np.testing.assert_array_equal(some.masks, expected.masks)


def test_benchmark_protocol(model):
    """Every (track, class) pair above 0.05, or the ten best where those are more; the threshold is ignored."""
    video = moving_squares(15)
    plain = plain_run(model, video)
    scores = (0.75 * plain.class_scores.mean(0) + 0.25 * plain.class_scores.amax(0)).numpy()
    number = max(int((scores > 0.05).sum()), 10)
    result = model.segment(video, score_threshold=0.9, multi_label=True)
    assert len(result) == number
    np.testing.assert_allclose(result.scores, np.sort(scores.ravel())[::-1][:number], rtol=1e-10)
    for i in range(number):
        assert result.scores[i] == pytest.approx(scores[result.track_ids[i], result.labels[i]], rel=1e-10)
        np.testing.assert_array_equal(result.mask(i, 3), plain.masks[result.track_ids[i], 3])


def test_masks_of_another_size(model):
    video, size = moving_squares(5, (60, 90)), (41, 133)
    there, here = model.segment(video, score_threshold=0), model.segment(video, score_threshold=0, output_size=size)
    masks = torch.from_numpy(there.masks).flatten(0, 1)[:, None].to(torch.uint8)
    wanted = torch.nn.functional.interpolate(masks, size=size, mode="nearest")[:, 0].bool().numpy()
    assert here.size == size
    np.testing.assert_array_equal(here.masks.reshape(wanted.shape), wanted)


class Watched(ClipTracker):
    """Notes every clip's frames and the tracks that it matched."""

    log: list[Any]

    def update(self, frame_indices, class_scores, mask_logits, embeddings):
        ids = super().update(frame_indices, class_scores, mask_logits, embeddings)
        self.log.append((list(frame_indices), {int(i) for i in ids if i >= 0}))
        return ids


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 3, 9, 12])
def test_views_of_every_frame(stride, frames):
    """Every frame once, in order, with points and activation of its own, after a clip that has it."""
    model, video = small_model(clip_stride=stride), moving_squares(frames, (60, 90))
    log: list[Any] = []
    session = VideoSession(model, on_frame=log.append)
    session.tracker = Watched(4, stride, 6, model.config.score_threshold)
    session.tracker.log = log
    push_all(session, video)

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


def test_views_where_queries_are_learned():
    model, views = small_model(query_initialization=False), []
    push_all(VideoSession(model, on_frame=views.append), moving_squares(5))
    assert [view.frame for view in views] == list(range(5))
    np.testing.assert_allclose(views[0].points, model.query_init.points.detach().sigmoid(), rtol=1e-9)
    assert not any(view.activation.any() for view in views)
    assert {view.activation.shape for view in views} == {(8, 12)}


def test_nothing_to_see(model):
    """A video in which every mask is empty has no instances, in any protocol, and no failure."""
    empty = small_model()
    with torch.no_grad():
        empty.coefficient_head.layers[-1].weight.zero_()
        empty.coefficient_head.layers[-1].bias.zero_()  # logits 0: no pixel above
    views = []
    windows = push_all(VideoSession(empty, by_window=True, on_frame=views.append), moving_squares(9))
    assert [len(window) for window in windows] == [0, 0]
    assert [set(view.track_ids.tolist()) for view in views] == [{-1}] * 9
    assert len(empty.segment(moving_squares(9), score_threshold=0)) == 0
    assert len(empty.segment(moving_squares(9), multi_label=True)) == 0
    assert [len(chunk) for chunk in empty.stream(moving_squares(9))] == [0, 0]


VIDEO = moving_squares(4, (32, 32))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (VIDEO.float(), r"a frame is float32 of shape \(32, 32, 3\); expected uint8 of \(H, W, 3\), RGB"),
        ([frame[..., 0] for frame in VIDEO], r"a frame is uint8 of shape \(32, 32\); expected"),
        ([VIDEO[0], VIDEO[1], VIDEO[2, :30]], "frame 2 of frames is 32x30; the frames before it are 32x32"),
        (VIDEO[0], r"frames have shape \(32, 32, 3\); expected \(T, H, W, 3\)"),
        (VIDEO[:0], "frames holds no frames"),
        ([], "frames holds no frames"),
    ],
)
def test_videos_that_are_refused(model, video, message):
    with pytest.raises(ValueError, match=message):
        model.segment(video)
    with pytest.raises(ValueError, match=message):
        list(model.stream(video))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_that_are_refused(model, threshold):
    for run in (model.segment, lambda *args, **options: list(model.stream(*args, **options))):
        with pytest.raises(ValueError, match=f"score_threshold is {threshold}, expected a number from 0 to 1"):
            run(VIDEO, score_threshold=threshold)


@pytest.mark.parametrize("options", [{"output_size": (0, 5)}, {"output_size": (4,)}, {"frames_at_once": 0}])
def test_sizes_that_are_refused(model, options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value}, expected")):
        VideoSession(model, **options)


def test_a_session_refuses_what_does_not_follow(model):
    session = VideoSession(model)
    with pytest.raises(ValueError, match="the video has no frames"):
        session.flush()
    assert session.class_scores().shape == (0, 3)
    session.push(VIDEO[0])
    with pytest.raises(ValueError, match=r"frame 1 is \(32, 32, 3\) float32, expected \(height, width, 3\) uint8"):
        session.push(VIDEO[1].float())
    with pytest.raises(ValueError, match="frame 1 is 31x32, the first one is 32x32"):
        session.push(VIDEO[1, :, :31])
    assert session.push(VIDEO[1]) == []  # the session goes on
    assert session.flush()[0].num_frames == 2


def test_frames_come_when_they_are_needed(model):
    """A generator is asked for no frame beyond those that the window under way can hold."""
    asked = []

    def camera():
        for t, frame in enumerate(moving_squares(20)):
            asked.append(t)
            yield frame

    first = next(iter(model.stream(camera(), score_threshold=0)))
    assert first.num_frames == 6
    assert len(asked) <= 6 + 4 + 4  # the window, what its last clip reaches past it, frames encoded together
