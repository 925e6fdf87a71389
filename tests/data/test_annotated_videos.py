"""Videos from annotation files: clips show what was drawn, and all problems are reported before training starts."""

import copy
import re
import warnings
from collections import Counter

import annotated_sets as sets
import pytest
import torch
from torch.utils.data import DataLoader

from mdqe.data.augment import ClipAugmentation
from mdqe.data.loader import MixedClips, StepSampler, collate
from mdqe.data.synthetic import CATEGORIES
from mdqe.data.ytvis import VideoClips, sample_frames
from mdqe.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The folder of a set of three videos, and its annotations."""
    folder = tmp_path_factory.mktemp("videos") / "set"
    return folder, sets.write_videos(folder)


@pytest.fixture
def folder(videos):
    return videos[0]


@pytest.fixture
def document(videos):
    return copy.deepcopy(videos[1])


def whole(folder, annotations, **options):
    """Clips of all frames of a video."""
    return VideoClips(annotations, folder / "JPEGImages", sets.FRAMES, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_as_drawn(clips):
    for index in range(3):
        frames, targets = clips.clip(index, generator())
        drawn, expected = sets.part(sets.drawing(index), list(range(sets.FRAMES)))
        assert torch.equal(frames, drawn)
        sets.assert_same_objects(targets, expected)


def test_clips_are_what_was_drawn(folder):
    clips = whole(folder, folder / "annotations.json")
    assert_as_drawn(clips)
    assert len(clips) == 3 and clips.categories == CATEGORIES and clips.category_ids == (1, 2, 3, 4, 5, 6)
    with pytest.raises(IndexError):
        clips.clip(3, generator())


def test_a_clip_is_the_frames_that_were_sampled(folder):
    clips = VideoClips(folder / "annotations.json", folder / "JPEGImages", 3, frame_range=2)
    for seed in range(8):
        frames, targets = clips.clip(1, generator(seed))
        chosen = sample_frames(range(sets.FRAMES), 3, 2, generator(seed))
        drawn, expected = sets.part(sets.drawing(1), chosen)
        assert torch.equal(frames, drawn)
        sets.assert_same_objects(targets, expected)


def test_order_of_the_file_does_not_matter(folder, document):
    document["annotations"].reverse()
    for one in document["annotations"]:
        one.pop("bboxes")
    del document["annotations"][0]["iscrowd"]
    reordered = dict(reversed(document.items()))
    clips = whole(folder, sets.save(folder, reordered))
    expected = whole(folder, folder / "annotations.json")
    for index in range(3):
        found, wanted = clips.clip(index, generator())[1], expected.clip(index, generator())[1]
        assert torch.equal(found.masks, wanted.masks.flip(0)) and torch.equal(found.labels, wanted.labels.flip(0))


def test_crowds_and_videos_without_objects_are_left_out(folder, document):
    first, *others = document["annotations"]
    first["iscrowd"] = 1
    for one in others:
        if one["video_id"] == 2:
            one["segmentations"] = [None] * sets.FRAMES
    clips = whole(folder, sets.save(folder, document))
    assert len(clips) == 2
    _, expected = sets.part(sets.drawing(0), list(range(sets.FRAMES)))
    assert torch.equal(clips.clip(0, generator())[1].masks, expected.masks[1:])
    assert torch.equal(clips.clip(1, generator())[0], sets.part(sets.drawing(2), list(range(sets.FRAMES)))[0])


def test_labels_follow_the_ids_that_are_given(folder, document):
    path = sets.save(folder, document)
    own = whole(folder, path)
    turned = whole(folder, path, category_ids=(6, 5, 4, 3, 2, 1))
    assert turned.categories == CATEGORIES[::-1]
    mapped = whole(folder, path, category_ids=(70, 80), category_map={label + 1: 80 for label in labels_of(own)[:1]})
    assert mapped.category_ids == (70, 80)
    for index in range(3):
        labels = own.clip(index, generator())[1].labels
        assert torch.equal(turned.clip(index, generator())[1].labels, 5 - labels)
    kept = labels_of(own)[0]
    assert {label for index in range(len(mapped)) for label in mapped.clip(index, generator())[1].labels.tolist()} == {
        1
    }
    assert sum(len(mapped.clip(i, generator())[1].labels) for i in range(len(mapped))) == labels_of(own).count(kept)
    with pytest.raises(ValueError, match="expected category_ids with it"):
        whole(folder, path, category_map={1: 2})
    with pytest.raises(ValueError, match=r"category_map leads to \[9\]"):
        whole(folder, path, category_ids=(1, 2), category_map={1: 9})


def labels_of(clips):
    return [label for index in range(len(clips)) for label in clips.clip(index, generator())[1].labels.tolist()]


def test_augmented_clips_are_the_same_from_every_worker(folder):
    augmentation = ClipAugmentation((32, 40, 56), crop_type="relative_range", crop_size=(0.7, 0.7), rotation=10)
    source = VideoClips(folder / "annotations.json", folder / "JPEGImages", 3, augmentation=augmentation)
    clips = MixedClips([source], seed=6)
    sampler = StepSampler(2, 0, 4)
    for workers in (0, 2):
        loader = DataLoader(clips, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        for step, (frames, targets) in enumerate(loader):
            for i in range(2):
                own_frames, own_targets = clips[2 * step + i]
                height, width = own_frames.shape[-2:]
                assert torch.equal(frames[i, ..., :height, :width], own_frames)
                assert torch.equal(targets[i].masks, own_targets.masks) and targets[i].masks.shape[-2:] == (
                    height,
                    width,
                )


def test_what_leaves_the_view_is_not_a_target(folder, document):
    document["annotations"] = document["annotations"][:1]
    corner = {"size": list(sets.SIZE), "counts": [0, 1, 48 * 72 - 1]}  # a pixel that most crops lose
    document["annotations"][0]["segmentations"] = [corner] * sets.FRAMES
    augmentation = ClipAugmentation(crop_type="relative_range", crop_size=(0.5, 0.5), crop_probability=1)
    clips = whole(folder, sets.save(folder, document), augmentation=augmentation)
    counts = Counter(len(clips.clip(0, generator(seed))[1].labels) for seed in range(30))
    assert counts[0] > 20 and set(counts) <= {0, 1}


def test_frames_are_sampled_around_any_frame():
    draws, references = generator(), Counter()
    pairs = Counter()
    for _ in range(4000):
        chosen = sample_frames(range(20), 3, 4, draws)
        assert chosen == sorted(set(chosen)) and chosen[-1] - chosen[0] <= 8
        references.update(chosen)
    for _ in range(9000):
        chosen = sample_frames(range(9), 2, 2, draws)
        pairs[tuple(chosen)] += 1
    assert set(references) == set(range(20))
    # A pair of neighbours in range: either may be the reference, with its own number of frames near it.
    near = [len([j for j in range(9) if j != i and abs(i - j) <= 2]) for i in range(9)]
    for i in range(9):
        for j in range(i + 1, 9):
            expected = 1000 * (1 / near[i] + 1 / near[j]) if j - i <= 2 else 0
            assert abs(pairs[i, j] - expected) <= 5 * expected**0.5, (i, j)


def test_frames_come_again_only_where_there_are_too_few():
    for seed in range(50):
        chosen = sample_frames(range(3), 5, 10, generator(seed))
        assert len(chosen) == 5 and set(chosen) == {0, 1, 2} and chosen == sorted(chosen)
        assert sample_frames([4], 3, 10, generator(seed)) == [4, 4, 4]
        assert len(set(sample_frames(range(30), 1, 10, generator(seed)))) == 1
        assert sample_frames([0, 1, 8, 9], 2, 3, generator(seed)) in ([0, 1], [8, 9]), "frames that are missing"


def spoil(folder, document):
    """One of each problem, spread over the three videos of 3, 2 and 2 objects."""
    first, second, third, *others = document["annotations"]
    first["category_id"] = 99
    second["bboxes"] = [[float("nan")] * 4] * sets.FRAMES
    third["segmentations"] = [{"size": [9, 9], "counts": [81]}] * sets.FRAMES
    last = others[-1]
    last["segmentations"] = [None, {"size": list(sets.SIZE), "counts": "??"}, *[None] * (sets.FRAMES - 2)]
    extra = [{**last, "id": 900, "video_id": 77}, {**last, "id": 901, "segmentations": [None]}, {**last, "id": 902}]
    extra[2]["segmentations"] = [None, 5, *[None] * (sets.FRAMES - 2)]
    document["annotations"] += [*extra, "not an object"]
    document["videos"][1]["file_names"][2] = "00001/gone.png"
    document["videos"][2]["height"] += 1
    for one in document["annotations"][:-1]:
        if one["video_id"] == 3:
            one["segmentations"] = [[[0, 0, 9, 0, 9, 9]]] * sets.FRAMES if one["id"] < 900 else one["segmentations"]


def test_all_problems_in_one_error(folder, document):
    spoil(folder, document)
    path = sets.save(folder, document)
    with pytest.raises(InputError) as error:
        whole(folder, path)
    text = str(error.value)
    for line in (
        'invalid "category_id" (1): annotation 0 (id 1): 99, which is not in categories',
        'invalid "bboxes" (1): annotation 1 (id 2): [nan, nan, nan, nan], expected [x, y, width, height]',
        'invalid "video_id" (1): annotation 7 (id 900): 77, which is not in videos',
        'invalid "segmentations" (3): annotation 2 (id 3) in frame 0: its size is [9, 9], expected [48, 72]; annot',
        "records that are not objects (1): annotation 10",
        "images are missing (1): ",
        "images differ in size from their annotations (7): ",
        "(72x48, not 72x49); ",
        "; …",
        "\n(skip_bad=True or --skip-bad continues without them)",
    ):
        assert line in text, line
    assert re.match(rf"{re.escape(str(path))} has 15 problems:", text)
    with pytest.warns(UserWarning, match="has 15 problems(?s:.*)Continuing without them"):
        clips = whole(folder, path, skip_bad=True)
    assert len(clips) == 1, "the first video has no good object, the third no good frame"
    drawn = sets.part(sets.drawing(1), list(range(sets.FRAMES)))[0]
    for seed in range(5):
        frames, _ = clips.clip(0, generator(seed))
        found = {t for frame in frames for t, one in enumerate(drawn) if torch.equal(frame, one)}
        assert found == {0, 1, 3, 4, 5, 6}


def test_images_need_not_be_checked(folder, document):
    document["videos"][1]["file_names"][2] = "00001/gone.png"
    clips = whole(folder, sets.save(folder, document), check_images=False)
    with pytest.warns(UserWarning, match=r"gone\.png is missing; a clip of another item"):
        frames, _ = clips.clip(1, generator())
    assert torch.equal(frames, sets.part(sets.drawing(2), list(range(sets.FRAMES)))[0])
    with warnings.catch_warnings(), pytest.raises(InputError, match="is missing"):
        warnings.simplefilter("ignore")
        VideoClips(folder / "changed.json", folder / "elsewhere", check_images=False).clip(0, generator())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("videos"), 'the file has no "videos"'),
        (lambda d: d.pop("categories"), 'the file has no "categories"'),
        (lambda d: d.update(annotations=None), '"annotations" is null; expected a list'),
        (lambda d: d.update(annotations=[]), "none of its 3 videos has an object"),
        (lambda d: d["videos"][1].pop("file_names"), 'video 2 has no "file_names"'),
        (lambda d: d["videos"][1].update(height="48"), "video 1: \"height\" is '48'; expected a whole number from 1"),
        (lambda d: d["videos"][1].update(id=1), 'video 1: "id" is 1, which is not unique'),
        (lambda d: d["categories"].append(7), "category 6 is a number; expected an object"),
        (lambda d: d.update(images=d.pop("videos"), annotations=[]), "contains images; expected videos"),
        (lambda d: d["annotations"][0].update(id=2), 'annotation 1: "id" is 2, which is not unique'),
        (lambda d: d["annotations"][0].update(areas=[-1] * 7), '"areas" is -1; expected pixels or null'),
    ],
)
def test_files_in_another_format(folder, document, change, message):
    change(document)
    with pytest.raises(InputError, match=message):
        whole(folder, sets.save(folder, document))


def test_files_that_are_not_there_or_not_json(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        whole(folder, tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"videos": [')
    with pytest.raises(InputError, match=r"cut\.json is not JSON"):
        whole(folder, tmp_path / "cut.json")
    with pytest.raises(ValueError, match="clip_length is 0"):
        VideoClips(folder / "annotations.json", folder, 0)
    with pytest.raises(ValueError, match="frame_range is -1"):
        VideoClips(folder / "annotations.json", folder, frame_range=-1)
    with pytest.raises(InputError, match=r"images are missing \(21\)"):
        VideoClips(folder / "annotations.json", tmp_path)
    with pytest.warns(UserWarning, match="missing"), pytest.raises(InputError, match="none of its images"):
        VideoClips(folder / "annotations.json", tmp_path, skip_bad=True)
