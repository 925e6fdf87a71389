"""Evaluation of results: the metrics of the official evaluators of YouTube-VIS, OVIS and COCO, and of identities."""

from mdqe.evaluation.coco import evaluate_coco
from mdqe.evaluation.ytvis import evaluate

__all__ = ["evaluate", "evaluate_coco"]
