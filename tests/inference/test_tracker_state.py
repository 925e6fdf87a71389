"""The tracker between clips: frames taken before their window ends, a state for another tracker, invalid calls."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from test_tracker import one, random_clips, run

from mdqe import ClipTracker

SHAPES = [(4, 1, 6), (4, 2, 6), (3, 3, 7), (1, 1, 5), (6, 1, 2)]  # clip length, stride, window length


@pytest.mark.parametrize(("length", "stride", "window"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_frames_taken_early_are_those_of_the_window(seed, length, stride, window):
    """The ids, averages and scores of frames taken one by one are those of windows."""
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


def test_frames_can_be_taken_only_once_and_in_the_window():
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
def test_another_tracker_continues(length, stride, window):
    """From the state after any clip, written to bytes and read again, the remaining results have the same bits."""
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


def test_the_state_of_a_new_tracker_resets_another():
    tracker = ClipTracker(4, 1, 6)
    clip = next(random_clips(0, 9, 4, 1))
    tracker.update(*clip)
    tracker.load_state_dict(ClipTracker(4, 1, 6).state_dict())
    assert tracker.num_tracks == 0
    tracker.update(*clip)


def test_invalid_states_are_rejected_and_change_nothing():
    tracker = ClipTracker(4, 1, 6)
    for clip in list(random_clips(0, 12, 4, 1))[:5]:
        tracker.update(*clip)
    before = tracker.state_dict()
    for change, message in (
        (lambda s: s.pop("window_start"), "the tensor 'window_start' is missing"),
        (lambda s: s.pop("memory.last_seen"), "the tensor 'memory.last_seen' is missing"),
        (lambda s: s.pop("memory.frames.5.sums"), r"the tensor 'memory\.frames\.5\.sums' is missing"),
        (lambda s: s.update(colour=torch.zeros(1)), "unknown tensors 'colour'"),
        (lambda s: s.update({"memory.colour": torch.zeros(1)}), r"unknown tensors 'memory\.colour'"),
    ):
        state = dict(before)
        change(state)
        with pytest.raises(ValueError, match=message):
            tracker.load_state_dict(state)
        after = tracker.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_scores": torch.ones(2)}, r"class_scores must be \(D, K\).*\(2,\)"),
        ({"class_scores": torch.ones(1, 2, dtype=torch.int64)}, "class_scores must be .* floating point.*int64"),
        ({"class_scores": torch.ones(2, 2)}, "mask_logits must have D .* 2 on cpu, got 1"),
        ({"mask_logits": torch.ones(1, 2, 4)}, r"mask_logits must be \(D, T, h, w\)"),
        ({"mask_logits": torch.ones(1, 3, 4, 4)}, "mask_logits must have the 2 frames .* got 3"),
        ({"mask_logits": torch.ones(1, 2, 4, 5)}, r"mask_logits must stay \(4, 4\).*got \(4, 5\)"),
        ({"mask_logits": torch.ones(1, 2, 4, 4).double()}, "mask_logits must stay .*float32.*got .*float64"),
        ({"embeddings": torch.ones(1, 4)}, r"embeddings must stay \(3,\).*got \(4,\)"),
        ({"embeddings": torch.ones(2, 3)}, "embeddings must have D .* 1 on cpu, got 2"),
        ({"class_scores": torch.full((1, 2), torch.nan)}, "class_scores must be finite"),
        ({"class_scores": torch.tensor([[-1.0, 0.5]])}, r"class_scores must be probabilities in \[0, 1\], got -1"),
        ({"class_scores": torch.tensor([[0.5, 1.5]])}, r"class_scores must be probabilities in \[0, 1\], got 1.5"),
        ({"mask_logits": torch.full((1, 2, 4, 4), torch.inf)}, "mask_logits must be finite"),
        ({"embeddings": torch.full((1, 3), torch.nan)}, "embeddings must be finite"),
        ({"frame_indices": []}, "1 to test_clip_length=2 frames, got 0"),
        ({"frame_indices": [5, 6, 7]}, "1 to test_clip_length=2 frames, got 3"),
        ({"frame_indices": [6, 5]}, r"must ascend, got \[6, 5\]"),
        ({"frame_indices": [4, 5]}, "in order, got one from 4 after one from 4"),
        ({"frame_indices": [8, 9]}, r"window \[4, 8\), got frame 8; flush\(\)"),
    ],
)
def test_invalid_clips_are_rejected_and_change_nothing(change, message):
    tracker = ClipTracker(test_clip_length=2, window_length=4)
    tracker.update([0, 1], *one(2))
    tracker.flush()
    tracker.update([4, 5], *one(2))
    good = dict(zip(("frame_indices", "class_scores", "mask_logits", "embeddings"), ([5, 6], *one(2)), strict=True))
    with pytest.raises(ValueError, match=message):
        tracker.update(**{**good, **change})
    assert tracker.update(**good).tolist() == [0]
    scores, masks = tracker.flush(last=True)
    assert scores.shape == (1, 2) and (masks == 5).all() and masks.shape[1] == 3


@pytest.mark.parametrize("name", ["class_scores", "mask_logits", "embeddings"])
def test_arrays_are_rejected(name):
    tracker = ClipTracker()
    clip = dict(zip(("class_scores", "mask_logits", "embeddings"), one(2), strict=True))
    with pytest.raises(TypeError, match=rf"{name} must be a tensor \(.*\), got ndarray"):
        tracker.update([0, 1], **clip | {name: clip[name].numpy()})
    if name == "class_scores":
        with pytest.raises(TypeError, match=name):
            tracker.update([0, 1], clip[name].numpy(), clip["mask_logits"])
    assert tracker.num_clips == 0


def test_parts_of_frames_are_rejected():
    tracker = ClipTracker()
    with pytest.raises(TypeError, match="float"):
        tracker.update([0, 1.5], *one(2))
    assert tracker.num_clips == 0


def test_numbers_of_numpy_are_arguments():
    tracker = ClipTracker(test_clip_length=np.int64(2), window_length=np.int32(4))
    tracker.update([0, 1], *one(2))
    assert tracker.flush(last=True)[1].shape[1] == 2


def test_calls_in_the_wrong_order_are_rejected():
    tracker = ClipTracker(test_clip_length=2, window_length=4)
    with pytest.raises(ValueError, match="no clip was given"):
        tracker.flush()
    with pytest.raises(ValueError, match=r"window \[0, 4\), got frame 4"):
        tracker.update([4, 5], *one(2))
    tracker.update([0, 1], *one(2))
    tracker.flush(last=True)
    with pytest.raises(ValueError, match="the last one was already taken"):
        tracker.flush()
    with pytest.raises(ValueError, match="reset"):
        tracker.update([1, 2], *one(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_clip_length": 0}, "test_clip_length must be a whole number, at least 1, got 0"),
        ({"test_clip_length": 4.0}, "test_clip_length must be a whole number, at least 1, got 4.0"),
        ({"test_clip_length": True}, "test_clip_length must be a whole number, at least 1, got True"),
        ({"clip_stride": 0}, "clip_stride must be a whole number, at least 1, got 0"),
        ({"clip_stride": "1"}, "clip_stride must be a whole number, at least 1, got '1'"),
        ({"window_length": float("inf")}, "window_length must be a whole number, at least 1, got inf"),
        ({"clip_stride": 5, "window_length": 4}, "window_length must be at least the clip_stride of 5, got 4"),
        ({"score_threshold": 1.5}, r"score_threshold must lie in \[0, 1\], got 1.5"),
        ({"iou_weight": -1.0}, "iou_weight=-1.0"),
        ({"similarity_weight": float("nan")}, "similarity_weight=nan"),
        ({"memory_frames": 0}, "memory_frames must be .* got 0"),
        ({"short_memory_frames": -1}, "short_memory_frames must be .* got -1"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipTracker(**arguments)
