"""Every backbone goes through the same tests."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from vicc.backbones import (
    S3D,
    MViT,
    VideoResNet,
    VideoSwin,
    create_backbone,
    list_backbones,
    register_backbone,
    require_backbone,
    torchvision_video,
)
from vicc.backbones.s3d import FeatureGating
from vicc.device import has_native_bf16
from vicc.errors import ViccError

# Frames and pixels of a clip for each step of the feature map, in time and in space.
STRIDES = {
    "s3d": (8, 32),
    "s3d-g": (8, 32),
    "s3d-demo": (4, 16),
    "r2plus1d-10": (8, 16),
    "r3d_18": (8, 16),
    "mc3_18": (1, 16),
    "r2plus1d_18": (8, 16),
    "mvit_v1_b": (2, 32),
    "mvit_v2_s": (2, 32),
    "swin3d_t": (2, 32),
    "swin3d_s": (2, 32),
    "swin3d_b": (2, 32),
}
# swin3d_s and swin3d_b are swin3d_t with more blocks and wider ones, up to 88 M parameters: no code is theirs alone, so
# they are only built, run and trained a step.
DISTINCT = [name for name in STRIDES if name not in ("swin3d_s", "swin3d_b")]
TORCHVISION = [name for name in DISTINCT if name.endswith("_18") or name.startswith(("mvit", "swin"))]

every_backbone = pytest.mark.parametrize("name", STRIDES)
each_kind = pytest.mark.parametrize("name", DISTINCT)


def build(name: str, *, in_channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_backbone(name, in_channels=in_channels)


def clips_for(name: str, *, channels: int = 3, batch: int = 2) -> torch.Tensor:
    """Clips as small as leaves every layer something to do; S3D halves the time thrice, and is cheap."""
    frames = 16 if name.startswith("s3d") else 8
    return torch.randn((batch, channels, frames, 64, 64), generator=torch.Generator().manual_seed(1))


def test_all_names_are_tested() -> None:
    assert list_backbones() == sorted(STRIDES)


@every_backbone
def test_the_feature_map_has_the_promised_channels_and_size(name: str) -> None:
    backbone = build(name).eval()
    time, space = STRIDES[name]
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 8, 64, 96))
    assert features.shape == (1, backbone.num_features, 8 // time, 64 // space, 96 // space)
    assert features.isfinite().all()


@each_kind
def test_flow_has_two_channels_and_both_count(name: str) -> None:
    clips = clips_for(name, channels=2, batch=1).repeat(2, 1, 1, 1, 1)
    clips[1, 1] = 0
    with torch.no_grad():
        features = build(name, in_channels=2).eval()(clips)
    assert features.isfinite().all()
    # Relative to the largest: at the start S3D's features are as small as 1e-9.
    assert (features[0] - features[1]).abs().max() > 1e-3 * features.abs().max()


@each_kind
def test_eval_mode_is_deterministic_and_treats_samples_apart(name: str) -> None:
    backbone, clips = build(name).eval(), clips_for(name)
    with torch.no_grad():
        together = backbone(clips)
        assert torch.equal(together, backbone(clips))
        torch.testing.assert_close(backbone(clips[:1]), together[:1], rtol=1e-4, atol=1e-4)


@every_backbone
def test_every_parameter_gets_a_gradient(name: str) -> None:
    backbone, clips = build(name).train(), clips_for(name)
    for _ in range(4):  # stochastic depth skips a block for all samples now and then: 4 % of passes at most
        backbone(clips).square().mean().backward()
        without = [key for key, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()]
        if not without:
            break
    assert not without


@each_kind
def test_state_dict_round_trip(name: str) -> None:
    backbone, other, clips = build(name).eval(), build(name, seed=5).eval(), clips_for(name, batch=1)
    with torch.no_grad():
        expected = backbone(clips)
        assert not torch.equal(other(clips), expected)
        other.load_state_dict(backbone.state_dict())
        assert torch.equal(other(clips), expected)


@each_kind
def test_channels_last_memory_does_not_change_the_result(name: str) -> None:
    backbone, clips = build(name).eval().double(), clips_for(name, batch=1).double()
    with torch.no_grad():
        expected = backbone(clips)
        backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        result = backbone(clips.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not has_native_bf16(torch.device("cpu")), reason="this CPU does not compute bf16 natively")
@each_kind
def test_bf16_agrees_with_fp32_after_batchnorm_has_seen_data(name: str) -> None:
    backbone, clips = build(name), clips_for(name)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm3d):
            # As after 20 passes at 0.1. With the batch's own statistics an untrained S3D is too ill-conditioned to
            # compare anything: it blows bf16's rounding up to a cosine of 0.69.
            layer.momentum = 1 - 0.9**20
    with torch.no_grad():
        backbone.train()(clips)
        expected = backbone.eval()(clips).mean((2, 3, 4))
        backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = backbone(clips.contiguous(memory_format=torch.channels_last_3d)).float().mean((2, 3, 4))
    assert torch.cosine_similarity(result, expected).min() > 0.99


def keep_one_block_of_a_kind(backbone: nn.Module) -> None:
    """Exporting takes seconds a block, so those that repeat another one's code, kind of pooling included, go."""
    if isinstance(backbone, MViT):
        kept = (0, 1, 2, 13, 14, 15) if backbone.blocks[0].project is not None else (0, 1, 3, 14, 15)
        kinds = [{block_kind(backbone.blocks[number]) for number in numbers} for numbers in (range(16), kept)]
        assert kinds[0] == kinds[1]
        backbone.blocks = nn.ModuleList(backbone.blocks[number] for number in kept)
    elif isinstance(backbone, VideoSwin):
        # Blocks with a plain window take turns with shifted ones, which only the first two stages need.
        for stage, blocks in ((2, 1), (4, 1), (6, 1)):
            del backbone.features[stage][blocks:]
    elif isinstance(backbone, VideoResNet):
        for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
            del stage[1:]  # the first one of a stage changes width and size; layer1 keeps two of the plain ones
    elif isinstance(backbone, S3D) and any(isinstance(layer, FeatureGating) for layer in backbone.modules()):
        del backbone.features[7:]  # s3d goes through the rest; here are two blocks with gates


def block_kind(block: nn.Module) -> tuple[bool, ...]:
    """Which of its parts a block of MViT has."""
    attention = block.attn
    parts = (block.project, block.pool_skip, attention.pool_q, attention.pool_k, attention.pool_v)
    return tuple(part is not None for part in parts)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    "name",
    # Unrolled attention makes large graphs.
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(("mvit", "swin")) else []) for name in DISTINCT],
)
def test_onnx_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    import onnxruntime

    backbone, clips = build(name).eval(), clips_for(name, batch=1)
    keep_one_block_of_a_kind(backbone)
    torch.onnx.export(backbone, (clips,), tmp_path / "backbone.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: clips.numpy()})
    with torch.no_grad():
        expected = backbone(clips)
    assert (torch.from_numpy(result) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_s3d_is_torchvisions_key_for_key_and_bit_for_bit() -> None:
    theirs = torchvision_video.S3D(norm_layer=nn.BatchNorm3d).features.eval()
    ours, clips = create_backbone("s3d").eval(), clips_for("s3d")
    ours.features.load_state_dict(theirs.state_dict())  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert torch.equal(ours(clips), theirs(clips))


def test_s3d_g_with_all_gates_open_is_s3d() -> None:
    plain, gated, clips = build("s3d").eval(), build("s3d-g").eval(), clips_for("s3d", batch=1)
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".gates." in key for key in missing)
    gates = [layer for layer in gated.modules() if isinstance(layer, FeatureGating)]
    assert len(gates) == 4 * 9  # every branch of every block
    with torch.no_grad():
        expected = plain(clips)
        assert not torch.allclose(gated(clips), expected, rtol=1e-2)
        for gate in gates:
            gate.linear.weight.zero_()
            gate.linear.bias.fill_(100)
        assert torch.equal(gated(clips), expected)


def test_a_gate_sees_the_average_of_the_whole_clip() -> None:
    gate, x = FeatureGating(2), torch.randn(3, 2, 4, 5, 6)
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        gate.linear.bias.copy_(torch.tensor([0.5, 0.0]))
        result = gate(x)
    opened = torch.sigmoid(x[:, 1].mean((1, 2, 3)) + 0.5)
    torch.testing.assert_close(result[:, 0], x[:, 0] * opened[:, None, None, None])
    torch.testing.assert_close(result[:, 1], x[:, 1] / 2)


def test_the_papers_r2plus1d_has_the_published_size_and_keys() -> None:
    backbone = create_backbone("r2plus1d-10")
    assert sum(weight.numel() for weight in backbone.parameters()) == 14_365_303
    shapes = {key: tuple(weight.shape) for key, weight in backbone.state_dict().items()}
    assert len(shapes) == 144
    assert shapes["conv1.spatial_conv.weight"] == (83, 3, 1, 7, 7)
    assert shapes["conv2.block1.conv2.bn.running_mean"] == (144,)
    assert shapes["conv5.block1.downsampleconv.temporal_conv.weight"] == (512, 170, 1, 1, 1)
    assert shapes["conv5.block1.downsamplebn.weight"] == (512,)


def test_torchvisions_video_models_are_all_there() -> None:
    assert set(torchvision_video.list_models(module=torchvision_video.video)) <= set(list_backbones())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models_compute_the_same_up_to_the_classifier(name: str) -> None:
    clips = clips_for(name)
    torch.manual_seed(0)
    theirs = torchvision_video.get_model(name).eval()
    if name.startswith("mvit"):  # torchvision's takes one size only; a smaller one than 16 x 224 x 224 here
        places = theirs.pos_encoding
        places.temporal_size, places.spatial_size = clips.shape[2] // 2, (16, 16)
        if places.spatial_pos is not None:
            places.temporal_pos = nn.Parameter(places.temporal_pos[: places.temporal_size])
            places.spatial_pos = nn.Parameter(places.spatial_pos[: 16 * 16])
    ours = type(create_backbone(name))(copy.deepcopy(theirs)).eval()
    left_out = {key.partition(".")[0] for key in theirs.state_dict().keys() - ours.state_dict().keys()}
    assert left_out == ({"fc"} if name.endswith("_18") else {"head"})
    assert theirs.state_dict().keys() >= ours.state_dict().keys()

    seen: list[torch.Tensor] = []
    if isinstance(ours, MViT):  # its classifier looks at the class token, which comes first
        theirs.norm.register_forward_hook(lambda layer, inputs, tokens: seen.append(tokens[:, 1:].mean(1)))
    else:
        head = theirs.fc if name.endswith("_18") else theirs.head
        head.register_forward_hook(lambda layer, inputs, scores: seen.append(inputs[0]))
    with torch.no_grad():
        theirs(clips)
        torch.testing.assert_close(ours(clips).mean((2, 3, 4)), seen[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_a_first_layer_for_flow_starts_as_strong_as_the_one_for_rgb(name: str) -> None:
    flow, rgb = build(name, in_channels=2), build(name)
    assert isinstance(flow, VideoResNet)
    assert isinstance(rgb, VideoResNet)
    assert flow.stem[0].weight.std().item() == pytest.approx(rgb.stem[0].weight.std().item(), rel=0.05)


def test_absolute_positions_stretch_to_the_clip() -> None:
    backbone = build("mvit_v1_b")
    assert isinstance(backbone, MViT)
    places = backbone.pos_encoding
    with torch.no_grad():
        places.temporal_pos.copy_(torch.arange(8)[:, None].expand_as(places.temporal_pos) * 1000)
        columns = torch.arange(56).repeat(56)  # a patch's position is its column, whatever its row
        places.spatial_pos.copy_(columns[:, None].expand_as(places.spatial_pos))
        same = backbone._positions(torch.Size((8, 56, 56)))[:, 0].view(8, 56, 56)
        stretched = backbone._positions(torch.Size((16, 3, 14)))[:, 0].view(16, 3, 14)
    expected = torch.arange(8)[:, None, None] * 1000.0 + torch.arange(56)
    assert torch.equal(same, expected.expand(8, 56, 56))
    torch.testing.assert_close(stretched[:, 0], stretched[:, 2])
    torch.testing.assert_close(stretched[0, 0].diff(), torch.full((13,), 4.0))
    torch.testing.assert_close(stretched[1:-1, 0, 0].diff(), torch.full((13,), 500.0))


def test_the_demo_backbone_is_small() -> None:
    assert sum(weight.numel() for weight in create_backbone("s3d-demo").parameters()) < 250_000


def test_a_user_can_register_a_backbone_once() -> None:
    @register_backbone("mine-for-a-test", aliases=("also-mine",))
    def mine(in_channels: int) -> nn.Module:
        module = nn.Conv3d(in_channels, 7, 1)
        module.num_features = 7  # type: ignore[assignment]
        return module

    assert create_backbone("mine-for-a-test", in_channels=2)(torch.zeros(1, 2, 1, 1, 1)).shape[1] == 7
    for taken in ("mine-for-a-test", "also-mine"):
        with pytest.raises(ValueError, match="registered already"):
            register_backbone(taken)(mine)
    with pytest.raises(ValueError, match="registered already"):
        register_backbone("new-for-a-test", aliases=("s3d",))(mine)
    assert "new-for-a-test" not in list_backbones()


def test_an_alias_stands_for_the_listed_name() -> None:
    assert require_backbone("r21d") == require_backbone("r2plus1d-10") == "r2plus1d-10"
    assert "r21d" not in list_backbones()
    assert type(create_backbone("r21d")) is type(create_backbone("r2plus1d-10"))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ViccError, match="s3d"):
        create_backbone("nothing")
