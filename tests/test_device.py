import os

import pytest
import torch
from torch import nn

from vicc import device
from vicc.backbones import create_backbone
from vicc.device import choose_device, choose_precision, cpu_bf16_loses_gradients, has_native_bf16
from vicc.errors import ViccError

CPU = torch.device("cpu")


def bf16_gradient_errors(frames: int) -> list[float]:
    """How far bf16 gradients of a temporal convolution lie from fp32, relative to the largest; repeated."""
    torch.manual_seed(0)
    conv = nn.Conv3d(32, 64, (3, 1, 1), padding=(1, 0, 0), bias=False).to(memory_format=torch.channels_last_3d)
    clips, weights = torch.randn(4, 32, frames, 4, 4), torch.randn(4, 64, frames, 4, 4)

    def gradient(bf16: bool) -> torch.Tensor:
        conv.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            features = conv(clips.contiguous(memory_format=torch.channels_last_3d))
        (features.float() * weights).sum().backward()
        assert conv.weight.grad is not None
        return conv.weight.grad.clone()

    expected = gradient(bf16=False)
    return [((gradient(bf16=True) - expected).abs().max() / expected.abs().max()).item() for _ in range(8)]


@pytest.mark.skipif(not has_native_bf16(CPU), reason="this CPU does not compute bf16 natively")
@pytest.mark.parametrize("frames", [3, 4, 8])
def test_bf16_gradients_are_sound_where_the_check_says_so(frames: int) -> None:
    conv = nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0))
    assert cpu_bf16_loses_gradients(conv, torch.zeros(1, 1, frames, 1, 1)) == []
    assert max(bf16_gradient_errors(frames)) < 0.01


def test_clips_shorter_than_a_kernel_are_found_by_the_name_of_the_layer() -> None:
    network = nn.Sequential(nn.MaxPool3d((2, 1, 1)), nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0)))
    network.train()
    assert cpu_bf16_loses_gradients(network, torch.zeros(1, 1, 4, 1, 1)) == ["1"]
    assert network.training


@pytest.mark.parametrize(("name", "frames", "sound"), [("s3d", 32, True), ("s3d", 16, False), ("s3d-demo", 16, True)])
def test_which_backbones_are_sound_at_which_length(name: str, frames: int, sound: bool) -> None:
    found = cpu_bf16_loses_gradients(create_backbone(name), torch.zeros(1, 3, frames, 64, 64))
    assert (found == []) is sound


def test_fp32_is_what_auto_means_without_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicc.device.has_native_bf16", lambda device: False)
    assert choose_precision("auto", CPU).name == "fp32"
    with pytest.raises(ViccError, match="--precision fp32"):
        choose_precision("bf16", CPU)


def test_a_device_that_is_not_there_is_refused_in_words() -> None:
    with pytest.raises(ViccError, match="--device nonsense"):
        choose_device("nonsense")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("cores", "busy", "one", "many", "chosen"),
    [
        (4, 0.1, 1.0, 0.6, 4),  # nobody else
        (4, 1.2, 1.0, 0.6, 3),
        (4, 3.9, 1.0, 0.6, 1),  # no free core: threads would wait for each other
        (4, 0.1, 1.0, 0.95, 1),  # a container that may use one core's worth of four: threads gain nothing
        (16, 6.0, 1.0, 0.6, 4),  # a container that may use four cores' time of 16: ten are free
        (16, 14.1, 1.0, 0.6, 2),
    ],
)
def test_auto_takes_as_many_threads_as_cores_are_free_and_threads_gain(
    cores: int, busy: float, one: float, many: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(device, "process_cores", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(device.psutil, "cpu_percent", lambda **_: [100 * busy / cores] * cores)
    monkeypatch.setattr(device, "_convolve", lambda: one if torch.get_num_threads() == 1 else many)
    with device.computing_threads(4):
        assert device.choose_threads("auto", torch.device("cpu")) == chosen
        assert torch.get_num_threads() == 4, "it only says so"


def test_threads_that_are_asked_for_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flag, or by OMP_NUM_THREADS, which torch has read; an accelerator needs no choice."""
    monkeypatch.setattr(device, "free_cores", lambda: pytest.fail("nothing is to be measured"))
    assert device.choose_threads(7, torch.device("cpu")) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with device.computing_threads(2):
        assert device.choose_threads("auto", torch.device("cpu")) == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert device.choose_threads("auto", torch.device("cuda")) == torch.get_num_threads()


def test_measuring_threads_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "process_cores", lambda: 2)
    monkeypatch.setattr(device, "free_cores", lambda: 2.0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with device.computing_threads(2):
        assert device.choose_threads("auto", torch.device("cpu")) in (1, 2)
    assert torch.equal(torch.rand(1), expected)
