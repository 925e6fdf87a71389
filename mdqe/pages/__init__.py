"""HTML pages that contain everything they show and load nothing from a network."""
