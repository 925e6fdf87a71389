"""The trainer: the loop over steps, and all state of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mdqe.config import MDQEConfig
from mdqe.data.loader import StepSampler, collate
from mdqe.distributed import gather, rank, ranks
from mdqe.errors import InputError
from mdqe.losses.criterion import Criterion
from mdqe.model import MDQE
from mdqe.training.optimizer import MovingAverage
from mdqe.training.reports import Interval, Metrics, Progress
from mdqe.training.run_state import load_state, random_state, save_state, seed_all, set_random_state
from mdqe.training.step import Batch, NonFiniteLossError, StepResult, TrainingStep, save_bad_batch

CHECKPOINT = "checkpoint.pt"
BAD_BATCH = "bad_batch.pt"
SHOWN_NUMBERS = ("AP", "AP50", "AP75", "AP_so", "AP_mo", "AP_ho", "IDSW")
"""The metrics of a validation that are printed; the table has all of them."""

Validate = Callable[[MDQE, int], dict[str, float]]
"""Compute metrics by name from the model and the number of steps done."""


class Trainer:
    """Train a model on clips.

    Its folder contains `checkpoint.pt`, from which `resume` continues; `metrics.csv` and `validation.csv`, and the same
    in `tensorboard/` if TensorBoard is installed; at the end the model, as `MDQE.save_pretrained` writes it; and
    `bad_batch.pt` if a loss is not finite (see `mdqe.training.replay`). If several processes train together, each has a
    trainer with the same arguments, and the first process writes.

    Args:
        model: on its device. It is set to training mode.
        clips: a `MixedClips`, or another map-style data set of (frames, ClipTargets) that is long enough.
        folder: of the run; created if it does not exist.
        optimizer: of the model's parameters, such as `adamw`; the learning rates of its groups are the base rates.
        schedule: learning rate of step 0, 1, … in units of the base rates, such as a `StepDecay`.
        steps: number of steps of the run.
        batch: clips per step, of all processes and parts together.
        accumulate: number of parts in which a process computes its share of the batch, one after the other. The losses
            of a part are divided by its own number of matches; parts are averaged.
        clip_norm, criterion, amp: as in `TrainingStep`.
        average_decay: decay of a moving average of the weights, which is validated and saved as the model; None: none.
        seed: of dropout and of all other random numbers in training, except those of the clips.
        workers: processes that load clips; 0 loads them in this process.
        log_every, save_every, validate_every: steps between two rows of metrics, checkpoints and validations.
        validate: called by every process; the values of the first process are used.
        source: where the weights come from, for the model card.

    Raises:
        ValueError: a value out of range, or a batch that cannot be divided evenly.
    """

    def __init__(
        self,
        model: MDQE,
        clips: Dataset,
        folder: str | Path,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        *,
        steps: int,
        batch: int = 16,
        accumulate: int = 1,
        clip_norm: float | None = 0.01,
        criterion: Criterion | None = None,
        amp: str | None = None,
        average_decay: float | None = None,
        seed: int = 0,
        workers: int = 0,
        log_every: int = 20,
        save_every: int = 500,
        validate: Validate | None = None,
        validate_every: int = 1000,
        source: str | None = None,
    ) -> None:
        counts = {"steps": steps, "batch": batch, "accumulate": accumulate, "log_every": log_every,
                  "save_every": save_every, "validate_every": validate_every}  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")
        if batch % (ranks() * accumulate):
            raise InputError(f"batch is {batch}, expected a multiple of {ranks()} processes × {accumulate} parts")
        if workers < 0:
            raise InputError(f"workers is {workers}, expected at least 0")
        self.model, self.clips, self.folder, self.schedule = model, clips, Path(folder), schedule
        self.steps, self.batch, self.accumulate, self.workers = steps, batch, accumulate, workers
        self.log_every, self.save_every, self.validate_every = log_every, save_every, validate_every
        self.validate, self.seed, self.source = validate, seed, source
        self.average = None if average_decay is None else MovingAverage(model, average_decay)
        self.train_step = TrainingStep(model, optimizer, clip_norm=clip_norm, criterion=criterion, amp=amp)
        self.done = 0
        """Number of steps done so far."""
        self._random: dict[str, Any] | None = None
        self._continues = False  # a run in the folder, or there is none
        self._interval = Interval()

    def train(self) -> None:
        """Run the remaining steps, and save the model.

        Raises:
            FileExistsError: the folder has the checkpoint of another run, which `resume` was not called to continue.
            NonFiniteLossError: a loss or gradient is NaN or infinite; the message names the file of the saved batch.
            OSError: a file cannot be written. The last checkpoint is complete.
        """
        if not self._continues and (self.folder / CHECKPOINT).exists():
            raise FileExistsError(f"{self.folder} has a run: call resume() to continue it, or choose another folder")
        self._continues = True
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.train()
        progress = Progress(self.steps, self.done, shown=rank() == 0)
        metrics = Metrics(self.folder, self.done, progress.say) if rank() == 0 else None
        batches = self._batches()  # before the random state is set, because a loader draws a number when it starts
        if self._random is None:
            seed_all(self.seed + rank())
        else:
            set_random_state(self._random)
        try:
            self._loop(batches, progress, metrics)
        finally:
            progress.close()
            if metrics is not None:
                metrics.close()
        if rank() == 0:
            with self._weights():
                self.model.save_pretrained(self.folder, source=self.source)

    def save(self) -> None:
        """Write the checkpoint; every process must call this. The old one remains until the new one is complete.

        Raises:
            OSError: for example, the disk is full; the old checkpoint is unchanged.
        """
        random, interval = gather(random_state()), self._interval.state_dict()
        if rank() != 0:
            return
        step = self.train_step
        state = {
            "step": self.done,
            "batch": self.batch,
            "config": self.model.config.to_dict(),
            "model": dict(self.model.state_dict()),
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "random": random,
            "interval": interval,
        }
        save_state(self.folder / CHECKPOINT, state)

    def resume(self) -> bool:
        """Continue from the checkpoint in the folder; return False if there is none.

        Only the state that steps change comes from the file. The learning rate, its schedule and the other arguments
        are those of this trainer. With the same arguments, the run ends with the same weights as an uninterrupted one.

        Raises:
            ValueError: a damaged checkpoint, or one of another model or batch.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return False
        self._continues = True
        state = load_state(path)
        try:
            self._restore(state, path)
        except InputError as error:
            if str(path) in str(error):
                raise
            raise InputError(f"{path}: {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise InputError(f"{path} is damaged, or not a checkpoint of a training run: {reason[:200]}") from error
        return True

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        found = MDQEConfig.from_dict(state["config"])  # fields that are newer than the file have their defaults
        if found != self.model.config:
            names = [name for name, value in self.model.config.to_dict().items() if found.to_dict()[name] != value]
            raise InputError(f"{path} is from a model with another configuration: {', '.join(names)} differ")
        if state["batch"] != self.batch:
            raise InputError(f"{path} is from a run with {state['batch']} clips per step, expected batch={self.batch}")
        if (state["average"] is None) != (self.average is None):
            raise InputError(f"{path} {'has no' if self.average else 'has a'} moving average of the weights")
        self.model.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        if not isinstance(state["scaler"], dict):
            raise TypeError(f"scaler is {str(state['scaler'])[:40]!r}, expected a dictionary")
        if state["scaler"]:  # a run without fp16 has none, and its successor begins with the initial scale
            self.train_step.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if type(state["step"]) is not int or state["step"] < 0:
            raise InputError(f"step is {str(state['step'])[:40]!r}, expected a whole number from 0")
        self.done = state["step"]
        self._interval = Interval(state.get("interval"))  # older checkpoints have none
        if not isinstance(state["random"], list):
            raise TypeError(f"random is {str(state['random'])[:40]!r}, expected a list of generator states")
        if len(state["random"]) == ranks():
            self._random = state["random"][rank()]
            set_random_state(self._random)  # the run sets it again when it starts; here it is checked
        else:  # another number of processes: draw new random numbers, not those of the first steps again
            self.seed += self.done

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        optimizer = self.train_step.optimizer
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        saved, own = ([len(group["params"]) for group in x["param_groups"]] for x in (state, optimizer.state_dict()))
        if saved != own and len(saved) == len(own):
            expected = f"{sum(own)}: a resumed run has the same frozen parts"
            raise InputError(f"{sum(saved)} tensors were trained, expected {expected}")
        optimizer.load_state_dict(state)
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)

    def _loop(self, batches: Iterator[Batch], progress: Progress, metrics: Metrics | None) -> None:
        while self.done < self.steps:
            start = time.perf_counter()
            parts = list(islice(batches, self.accumulate))
            loaded = time.perf_counter()
            result = self._step(parts, self.schedule(self.done))
            self.done += 1
            self._interval.add(*result, seconds=time.perf_counter() - start, waiting=loaded - start)
            progress.advance()
            last = self.done == self.steps
            if self.done % self.log_every == 0 or last:
                values = {**self._interval.means(), "lr": self.train_step.optimizer.param_groups[0]["lr"]}
                if metrics is not None:
                    metrics.write("metrics", self.done, values)
                progress.show(values)
                self._interval = Interval()
            if self.validate is not None and (self.done % self.validate_every == 0 or last):
                self._validate(progress, metrics)
            if self.done % self.save_every == 0 or last:
                self.save()

    def _step(self, parts: list[Batch], rate: float) -> StepResult:
        try:
            result = self.train_step(parts, rate)
        except NonFiniteLossError as error:
            path = self.folder / (BAD_BATCH if ranks() == 1 else f"bad_batch.rank{rank()}.pt")
            save_bad_batch(path, self.model, parts[error.part], error, step=self.done, amp=self.train_step.amp)
            text = f"step {self.done}: {error}; the batch is saved in {path}"
            raise NonFiniteLossError(text, error.part, error.losses, error.random) from error
        if self.average is not None:
            self.average.update()
        return result

    def _validate(self, progress: Progress, metrics: Metrics | None) -> None:
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with self._weights(), torch.random.fork_rng(devices):
            values = self.validate(self.model, self.done) if self.validate is not None else {}
        if metrics is not None:
            metrics.write("validation", self.done, values)
        shown = [name for name in SHOWN_NUMBERS if name in values] or list(values)
        progress.say(f"step {self.done}: " + "  ".join(f"{name} {values[name]:.4g}" for name in shown))

    def _weights(self) -> Any:
        """Return a context in which the model has the weights that are validated and saved."""
        return nullcontext() if self.average is None else self.average.applied()

    def _batches(self) -> Iterator[Batch]:
        share = self.batch // (ranks() * self.accumulate)
        sampler = StepSampler(
            share, self.done * self.accumulate, self.steps * self.accumulate, rank=rank(), ranks=ranks()
        )
        return iter(
            DataLoader(
                self.clips,
                batch_sampler=sampler,
                collate_fn=collate,
                num_workers=self.workers,
                pin_memory=self.model.device.type == "cuda",
                persistent_workers=self.workers > 0,
                generator=torch.Generator(),  # seeds the workers; no clip depends on it
            )
        )
