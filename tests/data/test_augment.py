"""Augmentation of clips. Colours of the test frames are pixel coordinates, so the expected masks of discs are known."""

import pytest
import torch

from mdqe.data.augment import ClipAugmentation

SIZE = (160, 240)
DISCS = ((60.0, 50.0, 30.0), (190.0, 120.0, 25.0), (120.0, 80.0, 8.0))  # x, y, radius


def ramp(size=SIZE, frames=3):
    """Frames (T, 3, H, W): red is x, green is y, blue is 255."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 255)]).to(torch.uint8).expand(frames, -1, -1, -1).contiguous()


def discs(frames: torch.Tensor, grown: float = 0.0) -> torch.Tensor:
    """(K, T, H, W): masks of the discs, larger by `grown` pixels, computed from the colours."""
    x, y, inside_frame = frames.double().unbind(1)  # (T, H, W)
    inside = [(x - left) ** 2 + (y - top) ** 2 < (radius + grown) ** 2 for left, top, radius in DISCS]
    return torch.stack(inside) & (inside_frame > 254)


def views(augmentation, count=40, size=SIZE):
    frames = ramp(size)
    masks = discs(frames)
    for seed in range(count):
        yield augmentation(frames, masks, torch.Generator().manual_seed(seed))


AUGMENTATIONS = {
    "flip": ClipAugmentation(),
    "resize": ClipAugmentation((80, 120, 160, 200, 333), 400),
    "share": ClipAugmentation(crop_type="relative_range", crop_size=(0.6, 0.7), crop_probability=1),
    "pixels": ClipAugmentation((100, 200), crop_type="absolute_range", crop_size=(384, 600)),
    "turn": ClipAugmentation(rotation=15),
    "all": ClipAugmentation((100, 140), 190, crop_type="relative_range", crop_size=(0.7, 0.7), rotation=15),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_masks_move_with_the_pixels(name):
    seen = 0
    for frames, masks in views(AUGMENTATIONS[name], 20):
        assert frames.dtype == torch.uint8 and masks.dtype == torch.bool and type(frames) is type(masks) is torch.Tensor
        assert frames.shape[:2] == (3, 3) and masks.shape == (3, 3, *frames.shape[-2:])
        assert torch.equal(frames[0], frames[2]) and torch.equal(masks[:, 0], masks[:, 2]), "one geometry for the clip"
        # Colours are rounded and interpolated, so discs are known to within two pixels of the original.
        assert (masks & (frames[None, :, 2] > 254))[discs(frames, -2)].all()
        assert not (masks & (frames[None, :, 2] > 254) & ~discs(frames, 2)).any()
        seen += int(masks.any())
    assert seen > 15


def test_flips_and_crops_are_exact():
    for name in ("flip", "share"):
        for frames, masks in views(AUGMENTATIONS[name]):
            assert torch.equal(masks, discs(frames))


def test_half_of_the_clips_are_flipped():
    flipped = [bool(frames[0, 0, 0, 0] > 100) for frames, _ in views(AUGMENTATIONS["flip"], 200)]
    assert 60 < sum(flipped) < 140, "five sigma"
    assert all(torch.equal(frames, ramp()) for frames, _ in views(ClipAugmentation(flip=0)))


def test_sizes_after_resizing():
    sizes = {tuple(frames.shape[-2:]) for frames, _ in views(AUGMENTATIONS["resize"])}
    assert sizes == {(80, 120), (120, 180), (160, 240), (200, 300), (267, 400)}, "333 would make the longer edge 500"


def test_resized_masks_are_sampled_at_the_centres_of_pixels():
    augmentation = ClipAugmentation((40,), flip=0)
    for _, masks in views(augmentation, 1):
        y, x = (torch.arange(edge // 4) * 4 + 2 for edge in SIZE)
        assert torch.equal(masks, discs(ramp())[..., y[:, None], x])


def test_relative_crops():
    shares = torch.tensor(
        [[frames.shape[-2] / SIZE[0], frames.shape[-1] / SIZE[1]] for frames, _ in views(AUGMENTATIONS["share"], 200)]
    )
    least = torch.tensor([0.6, 0.7])
    assert (shares >= least - 0.004).all() and (shares <= 1).all()
    assert (shares.mean(0) - (1 + least) / 2).abs().max() < 0.04
    corners = torch.tensor([frames[0, 1, 0, 0].item() for frames, _ in views(AUGMENTATIONS["share"], 200)])
    assert corners.min() < 5 and corners.max() > 40, "crops start anywhere in the frame"


def test_absolute_crops():
    augmentation = ClipAugmentation(crop_type="absolute_range", crop_size=(384, 600), crop_probability=1, flip=0)
    sizes = torch.tensor([frames.shape[-2:] for frames, _ in views(augmentation, 20)])
    assert (sizes >= 384).all() and (sizes <= 600).all() and len(set(map(tuple, sizes.tolist()))) > 15
    small = ClipAugmentation(crop_type="absolute_range", crop_size=(700, 800), crop_probability=1, flip=0)
    assert {frames.shape[-2] for frames, _ in views(small, 20)} == {400, 500, 600}, "the whole height of smaller frames"
    never = ClipAugmentation(crop_type="absolute_range", crop_probability=0, flip=0)
    assert all(torch.equal(frames, ramp()) for frames, _ in views(never, 10))


def test_rotation():
    angles = []
    for frames, masks in views(ClipAugmentation(rotation=15, flip=0), 80):
        outside = frames[0, 2] == 0
        assert not masks[:, :, outside].any()
        middle = frames[0, :2, SIZE[0] // 2, SIZE[1] // 2 - 40 : SIZE[1] // 2 + 41 : 80].double()  # (2, 2)
        right, down = (middle[:, 1] - middle[:, 0]).tolist()
        angles.append(torch.rad2deg(torch.atan2(torch.tensor(down), torch.tensor(right))).item())
    angles = torch.tensor(angles)
    assert angles.abs().max() < 16 and angles.min() < -13 and angles.max() > 13
    assert angles.mean().abs() < 4, "four deviations of the mean of 80 angles"


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_determines_the_result(name):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(torch.seed() % 2**32)
        return AUGMENTATIONS[name](ramp(), discs(ramp()), generator)

    for other_seed, same in ((3, True), (8, False)):
        pairs = zip(draw(3), draw(other_seed), strict=True)
        assert all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs) == same


def test_clips_without_objects():
    for augmentation in AUGMENTATIONS.values():
        frames, masks = augmentation(ramp(), torch.zeros(0, 3, *SIZE, dtype=torch.bool), torch.Generator())
        assert masks.shape == (0, 3, *frames.shape[-2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shorter_edges": (320, 0)},
            r"shorter_edges is \(320, 0\) and longer_edge is 1333, expected at least 1 pixel",
        ),
        ({"longer_edge": 0}, "longer_edge is 0"),
        ({"crop_type": "square"}, "crop_type is 'square', expected absolute_range, relative_range or None"),
        ({"crop_type": "absolute_range", "crop_size": (0.8, 0.8)}, "crop_size is"),
        ({"crop_type": "absolute_range", "crop_size": (600, 384)}, "expected the minimum and the maximum edge"),
        ({"crop_type": "relative_range", "crop_size": (384, 600)}, "expected shares of the height and the width"),
        ({"flip": 1.5}, "flip is 1.5, expected 0 to 1"),
        ({"crop_probability": -1}, "crop_probability is -1"),
        ({"rotation": 270}, "rotation is 270, expected 0 to 180"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipAugmentation(**arguments)
