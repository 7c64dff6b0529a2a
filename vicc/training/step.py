"""One training step: clips to a loss, to gradients that all processes share, to new weights."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from vicc.batch import Batch
from vicc.device import Precision
from vicc.distributed import average_gradients, lost_processes_named
from vicc.errors import ViccError
from vicc.methods.batchnorm import standing_statistics
from vicc.methods.encoder import Encoder
from vicc.methods.task import Task
from vicc.training.watch.diagnostics import gradient_norm, trust_ratios


class TrainingStep:
    """What happens to a batch. Nothing in here waits for an accelerator.

    Args:
        task: the method, already on its device.
        optimizer: over the weights of `task` that are trained.
        precision: of the forward pass; with fp16 gradients are scaled, and a step whose gradients
            overflow changes nothing.
        accumulate: parts in which a batch is encoded, so that the activations of one part are in
            memory at a time. The loss is that of the whole batch all the same; only BatchNorm sees
            parts, as that many processes would.
    """

    def __init__(
        self, task: Task, optimizer: torch.optim.Optimizer, precision: Precision, *, accumulate: int = 1
    ) -> None:
        self.task = task
        self.optimizer = optimizer
        self.precision = precision
        self.accumulate = accumulate
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.name == "fp16")
        self._copies = torch.cuda.Stream(precision.device) if precision.device.type == "cuda" else None

    def __call__(self, batch: Batch, epoch: int, *, learning_rate: float) -> dict[str, torch.Tensor]:
        """Make one step; returns the loss and what else the task logs, detached, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("learning_rate_ratio", 1.0)
        self.task.before_step()
        batch = self._on_device(batch)
        self.optimizer.zero_grad()  # before the forward pass, which needs the room
        with lost_processes_named():  # Sinkhorn and joint BatchNorm wait for the other processes, forward and backward
            outputs = self._at_once(batch, epoch) if self.accumulate == 1 else self._in_parts(batch, epoch)
        average_gradients(self.weights)
        self.task.cancel_gradients(epoch)
        return {**outputs, **self._update()}

    def _on_device(self, batch: Batch) -> Batch:
        """The batch on the device, copied there while the device is still at work on the step
        before.
        """
        if self._copies is None:
            return batch.to(self.precision.device)
        now = torch.cuda.current_stream(self.precision.device)
        with torch.cuda.stream(self._copies):
            batch = batch.to(self.precision.device)
        now.wait_stream(self._copies)

        def used_now(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(now)  # or its memory would be free for the next copy too early
            return tensor

        return batch.apply(used_now)

    def _at_once(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        with self.precision.autocast():
            outputs = self.task(batch, epoch)
        return self._backward(outputs)

    def _backward(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not isinstance(outputs, dict) or not isinstance(outputs.get("loss"), torch.Tensor):
            got = sorted(outputs) if isinstance(outputs, dict) else outputs
            raise ViccError(
                f"{type(self.task).__name__} returned {got} for a batch; expected a dictionary of tensors with the "
                'loss under "loss".'
            )
        self._scaler.scale(outputs["loss"]).backward()
        return {name: value.detach() for name, value in outputs.items()}

    def _in_parts(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """The loss and gradients of the whole batch with the activations of one part at a time
        (GradCache, Gao et al., 2021).

        All parts are encoded without a graph; the loss of all embeddings gives every embedding its
        gradient; then each part is encoded again, with a graph, through which the gradients of its
        embeddings go back to the weights.
        """
        parts = batch.split(self.accumulate)
        starts, trained_parts, fixed_parts = [], [], []
        for part in parts:
            starts.append(_random_state(self.precision.device))  # dropout must be the same again
            # An autocast of its own: it remembers converted weights, and these ones have no
            # gradient.
            with torch.no_grad(), self.precision.autocast():
                trained_parts.append(self.task.embed_trained(part))
                fixed_parts.append(self.task.embed_fixed(part))
        trained = [torch.cat(views).requires_grad_() for views in zip(*trained_parts, strict=True)]
        fixed = [torch.cat(views) for views in zip(*fixed_parts, strict=True)]
        with self.precision.autocast():
            outputs = self.task.outputs(trained, fixed, batch, epoch)
        outputs = self._backward(outputs)
        end = _random_state(self.precision.device)
        sizes = [len(part.index) for part in parts]
        gradients = zip(*(_gradient(view).split(sizes) for view in trained), strict=True)
        with standing_statistics(self.task):
            # No turn where no view trains the encoder, which then is frozen.
            for part, start, of_part in zip(parts, starts, gradients, strict=bool(trained)):
                _set_random_state(start, self.precision.device)
                with self.precision.autocast():
                    again = self.task.embed_trained(part)
                torch.autograd.backward(again, of_part)
        _set_random_state(end, self.precision.device)
        return outputs

    def _update(self) -> dict[str, torch.Tensor]:
        """Change the weights, and say of the gradients what is worth a log."""
        if not self._scaler.is_enabled():
            gradients = gradient_norm(self.optimizer)
            self.optimizer.step()
            return {**gradients, **trust_ratios(self.optimizer)}
        self._scaler.unscale_(self.optimizer)
        gradients = gradient_norm(self.optimizer)
        overflowed = ~gradients["gradient_norm"].isfinite()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        said = {**gradients, **trust_ratios(self.optimizer)}
        # Of gradients that overflowed, which change nothing, there is no norm.
        return {"skipped": overflowed.float(), **{name: value.nan_to_num(0, 0, 0) for name, value in said.items()}}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {
            "model": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.task.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])


def checkpoint_activations(encoder: Encoder) -> None:
    """Let an encoder keep only what goes into each block of its backbone, and compute the rest
    again in backward.

    Raises:
        ViccError: a backbone that does not say what its blocks are.
    """
    blocks = getattr(encoder.backbone, "blocks", None)
    if blocks is None:
        raise ViccError(
            f"--checkpoint-activations: the backbone {encoder.config.backbone} has no `blocks`. Leave it out, or use "
            "--accumulate."
        )
    for block in blocks:
        contexts = partial(_kept_and_again, block)
        # In the instance, so that names in the state dict stay.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _kept_and_again(block: torch.nn.Module) -> tuple[Any, Any]:
    """Contexts of a block's forward pass, and of the same once more in backward."""
    return nullcontext(), standing_statistics(block)


def compile_encoders(task: Task, *, backend: str = "inductor") -> None:
    """Compile every encoder of a task in place; names in the state dict stay.

    Raises:
        ViccError: torch.compile does not work on this machine.
    """
    device = next(task.parameters()).device
    try:
        torch.compile(torch.cos, backend=backend)(torch.ones(1, device=device))
    except Exception as error:
        raise ViccError(
            f"--compile: torch.compile does not work here ({' '.join(str(error).split())[:150]}). Install what it "
            "wants (g++ on CPUs, Triton on GPUs), or leave --compile out."
        ) from error
    for child in task.modules():
        if isinstance(child, Encoder):
            child.compile(backend=backend)


def _gradient(view: torch.Tensor) -> torch.Tensor:
    """The gradient of an embedding; zeros for a view that the loss does not depend on."""
    return torch.zeros_like(view) if view.grad is None else view.grad


def _random_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
