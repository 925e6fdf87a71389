"""Training: the step, its optimizer and schedule, checkpoints and validation. The `Trainer` owns all state."""

from mdqe import lazy_names

_HOME = {
    "MovingAverage": "mdqe.training.optimizer",
    "NonFiniteLossError": "mdqe.training.step",
    "StepDecay": "mdqe.training.optimizer",
    "Trainer": "mdqe.training.trainer",
    "TrainingStep": "mdqe.training.step",
    "adamw": "mdqe.training.optimizer",
    "annotated_validation": "mdqe.training.validation",
    "freeze": "mdqe.training.optimizer",
    "initial_model": "mdqe.training.initialize",
    "recompute_activations": "mdqe.training.step",
    "replay": "mdqe.training.step",
    "synthetic_validation": "mdqe.training.validation",
}

__all__ = [*_HOME]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
