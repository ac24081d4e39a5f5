"""Exports give what torch gives, in the package and without it."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine.cli.main import run as cli
from hardmine.data.formats.coco_writing import write_coco
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError
from hardmine.inference.export import compare
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import detect_images
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.ssd import SSD
from hardmine.recipes.checkpoint import load_checkpoint, save_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows import export_model
from hardmine.workflows.export_model import ExportResult, export
from tiny_models import tiny_rectangle

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
DOC = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of 48 x 64 px on a letterbox; six pictures, labelled by its best detection.

    With this seed no two of its detections tie and no IoU lies within rounding of .45, so that every
    one of them must be found again.
    """
    root = tmp_path_factory.mktemp("export")
    recipe = replace(
        Recipe(),
        model=tiny_rectangle(),
        resize_mode="letterbox",
        decode=DecodeConfig(score_threshold=0.05, candidates=9999, max_detections=9999),
    )
    torch.manual_seed(0)
    model = SSD(recipe.model, ("a", "b"))
    for head, std in ((model.class_head, 0.4), (model.box_head, 0.05)):
        for name, value in head.named_parameters():
            torch.nn.init.normal_(value, std=std)
            if head is model.class_head and name.endswith("bias"):
                value.data[::3] += 4.5  # background: 622 detections are left
    save_checkpoint(root / "run" / "last.safetensors", model.state_dict(), recipe, ("a", "b"))
    noise, sizes = np.random.default_rng(0), []
    for i, size in enumerate([(64, 48), (100, 40), (30, 90), (64, 64), (320, 240), (47, 49)]):
        pixels = noise.integers(0, 256, (*size[::-1], 3)) // 2 + noise.integers(0, 128, 3)
        path = root / "pool" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        sizes.append((path, size))
    paths = [path for path, _ in sizes]
    records = [
        ImageRecord(
            path,
            *size,
            found.boxes[:1],
            found.labels[:1],
            np.zeros(len(found.boxes[:1]), np.bool_),
            ImageState.LABELLED,
        )
        for (path, size), found in zip(
            sizes, detect_images(load_detector(root / "run", "cpu"), paths), strict=True
        )
    ]
    write_coco(Dataset(("a", "b"), tuple(records), root / "pool"), root / "pool" / "data.json")
    return root


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """torch's exporter takes seconds: the network's graph is made once, what is put on it anew."""
    from hardmine.inference import export

    with pytest.MonkeyPatch.context() as patch:
        make, made = export._to_onnx, {}

        def once(detector: Any) -> Any:
            if detector.model_id not in made:
                made[detector.model_id] = make(detector)
            return copy.deepcopy(made[detector.model_id])

        patch.setattr(export, "_to_onnx", once)
        yield


@pytest.fixture(scope="module")
def onnx_file(world: Path) -> ExportResult:
    return export(world / "run", out=world / "plain.onnx", data=world / "pool" / "data.json")


def pictures(world: Path) -> list[Path]:
    return sorted((world / "pool").glob("*.png"))


def test_limits_of_each_class_go_with_the_file(world: Path) -> None:
    model, recipe = load_checkpoint(world / "run" / "last.safetensors")
    few = replace(recipe, decode=replace(recipe.decode, class_candidates=3))
    save_checkpoint(world / "few.safetensors", model.state_dict(), few, ("a", "b"))
    made = export(world / "few.safetensors", data=world / "pool" / "data.json")
    assert made.parity is not None
    assert made.parity.missing == made.parity.extra == 0
    assert 6 < made.parity.matched <= 6 * 2 * 3  # six pictures, two classes, three boxes at most


def test_another_decoder_goes_with_the_file(world: Path) -> None:
    """Beside the weights under their own name: the settings are no part of it."""
    made = export(f"{world / 'run'}+decode.max_detections=2")
    assert made.path == (world / "run" / "last.onnx").resolve()
    found = detect_images(load_detector(made.path, "cpu"), pictures(world))
    assert max(len(one.boxes) for one in found) == 2


def by_torch(world: Path) -> list[Detections]:
    return detect_images(load_detector(world / "run", "cpu"), pictures(world))


def must_agree(result: ExportResult) -> None:
    parity = result.parity
    assert parity is not None
    assert (parity.matched, parity.missing, parity.extra) == (622, 0, 0)
    assert parity.score < 1e-5
    assert parity.box < 1e-3


def test_the_size_is_that_of_the_files_that_were_written(world: Path, tmp_path: Path) -> None:
    """Weights of an OpenVINO export beside an ONNX file are none of its own."""
    (tmp_path / "last.bin").write_bytes(bytes(5_000_000))
    onnx = export(world / "run", out=tmp_path / "last.onnx")
    assert onnx.megabytes == (tmp_path / "last.onnx").stat().st_size / 1e6
    pytest.importorskip("openvino")
    openvino = export(world / "run", to="openvino", out=tmp_path / "last.xml")
    both = [(tmp_path / f"last.{ending}").stat().st_size for ending in ("xml", "bin")]
    assert openvino.megabytes == sum(both) / 1e6


def test_the_export_agrees_with_torch_and_has_its_ap(world: Path, onnx_file: ExportResult) -> None:
    must_agree(onnx_file)
    assert onnx_file.ap is not None
    assert onnx_file.ap[0] == onnx_file.ap[1]
    assert onnx_file.ap[0] is not None and onnx_file.ap[0] > 0.05


def test_the_file_says_how_it_is_used(world: Path, onnx_file: ExportResult) -> None:
    exported, ours = load_detector(onnx_file.path, "cpu"), load_detector(world / "run", "cpu")
    assert (exported.categories, exported.resize) == (ours.categories, ours.resize)
    images = torch.randint(0, 256, (3, 3, 48, 64), dtype=torch.uint8)
    np.testing.assert_allclose(exported.score(images).scores, ours.score(images).scores, atol=1e-5)


def test_openvino_and_nms_inside_agree_too(world: Path) -> None:
    pytest.importorskip("openvino")
    result = export(
        world / "run", to="openvino", with_nms=True, out=world / "nms.xml", calibrate=world / "pool"
    )
    must_agree(result)
    found = detect_images(load_detector(world / "nms.xml", "cpu"), pictures(world))
    again = compare(by_torch(world), found, 0.05)
    assert (again.matched, again.missing, again.extra) == (622, 0, 0)


def test_eight_bits_are_near(world: Path, onnx_file: ExportResult) -> None:
    del onnx_file
    result = export(world / "run", int8=True, calibrate=world / "pool", out=world / "small.onnx")
    assert b"QuantizeLinear" in result.path.read_bytes()
    assert result.parity is not None
    assert result.parity.matched > 20
    assert 1e-5 < result.parity.score < 0.3


def test_openvino_in_eight_bits_is_near_and_near_the_onnx_file(world: Path) -> None:
    """It is made from the quantised ONNX file, and is as near to that one as to the network.

    Not nearer: on a processor without VNNI the eight-bit products of ONNX Runtime saturate.
    """
    pytest.importorskip("openvino")
    result = export(
        world / "run", to="openvino", int8=True, calibrate=world / "pool", out=world / "small.xml"
    )
    assert "FakeQuantize" in result.path.read_text()
    assert result.parity is not None
    assert result.parity.matched > 500
    assert result.parity.missing + result.parity.extra < 50  # 15 were
    assert 1e-5 < result.parity.score < 0.1  # .031 was
    export(world / "run", int8=True, calibrate=world / "pool", out=world / "same.onnx")
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 48, 64), dtype=torch.uint8, generator=drawn)
    ours, onnx, openvino = (
        load_detector(world / name, "cpu").score(images).scores
        for name in ("run", "same.onnx", "small.xml")
    )
    # .05 and .06 were (no VNNI); with red and blue swapped .11, with other images .12
    assert (onnx - openvino).abs().mean() < 0.09
    assert (ours - openvino).abs().mean() < 0.09


def test_what_cannot_be_done_is_one_line(world: Path) -> None:
    with pytest.raises(ConfigError, match="needs images to calibrate on"):
        export(world / "run", int8=True)
    assert cli(["export", str(world / "run"), "--to", "onnx", "--out", "x.xml"]) == 2
    assert cli(["export", str(world / "run"), "--to", "onnx", "--int8"]) == 2


def test_the_script_in_the_documentation_gives_the_same(
    world: Path, onnx_file: ExportResult, tmp_path: Path
) -> None:
    script = re.search(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert script is not None
    (tmp_path / "script.py").write_text(script.group(1))
    matched = 0
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned by 90 degrees to the right
    left = Image.open(pictures(world)[0]).transpose(Image.Transpose.ROTATE_90)
    left.save(turned, exif=exif)
    # As wide as the canvas, upright, and the first as a telephone stores it.
    for i, path in ((0, pictures(world)[0]), (2, pictures(world)[2]), (0, turned)):
        words = [sys.executable, "-I", str(tmp_path / "script.py"), str(onnx_file.path), str(path)]
        out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in out.splitlines()]
        found = Detections(
            np.array([[float(v) for v in row[2:]] for row in rows], np.float32).reshape(-1, 4),
            np.array([float(row[1]) for row in rows], np.float32),
            np.array(["ab".index(row[0]) + 1 for row in rows], np.int64),
        )
        parity = compare([by_torch(world)[i].at_least(0.3)], [found], 0.301)
        assert (parity.missing, parity.extra) == (0, 0)
        matched += parity.matched
        assert parity.score < 1e-3
        assert parity.box < 0.2
    assert matched > 1


def test_pictures_to_calibrate_on_are_evenly_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_model, "_CALIBRATED", 4)
    for i in range(7):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    found = export_model.calibration_pictures(tmp_path, tmp_path / "unpacked")
    assert [path.name for path in found] == ["0.png", "1.png", "3.png", "5.png"]  # i * 7 // 4
    monkeypatch.setattr(export_model, "_CALIBRATED", 128)
    assert len(export_model.calibration_pictures(tmp_path, tmp_path / "unpacked")) == 7


def test_pictures_to_calibrate_on_that_are_broken_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])  # its header is whole
    found = export_model.calibration_pictures(tmp_path, tmp_path / "unpacked")
    assert [path.name for path in found] == ["a.jpg"]
    assert "left out 1 (the first: " in caplog.text and "b.jpg: broken image" in caplog.text
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no image in it that can be read \(the first: .*b\.jpg"):
        export_model.calibration_pictures(tmp_path, tmp_path / "unpacked")


def test_the_commands(
    world: Path, onnx_file: ExportResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The export is predicted with, mined with, and checked against what torch finds."""
    model, pool = str(onnx_file.path), str(world / "pool")
    capfd.readouterr()
    assert cli(["predict", str(world / "run"), pool, "--json", "--min-score", "0.05", "-q"]) == 0
    reference = tmp_path / "torch.json"
    reference.write_text(capfd.readouterr().out)
    check = ["check-detector", model, pool, "--reference", str(reference)]
    assert cli(check) == 0
    assert "0 missing, 0 extra" in capfd.readouterr().out
    rows = json.loads(reference.read_text())
    best = max(rows, key=lambda row: row["score"])
    best["score"] -= 0.05
    reference.write_text(json.dumps(rows))
    assert cli(check) == 3
    said = capfd.readouterr()
    assert "largest difference: score 0.05" in said.out
    assert "does not give what" in said.err
    out = tmp_path / "mined"
    assert cli(["mine", model, pool, "--top", "3", "--out", str(out), "-q"]) == 0
    assert len((out / "candidates.csv").read_text().splitlines()) == 4


def test_parity_counts_what_only_one_side_has() -> None:
    def found(*rows: tuple[float, float, int]) -> Detections:
        boxes = np.array([[x, 0, x + 10, 10] for _, x, _ in rows], np.float32).reshape(-1, 4)
        scores = np.array([s for s, _, _ in rows], np.float32)
        return Detections(boxes, scores, np.array([c for _, _, c in rows], np.int64))

    a = found((0.9, 0, 1), (0.8, 50, 1), (0.51, 100, 1), (0.3, 0, 1))
    b = found((0.8, 1, 1), (0.7, 50, 2), (0.49, 100, 1), (0.6, 200, 1))
    parity = compare([a], [b], 0.5)
    # .9 and .8 match, one pixel apart; .51 and .49 are one detection; class 2 and x = 200 are extra.
    assert (parity.matched, parity.missing, parity.extra) == (2, 1, 2)
    assert (parity.score, parity.box) == (pytest.approx(0.1), pytest.approx(1))
    assert compare([b], [a], 0.5).extra == 1


def test_a_model_with_other_classes_than_the_data_is_one_line(
    world: Path, onnx_file: ExportResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = json.loads((world / "pool" / "data.json").read_text())
    table["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "moose"}]
    data = world / "pool" / "moose.json"
    data.write_text(json.dumps(table))
    words = ["val", str(onnx_file.path), str(data), "--out", str(tmp_path / "val"), "-q"]
    assert cli(words) == 1
    err = capfd.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert "does not know a class of the data" in err
    assert "class of the data: moose; it knows a, b" in err


def test_a_check_that_compared_nothing_says_so(
    world: Path, onnx_file: ExportResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where neither side has a detection of that score, "agree" would be no finding."""
    model, pool = str(onnx_file.path), str(world / "pool")
    capfd.readouterr()
    assert cli(["predict", model, pool, "--json", "--min-score", "0.05", "-q"]) == 0
    reference = tmp_path / "torch.json"
    reference.write_text(capfd.readouterr().out)
    check = ["check-detector", model, pool, "--reference", str(reference)]
    assert cli([*check, "--min-score", "1"]) == 3
    said = capfd.readouterr()
    assert "agree" not in said.out
    assert "nothing was compared" in said.out
    assert "lower --min-score" in said.err
