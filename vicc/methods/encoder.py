"""The encoder of one stream: normalisation, backbone, pooling, projection head (paper, section 3)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vicc.backbones import create_backbone
from vicc.batch import RgbNormalization
from vicc.data.sampling import clip_frame_indices
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder_input import checked_clips, checked_frames
from vicc.transforms.augmentation import ViewDraw, apply_to_flow, apply_to_rgb, center_view
from vicc.transforms.difference import apply_to_diff, frames_of_diff
from vicc.transforms.motion_crop import energy_frames, motion_box, motion_energy, within
from vicc.video.flow import quantize_flow

# Channel means and deviations on the scale of uint8. Of RGB those of ImageNet, as published; the
# others are those that torchvision's weights were trained with, times 255.
_RGB: dict[RgbNormalization, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "kinetics": ((110.2008, 100.63983, 95.99475), (58.14765, 56.46975, 55.332195)),
    "slowfast": ((114.75, 114.75, 114.75), (57.375, 57.375, 57.375)),
}
# Stored flow is 128 for no motion.
_FLOW_MEAN = (128.0, 128.0)
# Differences of RGB are 128 for no change; 10 is about their root mean square on real clips.
_DIFF_MEAN, _DIFF_STD = (128.0,) * 3, (10.0,) * 3


# Added to a clip's root mean square, in units of flow_std (of _DIFF_STD for diff): a clip in which
# nothing moves must not be blown up to noise.
_STILL = 0.1


class Encoder(nn.Module):
    """The encoder of one stream: a clip to an embedding of unit length.

    Input: uint8 clips (B, C, T, H, W), which are normalised here, or floating-point clips, taken as
    normalised already.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        mean, std = _statistics(config)
        # Constants of the config, not weights: kept out of the state dict.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1, 1), persistent=False)
        self.backbone = create_backbone(config.backbone, in_channels=config.in_channels)
        width = self.num_features
        self.projection_head = nn.Sequential()
        if config.embedding_dim:
            self.projection_head = nn.Sequential(
                nn.Conv3d(width, width, 1), nn.ReLU(inplace=True), nn.Conv3d(width, config.embedding_dim, 1)
            )

    @property
    def num_features(self) -> int:
        """Channels of the backbone's output."""
        return int(self.backbone.num_features)  # type: ignore[arg-type]

    def preprocess(
        self, frames: np.ndarray | torch.Tensor, *, rgb: np.ndarray | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Frames of one video to the clip that this encoder takes, uint8 (1, C, clip_frames, size,
        size).

        It is the clip in the middle of the video (one that is too short is padded with its first
        frame), its largest centred crop of a legal ratio, resized: what retrieval does with each of
        its windows. An encoder of `crop="motion"` gets the square around the clip's motion.

        Args:
            frames: an array or a tensor: RGB uint8 (T, H, W, 3), for a diff encoder at least two;
                or for a flow encoder the flow from each frame to the next in pixels, float (T, H,
                W, 2), u before v, as `vicc.video.flow.create_flow` gives it.
            rgb: the frames that the flow was computed from, one more, uint8 (T + 1, H, W, 3). A
                flow encoder of `crop="motion"` needs them to see where motion is; no other encoder
                takes them.

        Raises:
            ViccError: frames of another kind, shape or range of values, or none; `rgb` that is
                missing, not fitting, or not taken.
        """
        config = self.config
        flow = config.stream == "flow"
        array = checked_frames(frames, stream=config.stream, flow_bound=config.flow_bound)
        seen = self._frames_of_flow(array, rgb)
        diff = config.stream == "diff"
        available, height, width = len(array) - diff, *array.shape[1:3]
        if not available:
            raise ViccError("This diff encoder got one frame; expected at least two, between which to see a change.")
        first = max(0, available - (config.clip_frames - 1) * config.stride - 1) // 2
        indices = clip_frame_indices(first, available=available, clip_frames=config.clip_frames, stride=config.stride)
        draw = self._evaluated_view(array if seen is None else seen, indices)
        array = array[frames_of_diff(indices) if diff else indices]
        if diff:
            view = apply_to_diff(array, indices, draw, size=config.size)
        elif flow:
            side = min(height, width)
            # In these frames' pixels, so that the 256 steps of the stored form end where the
            # encoder's flow does.
            bound = config.flow_bound * (side / config.flow_short_side if config.flow_short_side else 1)
            stored = quantize_flow(array, bound=bound)
            view = apply_to_flow(stored, draw, size=config.size, bound=bound, center=config.flow_center)
            view = config.flow_form.convert(view, bound=bound, short_side=side)
        else:
            view = apply_to_rgb(array, draw, size=config.size)
        return torch.from_numpy(view).permute(3, 0, 1, 2)[None]

    def _frames_of_flow(self, flow: np.ndarray, rgb: np.ndarray | torch.Tensor | None) -> np.ndarray | None:
        """The RGB frames beside the flow, checked; None where motion is not looked for, or in the
        frames themselves.
        """
        needed = self.config.stream == "flow" and self.config.crop == "motion"
        if needed != (rgb is not None):
            raise ViccError(
                "This flow encoder crops to motion, which it looks for in RGB; give the frames that the flow was "
                "computed from as rgb=."
                if needed
                else f"This {self.config.stream} encoder takes no rgb= beside its frames; leave it out."
            )
        if rgb is None:
            return None
        seen = checked_frames(rgb, stream="rgb", flow_bound=self.config.flow_bound)
        expected = (len(flow) + 1, *flow.shape[1:3], 3)
        if seen.shape != expected:
            raise ViccError(
                f"rgb is {seen.shape} and the flow {flow.shape}; expected one frame more than flow, {expected}."
            )
        return seen

    def _evaluated_view(self, frames: np.ndarray, indices: np.ndarray) -> ViewDraw:
        """What evaluation cuts out of a clip, the frames `indices` of a video of RGB."""
        height, width = frames.shape[1:3]
        box = None
        if self.config.crop == "motion" and len(frames) > 1:
            pairs, needed = energy_frames(np.minimum(indices, len(frames) - 2))
            box = motion_box(motion_energy(frames[needed], pairs), height=height, width=width)
        if box is None:
            return center_view(height=height, width=width)
        return within(box, center_view(height=box.side, width=box.side))

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to features (B, num_features, 1, 1, 1)."""
        if not clips.is_floating_point():
            # In place: a batch as float32 is large, and memory touched for the first time is slow.
            clips = clips.to(self.std.dtype).sub_(self.mean).div_(self.std)  # type: ignore[arg-type]
            if self.config.stream != "rgb" and self.config.flow_normalization == "clip":
                clips = clips / (clips.square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt() + _STILL)
        return self.backbone(clips).mean(dim=(2, 3, 4), keepdim=True)

    def features(self, clips: torch.Tensor | np.ndarray, *, any_size: bool = False) -> torch.Tensor:
        """What evaluation uses: the backbone's pooled output (B, num_features), before the head.

        `extract_features` brings it to unit length and takes the mean over a video's windows.

        Args:
            clips: uint8 (B, C, clip_frames, size, size), as `preprocess` gives them, or
                floating-point clips that are normalised already; brought to the encoder's device,
                and floating-point ones to its weights' dtype.
            any_size: take clips of another length and size than the encoder was made for, too.

        Raises:
            ViccError: clips of another shape or type, or floating-point clips that plainly are not
                normalised.
        """
        config = self.config
        shape = (config.in_channels, config.clip_frames, config.size, config.size)
        clips = checked_clips(
            clips, stream=config.stream, shape=shape, largest=_largest_value(config), any_size=any_size
        )
        dtype = self.std.dtype if clips.is_floating_point() else clips.dtype
        return self.pooled(clips.to(self.std.device, dtype)).flatten(1)  # type: ignore[arg-type]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of unit length, in float32 at least."""
        projected = self.projection_head(self.pooled(clips)).flatten(1)
        if projected.dtype in (torch.bfloat16, torch.float16):
            projected = projected.float()  # outside autocast's reach: a unit length in bf16 is off by a percent
        return F.normalize(projected, dim=1)


def _largest_value(config: EncoderConfig) -> float:
    """The largest value, up or down, of a clip once it is normalised."""
    pairs = zip(*_statistics(config), strict=True)
    largest = max(max(mean, 255 - mean) / deviation for mean, deviation in pairs)
    by_clip = config.stream != "rgb" and config.flow_normalization == "clip"
    return largest / _STILL if by_clip else largest


def _statistics(config: EncoderConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of the channels, on the scale of uint8."""
    if config.stream == "diff":
        return _DIFF_MEAN, _DIFF_STD
    if config.stream == "rgb":
        return _RGB[config.rgb_normalization]
    # Published flow encoders see flow as an image, ImageNet's statistics included.
    return _RGB["imagenet"] if config.in_channels == 3 else (_FLOW_MEAN, (config.flow_std,) * 2)
