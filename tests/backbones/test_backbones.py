"""Every backbone goes through the same tests."""

import pytest
import torch
from torch import nn

from vicc.backbones import create_backbone, list_backbones, register_backbone, torchvision_video
from vicc.device import has_native_bf16
from vicc.errors import ViccError

CLIP = (2, 3, 16, 64, 64)


@pytest.fixture(params=list_backbones())
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(request.param)


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(1))


def test_the_feature_map_has_the_promised_channels(backbone: nn.Module, clips: torch.Tensor) -> None:
    features = backbone.eval()(clips)
    assert features.shape[:2] == (2, backbone.num_features)
    assert features.dim() == 5
    assert torch.isfinite(features).all()


def test_flow_has_two_channels() -> None:
    for name in list_backbones():
        assert create_backbone(name, in_channels=2).eval()(torch.randn(1, 2, 16, 64, 64)).isfinite().all()


def test_eval_mode_is_deterministic_and_treats_samples_apart(backbone: nn.Module, clips: torch.Tensor) -> None:
    backbone.eval()
    with torch.no_grad():
        together = backbone(clips)
        assert torch.equal(together, backbone(clips))
        torch.testing.assert_close(backbone(clips[:1]), together[:1], rtol=1e-4, atol=1e-4)


def test_every_parameter_gets_a_gradient(backbone: nn.Module, clips: torch.Tensor) -> None:
    backbone.train()
    backbone(clips).square().mean().backward()
    without = [name for name, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_state_dict_round_trip(backbone: nn.Module, clips: torch.Tensor, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(5)
    other = create_backbone(request.node.callspec.params["backbone"])
    assert not torch.equal(next(other.parameters()), next(backbone.parameters()))
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(clips), backbone.eval()(clips))


def test_channels_last_memory_does_not_change_the_result(backbone: nn.Module, clips: torch.Tensor) -> None:
    backbone.eval().double()
    with torch.no_grad():
        expected = backbone(clips.double())
        backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        result = backbone(clips.double().contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not has_native_bf16(torch.device("cpu")), reason="this CPU does not compute bf16 natively")
def test_bf16_agrees_with_fp32_after_batchnorm_has_seen_data(backbone: nn.Module, clips: torch.Tensor) -> None:
    with torch.no_grad():
        for _ in range(20):
            backbone.train()(clips)
        expected = backbone.eval()(clips).mean((2, 3, 4))
        backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = backbone(clips.contiguous(memory_format=torch.channels_last_3d)).float().mean((2, 3, 4))
    assert torch.cosine_similarity(result, expected).min() > 0.99


def test_s3d_is_torchvisions_key_for_key_and_bit_for_bit(clips: torch.Tensor) -> None:
    theirs = torchvision_video.S3D(norm_layer=nn.BatchNorm3d).features.eval()
    ours = create_backbone("s3d").eval()
    ours.features.load_state_dict(theirs.state_dict())  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert torch.equal(ours(clips), theirs(clips))


def test_the_demo_backbone_is_small() -> None:
    assert sum(weight.numel() for weight in create_backbone("s3d-demo").parameters()) < 250_000


def test_a_user_can_register_a_backbone_once() -> None:
    @register_backbone("mine-for-a-test")
    def mine(in_channels: int) -> nn.Module:
        module = nn.Conv3d(in_channels, 7, 1)
        module.num_features = 7  # type: ignore[assignment]
        return module

    assert create_backbone("mine-for-a-test", in_channels=2)(torch.zeros(1, 2, 1, 1, 1)).shape[1] == 7
    with pytest.raises(ValueError, match="registered already"):
        register_backbone("mine-for-a-test")(mine)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ViccError, match="s3d"):
        create_backbone("nothing")
