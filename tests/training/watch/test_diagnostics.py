import math

import pytest
import torch

from tests.methods.test_statistics import NoWaiting
from vicc.training.optim import LARC
from vicc.training.watch.diagnostics import gradient_norm, trust_ratios


def weights(*gradients: float) -> list[torch.Tensor]:
    """Tensors of four ones, each with a gradient of these equal values."""
    made = []
    for gradient in gradients:
        weight = torch.ones(4, requires_grad=True)
        weight.grad = torch.full((4,), gradient)
        made.append(weight)
    return made


def test_gradient_norm_is_that_of_all_gradients_together() -> None:
    optimizer = torch.optim.SGD(weights(3.0, 4.0), lr=0.1)
    assert gradient_norm(optimizer)["gradient_norm"].item() == pytest.approx(10)  # 2 * 3, 2 * 4


def test_trust_ratios_are_what_larc_scaled_its_rates_by() -> None:
    optimizer = LARC(weights(1.0, 2.0, 4.0), lr=0.1, weight_decay=0.0, trust=0.001)
    assert trust_ratios(optimizer) == {}  # no step yet
    optimizer.step()
    found = {name: value.item() for name, value in trust_ratios(optimizer).items()}
    assert found == pytest.approx({"ratio_min": 0.00025, "ratio_median": 0.0005, "ratio_max": 0.001}, rel=1e-5)


def test_tensors_that_take_a_plain_step_do_not_count() -> None:
    optimizer = LARC([*weights(1.0), *weights(0.0)], lr=0.1, weight_decay=0.0)
    optimizer.step()
    found = {name: value.item() for name, value in trust_ratios(optimizer).items()}
    assert found == pytest.approx(dict.fromkeys(("ratio_min", "ratio_median", "ratio_max"), 0.001), rel=1e-5)


def test_where_no_tensor_has_a_ratio_it_is_not_a_number_and_where_there_is_no_larc_there_is_none() -> None:
    optimizer = LARC(weights(0.0), lr=0.1)
    optimizer.step()
    assert all(math.isnan(value.item()) for value in trust_ratios(optimizer).values())
    assert trust_ratios(torch.optim.Adam(weights(1.0))) == {}


def test_neither_waits_for_the_device() -> None:
    optimizer = LARC(weights(1.0, 2.0), lr=0.1)
    with NoWaiting():
        gradient_norm(optimizer)
        optimizer.step()
        trust_ratios(optimizer)
