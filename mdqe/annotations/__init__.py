"""Annotation and result files: one reader for training, evaluation, import, view, split and submit."""
