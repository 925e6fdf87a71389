"""How good results are: the numbers of the official evaluators of YouTube-VIS and OVIS, and identity over time."""

from mdqe.evaluation.ytvis import evaluate

__all__ = ["evaluate"]
