"""Results of a video: `VideoInstances` and the run-length encoding (RLE) of its masks."""
