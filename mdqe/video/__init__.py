"""Reading videos and image folders, writing overlays."""
