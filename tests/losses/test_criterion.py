"""The criterion: names, weights, normalisers, empty clips, variants, several processes."""

import socket
from pathlib import Path
from typing import Any

import clips
import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from mdqe import MDQE, MDQEConfig
from mdqe.losses import Criterion, PlainMaskLoss
from mdqe.losses.criterion import build_criterion
from mdqe.modeling.network import ClipOutput

NAMES = ["class", "box", "giou", "mask", "dice"]
INIT_NAMES = ["init_sem", "init_reid", "init_reid_aux"]


@pytest.fixture
def first_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace random subsets by the first candidates."""
    monkeypatch.setattr(torch, "randperm", torch.arange)


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(losses.values())


def test_names() -> None:
    losses = Criterion()(clips.output(2), [clips.targets(3), clips.targets(2, seed=1)])
    expected = INIT_NAMES + NAMES + [f"{name}_{i}" for i in range(2) for name in NAMES]
    assert sorted(losses) == sorted(expected)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())


def test_weights_are_arguments(first_subsets: None) -> None:
    out, objects = clips.output(1), [clips.targets(3)]
    once = Criterion()(out, objects)
    changed = Criterion(class_weight=20.0, dice_weight=0.0, init_reid_weight=1.0)(out, objects)
    factors = {"class": 10, "dice": 0, "init_reid": 2}
    for name, loss in once.items():
        factor = factors.get(name.rstrip("_0123456789"), 1)
        assert float(changed[name].detach()) == pytest.approx(factor * float(loss.detach()))


def test_a_batch_averages_its_clips(first_subsets: None) -> None:
    """Sums over matched queries are divided by their number in the batch, other sums by the number of clips."""
    out = clips.output(3)
    objects = [clips.targets(n, seed=n) for n in (4, 0, 2)]
    criterion = Criterion()
    scaled = criterion.scale(out, objects)
    owner = criterion.matcher(out.layers, out.mask_features, scaled)
    batch = criterion(out, objects)
    parts = []
    for b in range(3):
        parts.append(criterion(clips.mapped(lambda x, b=b: x[b : b + 1], out), objects[b : b + 1]))
    for layer, suffix in enumerate(("_0", "_1", "")):
        matched = (owner[layer] >= 0).sum(1)
        for name in ("box", "giou", "mask", "dice"):
            expected = sum(m * p[name + suffix] for m, p in zip(matched, parts, strict=True)) / matched.sum()
            torch.testing.assert_close(batch[name + suffix], expected)
        torch.testing.assert_close(batch["class" + suffix], sum(p["class" + suffix] for p in parts) / 3)
    torch.testing.assert_close(batch["init_sem"], sum(p["init_sem"] for p in parts) / 3)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (3, 0)])
def test_clips_without_objects_have_class_and_activation_losses(counts: tuple[int, ...]) -> None:
    out = clips.output(len(counts))
    losses = Criterion()(out, [clips.targets(n, seed=n) for n in counts])
    gradients = torch.autograd.grad(total(losses), clips.leaves(out))
    assert all(g.isfinite().all() for g in gradients)
    if not any(counts):
        assert {n for n, v in losses.items() if v != 0} == {"init_sem", "class", "class_0", "class_1"}


def test_the_plain_mask_loss_changes_only_the_mask_losses(first_subsets: None) -> None:
    out, objects = clips.output(2), [clips.targets(4), clips.targets(3, seed=1)]
    full, plain = Criterion()(out, objects), Criterion(mask_loss=PlainMaskLoss())(out, objects)
    changed = {name for name in full if full[name] != plain[name]}
    assert changed == {f"{kind}{suffix}" for kind in ("mask", "dice") for suffix in ("", "_0", "_1")}


def test_half_precision_outputs(first_subsets: None) -> None:
    objects = [clips.targets(4), clips.targets(3, seed=1)]
    half = clips.output(2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = Criterion()(half, objects)
    total(losses).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(x.grad is not None and x.grad.isfinite().all() for x in clips.leaves(half))

    double = clips.mapped(lambda x: x.detach().double(), half)
    for name, expected in Criterion()(double, objects).items():
        assert float(losses[name].detach()) == pytest.approx(float(expected), rel=1e-4), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_equal_losses(first_subsets: None) -> None:
    objects = [clips.targets(n, seed=n) for n in (4, 0, 3)]
    here = clips.output(3)
    there = clips.mapped(lambda x: x.detach().cuda().requires_grad_(), here)
    expected, losses = Criterion()(here, objects), Criterion()(there, [t.to("cuda") for t in objects])
    gradients = [torch.autograd.grad(total(v), clips.leaves(out)) for v, out in ((expected, here), (losses, there))]
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name].cpu(), loss)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b.cpu(), a)


def small_model(**options: Any) -> MDQE:
    config = MDQEConfig(
        backbone="resnet18", hidden_dim=32, num_heads=4, encoder_layers=1, decoder_layers=2, grid_size=4, embed_dim=8,
        num_classes=clips.CLASSES, clip_length=clips.FRAMES, test_clip_length=clips.FRAMES, dropout=0.0, **options,
    )  # fmt: skip
    return MDQE(config)


def test_learned_queries_have_no_initialisation_losses() -> None:
    frames = torch.randint(0, 256, (2, clips.FRAMES, 3, *clips.SIZE), dtype=torch.uint8)
    losses = small_model(query_initialization=False).loss(frames, [clips.targets(3), clips.targets(2, seed=1)])
    assert sorted(losses) == sorted(NAMES + [f"{name}_{i}" for i in range(2) for name in NAMES])


def test_clips_of_different_sizes_in_one_batch(first_subsets: None) -> None:
    """The losses of the smaller clip are those it has alone on the same padded frame."""
    model = small_model().double()
    frames = torch.randint(0, 256, (2, clips.FRAMES, 3, *clips.SIZE), dtype=torch.uint8)
    frames[1, ..., 50:, :], frames[1, ..., 70:] = 0, 0
    objects = [clips.targets(3), clips.targets(3, seed=5, size=(50, 70))]
    both = model.loss(frames, objects)
    alone = [model.loss(frames[b : b + 1], objects[b : b + 1]) for b in range(2)]
    torch.testing.assert_close(both["init_sem"], (alone[0]["init_sem"] + alone[1]["init_sem"]) / 2)


def test_mismatched_frames_and_targets_are_named() -> None:
    model = small_model()
    frames = torch.zeros(2, clips.FRAMES, 3, *clips.SIZE, dtype=torch.uint8)
    with pytest.raises(ValueError, match="targets has 1 entries, expected one for each of 2 clips"):
        model.loss(frames, [clips.targets(2)])
    with pytest.raises(ValueError, match=r"frames is \(2, 3, 64, 96\), expected \(B, T, 3, H, W\)"):
        model.loss(frames[0], [clips.targets(2), clips.targets(2)])
    with pytest.raises(ValueError, match=r"masks of targets\[1\] is \(2, 2, 65, 96\)"):
        model.loss(frames, [clips.targets(2), clips.targets(2, size=(65, 96))])


def test_targets_of_another_type_are_named() -> None:
    """For the model and for a criterion that is used alone."""
    frames = torch.zeros(2, clips.FRAMES, 3, *clips.SIZE, dtype=torch.uint8)
    target = clips.targets(2)
    as_dict = {"labels": target.labels, "masks": target.masks, "boxes": target.boxes}
    for call in (lambda targets: small_model().loss(frames, targets), lambda t: Criterion()(clips.output(2), t)):
        with pytest.raises(TypeError, match=r"targets\[1\] is a dict, expected mdqe.ClipTargets\("):
            call([target, as_dict])
        with pytest.raises(TypeError, match="targets is a ClipTargets, expected a list of one ClipTargets per clip"):
            call(target)
        with pytest.raises(TypeError, match="targets is a dict, expected a list"):
            call(as_dict)
    with pytest.raises(TypeError, match="frames is a ndarray, expected a tensor"):
        small_model().loss(frames.numpy(), [target, target])


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (lambda x: x / 255, "0 to 1"),
        (lambda x: (x - 120) / 58, "-2.069 to 2.328"),
        (lambda x: x - 120, "-120 to 135"),
        (lambda x: x * 257, "0 to 6.554e"),
        (lambda x: x / 0, "nan to nan"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frames_of_another_range_are_named(change: Any, values: str, dtype: torch.dtype) -> None:
    frames = torch.randint(0, 256, (1, clips.FRAMES, 3, *clips.SIZE), dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"frames has values from {values}.*, expected RGB in 0 to 255"):
        small_model().to(dtype).loss(change(frames.to(dtype)), [clips.targets(2)])


@pytest.mark.parametrize("level", [0, 1, 255])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_dark_and_bright_frames_are_valid(level: int, dtype: torch.dtype) -> None:
    frames = torch.zeros(1, clips.FRAMES, 3, *clips.SIZE, dtype=dtype)
    frames[..., :40] = level
    assert all(loss.isfinite() for loss in small_model().loss(frames, [clips.targets(2)]).values())


def test_the_model_s_mask_losses_read_nothing_back() -> None:
    """The criterion's masks and boxes are in range by construction."""
    assert not Criterion().mask_loss.check_values
    names = ("inter_instance", "inter_instance_bce", "plain")
    assert not any(build_criterion(MDQEConfig(mask_loss=name)).mask_loss.check_values for name in names)


def _half_a_batch(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.randperm = torch.arange
    out, objects = _batch()
    half = slice(2 * rank, 2 * rank + 2)
    own = clips.mapped(lambda x: x[half], out)
    gradients = torch.autograd.grad(total(Criterion()(own, objects[half])), clips.leaves(out))
    torch.save(gradients, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _batch() -> tuple[ClipOutput, list[Any]]:
    return clips.output(4), [clips.targets(n, seed=n) for n in (5, 1, 2, 0)]


def test_two_processes_average_to_the_gradients_of_one(first_subsets: None, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(_half_a_batch, (port, str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    out, objects = _batch()
    whole = torch.autograd.grad(total(Criterion()(out, objects)), clips.leaves(out))
    for a, b, expected in zip(*halves, whole, strict=True):
        torch.testing.assert_close((a + b) / 2, expected, rtol=1e-9, atol=1e-12)
