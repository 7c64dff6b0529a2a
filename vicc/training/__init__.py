"""A method and a loader to a checkpoint."""
