"""Frames to a view: crop, flip and colour on whole clips, the same over the clip."""
