"""`segment` and `stream`: each frame is encoded once, and the result is that of a plain run, clip by clip."""

import gc
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model
from torch import Tensor, nn

from mdqe import MDQE, ClipTracker, VideoInstances
from mdqe.errors import InputError
from mdqe.inference.frame_buffer import encode_frames
from mdqe.inference.postprocess import filter_clips, window_masks
from mdqe.inference.session import VideoSession
from mdqe.inference.whole import segment
from mdqe.modeling.preprocess import resize, resized_size

ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of products with another number of rows, relative to the largest entry."""


class PlainTracks(NamedTuple):
    """The tracks of a video found by a plain run."""

    class_scores: Tensor
    """(windows, N, K)."""
    masks: np.ndarray
    """(N, T, H, W) bool."""


def plain_run(model: MDQE, video: Tensor) -> PlainTracks:
    """Run `MDQE.forward` clip by clip. Only the tracker has a state."""
    c = model.config
    size = (video.shape[1], video.shape[2])
    resized = resized_size(size, c.test_shorter_edge, c.test_longer_edge)
    frames = resize(video.permute(0, 3, 1, 2), resized)
    tracker = ClipTracker(c.test_clip_length, c.clip_stride, c.window_length, c.score_threshold)
    windows = []
    for start in range(0, len(video), c.clip_stride):
        while start >= tracker.window_start + c.window_length:
            windows.append(tracker.flush())
        clip = range(start, min(start + c.test_clip_length, len(video)))
        with torch.inference_mode():
            out = model(frames[None, clip])
        last = out.layers[-1]
        found = filter_clips(
            last.class_logits.sigmoid(), last.mask_coefficients, last.embeddings, out.mask_features,
            score_threshold=c.score_threshold, max_detections=10 * c.detections_per_image,
        )  # fmt: skip
        tracker.update(clip, *found[0])
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
    return PlainTracks(scores, masks)


def check(model: MDQE, video: Tensor) -> VideoInstances:
    """Compare the result of a session with the plain run."""
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


# Frames, their size, and changes of the configuration: clips of four frames at every frame, windows of six frames.
CASES: dict[str, tuple[int, tuple[int, int], dict[str, Any]]] = {
    "three windows": (15, (64, 96), {}),
    "one frame": (1, (64, 96), {}),
    "shorter than a clip": (3, (64, 96), {}),
    "exactly a clip": (4, (64, 96), {}),
    "a window and a frame": (7, (64, 96), {}),
    "stride 2": (14, (64, 96), {"clip_stride": 2}),
    "stride 3": (13, (64, 96), {"clip_stride": 3}),
    "stride of a whole clip": (12, (64, 96), {"clip_stride": 4, "window_length": 8}),
    "last frames without a window": (17, (64, 96), {"clip_stride": 2, "window_length": 8}),
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


def test_the_batch_size_of_the_encoder_does_not_change_the_result(model):
    video = moving_squares(15)
    first, *others = (segment(model, video, score_threshold=0, encoder_batch_size=n) for n in (None, 1, 3, 4, 7, 100))
    assert len(first) > 5
    for result in others:
        np.testing.assert_array_equal(result.track_ids, first.track_ids)
        np.testing.assert_array_equal(result.labels, first.labels)
        np.testing.assert_allclose(result.scores, first.scores, rtol=1e-10)
        np.testing.assert_array_equal(result.masks, first.masks)


@pytest.mark.parametrize("part", ["encode", "decode"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_groups_that_do_not_fit_the_memory_are_halved(model, monkeypatch, part, most):
    """A stand-in for a small GPU: a part of the network runs out of memory with more than so many frames or clips."""
    video, function, sizes = moving_squares(29), getattr(model, part), []
    expected = segment(model, video, score_threshold=0, encoder_batch_size=12)

    def limited(x: Any, *rest: Any) -> Any:
        number = x.shape[1] if part == "encode" else len(x.content)
        sizes.append(number)
        if number > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return function(x, *rest)

    monkeypatch.setattr(model, part, limited)
    found = segment(model, video, score_threshold=0, encoder_batch_size=12)
    assert max(sizes) > most
    if part == "encode":  # 12, 6, 3, 1: later batches are not larger again
        fitting = {1: 1, 2: 1, 5: 3}[most]
        assert set(sizes[sizes.index(fitting) :]) <= {fitting, 29 % fitting}
    np.testing.assert_array_equal(found.track_ids, expected.track_ids)
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-10)


def test_one_frame_that_does_not_fit_the_memory_is_an_error(model, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    for part in ("encode", "decode"):
        with monkeypatch.context() as patch:
            patch.setattr(model, part, fail)
            with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
                segment(model, moving_squares(9), encoder_batch_size=4)


def test_other_errors_of_the_network_are_not_repeated(model, monkeypatch):
    calls: list[int] = []

    def fail(*arguments: Any) -> None:
        calls.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(model, "decode", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        segment(model, moving_squares(9), encoder_batch_size=4)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"decoder": "i2o"}, {"query_initialization": False}])
def test_clips_decoded_together_equal_clips_one_by_one(dtype, stride, options):
    model = small_model(**options).to(dtype)
    with torch.inference_mode():
        frames = encode_frames(model, moving_squares(17).permute(0, 3, 1, 2), 0)
        clips = frames.clips(range(0, 14, stride), 4)
        assert clips.values[0].spatial.data_ptr() == frames.values[0].spatial.data_ptr()  # not copied
        queries, together = model.decode(clips.queries, clips.values, clips.spatial_shapes)
        assert len(together.boxes) == len(range(0, 14, stride))
        for i, start in enumerate(range(0, 14, stride)):
            one = frames.clip(start, start + 4)
            alone_queries, alone = model.decode(one.queries, one.values, one.spatial_shapes)
            assert torch.equal(queries.coords[i], alone_queries.coords[0])
            for got, wanted in zip(together, alone, strict=True):
                error = (got[i] - wanted[0]).abs().max() / wanted[0].abs().max()
                assert error <= ROUNDING[dtype]


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


def stored_bytes(session: VideoSession) -> int:
    """Bytes of all tensors and arrays in the session, without the model and tensors of one row per track."""
    seen, storages = {id(session.model), id(session.config)}, {}
    tracks = session.tracker.num_tracks
    stack: list[Any] = [session]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, type | nn.Module) or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            if item.ndim > 2 or len(item) != tracks:
                storage = item.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.ndarray):
            storages[id(item)] = item.nbytes
        else:
            stack += gc.get_referents(item)
    return sum(storages.values())


def test_memory_does_not_grow_with_the_video(model):
    """A repeated scene needs the same memory at the same point of every window."""
    session, scene = VideoSession(model, encoder_batch_size=3), moving_squares(6, (32, 64))
    stored = {}
    for t in range(200):
        session.push(scene[t % 6])
        stored[t] = stored_bytes(session)
    assert session.tracker.num_tracks > 3
    assert max(stored[t] for t in range(194, 200)) <= max(stored[t] for t in range(54, 60))
    assert max(stored.values()) < 1.2 * max(stored[t] for t in range(60))
    session.flush()
    assert stored_bytes(session) < min(stored.values())


def test_windows_contain_the_tracks_that_pass_so_far(model):
    """Scores are those of the windows so far. Tracks below the threshold and invisible tracks are not listed."""
    video = moving_squares(15)
    plain, threshold = plain_run(model, video), 0.15
    kept, chunks = 0, list(model.stream(video, score_threshold=threshold))
    assert [(c.first_frame, c.num_frames) for c in chunks] == [(0, 6), (6, 6), (12, 3)]
    for k, chunk in enumerate(chunks, start=1):
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
    """Every (track, class) pair above 0.05, or the ten best if these are more; the threshold is ignored."""
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
    masks = torch.from_numpy(model.segment(video, score_threshold=0).masks).flatten(0, 1)[:, None].to(torch.uint8)
    wanted = torch.nn.functional.interpolate(masks, size=size, mode="nearest")[:, 0].bool().numpy()
    resized = model.segment(video, score_threshold=0, output_size=size)
    assert resized.size == size
    np.testing.assert_array_equal(resized.masks.reshape(wanted.shape), wanted)


def test_empty_masks():
    """A video in which every mask is empty has no instances, in any protocol, and raises no error."""
    model = small_model()
    with torch.no_grad():
        model.coefficient_head.layers[-1].weight.zero_()
        model.coefficient_head.layers[-1].bias.zero_()  # all logits are 0, none is above 0
    video, views = moving_squares(9), []
    windows = VideoSession(model, by_window=True, on_frame=views.append).run(video)
    assert [len(window) for window in windows] == [0, 0]
    assert [set(view.track_ids.tolist()) for view in views] == [{-1}] * 9
    assert len(model.segment(video, score_threshold=0)) == len(model.segment(video, multi_label=True)) == 0


VIDEO = moving_squares(4, (32, 32))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (VIDEO.float(), r"a frame is float32 of shape \(32, 32, 3\); expected uint8 of \(H, W, 3\), RGB"),
        ([frame[..., 0] for frame in VIDEO], r"a frame is uint8 of shape \(32, 32\); expected"),
        ([VIDEO[0], VIDEO[1], VIDEO[2, :30]], "frame 2 of frames is 32x30; the frames before it are 32x32"),
        (VIDEO[0], r"frames have shape \(32, 32, 3\); expected \(T, H, W, 3\)"),
        (VIDEO[0].numpy(), "segment_image takes a single image"),
        (VIDEO.numpy().tobytes(), "video is bytes; expected a path"),
        ([b"x.png"], "a frame is bytes; expected uint8"),
        (VIDEO[:0], "frames holds no frames"),
        ([], "frames holds no frames"),
    ],
)
def test_invalid_videos_are_rejected(model, video, message):
    for run in (model.segment, lambda video: list(model.stream(video))):
        with pytest.raises(InputError, match=message):
            run(video)


@pytest.mark.parametrize(
    ("name", "value"),
    [("score_threshold", -0.1), ("score_threshold", 1.1), ("score_threshold", float("nan")), ("output_size", (0, 5)),
     ("output_size", (4,)), ("encoder_batch_size", 0)],
)  # fmt: skip
def test_invalid_options_are_rejected(model, name, value):
    calls = [model.start] if name == "encoder_batch_size" else [model.start, model.segment, model.stream]
    for call in calls:
        with pytest.raises(InputError, match=re.escape(f"{name} is {value}, expected")):
            call(*[VIDEO] * (call != model.start), **{name: value})


def test_frames_are_read_when_they_are_needed(model):
    """A generator is not asked for frames beyond those that the current window needs."""
    read = []

    def camera():
        for t, frame in enumerate(moving_squares(40)):
            read.append(t)
            yield frame

    first = next(iter(model.stream(camera(), score_threshold=0)))
    assert first.num_frames == 6
    assert len(read) <= 6 + 4 + 16  # the window, the frames of its last clip past its end, the batch of the encoder
