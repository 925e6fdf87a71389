"""Near-online inference: everything that remembers a video (windows, tracks, results)."""
