"""Evaluation of results: the metrics of the official evaluators of the benchmarks, and of identities."""

from mdqe.evaluation.benchmarks import evaluate
from mdqe.evaluation.coco import evaluate_coco
from mdqe.evaluation.thresholds import best_threshold, sweep_thresholds

__all__ = ["best_threshold", "evaluate", "evaluate_coco", "sweep_thresholds"]
