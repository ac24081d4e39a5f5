"""Weights by path and by name; the download runs against a file on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision

from hardmine.errors import ConfigError, DataError
from hardmine.model.backbone import SmallNetConfig, Taps, TapsConfig
from hardmine.model.ssd import SSDConfig
from hardmine.training import weights as module
from hardmine.training.weights import find_weights


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the server: a file whose name ends in its hash, as torchvision's do."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "weights.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    named = source.rename(tmp_path / f"mobilenet_v2-{digest}.pth")
    monkeypatch.setattr(module, "_url", lambda name, network: named.as_uri())
    return named


def test_none_and_path(tmp_path: Path) -> None:
    assert find_weights(None, SSDConfig()) is None
    assert find_weights("none", SSDConfig()) is None
    (tmp_path / "w.pth").write_bytes(b"x")
    assert find_weights(tmp_path / "w.pth", SSDConfig()) == (tmp_path / "w.pth").resolve()


def test_a_name_is_downloaded_once_and_loads(remote: Path) -> None:
    first = find_weights("imagenet", SSDConfig())
    assert first is not None
    assert first.name == remote.name
    remote.unlink()
    assert find_weights("imagenet", SSDConfig()) == first
    Taps(TapsConfig()).load_weights(first)


def test_a_spoilt_download_is_refused(remote: Path) -> None:
    remote.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"download failed .*hash"):
        find_weights("imagenet", SSDConfig())


def test_no_network(remote: Path) -> None:
    remote.unlink()
    with pytest.raises(DataError, match="give --weights PATH or none"):
        find_weights("imagenet", SSDConfig())


def test_names_are_torchvisions() -> None:
    url = module._url("IMAGENET1K_V1", "mobilenet_v2")
    assert url == torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
    with pytest.raises(ConfigError, match="got 'coco', no such file; wanted one of imagenet, IMAG"):
        find_weights("coco", SSDConfig())


def test_a_missing_file_and_a_network_without_names() -> None:
    with pytest.raises(ConfigError, match=r"no file /nowhere/w\.pth"):
        find_weights("/nowhere/w.pth", SSDConfig())
    with pytest.raises(ConfigError, match="'small' backbone has no named ones"):
        find_weights("imagenet", SSDConfig(backbone=SmallNetConfig()))
