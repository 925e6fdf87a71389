"""Evaluation of results: the metrics of the official evaluators of the benchmarks, and of identities."""

from mdqe.evaluation.benchmarks import evaluate
from mdqe.evaluation.coco import evaluate_coco

__all__ = ["evaluate", "evaluate_coco"]
