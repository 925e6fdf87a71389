"""The tracker between clips: frames taken before their window ends, and a state that another tracker goes on from."""

import pytest
import torch
from safetensors.torch import load, save
from test_tracker import random_clips, run

from mdqe import ClipTracker

SHAPES = [(4, 1, 6), (4, 2, 6), (3, 3, 7), (1, 1, 5), (6, 1, 2)]  # clip length, stride, window length


@pytest.mark.parametrize(("length", "stride", "window"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_frames_taken_early_are_those_of_the_window(seed, length, stride, window):
    """Frame by frame or by windows: the same ids, averages and scores."""
    clips = list(random_clips(seed, 29, length, stride))
    ids, windows = run(ClipTracker(length, stride, window), iter(clips))
    tracker, early = ClipTracker(length, stride, window), []
    for (indices, *detections), wanted in zip(clips, ids, strict=True):
        while indices[0] >= tracker.window_start + window:
            early.append(tracker.take_window())
        assert tracker.update(indices, *detections).tolist() == wanted
        early.append(tracker.take_frames(min(indices[0] + stride, tracker.window_start + window)))
    early.append(tracker.take_window(last=True))

    first = 0
    for scores, logits in windows:
        frames, found = logits.shape[1], torch.zeros_like(logits)
        while early and early[0].first_frame < first + frames:
            part = early.pop(0)
            start = part.first_frame - first
            found[part.track_ids, start : start + part.mask_logits.shape[1]] = part.mask_logits
            last_scores = part.class_scores
        torch.testing.assert_close(found, logits, rtol=0, atol=0)
        torch.testing.assert_close(last_scores, scores, rtol=0, atol=0)
        first += frames
    assert not [part for part in early if part.mask_logits.shape[1]]


def test_frames_can_be_taken_once_and_in_the_window_only():
    tracker = ClipTracker(2, 1, 4)
    with pytest.raises(ValueError, match="no clip was given yet"):
        tracker.take_frames(1)
    clips = list(random_clips(0, 9, 2, 1))
    for indices, *detections in clips[:3]:
        tracker.update(indices, *detections)
    assert tracker.take_frames(2).mask_logits.shape[1] == 2
    assert tracker.next_frame == 2
    for end in (1, 5):
        with pytest.raises(ValueError, match=f"end is {end}, expected a frame from 2 to 4, the end of the window"):
            tracker.take_frames(end)
    assert tracker.take_frames(2).mask_logits.shape[1] == 0
    tracker.take_frames(4)
    with pytest.raises(ValueError, match=r"a clip must start in the window \[4, 4\), got frame 3"):
        tracker.update(*clips[3])


@pytest.mark.parametrize(("length", "stride", "window"), SHAPES)
def test_another_tracker_goes_on(length, stride, window):
    """From the state after any clip, written to bytes and read again, the rest has the same bits."""
    clips = [(c[0], *(x.float() for x in c[1:])) for c in random_clips(1, 23, length, stride)]
    ids, windows = run(ClipTracker(length, stride, window), iter(clips))
    tracker = ClipTracker(length, stride, window)
    done = 0  # windows
    for i, clip in enumerate(clips):
        while clip[0][0] >= tracker.window_start + window:
            tracker.flush()
            done += 1
        tracker.update(*clip)
        other = ClipTracker(length, stride, window)
        state = {name: tensor.clone() for name, tensor in tracker.state_dict().items()}
        other.load_state_dict(load(save(state)))
        assert other.num_tracks == tracker.num_tracks
        rest, following = run(other, iter(clips[i + 1 :]))
        assert rest == ids[i + 1 :]
        for got, wanted in zip(following, windows[done:], strict=True):
            for a, b in zip(got, wanted, strict=True):
                assert torch.equal(a, b)


def test_the_state_of_a_new_tracker_makes_a_new_one():
    tracker = ClipTracker(4, 1, 6)
    fresh = tracker.state_dict()
    clips = list(random_clips(0, 9, 4, 1))
    tracker.update(*clips[0])
    tracker.load_state_dict(fresh)
    assert tracker.num_tracks == 0
    tracker.update(*clips[0])


def test_states_that_are_refused_change_nothing():
    tracker = ClipTracker(4, 1, 6)
    for clip in list(random_clips(0, 12, 4, 1))[:5]:
        tracker.update(*clip)
    before = tracker.state_dict()
    for change, message in (
        (lambda s: s.pop("window_start"), "the tensor 'window_start' is missing"),
        (lambda s: s.pop("memory.last_seen"), "the tensor 'last_seen' is missing"),
        (lambda s: s.pop("memory.frames.5.sums"), r"the tensor 'frames\.5\.sums' is missing"),
        (lambda s: s.update(colour=torch.zeros(1)), "unknown tensors colour"),
        (lambda s: s.update({"memory.colour": torch.zeros(1)}), "unknown tensors colour"),
    ):
        state = dict(before)
        change(state)
        with pytest.raises(ValueError, match=message):
            tracker.load_state_dict(state)
        after = tracker.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
