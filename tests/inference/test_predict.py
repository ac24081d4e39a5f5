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
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import ScoredImage, detect_on_canvas, score_images
from hardmine.models.layers import NormalInit
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.ssd import SSD
from hardmine.recipes.checkpoint import save_checkpoint, write_operating_point
from hardmine.recipes.recipe import Recipe
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


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint_detector(tmp_path)
