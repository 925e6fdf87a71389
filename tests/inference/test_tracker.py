"""ClipTracker against reference data and a dense tracker that keeps every clip; size and memory; invalid input."""

import copy
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dense_tracker import DenseTracker
from safetensors.torch import load_file

from mdqe import ClipTracker

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def clip_starts(frames: int, length: int, stride: int) -> list[int]:
    """Starts 0, s, 2s, … up to and including the first clip that reaches past the video's end."""
    starts = list(range(0, frames, stride))
    return [s for s in starts if s == 0 or s - stride + length <= frames]


def discs(frames: int, objects: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Logits (objects, frames, h, w) of discs that drift over a torus."""
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    place, speed, radius = draw(objects, 1, 2), (draw(objects, 1, 2) - 0.5) * 0.08, 0.1 + 0.25 * draw(objects, 1, 1, 1)
    centre = (place + speed * torch.arange(frames)[:, None]) % 1
    y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in size)
    dy, dx = y[:, None] - centre[..., 0, None, None], x - centre[..., 1, None, None]
    return 20 * (radius - (dy**2 + dx**2).sqrt())


def random_clips(seed: int, frames: int, length: int, stride: int, device: str = "cpu") -> Iterator[tuple]:
    """Detections of drifting discs: missed, duplicated, shuffled and noisy, with sequences of clips without any."""
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    objects, size, classes, dim = chance.choice([1, 2, 5, 12]), (10, 12), 4, 8
    noise = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    logits, centres = discs(frames, objects, size, generator), noise(objects, dim) * chance.choice([0.5, 1.5, 3])
    missing = chance.choice([0.05, 0.3, 0.6])
    for start in clip_starts(frames, length, stride):
        indices = list(range(start, min(start + length, frames)))
        seen = [n for n in range(objects) if chance.random() > missing and (start // 7) % 3 != 2]
        seen += [n for n in seen if chance.random() < 0.15]
        chance.shuffle(seen)
        scores = torch.rand(len(seen), classes, generator=generator, dtype=torch.float64) ** 2 * 0.6
        masks = logits[seen][:, indices] + 0.7 * noise(len(seen), len(indices), *size)
        yield indices, scores.to(device), masks.to(device), (centres[seen] + 0.4 * noise(len(seen), dim)).to(device)


def run(tracker: ClipTracker, clips: Iterator[tuple]) -> tuple[list[list[int]], list[tuple[torch.Tensor, ...]]]:
    """Ids of every clip and results of every window; flush when a clip begins a new window."""
    ids, windows = [], []
    for indices, *detections in clips:
        while indices[0] >= tracker.window_start + tracker.window_length:
            windows.append(tracker.flush())
        ids.append(tracker.update(indices, *detections).tolist())
    return ids, [*windows, tracker.flush(last=True)]


def one(frames: int, value: float = 5.0, score: float = 0.9, size: int = 4) -> tuple[torch.Tensor, ...]:
    """The only detection of a clip, with a mask of all pixels."""
    return torch.full((1, 2), score), torch.full((1, frames, size, size), value), torch.ones(1, 3)


def expected_ids(ids: torch.Tensor, clip: dict) -> list[int]:
    """Track ids of the reference data, in the order of the detections `ids`; -1 where dropped."""
    wanted = dict(zip(clip["detection"], clip["track_id"], strict=True))
    return [wanted.get(d, -1) for d in range(len(ids))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_long_reference_video(shared, device, dtype):
    expected = json.loads((shared / "golden/tracker_long.json").read_text())
    tensors = {k: v.to(device) for k, v in load_file(shared / "golden/tracker_long.safetensors").items()}
    tracker = ClipTracker(
        expected["test_clip_length"], expected["clip_stride"], expected["window_length"], expected["score_threshold"]
    )
    windows = []
    for i, clip in enumerate(expected["clips"]):
        if clip["frames"][0] == tracker.window_start + tracker.window_length:
            windows.append(tracker.flush())
        names = ("class_scores", "mask_logits", "embeddings")
        ids = tracker.update(clip["frames"], *(tensors[f"clip{i:03d}.{name}"].to(dtype) for name in names))
        assert ids.device.type == device
        assert ids.tolist() == expected_ids(ids, clip), f"clip {i}"
        assert tracker.num_tracks == clip["tracks"], f"clip {i}"
    windows.append(tracker.flush(last=True))

    assert len(windows) == len(expected["windows"])
    for i, (class_scores, mask_logits) in enumerate(windows):
        assert list(mask_logits.shape) == expected["windows"][i]["mask_shape"]
        torch.testing.assert_close(class_scores.cpu(), tensors[f"window{i:02d}.class_scores"].cpu().to(dtype))
        signs = np.packbits((mask_logits > 0).flatten(1).cpu().numpy(), axis=1)
        assert np.array_equal(signs, tensors[f"window{i:02d}.mask_sign_packed"].cpu().numpy())


@pytest.mark.parametrize("name", ["r50_ovis", "swinl_ovis"])
def test_first_clips_of_the_reference_models(shared, name):
    expected = json.loads((shared / f"golden/{name}.json").read_text())
    tensors, hyper = load_file(shared / f"golden/{name}.safetensors"), expected["hyper"]
    tracker = ClipTracker(hyper["n_frames_test"], hyper["clip_stride"], hyper["n_frames_window_test"])
    for i, clip in enumerate(expected["clips"][:3]):  # the file has masks of these clips only
        names = ("class_scores", "mask_logits", "query_embeds")
        ids = tracker.update(clip["frames"], *(tensors[f"result{i:03d}.{part}"].float() for part in names))
        assert ids.tolist() == expected_ids(ids, clip)


@pytest.mark.parametrize(
    ("seed", "device"), [*((seed, "cpu") for seed in range(60)), pytest.param(0, "cuda", marks=needs_gpu)]
)
def test_equals_a_tracker_that_keeps_every_clip(seed, device):
    chance = random.Random(seed)
    length, stride = chance.choice([1, 2, 3, 4, 5, 9]), chance.choice([1, 1, 2, 3, 4])
    window, frames = chance.randint(max(stride, 2), 12), chance.randint(1, 36)
    tracker, dense = ClipTracker(length, stride, window), DenseTracker(length, stride, window, 0.1)

    def compare_window(last: bool) -> None:
        for found, expected in zip(tracker.flush(last), dense.flush(last, (10, 12), 4), strict=True):
            np.testing.assert_allclose(found.cpu(), expected, rtol=0, atol=1e-12)

    for indices, *detections in random_clips(seed, frames, length, stride, device):
        if indices[0] >= dense.start + window:
            compare_window(last=False)
        ids = tracker.update(indices, *detections)
        assert ids.tolist() == dense.update(indices, *(x.cpu() for x in detections))
        for track, embedding in dense.embedding.items():
            np.testing.assert_allclose(tracker.embeddings[track].cpu(), embedding, rtol=0, atol=1e-12)
    compare_window(last=True)


def test_a_window_without_clips_belongs_to_the_previous_one():
    # 17 frames, windows of 8, stride 2: the last clip holds frames 14 … 16, so [16, 24) has none.
    tracker = ClipTracker(test_clip_length=4, clip_stride=2, window_length=8)
    clips = ((list(range(s, min(s + 4, 17))), *one(min(4, 17 - s))) for s in clip_starts(17, 4, 2))
    ids, windows = run(tracker, clips)
    assert ids == [[0]] * 8
    assert [masks.shape[1] for _, masks in windows] == [8, 9]
    assert all((masks > 0).all() for _, masks in windows)


def test_frames_past_the_window_are_carried_as_one_observation():
    tracker = ClipTracker(test_clip_length=4, window_length=2)
    tracker.update([0, 1, 2, 3], *one(4, value=1.0, score=0.4))
    tracker.update([1, 2, 3, 4], *one(4, value=3.0, score=0.8))
    scores, masks = tracker.flush()
    torch.testing.assert_close(scores, torch.full((1, 2), 0.6))
    assert masks[0, :, 0, 0].tolist() == [1, 2]
    tracker.update([2, 3, 4], *one(3, value=8.0, score=0.9))
    scores, masks = tracker.flush(last=True)
    torch.testing.assert_close(scores, torch.full((1, 2), 0.75))  # (0.6 + 0.9) / 2
    assert masks[0, :, 0, 0].tolist() == [5, 5, 5.5]  # (2 + 8) / 2 twice, (3 + 8) / 2


def test_a_track_that_is_not_observed_in_a_window():
    tracker = ClipTracker(test_clip_length=2, clip_stride=2, window_length=4)
    tracker.update([0, 1], *one(2))
    tracker.update([2, 3], *(x[:0] for x in one(2)))
    assert tracker.observed_tracks().tolist() == [0]
    tracker.flush()
    assert tracker.observed_tracks().tolist() == []
    assert tracker.update([4, 5], *(x[:0] for x in one(2))).tolist() == []
    window = tracker.take_window()
    assert (window.first_frame, window.track_ids.tolist(), window.mask_logits.shape) == (4, [], (0, 4, 4, 4))
    assert window.class_scores.tolist() == [[0, 0]]
    assert tracker.update([8, 9], *one(2)).tolist() == [0]  # matched by its embedding 4 clips later
    scores, masks = tracker.flush(last=True)
    assert scores.min() > 0 and masks.shape == (1, 2, 4, 4)


def test_the_first_detections_start_tracks():
    tracker = ClipTracker(test_clip_length=2, score_threshold=0.4)
    assert tracker.update([0, 1], *(x[:0] for x in one(2))).tolist() == []
    assert tracker.num_tracks == 0
    scores, masks = copy.deepcopy(tracker).flush(last=True)
    assert scores.shape == (0, 2) and masks.shape == (0, 2, 4, 4)
    assert tracker.update([1, 2], *one(2, score=0.5)).tolist() == [0]  # below 2τ, but there are no tracks yet
    scores, masks = tracker.flush(last=True)
    assert scores.shape == (1, 2) and masks.shape == (1, 3, 4, 4)
    assert (masks[0, 0] == 0).all() and (masks[0, 1:] > 0).all()


def test_low_scores_and_duplicates_start_no_track():
    logits = torch.full((3, 1, 4, 4), -5.0)
    logits[0, :, :2], logits[1, :, 2:], logits[2, :, 2:] = 5, 5, 5  # upper half, lower half twice
    embeddings = torch.eye(3) * 4
    tracker = ClipTracker(test_clip_length=1, score_threshold=0.1)
    tracker.update([0], torch.tensor([[0.9]]), logits[:1], embeddings[:1])
    unsure = tracker.update([1], torch.tensor([[0.9], [0.2]]), logits[:2], embeddings[:2])
    assert unsure.tolist() == [0, -1]  # 0.2 is not above 2τ
    sure = tracker.update([2], torch.tensor([[0.9], [0.21]]), logits[:2], embeddings[:2])
    assert sure.tolist() == [0, 1]
    doubled = tracker.update([3], torch.tensor([[0.9], [0.9], [0.9]]), logits, embeddings[[0, 1, 1]])
    assert sorted(doubled.tolist()) == [-1, 0, 1] and doubled[0] == 0


@pytest.mark.parametrize(("memory_frames", "expected"), [(15, 0), (10, 0), (9, 1), (5, 1)])
def test_a_track_is_matched_within_its_memory(memory_frames, expected):
    """An object that is hidden in 9 frames keeps its track if the memory is longer. Its mask is elsewhere then."""
    logits = torch.full((2, 1, 4, 4), -5.0)
    logits[0, :, :2], logits[1, :, 2:] = 5, 5
    tracker = ClipTracker(1, memory_frames=memory_frames, short_memory_frames=1)
    embedding, nothing = torch.tensor([[3.0, 0.0]]), slice(0, 0)
    tracker.update([0], torch.full((1, 1), 0.9), logits[:1], embedding)
    for frame in range(1, 10):
        tracker.update([frame], torch.full((0, 1), 0.9), logits[nothing], embedding[nothing])
    assert tracker.update([10], torch.full((1, 1), 0.9), logits[1:], embedding).tolist() == [expected]


@pytest.mark.parametrize("dropped", [True, False], ids=["one dropped", "none at all"])
def test_frames_without_tracks_do_not_count_in_the_iou(dropped):
    # Clips of 4 at 0, 1 and 2. The second has no tracks, so in the frames 2 … 5 of the third only 2 and 3 have a track.
    where = torch.full((2, 4, 4, 4), -5.0)
    where[0, :, 0], where[1, :, 3] = 5, 5  # first row, last row
    apart = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    tracker = ClipTracker(test_clip_length=4, similarity_weight=0.0)
    tracker.update(range(4), torch.full((1, 1), 0.9), where[:1], apart[:1])
    second = slice(1, 2) if dropped else slice(0, 0)
    nothing = tracker.update(range(1, 5), torch.full((2, 1), 0.01)[second], where[second], apart[second])
    assert nothing.tolist() == [-1] * len(nothing)
    third = torch.full((1, 4, 4, 4), 5.0)
    third[:, :2] = -5
    third[:, :2, 0, 0] = 5  # a pixel of the row in frames 2 and 3, all pixels afterwards
    # The IoU over frames 2 and 3 is 2 / 8. With frame 4, which the second clip covered, it would be 2 / 24: no match.
    assert tracker.update(range(2, 6), torch.full((1, 1), 0.9), third, apart[:1]).tolist() == [0]


def test_five_hundred_tracks():
    number, side = 500, 2
    rows, columns = torch.arange(number) // 25, torch.arange(number) % 25
    logits = torch.full((number, 1, 20 * side, 25 * side), -4.0)
    for n in range(number):
        logits[n, :, rows[n] * side : (rows[n] + 1) * side, columns[n] * side : (columns[n] + 1) * side] = 4
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(number, 64, generator=generator)  # own dot product about 64, others' about 8
    tracker = ClipTracker(test_clip_length=3, window_length=5)
    for start in range(12):
        if start and start % 5 == 0:
            tracker.flush()
        known = number - 100 if start < 6 else number  # a hundred come later
        order = torch.randperm(known, generator=generator)
        scores = torch.rand(known, 3, generator=generator) * 0.5 + 0.3
        ids = tracker.update(range(start, start + 3), scores, logits[order].expand(-1, 3, -1, -1), embeddings[order])
        if start == 0:
            name = torch.full((number,), -1)
            name[order] = ids
        elif start == 6:
            late = order >= number - 100
            assert sorted(ids[late].tolist()) == list(range(number - 100, number))
            name[order[late]] = ids[late]
        assert torch.equal(ids, name[order])
    assert tracker.num_tracks == number
    scores, masks = tracker.flush(last=True)
    assert scores.shape == (number, 3) and masks.shape == (number, 4, 40, 50)
    assert torch.equal(masks[name[:, None], torch.arange(4)] > 0, (logits > 0).expand(-1, 4, -1, -1))


def test_memory_does_not_grow_with_the_video():
    script = textwrap.dedent("""
        import resource, sys, torch
        from mdqe.inference.tracker import ClipTracker
        torch.set_num_threads(1)
        tracker, embeddings = ClipTracker(), torch.eye(64) * 4
        for start in range(int(sys.argv[1]) - 3):
            if start == tracker.window_start + 30:
                tracker.take_window()
            seen = (torch.arange(10) + start // 8) % 64  # every 8 frames an object leaves and another one appears
            logits = torch.full((10, 4, 64, 80), -1.0)
            logits[torch.arange(10), :, seen] = 1
            tracker.update(range(start, start + 4), torch.full((10, 5), 0.9), logits, embeddings[seen])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, tracker.num_tracks)
    """)
    peak = {}
    for frames in (200, 2000):
        done = subprocess.run([sys.executable, "-c", script, str(frames)], capture_output=True, text=True, check=True)
        peak[frames], tracks = map(int, done.stdout.split())
        assert tracks > frames / 10  # the number of tracks does grow
    assert peak[2000] <= 1.1 * peak[200], peak


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    tracker = ClipTracker(test_clip_length=4, window_length=8)
    for start in range(4):
        logits = torch.full((1, 4, 2, 2), 1 + start / 128, dtype=dtype)
        tracker.update(range(start, start + 4), torch.full((1, 1), 0.5).to(dtype), logits, torch.ones(1, 3).to(dtype))
    scores, masks = tracker.flush(last=True)
    assert scores.dtype == masks.dtype == torch.float32
    assert masks[0, 3, 0, 0] == 1 + 1.5 / 128  # near 4, the sum, bfloat16 has steps of 1/32


def test_calls_inside_and_outside_of_inference_mode_alternate():
    clips = list(random_clips(3, 30, 4, 1))
    expected, _ = run(ClipTracker(window_length=7), iter(clips))
    tracker, ids = ClipTracker(window_length=7), []
    for i, (indices, *detections) in enumerate(clips):
        with torch.inference_mode(i % 2 == 1):
            if indices[0] == tracker.window_start + 7:
                tracker.flush()
            ids.append(tracker.update(indices, *detections).tolist())
    assert ids == expected


def test_reset_forgets_the_video():
    clips = list(random_clips(5, 20, 4, 1))
    tracker = ClipTracker(window_length=6)
    first = run(tracker, iter(clips))
    tracker.reset()
    again = run(tracker, iter(clips))
    assert first[0] == again[0]
    assert all(torch.equal(a, b) for x, y in zip(first[1], again[1], strict=True) for a, b in zip(x, y, strict=True))


def test_results_hold_no_gradient():
    tracker = ClipTracker(test_clip_length=1)
    scores, logits, embeddings = (x.requires_grad_() for x in one(1))
    tracker.update([0], scores, logits, embeddings)
    assert not any(x.requires_grad for x in tracker.flush(last=True))


@pytest.mark.parametrize("embeddings", [None, torch.zeros(2, 0)])
def test_without_embeddings_the_masks_of_overlapping_clips_decide(embeddings):
    tracker, dense = (ClipTracker(test_clip_length=2, window_length=5) for _ in range(2))
    logits = torch.full((2, 9, 8, 40), -4.0)  # two objects that move towards each other in separate rows
    for t in range(9):
        logits[0, t, :4, 3 * t : 3 * t + 8] = logits[1, t, 4:, 30 - 3 * t : 38 - 3 * t] = 4
    for start in range(8):
        if start == 5:
            tracker.flush(), dense.flush()
        order = [1, 0] if start % 2 else [0, 1]  # the order of the detections says nothing
        masks = logits[order, start : start + 2]
        ids = tracker.update(range(start, start + 2), torch.full((2, 1), 0.9), masks, embeddings)
        distinct = torch.eye(2)[order] * 20
        assert (
            ids.tolist()
            == order
            == dense.update(range(start, start + 2), torch.full((2, 1), 0.9), masks, distinct).tolist()
        )
    fresh = ClipTracker(test_clip_length=2, window_length=5)
    fresh.load_state_dict(tracker.state_dict())
    for result, known in zip(fresh.flush(last=True), tracker.flush(last=True), strict=True):
        assert torch.equal(result, known)
    assert tracker.embeddings.shape == (2, 0)


@pytest.mark.parametrize("embedding", [[8.0, 0.0], [0.0, 0.0]])
def test_equal_embeddings_start_no_tracks(embedding):
    """Two objects with the same embedding, in clips that share no frame: the softmax is split in halves."""
    tracker = ClipTracker(test_clip_length=1, window_length=30)
    masks = torch.full((3, 1, 6, 6), -1.0)
    masks[0, :, :2], masks[1, :, 2:4], masks[2, :, 4:] = 1, 1, 1
    counts = [2, 2, 1, 2, 2, 3, 3, 2, 3]  # one is missed twice, and a third appears
    for t, count in enumerate(counts):
        noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(t)) * 0.02
        embeddings = torch.tensor([embedding]).repeat(count, 1) + noise * (embedding[0] > 0)
        ids = tracker.update([t], torch.full((count, 1), 0.9), masks[:count], embeddings)
        assert len(set(ids.tolist())) == count and -1 not in ids
        assert tracker.num_tracks == max(counts[: t + 1])


def test_an_equal_embedding_elsewhere_in_a_shared_frame_is_another_object():
    tracker = ClipTracker(test_clip_length=2, window_length=30)
    masks = torch.full((2, 2, 6, 6), -1.0)
    masks[0, :, :2], masks[1, :, 4:] = 1, 1
    embeddings = torch.full((2, 4), 3.0)
    assert tracker.update([0, 1], torch.full((1, 1), 0.9), masks[:1], embeddings[:1]).tolist() == [0]
    assert tracker.update([1, 2], torch.full((2, 1), 0.9), masks, embeddings).tolist() == [0, 1]
