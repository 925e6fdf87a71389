"""Frames pushed one by one: the results of `segment`, each as soon as it is final."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model
from torch import Tensor

from mdqe import MDQE, VideoInstances
from mdqe.errors import InputError
from mdqe.inference.session import VideoSession


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model()


def pushed(session: VideoSession, video: Tensor) -> Iterator[list[VideoInstances]]:
    """The results of every push and of the flush."""
    for frame in video:
        yield session.push(frame)
    yield session.flush()


def assert_same(a: VideoInstances, b: VideoInstances) -> None:
    """Equal to the bit."""
    assert (a.first_frame, a.num_frames, a.size) == (b.first_frame, b.num_frames, b.size)
    for name in ("scores", "labels", "track_ids", "rles", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# (frames, configuration, options of the session)
CASES = {
    "frame by frame": (15, {}, {}),
    "clips of 5, trained with 4": (9, {"test_clip_length": 5}, {}),
    "stride 2": (14, {"clip_stride": 2}, {}),
    "stride 3, last frames without a window": (17, {"clip_stride": 3, "window_length": 8}, {}),
    "stride of a whole clip": (12, {"clip_stride": 4, "window_length": 8}, {}),
    "clips of one frame": (8, {"test_clip_length": 1}, {}),
    "windows shorter than clips": (7, {"window_length": 2}, {}),
    "shorter than a clip": (2, {}, {}),
    "one frame": (1, {}, {}),
    "frames together": (15, {}, {"encoder_batch_size": 4}),
    "by window": (15, {}, {"by_window": True}),
    "with new ids": (15, {"relink": True, "window_length": 6}, {}),
    "with new ids, by window": (15, {"relink": True, "window_length": 6}, {"by_window": True}),
    "by window, a whole clip": (12, {"clip_stride": 4, "window_length": 8}, {"by_window": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_pushed_frames_have_the_results_of_segment(case):
    """Every frame once, in order, with the masks and ids of `segment`, and finally its scores."""
    frames, changes, options = CASES[case]
    model, video = small_model(**changes), moving_squares(frames, (60, 90))
    whole = model.segment(video, score_threshold=0)
    session = model.start(score_threshold=0, **options)
    chunks = [chunk for results in pushed(session, video) for chunk in results]
    joined = VideoInstances.concatenate(chunks)
    assert joined.num_frames == frames
    whole = whole[whole.present.any(1)]
    ours, theirs = joined.track_ids.argsort(), whole.track_ids.argsort()
    np.testing.assert_array_equal(joined.track_ids[ours], whole.track_ids[theirs])
    np.testing.assert_array_equal(joined.masks[ours], whole.masks[theirs])
    assert len(joined) > 0
    final = session.class_scores().amax(1)
    np.testing.assert_allclose(final[whole.track_ids], whole.scores, rtol=1e-12)
    if options.get("by_window"):
        assert all(c.num_frames >= min(model.config.window_length, frames) for c in chunks[:-1])


@pytest.mark.parametrize("by_window", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_stride": 2}, {"clip_stride": 4, "window_length": 8}, {"test_clip_length": 1}]
)
def test_no_result_is_delayed(changes, by_window):
    """A frame is returned by the push after which no later clip contains it, a window when another one must follow."""
    model, video, out = small_model(**changes), moving_squares(14), 0
    c = model.config
    session = model.start(score_threshold=0, by_window=by_window)
    for count, frame in enumerate(video, start=1):
        out += sum(chunk.num_frames for chunk in session.push(frame))
        clips = max((count - c.test_clip_length) // c.clip_stride + 1, 0)  # number of complete clips
        final = clips * c.clip_stride
        if by_window:
            # A clip that begins where the last one ended would need another frame.
            final = (final if final < count else final - c.clip_stride) // c.window_length * c.window_length
        assert out == final


def test_results_are_consecutive_and_ids_persist(model):
    chunks = [chunk for results in pushed(model.start(score_threshold=0), moving_squares(15)) for chunk in results]
    assert [(c.first_frame, c.num_frames) for c in chunks] == [(t, 1) for t in range(12)] + [(12, 3)]
    assert all(set(a.track_ids) & set(b.track_ids) for a, b in pairwise(chunks))
    assert all((np.diff(c.scores) <= 0).all() for c in chunks)
    assert all(c.present.any(axis=1).all() for c in chunks)  # invisible tracks are not listed


def test_the_threshold_applies_to_the_scores_so_far(model):
    video = moving_squares(12)
    threshold = float(np.median(model.segment(video, score_threshold=0).scores))
    session = model.start(score_threshold=threshold)
    every = model.start(score_threshold=0)
    left_out = 0
    for frame in video:
        some, all_of_them = session.push(frame), every.push(frame)
        for a, b in zip(some, all_of_them, strict=True):
            assert_same(a, b.above(threshold))
            left_out += len(b) - len(a)
    assert left_out > 0


def test_benchmark_pairs_of_a_window(model):
    video = moving_squares(12)
    for results in pushed(model.start(multi_label=True, score_threshold=0.9, by_window=True), video):
        for chunk in results:
            assert len(set(zip(chunk.track_ids.tolist(), chunk.labels.tolist(), strict=True))) == len(chunk) > 0
            assert len(set(chunk.track_ids.tolist())) < len(chunk)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_array_of_a_frame_may_be_reused(model, batch_size):
    """As cameras do: every frame in the same memory."""
    video = moving_squares(9)
    buffer, session = np.empty_like(video[0].numpy()), model.start(score_threshold=0, encoder_batch_size=batch_size)
    chunks = []
    for frame in video:
        buffer[:] = frame.numpy()
        chunks += session.push(buffer)
        buffer[:] = 255
    chunks += session.flush()
    for a, b in zip(chunks, model.start(score_threshold=0, encoder_batch_size=batch_size).run(video), strict=True):
        assert_same(a, b)


class Elsewhere(Tensor):
    """A frame that stands for one on a GPU: only `cpu` makes it a plain tensor."""

    def cpu(self):
        return self.as_subclass(Tensor)


def test_frames_of_a_decoder_on_a_gpu(model):
    """They come to the host, where memory can be pinned, and where the frames of a saved session are."""
    video, sessions = moving_squares(6), [model.start(score_threshold=0) for _ in range(2)]
    for frame in video:
        one = frame.cuda() if torch.cuda.is_available() else frame.as_subclass(Elsewhere)
        for a, b in zip(sessions[0].push(frame), sessions[1].push(one), strict=True):
            assert_same(a, b)
        assert all(type(x) is Tensor and x.is_cpu for x in sessions[1]._encoder.resized())
    assert_same(*(session.flush()[0] for session in sessions))


def test_an_invalid_frame_does_not_change_the_session(model):
    video = moving_squares(9)
    session, undisturbed = model.start(score_threshold=0), model.start(score_threshold=0)
    with pytest.raises(InputError, match="the video has no frames"):
        session.flush()
    assert session.class_scores().shape == (0, 3)
    for frame in video:
        with pytest.raises(InputError, match="is 40x64, the first one is 96x64" if session.num_frames else "float32"):
            session.push(frame[:, :40] if session.num_frames else frame.float())
        for a, b in zip(session.push(frame), undisturbed.push(frame), strict=True):
            assert_same(a, b)
    with pytest.raises(InputError, match="frame 9 is 40x64, the first one is 96x64"):
        session.push(video[0, :, :40])
    assert_same(session.flush()[0], undisturbed.flush()[0])


def test_an_ended_session_is_rejected(model, tmp_path):
    session = model.start()
    session.push(moving_squares(1)[0])
    session.flush()
    for act in (session.flush, lambda: session.push(moving_squares(1)[0]), lambda: session.save(tmp_path / "s")):
        with pytest.raises(InputError, match=r"the session has ended with flush\(\): start another"):
            act()
