"""Groups of frames that overlap: the same results, in the same order; errors and early ends leave no thread behind."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from small_models import moving_squares, small_model
from test_session import assert_same

from mdqe import MDQE
from mdqe.errors import InputError
from mdqe.inference.session import VideoSession
from mdqe.inference.whole import OverlappedSession, segment, start_whole
from mdqe.modeling.preprocess import resize
from mdqe.video.frames import read_ahead

OPTIONS = {"score_threshold": 0.0, "by_window": True, "keep_all": True}
RESIZED = {"test_shorter_edge": 40, "test_longer_edge": 70}


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model(**RESIZED)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Frames:
    """Frames that can be iterated several times, as those of `open_frames`."""

    def __init__(self, start: Callable[[], Iterator[torch.Tensor]]) -> None:
        self.start = start

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.start()


CASES = {
    "batches": ({}, {"encoder_batch_size": 4}, 13),
    "one frame at a time": ({}, {"encoder_batch_size": 1}, 5),
    "a short video": ({}, {"encoder_batch_size": 16}, 2),
    "stride 3": ({"clip_stride": 3}, {"encoder_batch_size": 4}, 14),
    "stride of a whole clip": ({"clip_stride": 4}, {"encoder_batch_size": 4}, 8),
    "small windows": ({"window_length": 5}, {"encoder_batch_size": 4}, 13),
    "with new ids": ({"relink": True}, {"encoder_batch_size": 4}, 13),
    "results by frame": ({}, {"encoder_batch_size": 4, "by_window": False}, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_results_have_the_same_bits(case: str) -> None:
    changes, options, count = CASES[case]
    model, video = small_model(**RESIZED, **changes), moving_squares(count, (60, 90))
    plain, overlapped = (kind(model, **OPTIONS | options) for kind in (VideoSession, OverlappedSession))
    expected, results = list(plain.run(video)), list(overlapped.run(video))
    assert expected
    for found, wanted in zip(results, expected, strict=True):
        assert_same(found, wanted)
    assert torch.equal(plain.class_scores(), overlapped.class_scores())


def test_a_group_is_tracked_after_the_next_one_is_encoded(model: MDQE, monkeypatch: pytest.MonkeyPatch) -> None:
    session = OverlappedSession(model, **OPTIONS, encoder_batch_size=4)
    events = []
    encode, track = session._encoder.encode_batch, session._track
    monkeypatch.setattr(session._encoder, "encode_batch", lambda first: events.append("encode") or encode(first))
    monkeypatch.setattr(session, "_track", lambda clip: events.append(clip.frames.start) or track(clip))
    list(session.run(moving_squares(10)))
    assert events == ["encode", "encode", 0, "encode", 1, 2, 3, 4, 5, 6, 7]


def test_a_frame_may_be_overwritten_after_it_was_taken(model: MDQE) -> None:
    video = moving_squares(9, (60, 90)).numpy()

    def reused() -> Iterator[np.ndarray]:
        frame = np.empty_like(video[0])
        for image in video:
            frame[:] = image
            yield frame
            frame[:] = 0

    expected = VideoSession(model, **OPTIONS, encoder_batch_size=4).run(video)
    for found, wanted in zip(
        OverlappedSession(model, **OPTIONS, encoder_batch_size=4).run(reused()), expected, strict=True
    ):
        assert_same(found, wanted)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["frames", "resize", "network", "tracker"])
def test_errors_keep_their_traceback_and_end_the_threads(
    place: str, error: type[BaseException], model: MDQE, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def failing(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6 or place in ("network", "tracker"):
            raise error("failed half-way")

    def frames() -> Iterator[torch.Tensor]:
        for frame in moving_squares(40, (60, 90)):
            if place == "frames":
                failing()
            yield frame

    if place == "resize":
        monkeypatch.setattr("mdqe.inference.frame_buffer.resize", lambda *args: failing() or resize(*args))
    if place == "network":
        monkeypatch.setattr(model.mask_head, "forward", failing)
    if place == "tracker":
        monkeypatch.setattr("mdqe.inference.tracker.ClipTracker.update", failing)
    session = OverlappedSession(model, **OPTIONS, encoder_batch_size=4)
    with pytest.raises(error, match="failed half-way") as caught:
        list(session.run(Frames(lambda: read_ahead(frames(), 3))))
    assert "failing" in [entry.name for entry in caught.traceback]


def test_a_run_that_is_closed_early_ends_its_threads(model: MDQE) -> None:
    closed = []

    def frames() -> Iterator[torch.Tensor]:
        try:
            yield from moving_squares(40, (60, 90))
        finally:
            closed.append(True)

    run = OverlappedSession(model, score_threshold=0.0, encoder_batch_size=2).run(
        Frames(lambda: read_ahead(frames(), 3))
    )
    next(run)
    names = {thread.name.rstrip("_0123456789") for thread in threading.enumerate()}
    assert {"mdqe-resize", "mdqe-read-ahead"} <= names
    run.close()
    assert closed == [True]


def test_an_overlapped_session_is_not_saved_and_reports_no_frames(model: MDQE) -> None:
    session = OverlappedSession(model)
    with pytest.raises(InputError, match="cannot be saved"):
        session.save("never")
    with pytest.raises(InputError, match="on_frame is set, expected None"):
        OverlappedSession(model, on_frame=print)


def test_a_cpu_has_no_overlap(model: MDQE) -> None:
    assert type(start_whole(model)) is VideoSession


def test_segment_and_stream_overlap_where_it_helps(model: MDQE, monkeypatch: pytest.MonkeyPatch) -> None:
    video = moving_squares(9, (60, 90))
    expected, windows = segment(model, video, score_threshold=0.0), list(model.stream(video, score_threshold=0.0))
    monkeypatch.setattr("mdqe.inference.whole.VideoSession", OverlappedSession)
    assert_same(segment(model, video, score_threshold=0.0), expected)
    for found, wanted in zip(model.stream(video, score_threshold=0.0), windows, strict=True):
        assert_same(found, wanted)
