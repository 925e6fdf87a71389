"""The trainer: reports, moving average, data loading, changed options, and the batch of a loss that is not finite."""

import csv
import io
import sys

import pytest
import tiny
import torch

from mdqe import MDQE
from mdqe.errors import InputError
from mdqe.losses import PlainMaskLoss
from mdqe.losses.criterion import build_criterion
from mdqe.training.optimizer import MovingAverage, adamw, freeze
from mdqe.training.reports import CsvTable, EventFile, Progress
from mdqe.training.run_state import load_state
from mdqe.training.step import NonFiniteLossError, TrainingStep, replay


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_reduces_the_loss(tmp_path):
    class OneClip:
        def __getitem__(self, n):
            return tiny.clips()[n % 2]

    run = tiny.trainer(tmp_path, steps=20, log_every=5)
    run.clips = OneClip()
    run.schedule = lambda step: 1.0
    run.train()
    first, *_, last = table(tmp_path / "metrics.csv")
    assert float(last["loss"]) < 0.95 * float(first["loss"])


def test_metrics(tmp_path, capsys, monkeypatch):
    run = tiny.trainer(tmp_path, steps=5, log_every=2)
    seen, call = [], TrainingStep.__call__
    monkeypatch.setattr(
        TrainingStep, "__call__", lambda self, *arguments: seen.append(call(self, *arguments)) or seen[-1]
    )
    run.train()
    rows = table(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    for row, part in zip(rows, (seen[:2], seen[2:4], seen[4:]), strict=True):
        for name in seen[0].losses:
            mean = sum(result.losses[name] for result in part) / len(part)
            assert float(row[name]) == pytest.approx(mean, rel=1e-5)
        assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in seen[0].losses), rel=1e-4)
        assert float(row["seconds"]) > float(row["waiting"]) >= 0
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4])
    err = capsys.readouterr().err
    assert "step 4/5  loss " in err and "s/step, 0:00:0" in err and "mask" in err


def test_tensorboard_has_the_same(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tiny.trainer(tmp_path, steps=4).train()
    board = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value for event in board.Scalars("metrics/loss")}
    rows = table(tmp_path / "metrics.csv")
    assert found == {int(row["step"]): pytest.approx(float(row["loss"]), rel=1e-4) for row in rows}


def test_a_resumed_run_hides_later_values(tmp_path):
    """TensorBoard shows the values of the resumed run for the steps that were repeated."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, steps in ((0, (1, 2, 3, 4)), (2, (3, 4))):
        board = EventFile(tmp_path, start)
        for step in steps:
            board.add(step, {"metrics/loss": 10.0 * start + step})
        board.close()
    read = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("metrics/loss")] == [(1, 1), (2, 2), (3, 23), (4, 24)]


def test_without_tensorboard_there_is_only_csv(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    tiny.trainer(tmp_path, steps=2).train()
    assert len(table(tmp_path / "metrics.csv")) == 1 and not (tmp_path / "tensorboard").exists()
    assert capsys.readouterr().err.count("pip install 'mdqe[train]'") == 1


@pytest.mark.parametrize("later", [True, False])
def test_a_table_keeps_the_rows_up_to_the_checkpoint(tmp_path, later):
    csv_table = CsvTable(tmp_path / "table.csv")
    csv_table.append(2, {"loss": 1.0})
    csv_table.append(4, {"loss": 0.5, "AP": 0.25})
    if later:
        csv_table.append(6, {"loss": 0.25})
    with (tmp_path / "table.csv").open("a") as file:
        file.write("1")  # an incomplete row
    CsvTable(tmp_path / "table.csv", start=4).append(6, {"AP": 0.125, "loss": 2.0})
    assert (tmp_path / "table.csv").read_text().split() == ["step,loss,AP", "2,1,", "4,0.5,0.25", "6,2,0.125"]


SHOWN = {"loss": 12.345, "class": 1.0, "mask": 2.0, "mask_0": 3.0, "seconds": 0.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_progress(monkeypatch, stream, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(10, 4, **options)
    for _ in range(2):
        progress.advance()
    progress.show(SHOWN)
    progress.say("a line")
    progress.advance()
    progress.bar.refresh()
    progress.close()
    return stream.getvalue()


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    text = show_progress(monkeypatch, Terminal())
    assert "7/10" in text and "loss 12.3 class 1 mask 2 0.5 s/step" in text and "a line\n" in text
    assert "mask_0" not in text


def test_progress_elsewhere_is_lines(monkeypatch):
    lines = show_progress(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 2 and lines[1] == "a line"
    assert lines[0].startswith("step 6/10  loss 12.3 class 1 mask 2  0.5 s/step, 0:00:0")


def test_progress_of_other_processes_is_not_shown(monkeypatch):
    assert (
        show_progress(monkeypatch, io.StringIO(), shown=False)
        == show_progress(monkeypatch, Terminal(), shown=False)
        == ""
    )


def test_the_moving_average_is_saved(tmp_path):
    run = tiny.trainer(tmp_path, steps=3, average_decay=0.5, validate=lambda model, step: {"first": first(model)})
    seen = [next(run.model.parameters()).detach().clone()]
    update = run.average.update
    run.average.update = lambda: (seen.append(next(run.model.parameters()).detach().clone()), update())
    run.train()
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    saved = next(MDQE.from_pretrained(tmp_path).parameters())
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(saved, seen[-1], rtol=1e-5, atol=1e-6)
    assert torch.equal(next(run.model.parameters()), seen[-1])
    assert float(table(tmp_path / "validation.csv")[0]["first"]) == pytest.approx(
        float(expected.flatten()[0]), rel=1e-4
    )


def first(model):
    return float(next(model.parameters()).detach().flatten()[0])


def test_invalid_moving_averages():
    with pytest.raises(ValueError, match="belongs to another model"):
        MovingAverage(tiny.model(), 0.9).load_state_dict({})
    with pytest.raises(ValueError, match=r"is 1.0, expected 0 up to, not including, 1"):
        MovingAverage(tiny.model(), 1.0)


def test_validation_does_not_affect_training(tmp_path):
    def draw(model, step):
        torch.rand(3)
        assert model.config.num_classes == 6
        return {"AP": 0.5}

    tiny.trainer(tmp_path / "a", validate=draw, validate_every=2).train()
    tiny.trainer(tmp_path / "b").train()
    a, b = (load_state(tmp_path / name / "checkpoint.pt")["model"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["step"] for row in table(tmp_path / "a" / "validation.csv")] == ["2", "4", "6"]


def test_workers_load_the_same_clips(tmp_path):
    for workers in (0, 2):
        tiny.trainer(tmp_path / str(workers), steps=2, workers=workers).train()
    a, b = (load_state(tmp_path / name / "checkpoint.pt")["model"] for name in "02")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_parts_divide_the_same_clips(tmp_path):
    """A step in two parts has the same clips as a step in one part."""

    def loaded(**options):
        run = tiny.trainer(tmp_path / "unused", steps=2, batch=4, **options)
        return [clip for frames, _ in run._batches() for clip in frames]

    whole, parts = loaded(), loaded(accumulate=2)
    assert len(whole) == len(parts) == 8 and all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def break_at(run, step):
    """Set a weight to NaN during the forward pass of a step."""

    def poison(module, arguments):
        if run.done == step:
            with torch.no_grad():
                run.model.class_head.layers[-1].bias[2] = float("nan")

    run.model.class_head.register_forward_pre_hook(poison)


@pytest.mark.filterwarnings("ignore:Error detected in")  # a warning of anomaly detection
def test_a_loss_that_is_not_finite_is_saved_for_replay(tmp_path):
    run = tiny.trainer(tmp_path, steps=6)
    break_at(run, 3)
    with pytest.raises(NonFiniteLossError) as raised:
        run.train()
    path = tmp_path / "bad_batch.pt"
    message = str(raised.value)
    assert message.startswith("step 3: ") and "class_0 is nan" in message and str(path) in message
    assert "\n" not in message
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 2  # the last valid one

    saved = load_state(path)
    frames, targets = next(iter(run._batches()))
    again = replay(path)
    assert again.keys() == saved["losses"].keys()
    for name, value in saved["losses"].items():
        assert again[name] == pytest.approx(value, nan_ok=True, abs=0), name
    with pytest.raises(RuntimeError, match="returned nan values"):
        replay(path, backward=True)
    assert saved["step"] == 3 and saved["frames"].shape == frames.shape
    assert set(saved["targets"][0]) == {"labels", "ids", "masks", "boxes"} and len(saved["targets"]) == len(targets)


def test_replay_has_the_same_dropout(tmp_path):
    """Compared on the finite losses, which depend on dropout."""
    run = tiny.trainer(tmp_path, steps=2, config={"dropout": 0.5})
    break_at(run, 1)
    with pytest.raises(NonFiniteLossError):
        run.train()
    losses = load_state(tmp_path / "bad_batch.pt")["losses"]
    finite = [name for name in losses if "init" in name]
    torch.manual_seed(77)  # must have no effect
    again = replay(tmp_path / "bad_batch.pt")
    assert [again[name] for name in finite] == [losses[name] for name in finite]


def test_a_gradient_that_is_not_finite(tmp_path):
    run = tiny.trainer(tmp_path, steps=2)
    run.model.encoder.level_embed.register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in run.model.parameters()]
    with pytest.raises(NonFiniteLossError, match=r"step 0: the norm of the gradients is (nan|inf)"):
        run.train()
    assert all(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))
    assert (tmp_path / "bad_batch.pt").exists()


def test_the_configured_mask_loss_is_trained():
    assert type(build_criterion(tiny.model(mask_loss="plain").config).mask_loss) is PlainMaskLoss
    config = tiny.model(mask_loss="inter_instance_bce", mask_loss_iou_threshold=0.5).config
    assert repr(build_criterion(config).mask_loss) == "InterInstanceMaskLoss(alpha=2.0, iou_threshold=0.5, dice=False)"
    frames, targets = tiny.clips()[0]
    losses = {}
    for name in ("inter_instance", "plain"):
        model = tiny.model(mask_loss=name, dropout=0.0)
        torch.manual_seed(1)
        losses[name] = {k: float(v.detach()) for k, v in model.loss(frames[None], [targets]).items()}
    differ = {name for name, value in losses["plain"].items() if value != losses["inter_instance"][name]}
    assert differ and differ <= {"mask", "mask_0", "dice", "dice_0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"batch": 3, "accumulate": 2}, "batch is 3, expected a multiple of 1 processes × 2 parts"),
        ({"workers": -1}, "workers is -1"),
        ({"save_every": 0}, "save_every is 0"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.trainer(tmp_path, **options)


def test_a_run_is_not_overwritten(tmp_path):
    tiny.trainer(tmp_path, steps=2).train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=r"has a run: call resume\(\) to continue it, or choose another folder"):
        tiny.trainer(tmp_path, steps=1).train()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("amp", ["fp16", "bf16", None])
def test_a_resumed_run_may_have_another_precision(tmp_path, amp):
    tiny.trainer(tmp_path, steps=1, amp=None if amp else "fp16").train()
    resumed = tiny.trainer(tmp_path, steps=2, amp=amp)
    assert resumed.resume() and resumed.train_step.scaler.is_enabled() == (amp == "fp16")
    resumed.train()
    assert resumed.done == 2


def test_other_frozen_parts_are_named(tmp_path):
    tiny.trainer(tmp_path).save()
    model = tiny.model()
    freeze(model, ["backbone"])
    with pytest.raises(InputError, match=r"checkpoint.pt: \d+ tensors were trained, expected \d+: .* frozen parts$"):
        tiny.trainer(tmp_path, optimizer=adamw(model)).resume()
