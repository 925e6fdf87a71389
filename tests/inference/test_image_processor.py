"""Frames → pixel values and results → segmentation maps, against the model itself and small examples."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import moving_squares, small_model

from mdqe import MDQE, MDQEConfig, MDQEImageProcessor, VideoInstances
from mdqe.errors import InputError
from mdqe.results import rle


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model(test_shorter_edge=40)


@pytest.fixture(scope="module")
def processor(model) -> MDQEImageProcessor:
    return MDQEImageProcessor(model.config)


def test_pixel_values_are_the_inputs_of_the_backbone(model, processor):
    """`model(**inputs)` gives the backbone the same tensor as `model.stream`."""
    video = moving_squares(3, (50, 77))
    inputs = processor(video, dtype=torch.float64)
    assert inputs["pixel_values"].shape == (1, 3, 3, 64, 64)
    assert inputs.pop("original_sizes") == [(50, 77)]
    assert inputs["sizes"] == [(40, 62)]
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        ours = model(**inputs)
        list(model.stream(video))
    hook.remove()
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=0, atol=1e-12)
    assert ours.mask_logits.shape == (1, 16, 3, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_takes_either(model, processor, dtype):
    video = moving_squares(2, (40, 62))
    model = small_model(test_shorter_edge=40).to(dtype)
    inputs = processor(video, dtype=dtype)
    with torch.inference_mode():
        a = model(pixel_values=inputs["pixel_values"], sizes=inputs["sizes"])
        b = model(video.permute(0, 3, 1, 2)[None])
    torch.testing.assert_close(a.layers[-1].class_logits, b.layers[-1].class_logits, rtol=0, atol=0)
    torch.testing.assert_close(a.mask_features, b.mask_features, rtol=0, atol=0)


def test_a_batch_of_videos_of_different_sizes(model, processor):
    """Each as if alone; the smaller one is padded."""
    wide, high = moving_squares(2, (40, 90)), moving_squares(2, (70, 40), seed=1)
    inputs = processor([wide, high], dtype=torch.float64)
    assert inputs["pixel_values"].shape == (2, 2, 3, 96, 96)
    assert inputs["original_sizes"] == inputs["sizes"] == [(40, 90), (70, 40)]
    for i, video in enumerate((wide, high)):
        alone = processor(video, dtype=torch.float64)["pixel_values"][0]
        h, w = alone.shape[-2:]
        assert torch.equal(inputs["pixel_values"][i, ..., :h, :w], alone)
        assert not inputs["pixel_values"][i, ..., h:, :].any()
        assert not inputs["pixel_values"][i, ..., w:].any()
    with torch.inference_mode():
        both = model(pixel_values=inputs["pixel_values"], sizes=inputs["sizes"]).layers[-1]
        frames = torch.zeros(2, 2, 3, 90, 90, dtype=torch.uint8)
        frames[0, :, :, :40, :90], frames[1, :, :, :70, :40] = wide.permute(0, 3, 1, 2), high.permute(0, 3, 1, 2)
        plain = model(frames, sizes=inputs["sizes"]).layers[-1]
    torch.testing.assert_close(both.class_logits, plain.class_logits, rtol=0, atol=0)


def test_sources_of_frames(processor, tmp_path):
    video = moving_squares(2, (40, 64))
    images = [Image.fromarray(frame.numpy()) for frame in video]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    wanted = processor(video)["pixel_values"]
    for source in (video.numpy(), list(video), list(video.numpy()), images, tuple(images), iter(video), [video],
                   [images], video[None], tmp_path, str(tmp_path), [tmp_path]):  # fmt: skip
        assert torch.equal(processor(source)["pixel_values"], wanted)
    for frame in (video[0], video[0].numpy(), images[0], [images[0]], tmp_path / "0.png"):
        assert torch.equal(processor(frame)["pixel_values"], wanted[:, :1])
    assert processor([images, images])["pixel_values"].shape == (2, *wanted.shape[1:])
    assert torch.equal(processor.preprocess(images)["pixel_values"], wanted)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "the video has no frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), "the video has no frames"),
        ([moving_squares(2), moving_squares(3)], r"the videos have \[2, 3\] frames, expected .* equal lengths"),
        (moving_squares(2).float(), r"frame 0 is \(64, 96, 3\) float32, expected \(height, width, 3\) uint8"),
        (moving_squares(2).permute(0, 3, 1, 2), r"frame 0 is \(3, 64, 96\) uint8"),
        ([moving_squares(1)[0], moving_squares(1, (64, 90))[0]], "frame 1 is 90x64, the first one is 96x64"),
    ],
)
def test_invalid_videos_are_rejected(processor, videos, message):
    with pytest.raises(InputError, match=message):
        processor(videos)


def test_the_model_rejects_unprepared_inputs(model):
    clip = torch.zeros(1, 2, 3, 40, 64)
    for arguments in ({}, {"frames": clip, "pixel_values": clip}):
        with pytest.raises(ValueError, match="expected either frames or pixel_values"):
            model(**arguments)
    with pytest.raises(ValueError, match=r"pixel_values is \(1, 2, 3, 40, 64\), expected H and W padded to multiples"):
        model(pixel_values=clip)
    with pytest.raises(ValueError, match=r"pixel_values is \(2, 3, 40, 64\), expected \(B, T, 3, H, W\)"):
        model(pixel_values=clip[0])


def test_from_pretrained(model, tmp_path):
    model.float().save_pretrained(tmp_path)
    model.double()
    processor = MDQEImageProcessor.from_pretrained(tmp_path, test_longer_edge=50)
    assert processor.config == model.config.replace(test_longer_edge=50)
    assert MDQEImageProcessor.from_pretrained("mdqe:tiny").config.categories[0] == "disc"
    with pytest.raises(FileNotFoundError):
        MDQEImageProcessor.from_pretrained(tmp_path / "none")


@pytest.fixture
def instances() -> VideoInstances:
    """Ids 7, 3 and 9 in two frames of 6×8: 7 and 3 overlap, 3 is absent in the second frame, 9 has a low score."""
    masks = np.zeros((3, 2, 6, 8), bool)
    masks[0, :, 1:4, 1:5] = True
    masks[1, 0, 2:6, 3:8] = True
    masks[2, :, 0, 0] = True
    return VideoInstances.from_masks([0.7, 0.912345678, 0.2], [2, 0, 1], [7, 3, 9], masks)


@pytest.fixture
def plain() -> MDQEImageProcessor:
    return MDQEImageProcessor(MDQEConfig())


def test_maps_and_segments(plain, instances):
    first, second = plain.post_process_instance_segmentation(instances)
    assert first["segments_info"] == [
        {"id": 3, "label_id": 0, "was_fused": False, "score": 0.912346},
        {"id": 7, "label_id": 2, "was_fused": False, "score": 0.7},
    ]
    wanted = np.full((6, 8), -1)
    wanted[1:4, 1:5] = 7
    wanted[2:6, 3:8] = 3  # the id of the better one
    assert first["segmentation"].dtype == torch.int32
    np.testing.assert_array_equal(first["segmentation"], wanted)
    assert [s["id"] for s in second["segments_info"]] == [7]
    assert set(second["segmentation"].unique().tolist()) == {-1, 7}
    every = plain.post_process_instance_segmentation(instances, threshold=0.2)
    assert [[s["id"] for s in frame["segments_info"]] for frame in every] == [[3, 7, 9], [7, 9]]
    assert all(frame["segmentation"][0, 0] == 9 for frame in every)
    none = plain.post_process_instance_segmentation(instances, threshold=0.95)
    assert [frame["segments_info"] for frame in none] == [[], []]
    assert all((frame["segmentation"] == -1).all() for frame in none)


def test_masks_of_each_segment(plain, instances):
    maps = plain.post_process_instance_segmentation(instances, return_binary_maps=True)
    assert maps[0]["segmentation"].dtype == torch.bool
    np.testing.assert_array_equal(maps[0]["segmentation"], instances.masks[[1, 0], 0])
    rles = plain.post_process_instance_segmentation(instances, return_coco_annotation=True)
    for a, b in zip(maps, rles, strict=True):
        np.testing.assert_array_equal(a["segmentation"], rle.decode([r["counts"] for r in b["segmentation"]], (6, 8)))
        assert a["segments_info"] == b["segments_info"]
    empty = plain.post_process_instance_segmentation(instances, 0.99, [(3, 4)], return_binary_maps=True)
    assert empty[0]["segmentation"].shape == (0, 3, 4)


def test_target_sizes(plain, instances):
    """Nearest-neighbour interpolation; segments that vanish are not listed."""
    frames = plain.post_process_instance_segmentation(instances, threshold=0, target_sizes=[(12, 16)])
    small = plain.post_process_instance_segmentation(instances, threshold=0)
    for a, b in zip(frames, small, strict=True):
        np.testing.assert_array_equal(a["segmentation"], np.kron(b["segmentation"], np.ones((2, 2), int)))
    tiny = plain.post_process_instance_segmentation(instances[[2]], threshold=0, target_sizes=[(1, 1)])
    assert tiny[0]["segmentation"].tolist() == [[9]]
    shifted = VideoInstances.from_masks([1.0], [0], [0], np.eye(6, 8, 1, dtype=bool)[None, None])
    assert plain.post_process_instance_segmentation(shifted, target_sizes=[(1, 1)])[0]["segments_info"] == []


def test_ids_persist_over_windows(model, processor):
    video = moving_squares(9, (50, 77))
    windows = list(model.stream(video, score_threshold=0))
    frames = processor.post_process_instance_segmentation(windows, threshold=0.0, return_binary_maps=True)
    assert len(frames) == 9
    whole = model.segment(video, score_threshold=0)
    row = {track: i for i, track in enumerate(whole.track_ids.tolist())}
    shown = 0
    for t, frame in enumerate(frames):
        for segment, mask in zip(frame["segments_info"], frame["segmentation"], strict=True):
            np.testing.assert_array_equal(mask, whole.mask(row[segment["id"]], t))
            shown += 1
    assert shown > 9


def test_outputs_of_forward():
    """For a video of a single clip, the post-processed `model(**inputs)` equals `segment`."""
    model, video = small_model(clip_stride=4, test_shorter_edge=40), moving_squares(4, (50, 77))
    processor = MDQEImageProcessor(model.config)
    inputs = processor(video, dtype=torch.float64)
    target_sizes = inputs.pop("original_sizes")
    with torch.inference_mode():
        outputs = model(**inputs)
    result = model.segment(video, score_threshold=0.1)
    ours = processor.post_process_instance_segmentation(outputs, 0.1, target_sizes, return_binary_maps=True)
    theirs = processor.post_process_instance_segmentation(result, 0.1, return_binary_maps=True)
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["segments_info"]) > 0
        for x, y in zip(a["segments_info"], b["segments_info"], strict=True):
            assert x | {"score": 0} == y | {"score": 0}
            assert x["score"] == pytest.approx(y["score"], abs=2e-6)  # rounded to six places
        assert torch.equal(a["segmentation"], b["segmentation"])
    padded = processor.post_process_instance_segmentation(outputs)
    assert padded[0]["segmentation"].shape == (64, 64)


def test_invalid_requests_are_rejected(plain, instances):
    with pytest.raises(InputError, match="expected at most one"):
        plain.post_process_instance_segmentation(instances, return_coco_annotation=True, return_binary_maps=True)
    with pytest.raises(InputError, match="target_sizes has 3 entries, expected 1 or 2"):
        plain.post_process_instance_segmentation([instances] * 2, target_sizes=[(1, 1)] * 3)
