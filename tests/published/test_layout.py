"""Names of the published layout agree with those of the published code."""

import json
from pathlib import Path

import pytest
import torch

from tests.published.made_files import PARITY
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.layout import published_names


@pytest.mark.parity
@pytest.mark.skipif(not PARITY, reason="VICC_PARITY does not name a folder of published numbers")
def test_s3d_names_agree_with_the_published_table() -> None:
    table = json.loads((Path(PARITY or "") / "fixtures" / "s3d_torchvision_to_reference_keys.json").read_text())
    with torch.device("meta"):
        ours = Encoder(EncoderConfig("rgb")).backbone.state_dict()
    assert {name.removeprefix("features.") for name in ours} == set(table)
    for name, theirs in table.items():
        assert published_names(f"backbone.features.{name}", "s3d")[0] == f"0.{theirs}"
