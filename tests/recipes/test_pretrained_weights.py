"""Weights by path and by name; the download runs against a file on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from hardmine.errors import CheckpointError, ConfigError, DataError
from hardmine.models.backbones import SmallNetConfig, Taps, TapsConfig, TimmConfig, VggConfig
from hardmine.models.neck_and_head import ExtraLayersConfig
from hardmine.models.priors import ExplicitPriors
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes import pretrained_weights as module
from hardmine.recipes.checkpoint import load_checkpoint, save_checkpoint
from hardmine.recipes.pretrained_weights import find_weights, load_starting_weights
from hardmine.recipes.recipe import Recipe
from hardmine.training.run_state import Start


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


def test_a_whole_detector_by_name(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--weights torchvision``: COCO weights of the models that torchvision has, from its address."""
    asked: list[str] = []

    def answer(url: str) -> Path:
        asked.append(url)
        return remote

    monkeypatch.setattr(module, "_download", answer)
    model = SSDConfig(name="ssd300_vgg16")
    assert find_weights("torchvision", model) == remote
    wanted = torchvision.models.detection.SSD300_VGG16_Weights.COCO_V1.url
    assert asked == [wanted]
    with pytest.raises(
        ConfigError, match="torchvision has no detector 'ssd512_vgg16', only ssd300"
    ):
        find_weights("torchvision", SSDConfig(name="ssd512_vgg16"))


def test_imagenet_for_vgg_is_the_set_of_caffes_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_download", Path)
    found = find_weights("imagenet", SSDConfig(backbone=VggConfig()))
    assert found == Path(torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.url)


def test_timm_weights_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(repository: str) -> Path:
        asked.append(repository)
        return tmp_path / "model.safetensors"

    monkeypatch.setattr(module, "_fetch_from_hub", answer)
    model = SSDConfig(backbone=TimmConfig(name="resnet18", out_indices=(2, 3)))
    assert find_weights("imagenet", model) == tmp_path / "model.safetensors"
    assert asked[0].startswith("timm/resnet18.")
    with pytest.raises(ConfigError, match="got 'IMAGENET1K_V1', wanted a file, imagenet or none"):
        find_weights("IMAGENET1K_V1", model)

    def fail(repository: str) -> Path:
        raise OSError(f"no route to {repository}\nand more")

    monkeypatch.setattr(module, "_fetch_from_hub", fail)
    with pytest.raises(DataError, match=r"download failed .no route to .* give --weights PATH"):
        find_weights("imagenet", model)


@pytest.fixture
def three(tmp_path: Path, tiny_recipe: Recipe) -> Path:
    """A run folder with a checkpoint of the classes ant, bee and cow."""
    torch.manual_seed(0)
    assert isinstance(tiny_recipe.model, SSDConfig)
    model = SSD(tiny_recipe.model, ("ant", "bee", "cow"))
    save_checkpoint(
        tmp_path / "last.safetensors", model.state_dict(), tiny_recipe, model.categories
    )
    return tmp_path


def test_another_class_list_reuses_weights_by_name(
    three: Path, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(tiny_recipe.model, SSDConfig)
    old, _ = load_checkpoint(three / "last.safetensors")
    torch.manual_seed(1)
    model = SSD(tiny_recipe.model, ("cow", "dog", "ant", "eel"))
    fresh = model.class_head.predictors[0].last.weight.detach().clone()
    found = find_weights(three, tiny_recipe.model)  # a run folder
    assert found == three / "last.safetensors"
    load_starting_weights(model, found)
    assert [r.getMessage() for r in caplog.records] == [
        f"{found}: class weights reused for cow, ant; new at random: dog, eel"
    ]
    # Columns: background, cow, dog, ant, eel from background, ant, bee, cow; per prior of six.
    ours = model.class_head.predictors[0].last.weight.detach().view(6, 5, -1)
    theirs = old.class_head.predictors[0].last.weight.detach().view(6, 4, -1)
    fresh = fresh.view(6, 5, -1)
    assert torch.equal(ours[:, [0, 1, 3]], theirs[:, [0, 3, 1]])
    assert torch.equal(ours[:, [2, 4]], fresh[:, [2, 4]])
    for name, value in model.box_head.state_dict().items():
        assert torch.equal(value, old.box_head.state_dict()[name])
    # Images give the same logits of the classes that stayed.
    images = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        now, then = model.eval()(images), old(images)
    assert torch.allclose(now.class_logits[..., [0, 1, 3]], then.class_logits[..., [0, 3, 1]])


def test_the_same_class_list_says_nothing(
    three: Path, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(tiny_recipe.model, SSDConfig)
    model = SSD(tiny_recipe.model, ("ant", "bee", "cow"))
    load_starting_weights(model, three / "last.safetensors")
    old, _ = load_checkpoint(three / "last.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, old.state_dict()[name])
    assert not caplog.records


def test_going_on_with_other_classes_is_refused(three: Path, tiny_recipe: Recipe) -> None:
    """Reuse is for starting weights alone: a continued run must be of the same classes."""
    assert isinstance(tiny_recipe.model, SSDConfig)
    start = Start(init=three / "last.safetensors")
    with pytest.raises(CheckpointError, match=r"has classes \['ant', 'bee', 'cow'\], wanted"):
        start.load_into(SSD(tiny_recipe.model, ("ant",)))


def test_a_checkpoint_of_another_architecture(three: Path, tiny_recipe: Recipe) -> None:
    assert isinstance(tiny_recipe.model, SSDConfig)
    other = replace(tiny_recipe.model, name="wider", neck=ExtraLayersConfig(widths=(24,)))
    with pytest.raises(CheckpointError, match="weights of 'tiny' do not fit 'wider'"):
        load_starting_weights(SSD(other, ("ant",)), three / "last.safetensors")
    explicit = ExplicitPriors(levels=(((9.0, 9.0),), ((18.0, 18.0),)))
    other = replace(tiny_recipe.model, name="fewer", priors=explicit)
    with pytest.raises(CheckpointError, match="24 filters of the class head are not 1 priors"):
        load_starting_weights(SSD(other, ("ant",)), three / "last.safetensors")


def test_a_missing_file_and_a_network_without_names() -> None:
    with pytest.raises(ConfigError, match=r"no file /nowhere/w\.pth"):
        find_weights("/nowhere/w.pth", SSDConfig())
    with pytest.raises(ConfigError, match="'small' backbone has no named ones"):
        find_weights("imagenet", SSDConfig(backbone=SmallNetConfig()))
