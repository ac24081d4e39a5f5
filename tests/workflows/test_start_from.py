"""The weights that a training starts from: that there are none is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.pretrained_weights import warn_of_none
from hardmine.workflows.cached_models import start_from


@pytest.mark.parametrize(
    ("name", "weights", "warned"),
    [
        ("ssdlite320_mobilenet_v2", None, True),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", None, True),
        ("ssdlite320_mobilenet_v2", "none", False),
        ("ssdlite320_mobilenet_v2", "file", False),
        ("small160", None, False),  # made to be trained from random numbers
    ],
)
def test_missing_weights_are_said_once(
    name: str, weights: str | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_none.cache_clear()
    file = tmp_path / "imagenet.pth"
    if weights == "file":
        torch.save(mobilenet_v2().state_dict(), file)
    for _ in range(2):
        start_from(file if weights == "file" else weights, named_recipe(name))
    assert len(caplog.records) == warned
    assert ("--weights imagenet, which downloads them once" in caplog.text) is warned
