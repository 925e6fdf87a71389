"""The training step: gradients of several processes and of parts, clipping, precision, recomputed activations."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import gradients
import pytest
import tiny
import torch

from mdqe.data.loader import collate
from mdqe.training.step import NonFiniteLossError, TrainingStep, recompute_activations

# Sums of the same float64 terms in another order, relative to the largest gradient of a parameter.
EXACT = 1e-10
ZERO = 1e-14  # gradients that cancel: biases before a normalisation


@pytest.fixture(autouse=True)
def real_randperm(monkeypatch):
    monkeypatch.setattr(torch, "randperm", torch.randperm)  # gradients.py replaces it


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(rank: int, count: int, port: int, *arguments: object) -> subprocess.Popen:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    command = [sys.executable, gradients.__file__, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **address, **place}, stderr=subprocess.PIPE, text=True)


def assert_close(found, expected, tolerance=EXACT):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = tolerance * float(gradient.abs().max()) + ZERO
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_have_the_gradients_of_one(tmp_path):
    counts = [len(targets.labels) for _, targets in gradients.batch()]
    assert sum(counts[:2]) < sum(counts[2:])  # the processes have different normalisers
    alone, result = gradients.gradients()
    port = free_port()
    started = [start(rank, 2, port, tmp_path / "found.pt") for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert len(alone) > 150
    assert_close(found["gradients"], alone)
    assert float(found["loss"]) == pytest.approx(sum(result.losses.values()), rel=EXACT)
    assert found["norm"] == pytest.approx(result.grad_norm, rel=EXACT)


def test_every_parameter_has_a_gradient_for_any_clips():
    """DistributedDataParallel waits for the gradients of all parameters."""
    frames, targets = collate([tiny.clips()[0]])
    empty = [type(targets[0])(targets[0].labels[:0], targets[0].ids[:0], targets[0].masks[:0], targets[0].boxes[:0])]
    variants = [{}, {"query_initialization": False}, {"query_association": False}, {"decoder": "i2o"},
                {"temporal_cross_attention": False}, {"mask_loss": "plain"}]  # fmt: skip
    for config in variants:
        model = tiny.model(**config).train()
        for objects in (targets, empty):
            model.zero_grad()
            sum(model.loss(frames, objects).values()).backward()
            assert [name for name, p in model.named_parameters() if p.grad is None] == [], config


def test_gradients_of_parts_are_averaged():
    found, _ = gradients.gradients(accumulate=2)
    model = tiny.model(dropout=0.0).double().train()
    clips = gradients.batch()
    for part in (clips[:2], clips[2:]):
        frames, targets = collate(part)
        (sum(model.loss(frames, targets).values()) / 2).backward()
    assert_close(found, {name: p.grad for name, p in model.named_parameters()})


def test_clipping_by_the_norm_of_all_gradients():
    model = tiny.model(dropout=0.0).train()
    before = [p.detach().clone() for p in model.parameters()]
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), 1.0), clip_norm=0.5)
    result = step([collate([tiny.clips()[0]])])
    moved = torch.cat([(p - q).detach().flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert result.grad_norm > 0.5
    assert float(moved.double().norm()) == pytest.approx(0.5, rel=1e-3)


def test_recomputed_activations_give_equal_gradients():
    expected, _ = gradients.gradients()
    model = tiny.model(dropout=0.0).double().train()
    names = list(model.state_dict())
    recompute_activations(model)
    calls = []
    model.encoder.layers[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), 0.0), clip_norm=None)
    step([collate(gradients.batch())])
    assert len(calls) == 2  # forward, and again in the backward pass
    assert list(model.state_dict()) == names
    assert_close({name: p.grad for name, p in model.named_parameters()}, expected)


def test_recomputed_dropout_is_the_same():
    def norms(recompute):
        model = tiny.model(dropout=0.3).train()
        if recompute:
            recompute_activations(model)
        torch.manual_seed(1)
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), 0.0), clip_norm=None)
        step([collate([tiny.clips()[0]])])
        return [float(p.grad.norm()) for p in model.parameters()]

    assert norms(True) == pytest.approx(norms(False), rel=1e-4, abs=1e-6)


def test_unknown_parts_to_recompute():
    with pytest.raises(ValueError, match="parts to recompute are neck; expected some of backbone, encoder, decoder"):
        recompute_activations(tiny.model(), ["encoder", "neck"])


# Relative to float32: products have 8 bits of mantissa, and the matching of a query or two may differ.
@pytest.mark.parametrize(("amp", "tolerance"), [("bf16", 0.05), ("fp16", 0.02)])
def test_mixed_precision_is_close_to_float32(amp, tolerance):
    _, result = gradients.gradients(amp=amp)
    _, exact = gradients.gradients()
    assert sum(result.losses.values()) == pytest.approx(sum(exact.losses.values()), rel=tolerance)


def test_bfloat16_on_a_slow_cpu_is_warned_about(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False))
    model = tiny.model()
    with pytest.warns(UserWarning, match="bfloat16 is several times slower than float32 on this CPU") as caught:
        for amp in ("bf16", None, "fp16"):
            TrainingStep(model, torch.optim.SGD(model.parameters(), 1.0), amp=amp)
    assert len(caught) == 1


def test_half_precision_skips_steps_that_overflow():
    model = tiny.model().train()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), 1.0), amp="fp16")
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 2.0**60})
    before = [p.detach().clone() for p in model.parameters()]
    step([collate([tiny.clips()[0]])])
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert step.scaler.get_scale() == 2.0**59


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_updates_nothing(value):
    model = tiny.model().train()
    with torch.no_grad():
        model.class_head.layers[-1].bias[0] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), 1.0))
    with pytest.raises(NonFiniteLossError, match=r"class_0 is (nan|inf)"):
        step([collate([tiny.clips()[0]])])
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"amp": "int8"}, "amp is 'int8', expected one of bf16, fp16"), ({"clip_norm": 0.0}, "clip_norm is 0.0")],
)
def test_wrong_options(options, message):
    model = tiny.model()
    with pytest.raises(ValueError, match=message):
        TrainingStep(model, torch.optim.SGD(model.parameters(), 1.0), **options)
