"""The mask losses against sums over sets of pixels in NumPy."""

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import masks_to_boxes

from mdqe.losses import InterInstanceMaskLoss, PlainMaskLoss

FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
FLOAT32 = {"rtol": 2e-5, "atol": 1e-6}


def scene(count: int, frames: int = 3, height: int = 9, width: int = 13, seed: int = 0) -> tuple[Tensor, ...]:
    """Logits, masks in steps of ¼, boxes of which some are empty, and clip indices of `count` random objects."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, frames, height, width, generator=g, dtype=torch.float64) * 4
    masks = torch.randint(0, 5, (count, frames, height, width), generator=g).double() / 4
    corners = torch.rand(count, frames, 2, 2, generator=g, dtype=torch.float64).sort(2).values
    boxes = corners.flatten(2) * (torch.rand(count, frames, 1, generator=g) > 0.2)
    return logits, masks, boxes, torch.randint(0, 3, (count,), generator=g)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes with sides of at least 0.05 and a union of at least 1e-3."""
    grown = []
    for box in (a, b):
        center, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 0.05) / 2
        grown.append((center - half, center + half))
    sides = np.clip(np.minimum(grown[0][1], grown[1][1]) - np.maximum(grown[0][0], grown[1][0]), 0, None)
    intersection = sides[0] * sides[1]
    return intersection / max(sum(np.prod(high - low) for low, high in grown) - intersection, 1e-3)


def slow_losses(
    logits: Tensor, masks: Tensor, boxes: Tensor, clips: Tensor, alpha: float = 2.0, threshold: float = 0.1
) -> tuple[list[float], list[float]]:
    """BCE and Dice of every object, from its set M > ½ and the union of its neighbours' sets M > ½."""
    x, m, boxes, clips = (v.detach().numpy() for v in (logits, masks, boxes, clips))
    bces, dices = [], []
    for i in range(len(x)):
        union_of_others = np.zeros(m.shape[1:], bool)
        for j in range(len(x)):
            near = any(overlap(boxes[i, t], boxes[j, t]) > threshold for t in range(x.shape[1]))
            if j != i and clips[i] == clips[j] and near:
                union_of_others |= m[j] > 0.5
        p = 1 / (1 + np.exp(-x[i]))
        weights = np.where((m[i] > 0.5) | union_of_others, alpha, 1.0)
        pixels = -(m[i] * np.log(p) + (1 - m[i]) * np.log(1 - p))
        bces.append((weights * pixels).sum() / weights.sum())
        outside = union_of_others & (m[i] < 0.5)
        numerator = 2 * (p * m[i]).sum() + (1 - p)[outside].sum() + 1
        dices.append(1 - numerator / (p.sum() + m[i].sum() + outside.sum() + 1))
    return bces, dices


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 9),
    frames=st.integers(1, 3),
    alpha=st.sampled_from([0.5, 1.0, 2.0, 3.5]),
    threshold=st.sampled_from([0.0, 0.1, 0.4]),
    seed=st.integers(0, 1000),
)
def test_equals_the_sums_over_pixel_sets(count: int, frames: int, alpha: float, threshold: float, seed: int) -> None:
    logits, masks, boxes, clips = scene(count, frames, seed=seed)
    bce, dice = InterInstanceMaskLoss(alpha, threshold)(logits, masks, boxes, clips)
    bces, dices = slow_losses(logits, masks, boxes, clips, alpha, threshold)
    assert float(bce) == pytest.approx(np.mean(bces), rel=1e-10)
    assert float(dice) == pytest.approx(np.mean(dices), rel=1e-10)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_without_dice_the_neighbours_count_in_the_bce_alone(threshold: float) -> None:
    """As in the second row of the paper's Table 1c."""
    given = scene(7)
    with_dice, without = (InterInstanceMaskLoss(2.0, threshold, dice=dice)(*given) for dice in (True, False))
    assert torch.equal(without[0], with_dice[0]) and without[0] != PlainMaskLoss()(*given)[0]
    assert torch.equal(without[1], PlainMaskLoss()(*given)[1]) and without[1] != with_dice[1]


def test_boxes_default_to_those_of_the_masks():
    """Compared with torchvision, whose right and bottom edges are the last pixels."""
    logits, masks, _, clips = scene(6)
    masks = torch.where(torch.rand(masks.shape) < 0.8, 0.0, masks)
    masks[2, 1] = 0
    boxes = torch.zeros(6, 3, 4, dtype=torch.float64)
    for i, t in (masks > 0.5).any((2, 3)).nonzero().tolist():
        x0, y0, x1, y1 = masks_to_boxes(masks[i, t, None] > 0.5)[0].tolist()
        boxes[i, t] = torch.tensor([x0 / 13, y0 / 9, (x1 + 1) / 13, (y1 + 1) / 9])
    loss = InterInstanceMaskLoss()
    torch.testing.assert_close(loss(logits, masks, None, clips), loss(logits, masks, boxes, clips), **FLOAT64)
    assert loss(logits, masks)[1] != PlainMaskLoss()(logits, masks)[1]


def test_stacked_clips_are_the_sum_of_single_clips() -> None:
    logits, masks, boxes, clips = scene(8)
    loss = InterInstanceMaskLoss()
    stacked = torch.stack(loss(logits, masks, boxes, clips, normalizer=1))
    single = ([x[clips == c] for x in (logits, masks, boxes)] for c in clips.unique())
    expected = sum(torch.stack(loss(*one, normalizer=1)) for one in single)
    torch.testing.assert_close(stacked, expected, **FLOAT64)


def test_an_image_is_a_clip_of_one_frame() -> None:
    logits, masks, boxes, _ = scene(5, frames=1)
    thrice = InterInstanceMaskLoss()(*(x.expand(-1, 3, *x.shape[2:]) for x in (logits, masks, boxes)))
    once = InterInstanceMaskLoss()(logits, masks, boxes)
    assert float(once[0]) == pytest.approx(float(thrice[0]), rel=1e-10)  # a mean over pixels
    bces, dices = slow_losses(logits, masks, boxes, torch.zeros(5))
    assert [float(v) for v in once] == pytest.approx([np.mean(bces), np.mean(dices)])


def test_no_objects_give_a_differentiable_zero() -> None:
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    for loss in (InterInstanceMaskLoss(), PlainMaskLoss()):
        bce, dice = loss(logits, torch.zeros(0, 2, 4, 4), torch.zeros(0, 2, 4), torch.zeros(0, dtype=torch.int64))
        (bce + dice).backward()
        assert (float(bce.detach()), float(dice.detach())) == (0, 0)
        assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_one_object_has_the_ordinary_dice_and_a_weighted_bce(alpha: float) -> None:
    logits, masks, boxes, _ = scene(1)
    bce, dice = InterInstanceMaskLoss(alpha)(logits, masks, boxes)
    weights = 1 + (alpha - 1) * (masks > 0.5)
    expected = F.binary_cross_entropy_with_logits(logits, masks, weights, reduction="sum") / weights.sum()
    torch.testing.assert_close(bce, expected, **FLOAT64)
    plain_bce, plain_dice = PlainMaskLoss()(logits, masks, boxes)
    torch.testing.assert_close(dice, plain_dice, **FLOAT64)
    if alpha == 1:
        torch.testing.assert_close(bce, plain_bce, **FLOAT64)


def test_the_plain_loss_is_bce_and_dice() -> None:
    logits, masks, boxes, clips = scene(6)
    bce, dice = PlainMaskLoss()(logits, masks, boxes, clips)
    torch.testing.assert_close(bce, F.binary_cross_entropy_with_logits(logits, masks), **FLOAT64)
    p = logits.sigmoid()
    ratio = (2 * (p * masks).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)
    torch.testing.assert_close(dice, (1 - ratio).mean(), **FLOAT64)


def test_false_pixels_on_a_neighbour_cost_more_than_on_the_background() -> None:
    masks = torch.zeros(2, 1, 8, 16)
    masks[0, :, :, 4:8] = 1
    masks[1, :, :, 8:12] = 1
    boxes = torch.tensor([[[0.2, 0.0, 0.6, 1.0]], [[0.4, 0.0, 0.8, 1.0]]])
    logits = masks * 8 - 4
    losses = []
    for columns in (slice(0, 4), slice(8, 12)):  # the background, the neighbour
        wrong = logits.clone()
        wrong[0, ..., columns] = 4
        losses.append(torch.stack(InterInstanceMaskLoss()(wrong, masks, boxes)))
    assert (losses[1] > losses[0]).all()


def test_one_object_may_have_several_masks() -> None:
    logits, masks, boxes, clips = scene(5)
    matched = torch.tensor([3, 0, 3, 3, 1, 0])  # objects 2 and 4 have none
    logits = torch.cat([logits, logits[:1] + 1])
    bce, dice = InterInstanceMaskLoss()(logits, masks, boxes, clips, matched=matched)
    repeated = InterInstanceMaskLoss()(logits, masks[matched], boxes[matched], clips[matched])
    torch.testing.assert_close(torch.stack([bce, dice]), torch.stack(repeated), **FLOAT64)
    # The masks of objects without a prediction have no effect.
    others = masks.clone()
    others[[2, 4]] = 1
    changed = InterInstanceMaskLoss()(logits, others, boxes, clips, matched=matched)
    assert torch.equal(torch.stack(changed), torch.stack([bce, dice]))


@pytest.mark.parametrize("loss", [InterInstanceMaskLoss(), PlainMaskLoss()])
@pytest.mark.parametrize("block", [64, 1 << 18])
def test_coefficients_and_features_equal_their_product(
    loss: torch.nn.Module, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdqe.losses.mask.block_elements", lambda device: block)
    _, masks, boxes, clips = scene(4)
    coefficients = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, *masks.shape[1:], dtype=torch.float64, requires_grad=True)
    matched = torch.tensor([1, 1, 0, 3, 1, 0])
    results = []
    for logits in ((coefficients, features), torch.einsum("nm,mthw->nthw", coefficients, features)):
        bce, dice = loss(logits, masks, boxes, clips, matched=matched)
        gradients = torch.autograd.grad(bce + 2 * dice, (coefficients, features))
        results.append(torch.cat([torch.stack([bce, dice]).detach(), *(g.flatten() for g in gradients)]))
    torch.testing.assert_close(*results, **FLOAT64)


def test_coefficients_and_features_in_half_precision() -> None:
    _, masks, boxes, clips = scene(4)
    coefficients = torch.randn(4, 5).bfloat16().requires_grad_()
    features = torch.randn(5, *masks.shape[1:]).bfloat16().requires_grad_()
    exact = torch.einsum("nm,mthw->nthw", coefficients.detach().double(), features.detach().double())
    with torch.autocast("cpu", torch.bfloat16):
        losses = InterInstanceMaskLoss()((coefficients, features), masks, boxes, clips)
        sum(losses).backward()
    expected = InterInstanceMaskLoss()(exact, masks, boxes, clips)
    torch.testing.assert_close(torch.stack(losses).double(), torch.stack(expected), **FLOAT32)
    for x in (coefficients, features):
        assert x.grad.dtype == torch.bfloat16
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("loss", [InterInstanceMaskLoss(), InterInstanceMaskLoss(0.5, 0.3), PlainMaskLoss()])
def test_gradients(loss: torch.nn.Module) -> None:
    logits, masks, boxes, clips = scene(4, 2, 4, 5)
    matched = torch.tensor([1, 1, 0, 3])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, masks, boxes, clips, matched=matched), logits)


def test_gradients_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdqe.losses.mask.block_elements", lambda device: 1200)
    logits, masks, boxes, clips = scene(9, 3, 11, 13)  # blocks of 128 of 429 pixels
    exact = logits.clone().requires_grad_()
    sum(InterInstanceMaskLoss()(exact, masks, boxes, clips)).backward()
    single = logits.float().requires_grad_()
    sum(InterInstanceMaskLoss()(single, masks.float(), boxes.float(), clips)).backward()
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 6e4])
def test_half_precision_under_autocast(dtype: torch.dtype, size: float) -> None:
    logits, masks, boxes, clips = scene(6, 4, 96, 160)
    logits = (logits / logits.abs().max() * 10 * size).clamp(-6e4, 6e4)
    half = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        bce, dice = InterInstanceMaskLoss()(half, masks, boxes, clips)
    (bce + dice).backward()
    exact = InterInstanceMaskLoss()(half.detach().double(), masks, boxes, clips)
    assert bce.dtype == torch.float32
    torch.testing.assert_close(bce.double(), exact[0], **FLOAT32)
    torch.testing.assert_close(dice.double(), exact[1], **FLOAT32)
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("loss", [InterInstanceMaskLoss(), PlainMaskLoss()])
def test_compiled_in_one_graph(loss: torch.nn.Module) -> None:
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for count in (6, 4):
        logits, masks, boxes, clips = scene(count, 2, 8, 9)
        results = []
        for call in (loss, compiled):
            x = logits.clone().requires_grad_()
            bce, dice = call(x, masks, boxes, clips)
            (bce + 2 * dice).backward()
            results.append(torch.cat([torch.stack([bce, dice]).detach(), x.grad.flatten()]))
        torch.testing.assert_close(*results, **FLOAT64)


class _Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return result


def test_no_tensor_of_pairs_of_objects_times_pixels() -> None:
    logits, masks, boxes, _ = scene(32, 2, 16, 16)
    logits.requires_grad_()
    with _Largest() as largest:
        sum(InterInstanceMaskLoss()(logits, masks, boxes)).backward()
    assert largest.elements <= logits.numel()


def test_coefficients_and_features_are_not_multiplied_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdqe.losses.mask.block_elements", lambda device: 64 * 64)
    _, masks, boxes, _ = scene(4, 2, 16, 16)
    coefficients, features = torch.randn(64, 3, requires_grad=True), torch.randn(3, 2, 16, 16, requires_grad=True)
    with _Largest() as largest:
        matched = torch.arange(64) % 4
        sum(InterInstanceMaskLoss()((coefficients, features), masks, boxes, matched=matched)).backward()
    assert largest.elements <= 64 * 64 < 64 * 2 * 16 * 16


def test_needs_torch_alone() -> None:
    program = (
        "import sys; from mdqe.losses import InterInstanceMaskLoss; "
        "print([m for m in sys.modules if m.split('.')[0] in ('timm', 'torchvision', 'scipy', 'einops', 'PIL')"
        " or m == 'mdqe.ops.kernels'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_logits": torch.zeros(2, 4, 4)}, r"mask_logits is \(2, 4, 4\)"),
        ({"mask_logits": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "floating point"),
        ({"mask_logits": (torch.zeros(2, 5), torch.zeros(6, 3, 4, 4))}, r"pair of \(2, 5\) and \(6, 3, 4, 4\)"),
        ({"mask_logits": (torch.zeros(2, 5), torch.zeros(5, 3, 4, 5))}, r"masks is .* mask_logits is \(2, 3, 4, 5\)"),
        ({"masks": torch.zeros(2, 3, 4, 5)}, r"masks is \(2, 3, 4, 5\), expected \(2, 3, 4, 4\)"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes is \(2, 4\), expected \(2, 3, 4\)"),
        ({"clip_index": torch.zeros(3)}, r"clip_index is \(3,\), expected \(2,\)"),
        ({"matched": torch.zeros(3)}, r"matched is \(3,\), expected \(2,\)"),
    ],
)
def test_wrong_shapes_are_named(change: dict[str, Tensor], message: str) -> None:
    mask = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=message):
        InterInstanceMaskLoss()(**{"mask_logits": mask, "masks": mask, "boxes": torch.zeros(2, 3, 4), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masks": torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)},
            "masks has values from 255 to 255, expected bool",
        ),
        ({"masks": torch.full((2, 3, 4, 4), -1.0)}, "masks has values from -1 to -1"),
        ({"masks": torch.full((2, 3, 4, 4), float("nan"))}, "masks has values from nan"),
        (
            {"boxes": torch.tensor([3.0, 1, 4, 4]).expand(2, 3, 4)},
            r"boxes has values from 1 to 4, expected xyxy in \[0, 1\]",
        ),
        ({"boxes": torch.full((2, 3, 4), float("nan"))}, "boxes has values from nan to nan, expected xyxy"),
        ({"boxes": torch.tensor([0.7, 0.7, 0.2, 0.4]).expand(2, 3, 4)}, "boxes has x2 < x1 .* not cxcywh"),
        ({"matched": torch.tensor([0, 2])}, "matched has values from 0 to 2, expected 0 to 1"),
        ({"matched": torch.tensor([-1, 1])}, "matched has values from -1 to 1, expected 0 to 1"),
    ],
)
@pytest.mark.parametrize("kind", [InterInstanceMaskLoss, PlainMaskLoss])
def test_values_out_of_range_are_named(kind: type, change: dict[str, Tensor], message: str) -> None:
    mask = torch.zeros(2, 3, 4, 4)
    arguments = {"mask_logits": mask, "masks": mask, "boxes": torch.zeros(2, 3, 4), **change}
    with pytest.raises(ValueError, match=message):
        kind()(**arguments)
    if "matched" not in change:
        kind(check_values=False)(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_boxes_and_masks_are_in_range(dtype: torch.dtype) -> None:
    _, masks, boxes, _ = scene(50)
    center, size = ((boxes[..., :2] + boxes[..., 2:]) / 2).to(dtype), (boxes[..., 2:] - boxes[..., :2]).to(dtype)
    boxes = torch.cat([center - size / 2, center + size / 2], -1)
    bce, dice = InterInstanceMaskLoss()(torch.zeros(masks.shape), masks.to(dtype), boxes)
    assert bce.isfinite() and 0 < dice <= 1


@pytest.mark.parametrize("name", ["mask_logits", "masks", "boxes", "clip_index", "matched"])
def test_arguments_that_are_no_tensors_are_named(name: str) -> None:
    mask = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match=f"{name} is a ndarray, expected a tensor"):
        InterInstanceMaskLoss()(**{"mask_logits": mask, "masks": mask, name: np.zeros(2)})


def test_indices_of_another_device_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: as a GPU does, it raises if tensors of two devices meet."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # there is none for meta
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="meta") == torch.zeros(3)  # noqa: B015
    logits, masks, boxes, clips = scene(4)
    matched = torch.tensor([0, 1, 1, 3])
    for loss in (InterInstanceMaskLoss(), PlainMaskLoss()):
        bce, dice = loss(logits.to("meta"), masks.to("meta"), boxes.to("meta"), clips, matched=matched)
        assert (bce.device.type, dice.shape) == ("meta", ())
    assert InterInstanceMaskLoss().neighbors(boxes.to("meta"), clips).shape == (4, 4)
    if torch.cuda.is_available():
        expected = InterInstanceMaskLoss()(logits, masks, boxes, clips, matched=matched)
        found = InterInstanceMaskLoss()(*(x.cuda() for x in (logits, masks, boxes)), clips, matched=matched)
        torch.testing.assert_close(tuple(x.cpu() for x in found), expected, **FLOAT64)


def test_masks_and_boxes_of_another_device_are_named() -> None:
    mask, boxes = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4)
    for name in ("masks", "boxes"):
        with pytest.raises(ValueError, match=f"{name} is on meta, expected cpu, the device of mask_logits"):
            arguments = {"mask_logits": mask, "masks": mask, "boxes": boxes}
            InterInstanceMaskLoss()(**{**arguments, name: arguments[name].to("meta")})


@pytest.mark.parametrize("check", [True, False])
def test_one_read_back_for_all_ranges(check: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read-back waits for a GPU."""
    read = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__"):
        function = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda x, function=function: (read.append(x), function(x))[1])
    _, masks, boxes, clip_index = scene(4)
    loss = InterInstanceMaskLoss(check_values=check)
    loss(torch.zeros(masks.shape), masks, boxes, clip_index, matched=torch.arange(4))
    assert len(read) == check


@pytest.mark.parametrize("options", [{"alpha": 0}, {"iou_threshold": 1.0}, {"iou_threshold": -0.1}])
def test_wrong_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        InterInstanceMaskLoss(**options)
