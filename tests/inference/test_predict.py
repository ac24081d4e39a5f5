"""Running detectors over files, and our checkpoints as detectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardmine.data.resize import Resize
from hardmine.data.splits.near_duplicates import perceptual_hash
from hardmine.detections import Detections, OperatingPoint
from hardmine.errors import CheckpointError, ConfigError, DataError, HardmineError
from hardmine.inference.checkpoint_detector import load_checkpoint_detector
from hardmine.inference.detector import BatchScores
from hardmine.inference.load_detector import load_detector, named_path
from hardmine.inference.predict import ScoredImage, detect_on_canvas, score_images
from hardmine.models.layers import NormalInit
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.ssd import SSD
from hardmine.recipes.checkpoint import load_checkpoint, save_checkpoint, write_operating_point
from hardmine.recipes.recipe import Recipe, apply_settings
from hardmine.types import Problem
from tiny_models import tiny_rectangle


class RedDetector:
    """Scores an image by its mean red value and boxes the whole canvas."""

    categories = ("red",)
    model_id = "red-1"
    resize = Resize(32, 32, "letterbox", fill=(0, 0, 0))

    def __init__(self) -> None:
        self.decoded = 0

    def score(self, images: Tensor) -> BatchScores:
        red = images[:, 0].float().mean((1, 2)) / 255
        return BatchScores(red, torch.ones(len(red)).long(), torch.full((len(red),), 2))

    def detect(self, images: Tensor) -> list[Detections]:
        self.decoded += len(images)
        scores = self.score(images).scores.numpy()
        box = np.array([[0, 8, 32, 24]], np.float32)
        one = np.ones(1, np.int64)
        return [Detections(box, s[None].astype(np.float32), one, 0 * one) for s in scores]


def paint(folder: Path, name: str, red: int, size: tuple[int, int] = (64, 32)) -> Path:
    path = folder / name
    Image.new("RGB", size, (red, 0, 0)).save(path)
    return path


def test_detections_come_in_order_and_in_pixels_of_the_image(tmp_path: Path) -> None:
    paths = [paint(tmp_path, f"{i}.png", 20 * i) for i in range(7)]
    seen: list[tuple[int, int]] = []
    found = detect_on_canvas(
        RedDetector(), paths, batch_size=3, progress=lambda *where: seen.append(where)
    )
    # 64 x 32 on a 32 x 32 letterbox: r = .5, 8 rows of padding; canvas 0, 8, 32, 24 is all of it.
    assert all(d.boxes.tolist() == [[0, 0, 64, 32]] for d in found)
    scores = [float(d.scores[0]) for d in found]
    assert scores == sorted(scores)
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    good, bad = paint(tmp_path, "a.png", 9), tmp_path / "b.png"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.png: zero bytes long"):
        detect_on_canvas(RedDetector(), [good, bad])


def test_scoring_goes_on_past_unreadable_images(tmp_path: Path) -> None:
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no image")
    paths = [paint(tmp_path, "a.png", 255), bad, paint(tmp_path, "c.png", 0)]
    first, second, third = score_images(RedDetector(), paths, batch_size=2)
    assert isinstance(first, ScoredImage)
    assert first.score == pytest.approx(0.5)  # half of the letterbox is padding
    assert (first.label, first.level, len(first.detections)) == (1, 2, 1)
    assert first.phash == perceptual_hash(Image.open(paths[0]))
    assert isinstance(second, Problem)
    assert (second.kind, second.file) == ("image_unreadable", str(bad))
    assert isinstance(third, ScoredImage)
    assert (third.score, len(third.detections)) == (0.0, 0)


def test_only_images_that_fire_are_decoded(tmp_path: Path) -> None:
    detector = RedDetector()
    paths = [paint(tmp_path, f"{i}.png", red) for i, red in enumerate((0, 200, 0, 0))]
    assert len(list(score_images(detector, paths, batch_size=None))) == 4
    assert detector.decoded == 1


def test_no_images() -> None:
    assert detect_on_canvas(RedDetector(), []) == []
    assert list(score_images(RedDetector(), [], batch_size=None)) == []


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    recipe = replace(
        Recipe(),
        model=tiny_rectangle(init=NormalInit(std=0.3)),
        decode=DecodeConfig(score_threshold=0.0),
    )
    torch.manual_seed(0)
    model = SSD(recipe.model, ("a", "b"))
    path = tmp_path / "run" / "last.safetensors"
    save_checkpoint(path, model.state_dict(), recipe, ("a", "b"))
    return path


def test_score_is_the_top_of_the_decoded_list(checkpoint: Path) -> None:
    """Suppression cannot change the highest score: the hot path needs no decoding."""
    detector = load_checkpoint_detector(checkpoint)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8, generator=generator)
    scores, found = detector.score(images), detector.detect(images)
    for index, detections in enumerate(found):
        assert float(scores.scores[index]) == pytest.approx(float(detections.scores[0]), abs=1e-6)
        assert int(scores.labels[index]) == int(detections.labels[0])
        assert 0 <= int(scores.levels[index]) <= 2


def test_given_names_go_over_those_of_a_checkpoint(checkpoint: Path) -> None:
    point = OperatingPoint(0.5, {"b": 0.7})
    write_operating_point(checkpoint, point)
    own = load_detector(checkpoint, "cpu")
    renamed = load_detector(checkpoint, "cpu", classes=("cat", "dog"))
    assert renamed.categories == ("cat", "dog")
    assert renamed.model_id != own.model_id
    assert renamed.operating_point == replace(point, per_class={"dog": 0.7})
    # the names of the data, in another order than that of the model, are no new names
    for names in (("b", "a"), ("b",)):
        assert load_detector(checkpoint, "cpu", classes=names).categories == ("a", "b")
    with pytest.raises(ConfigError, match="the model has 2"):
        load_detector(checkpoint, "cpu", classes=("cat",))


def test_classes_as_text_name_a_file(checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n", encoding="utf-8")
    assert load_detector(checkpoint, "cpu", classes=str(names)).categories == ("cat", "dog")
    with pytest.raises(HardmineError, match=r"gone\.txt"):
        load_detector(checkpoint, "cpu", classes="gone.txt")


@pytest.mark.parametrize("name", ["gpu", "CPU0", "", "cuda:x"])
def test_a_device_that_does_not_exist_is_named(checkpoint: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^device: got '{name}', wanted cpu, mps, cuda or cuda:N"
    ):
        load_detector(checkpoint, name)


def test_a_run_directory_is_a_checkpoint(checkpoint: Path) -> None:
    by_file, by_folder = (
        load_checkpoint_detector(checkpoint),
        load_checkpoint_detector(checkpoint.parent),
    )
    assert by_file.model_id == by_folder.model_id
    assert by_file.categories == ("a", "b")
    assert (by_file.resize.height, by_file.resize.width) == (48, 64)


def boxes_of(name: str | Path) -> list[list[list[float]]]:
    """Return the boxes that are found on each of four images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 48, 64), dtype=torch.uint8, generator=generator)
    return [found.boxes.tolist() for found in load_detector(name, "cpu").detect(images)]


def test_a_name_may_set_the_decoder_anew(checkpoint: Path) -> None:
    run, usual = checkpoint.parent, boxes_of(checkpoint)
    assert boxes_of(f"{run}+decode.max_detections=1") == [boxes[:1] for boxes in usual]
    several = f"{checkpoint}+decode.nms_iou=0.02+decode.max_detections=60"
    assert all(0 < len(boxes) < 60 for boxes in boxes_of(several))
    # the same as a checkpoint that was trained with this decoder
    for setting in ("nms_iou=0.2", "kind=agnostic"):
        recipe = load_checkpoint(checkpoint)[1]
        other = apply_settings(recipe, [f"decode.{setting}"])
        tensors = load_checkpoint(checkpoint)[0].state_dict()
        save_checkpoint(run.parent / "other.safetensors", tensors, other, ("a", "b"))
        found = boxes_of(f"{run}+decode.{setting}")
        assert found == boxes_of(run.parent / "other.safetensors") != usual


def test_another_decoder_is_another_model_without_the_threshold_of_the_first(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_operating_point(checkpoint, OperatingPoint(0.5))
    own = load_detector(checkpoint, "cpu")
    same = load_detector(f"{checkpoint}+decode.nms_iou=0.45", "cpu")
    assert (same.model_id, same.operating_point) == (own.model_id, OperatingPoint(0.5))
    assert not caplog.records
    found = [load_detector(f"{checkpoint}+decode.nms_iou={iou}", "cpu") for iou in (0.3, 0.6)]
    soft = load_detector(f"{checkpoint}+decode.kind=soft_nms", "cpu")
    assert len({d.model_id for d in (own, soft, *found)}) == 4
    assert all(d.operating_point is None for d in (soft, *found))
    assert "its score threshold was chosen with the decoder of its recipe" in caplog.text


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("run+model.name=x", ConfigError, r"got \+model.name=x, wanted \+decode.KEY=VALUE"),
        ("run+decode.nms_iuo=0.5", ConfigError, "nms_iou"),
        ("run+decode.nms_iou=7", ConfigError, "nms_iou 7"),
        ("gone+decode.nms_iou=0.5", CheckpointError, "^gone: no such file"),
        ("labels.json+decode.nms_iou=0.5", ConfigError, "only weights .* or a run of Hardmine"),
        ("torchvision:ssd300_vgg16+decode.nms_iou=0.5", ConfigError, "only weights"),
    ],
)
def test_what_cannot_be_set_anew_is_said(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(checkpoint.parent.parent)
    Path("labels.json").write_text("[]")
    with pytest.raises(error, match=message):
        load_detector(name, "cpu")


def test_a_folder_that_is_called_like_a_setting_is_a_folder(checkpoint: Path) -> None:
    folder = checkpoint.parent.rename(checkpoint.parent.with_name("run+decode.nms_iou=0.2"))
    assert named_path(str(folder)) == folder
    assert named_path(f"{folder}+decode.nms_iou=0.9") == folder
    assert load_detector(folder, "cpu").model_id == load_checkpoint_detector(folder).model_id
    assert [len(b) for b in boxes_of(f"{folder}+decode.max_detections=2")] == [2] * 4


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint_detector(tmp_path)
