"""A store of frames and flow to batches of clips."""
