"""What a model learns from: clips of videos and what is known of their objects."""
