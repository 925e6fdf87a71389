"""Training: the step, its optimizer and schedule, checkpoints, validation. All of its state lives in the `Trainer`."""
