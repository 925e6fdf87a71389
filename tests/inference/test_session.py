"""Frames pushed one by one: results as early as they can be, and a state that survives on disk."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import moving_squares, small_model
from torch import Tensor

from mdqe import MDQE, VideoInstances
from mdqe.inference.session import VideoSession


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model()


def pushed(session: VideoSession, video: Tensor) -> Iterator[list[VideoInstances]]:
    """What every push gives, and at last the flush."""
    for frame in video:
        yield session.push(frame)
    yield session.flush()


def assert_same(a: VideoInstances, b: VideoInstances) -> None:
    """To the bit."""
    assert (a.first_frame, a.num_frames, a.size) == (b.first_frame, b.num_frames, b.size)
    for name in ("scores", "labels", "track_ids", "runs", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# (frames, configuration, options of the session)
CASES = {
    "frame by frame": (15, {}, {}),
    "clips of 5, trained with 4": (9, {"test_clip_length": 5}, {}),
    "stride 2": (14, {"clip_stride": 2}, {}),
    "stride 3, an end without window": (17, {"clip_stride": 3, "window_length": 8}, {}),
    "stride of a whole clip": (12, {"clip_stride": 4, "window_length": 8}, {}),
    "clips of one frame": (8, {"test_clip_length": 1}, {}),
    "windows shorter than clips": (7, {"window_length": 2}, {}),
    "shorter than a clip": (2, {}, {}),
    "one frame": (1, {}, {}),
    "frames together": (15, {}, {"frames_at_once": 4}),
    "by window": (15, {}, {"by_window": True}),
    "by window, a whole clip": (12, {"clip_stride": 4, "window_length": 8}, {"by_window": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_pushed_is_what_segment_finds(case):
    """Every frame once, in order; masks and ids of `segment`; at the end its scores."""
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
def test_nothing_is_held_back(changes, by_window):
    """A frame comes out with the push after which no clip to come sees it, a window when the next is sure to exist."""
    model, video, out = small_model(**changes), moving_squares(14), 0
    c = model.config
    session = model.start(score_threshold=0, by_window=by_window)
    for count, frame in enumerate(video, start=1):
        out += sum(chunk.num_frames for chunk in session.push(frame))
        clips = max((count - c.test_clip_length) // c.clip_stride + 1, 0)  # that have all their frames
        final = clips * c.clip_stride
        if by_window:
            # A clip that begins where the last one ended would need another frame.
            final = (final if final < count else final - c.clip_stride) // c.window_length * c.window_length
        assert out == final


def test_results_follow_each_other_and_ids_last(model):
    chunks = [chunk for results in pushed(model.start(score_threshold=0), moving_squares(15)) for chunk in results]
    assert [(c.first_frame, c.num_frames) for c in chunks] == [(t, 1) for t in range(12)] + [(12, 3)]
    assert all(set(a.track_ids) & set(b.track_ids) for a, b in pairwise(chunks))
    assert all((np.diff(c.scores) <= 0).all() for c in chunks)
    assert all(c.present.any(axis=1).all() for c in chunks)  # who is not seen is not listed


def test_scores_of_a_frame_are_those_so_far(model):
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


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_callers_array_may_be_used_again(model, at_once):
    """As cameras do: every frame in the same memory."""
    video = moving_squares(9)
    buffer, session = np.empty_like(video[0].numpy()), model.start(score_threshold=0, frames_at_once=at_once)
    chunks = []
    for frame in video:
        buffer[:] = frame.numpy()
        chunks += session.push(buffer)
        buffer[:] = 255
    chunks += session.flush()
    other = [c for r in pushed(model.start(score_threshold=0, frames_at_once=at_once), video) for c in r]
    for a, b in zip(chunks, other, strict=True):
        assert_same(a, b)


def test_a_frame_of_another_size_does_no_harm(model):
    video = moving_squares(9)
    session, undisturbed = model.start(score_threshold=0), model.start(score_threshold=0)
    for frame in video:
        with pytest.raises(ValueError, match="is 40x64, the first one is 96x64" if session.num_frames else "float32"):
            session.push(frame[:, :40] if session.num_frames else frame.float())
        for a, b in zip(session.push(frame), undisturbed.push(frame), strict=True):
            assert_same(a, b)
    with pytest.raises(ValueError, match="frame 9 is 40x64, the first one is 96x64"):
        session.push(video[0, :, :40])
    assert_same(session.flush()[0], undisturbed.flush()[0])


def test_the_end_is_the_end(model, tmp_path):
    session = model.start()
    session.push(moving_squares(1)[0])
    session.flush()
    for act in (session.flush, lambda: session.push(moving_squares(1)[0]), lambda: session.save(tmp_path / "s")):
        with pytest.raises(ValueError, match=r"the session has ended with flush\(\): start another"):
            act()


RESUMED = {
    "frame by frame": ({}, {}, torch.float64),
    "float32": ({}, {"score_threshold": 0.1}, torch.float32),
    "bfloat16": ({}, {}, torch.bfloat16),
    "frames together": ({}, {"frames_at_once": 4}, torch.float32),
    "by window, other size": ({}, {"by_window": True, "output_size": (33, 44)}, torch.float32),
    "stride 3, pairs": ({"clip_stride": 3}, {"multi_label": True}, torch.float32),
    "stride of a whole clip": ({"clip_stride": 4}, {}, torch.float32),
    "learned queries": ({"query_initialization": False}, {}, torch.float32),
    "resized": ({"test_shorter_edge": 40, "test_longer_edge": 70}, {}, torch.float32),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_session_goes_on_with_the_same_bits(case, tmp_path):
    """Saved after any number of frames; what follows is what follows in one that never stopped."""
    changes, options, dtype = RESUMED[case]
    options = {"score_threshold": 0.0, **options}
    model, video = small_model(**changes).to(dtype), moving_squares(15, (60, 90))
    session, expected = model.start(**options), []
    for t, results in enumerate(pushed(session, video)):
        expected.append(results)
        if t < len(video):
            session.save(tmp_path / f"{t}")
    assert sum(len(chunk) for results in expected for chunk in results) > 0
    for t in range(0, len(video), 3 if case == "frame by frame" else 7):
        resumed = model.resume(tmp_path / f"{t}")
        resumed.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / f"{t}").read_bytes()
        for results, wanted in zip(pushed(resumed, video[t + 1 :]), expected[t + 1 :], strict=True):
            for a, b in zip(results, wanted, strict=True):
                assert_same(a, b)


def test_a_session_without_frames_can_be_saved(model, tmp_path):
    model.start(output_size=(10, 20), score_threshold=0).save(tmp_path / "empty")
    resumed = model.resume(tmp_path / "empty")
    assert resumed.output_size == (10, 20)
    resumed.push(moving_squares(1)[0])
    assert resumed.flush()[0].size == (10, 20)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    session = model.start()
    for frame in moving_squares(6):
        session.push(frame)
    session.save(tmp_path / "camera.session")
    return tmp_path / "camera.session"


def test_the_file_is_small_and_holds_no_weights(model, saved):
    tensors = load_file(saved)
    assert {name.split(".")[0] for name in tensors} == {"tracker", "frames"}
    assert tensors["frames"].shape[0] <= model.config.test_clip_length
    assert not list(saved.parent.glob("*.partial*"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: small_model(window_length=7), r"another configuration: window_length 6 there and 7 here$"),
        (lambda: small_model(num_classes=4), "num_classes 3 there and 4 here"),
        (lambda: small_model().float(), "saved by a model in float64, this one is in float32"),
    ],
)
def test_another_model_is_refused(saved, other, message):
    with pytest.raises(ValueError, match=f"{saved} was saved by a model .*{message}|{saved} was {message}"):
        other().resume(saved)


def test_other_weights_are_refused(saved):
    other = small_model()
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-9
    with pytest.raises(ValueError, match=f"{saved} was saved by a model of the same configuration with other weights"):
        other.resume(saved)


def rewritten(path: Path, tensors=None, **changes) -> None:
    """The file with other tensors or another description."""
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["mdqe-session"])
    save_file(tensors or load_file(path), path, metadata={"mdqe-session": json.dumps({**described, **changes})})


def damaged(path: Path) -> None:
    tensors = load_file(path)
    tensors["tracker.memory.embeddings"][0, 0] += 1
    rewritten(path, tensors)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not a saved session, or is truncated"),
        (lambda p: p.write_bytes(b""), "is not a saved session, or is truncated"),
        (lambda p: p.write_text("{}" * 99), "is not a saved session, or is truncated"),
        (lambda p: save_file({"x": torch.zeros(1)}, p), "is not a saved session: a safetensors file without"),
        (lambda p: save_file({"x": torch.zeros(1)}, p, metadata={"mdqe-session": "["}), "description is unreadable"),
        (lambda p: save_file({"x": torch.zeros(1)}, p, metadata={"mdqe-session": "{}"}), "description is unreadable"),
        (lambda p: rewritten(p, version=2), "is a saved session of version 2; this mdqe reads version 1"),
        (damaged, "is damaged: its tensors or their description are not those that were saved"),
        (lambda p: rewritten(p, counts={}), "is damaged: its tensors or their description"),
        (lambda p: rewritten(p, frame_size="large"), "is damaged: its tensors or their description"),
    ],
)
def test_broken_files_are_refused(model, saved, break_it, message):
    break_it(saved)
    with pytest.raises(ValueError, match=f"{saved} {message}" if "unreadable" not in message else message):
        model.resume(saved)


def test_no_file(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.session"):
        model.resume(tmp_path / "none.session")
