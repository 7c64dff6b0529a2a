"""One training step: clips to a loss, to gradients that all processes share, to new weights."""

from typing import Any

import torch

from vicc.batch import Batch
from vicc.device import Precision
from vicc.distributed import average_gradients, lost_processes_named
from vicc.methods.task import Task
from vicc.training.diagnostics import gradient_norm, trust_ratios


class TrainingStep:
    """What happens to a batch. Nothing in here waits for an accelerator.

    Args:
        task: the method, already on its device.
        optimizer: over the weights of `task` that are trained.
        precision: of the forward pass.
    """

    def __init__(self, task: Task, optimizer: torch.optim.Optimizer, precision: Precision) -> None:
        self.task = task
        self.optimizer = optimizer
        self.precision = precision
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def __call__(self, batch: Batch, epoch: int, *, learning_rate: float) -> dict[str, torch.Tensor]:
        """Make one step; returns the loss and what else the task says of it, detached, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.task.before_step()
        with lost_processes_named():  # Sinkhorn and joint BatchNorm wait for the other processes, forward and backward
            with self.precision.autocast():
                outputs = self.task(batch.to(self.precision.device), epoch)
            self.optimizer.zero_grad()
            outputs["loss"].backward()
        average_gradients(self.weights)
        self.task.cancel_gradients(epoch)
        gradients = gradient_norm(self.optimizer)
        self.optimizer.step()
        said = {name: value.detach() for name, value in outputs.items()}
        return {**said, **gradients, **trust_ratios(self.optimizer)}

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"model": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.task.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
