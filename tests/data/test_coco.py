"""Images as pseudo-clips: views of one image whose objects keep their identities."""

import json

import annotated_sets as sets
import pytest
import torch
from torchvision.ops import masks_to_boxes

from mdqe.config import MDQEConfig
from mdqe.data.augment import ClipAugmentation
from mdqe.data.coco import PseudoClips, map_categories
from mdqe.errors import InputError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of a set of images, its annotations and their file."""
    folder = tmp_path_factory.mktemp("images") / "set"
    document = sets.coco_document(sets.write_videos(folder, videos=2))
    return folder / "JPEGImages", document, sets.save(folder, document, "coco.json")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_views_that_do_not_move(images):
    folder, _, path = images
    clips = PseudoClips(path, folder, 3)
    assert len(clips) == 2 * sets.FRAMES
    for index in (0, 9):
        frames, targets = clips.clip(index, generator())
        drawn, expected = sets.part(sets.drawing(index // sets.FRAMES), [index % sets.FRAMES] * 3)
        assert torch.equal(frames, drawn)
        sets.assert_same_objects(targets, expected)


def test_views_move_apart_and_objects_keep_their_identity(images):
    folder, _, path = images
    augmentation = ClipAugmentation((30, 48, 60), crop_type="relative_range", crop_size=(0.8, 0.8), rotation=15)
    clips = PseudoClips(path, folder, 4, augmentation=augmentation)
    still = PseudoClips(path, folder, 1)
    padded = 0
    for index in range(8):
        frames, targets = clips.clip(index, generator(index))
        assert frames.shape[:2] == (4, 3) and frames.dtype == torch.uint8
        assert len({frame.numpy().tobytes() for frame in frames}) == 4
        present = targets.ids >= 0
        assert torch.equal(present, targets.masks.flatten(2).any(2))
        assert torch.equal(targets.boxes[present], masks_to_boxes(targets.masks[present]) + torch.tensor([0, 0, 1, 1]))
        padded += int((frames[:, :, -1] == 0).all((1, 2)).any())
        image, once = still.clip(index, draws := generator(index))
        places = targets.object_ids  # among the objects of the image
        assert torch.equal(targets.labels, once.labels[places])
        for t in range(4):  # the views that the same generator gives one by one
            view, masks = augmentation(image, once.masks, draws)
            height, width = view.shape[-2:]
            assert torch.equal(frames[t, :, :height, :width], view[0])
            assert not frames[t, :, height:].any() and not frames[t, :, :, width:].any()
            assert torch.equal(targets.masks[:, t, :height, :width], masks[places, 0])
            assert not targets.masks[:, t, height:].any() and not targets.masks[:, t, :, width:].any()
    assert padded > 0


def test_categories_without_a_counterpart_are_left_out(images):
    folder, document, path = images
    kept = document["annotations"][0]["category_id"]
    config = MDQEConfig.preset("r50_ovis_360")
    clips = PseudoClips(path, folder, 2, category_ids=config.label_ids, category_map={kept: 7})
    annotated = {one["image_id"] for one in document["annotations"] if one["category_id"] == kept}
    assert len(clips) == len(annotated)
    assert clips.clip(0, generator())[1].labels.unique().tolist() == [6]


def test_crowds_and_problems(images):
    folder, document, _ = images
    first, second, *others = document["annotations"]
    changed = [{**first, "iscrowd": 1}, {**second, "segmentation": [[1, 2, 3]]}, *others]
    path = sets.save(folder, {**document, "annotations": changed})
    with pytest.raises(InputError, match=r'annotation 1 \(id 2\): "segmentation": a polygon is not a list of x and y'):
        PseudoClips(path, folder)
    with pytest.warns(UserWarning, match="(?s:a polygon is not.*Continuing without them)"):
        clips = PseudoClips(path, folder, 1, skip_bad=True)
    left = sum(one["image_id"] == 1 for one in others)
    assert len(clips.clip(0, generator())[1].labels) == left
    with pytest.raises(InputError, match="contains videos; expected images"):
        PseudoClips(sets.save(folder, {"videos": [], "categories": [], "annotations": []}), folder)


def test_coco_categories_as_those_of_videos(shared):
    """The maps that follow from the names are those of the released code."""
    facts = json.loads((shared / "facts" / "datasets.json").read_text())
    coco = MDQEConfig.preset("r50_coco")
    own = dict(zip(coco.label_ids, coco.categories, strict=True))
    assert len(own) == 80 and {own[1], own[90]} == {"person", "toothbrush"}
    for name, expected in facts["coco_to"].items():
        ids, names = zip(*((one["id"], one["name"]) for one in facts["categories"][name]), strict=True)
        assert map_categories(own, names, ids) == {int(one): to for one, to in expected.items()}


def test_categories_by_name():
    own = {9: "Dog", 7: "giant_panda", 3: "mouse", 4: "car"}
    names = ("person", "Giant Panda", "DOG", "mouse", "sedan")
    assert map_categories(own, names, (1, 2, 5, 6, 8)) == {7: 2, 9: 5, 3: 6}, "the rules for COCO apply to COCO alone"
    with pytest.raises(InputError, match=r"none of its categories is one of person, …"):
        map_categories(own, ("person",), (1,))
