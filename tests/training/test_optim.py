import math

import torch

from vicc.training.optim import LARC
from vicc.training.schedule import cosine_learning_rate


def plain_larc(weights, grads, momenta, *, lr, momentum, weight_decay, trust):  # type: ignore[no-untyped-def]
    """One tensor after the other, as the formula is written."""
    for number, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        norm, grad_norm = weight.norm(), grad.norm()
        if norm != 0 and grad_norm != 0:
            grad = (grad + weight_decay * weight) * (trust * norm / (grad_norm + weight_decay * norm + 1e-8))
        momenta[number] = momentum * momenta[number] + grad
        weights[number] = weight - lr * momenta[number]


def test_larc_equals_the_plain_reference_over_several_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (2, 2, 2), (3,)]
    ours = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    ours[3] = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # a BatchNorm shift at its start
    plain = [weight.detach().clone() for weight in ours]
    momenta = [torch.zeros_like(weight) for weight in plain]
    options = {"momentum": 0.9, "weight_decay": 0.01, "trust": 0.001}
    optimizer = LARC(ours, lr=0.6, **options)
    for step in range(5):
        grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        if step == 2:
            grads[1].zero_()
        for weight, grad in zip(ours, grads, strict=True):
            weight.grad = grad.clone()
        optimizer.param_groups[0]["lr"] = 0.6 / (step + 1)
        optimizer.step()
        plain_larc(plain, grads, momenta, lr=0.6 / (step + 1), **options)
    for weight, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)


def test_larc_leaves_a_tensor_without_gradient_and_its_momentum_alone() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = LARC([weight, torch.ones(2, requires_grad=True)], lr=1.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    moved = weight.detach().clone()
    weight.grad = None
    optimizer.step()
    torch.testing.assert_close(weight.detach(), moved)


def test_cosine_begins_at_the_base_ends_one_step_past_the_last_and_only_falls() -> None:
    given = {"total_steps": 10, "base": 0.6, "final": 0.0006}
    rates = [cosine_learning_rate(step, **given) for step in range(11)]
    assert rates[0] == 0.6
    assert math.isclose(rates[10], 0.0006)
    assert math.isclose(rates[5], (0.6 + 0.0006) / 2)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_rises_in_equal_steps_to_the_base() -> None:
    rates = [cosine_learning_rate(step, total_steps=20, base=1.0, final=0.0, warmup_steps=4) for step in range(6)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5] < 1.0
