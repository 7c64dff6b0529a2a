"""Clips to a loss. A method ("task") is an `nn.Module`; `vicc.methods.task.Task` says what the engine expects of it."""
