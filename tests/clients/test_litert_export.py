"""Exports to LiteRT give what torch gives; they need litert-torch, which wants a torch of its own."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine.detections import Detections, OperatingPoint
from hardmine.inference.export import compare, write_into_export
from hardmine.inference.graph.graph_detector import GraphDetector
from hardmine.inference.load_detector import load_detector
from hardmine.inference.predict import detect_images
from hardmine.models.backbones.backbone import SmallNetConfig
from hardmine.models.head import HeadConfig
from hardmine.models.neck import ExtraLayersConfig
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.ssd import SSD, SSDConfig
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.workflows.export_model import ExportResult, export

pytest.importorskip("litert_torch", reason="`make test-clients` installs litert-torch")
pytest.importorskip("ai_edge_litert", reason="needs the extra litert")


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of 48 x 64 px on a letterbox, and four pictures."""
    root = tmp_path_factory.mktemp("litert")
    recipe = replace(
        Recipe(),
        model=SSDConfig(
            name="tiny",
            height=48,
            width=64,
            backbone=SmallNetConfig(widths=(8, 12, 16), depths=(1, 1, 1), num_taps=2),
            neck=ExtraLayersConfig(widths=(16,), depthwise=False),
            head=HeadConfig(depthwise=False),
            score_form=request.param,
        ),
        resize_mode="letterbox",
        decode=DecodeConfig(score_threshold=0.05, candidates=9999, max_detections=300),
    )
    torch.manual_seed(0)
    model = SSD(recipe.model, ("a", "b"))
    for head, std in ((model.class_head, 0.4), (model.box_head, 0.05)):
        for value in head.parameters():
            torch.nn.init.normal_(value, std=std)
    save_checkpoint(root / "run" / "last.safetensors", model.state_dict(), recipe, ("a", "b"))
    noise = np.random.default_rng(0)
    for i, size in enumerate([(64, 48), (100, 40), (30, 90), (320, 240)]):
        pixels = noise.integers(0, 256, (*size[::-1], 3)) // 2 + noise.integers(0, 128, 3)
        path = root / "pool" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def found_by(path: Path, world: Path) -> list[Detections]:
    return detect_images(load_detector(path, "cpu"), sorted((world / "pool").glob("*.png")))


def exported(world: Path, **options: object) -> ExportResult:
    name = "-".join(sorted(options)) or "plain"
    calibrate = {"calibrate": world / "pool"} if options.get("int8") else {}
    return export(world / "run", to="litert", out=world / f"{name}.tflite", **options, **calibrate)  # type: ignore[arg-type]


def test_the_float_file_agrees_with_torch(world: Path) -> None:
    result = exported(world)
    parity = compare(found_by(world / "run", world), found_by(result.path, world), 0.05)
    assert parity.matched > 100
    assert (parity.missing, parity.extra) == (0, 0)
    assert parity.score < 1e-4
    assert parity.box < 0.02


def test_with_the_operator_inside_other_programs_read_it(world: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    result = exported(world, with_nms=True)
    parity = compare(found_by(world / "run", world), found_by(result.path, world), 0.05)
    assert parity.matched > 50
    # Boxes beyond the border are cut after the suppression, here before it.
    assert parity.missing + parity.extra <= 0.05 * parity.matched
    assert parity.score < 1e-4
    with zipfile.ZipFile(result.path) as archive:
        assert archive.read("labels.txt").decode().split() == ["a", "b"]
    interpreter = Interpreter(str(result.path))
    interpreter.allocate_tensors()
    shapes = [tuple(port["shape"]) for port in interpreter.get_output_details()]
    assert shapes == [(1, 300, 4), (1, 300), (1, 300), (1,)]  # boxes, classes, scores, count


def test_int8_takes_bytes_and_stays_near(world: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    result = exported(world, int8=True)
    port = Interpreter(str(result.path)).get_input_details()[0]
    assert np.dtype(port["dtype"]) == np.int8
    assert port["quantization"][0] == pytest.approx(1.0, abs=0.02)  # one step is one pixel value
    assert result.parity is not None
    assert result.parity.matched > 50
    assert result.parity.score < 0.3
    whole = exported(world)
    assert result.megabytes < whole.megabytes


def test_a_threshold_is_written_into_the_file(world: Path) -> None:
    path = exported(world, with_nms=True).path
    before = load_detector(path, "cpu")
    assert isinstance(before, GraphDetector)
    point = OperatingPoint(0.4, {"b": 0.5}, "a promise")
    write_into_export(path, point)
    after = load_detector(path, "cpu")
    assert isinstance(after, GraphDetector)
    assert after.operating_point == point
    assert after.model_id == before.model_id
    assert json.loads(after._session.metadata["hardmine"])["classes"] == ["a", "b"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.txt"]
