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

from hardmine.data.images import read_picture
from hardmine.detections import OperatingPoint
from hardmine.inference.checkpoint_detector import TorchDetector
from hardmine.inference.export import ExportNetwork, compare
from hardmine.inference.graph.graph_detector import GraphDetector
from hardmine.inference.litert_export import write_point_into_tflite
from hardmine.inference.load_detector import load_detector
from hardmine.losses.loss_functions import SigmoidConfig, SoftmaxConfig
from hardmine.models.postprocess import DecodeConfig
from hardmine.models.ssd import SSD
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.recipe import Recipe
from hardmine.workflows.export_model import ExportResult, export
from tiny_models import tiny_rectangle

pytest.importorskip("litert_torch", reason="`make test-clients` installs litert-torch")
pytest.importorskip("ai_edge_litert", reason="needs the extra litert")


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of 48 x 64 px on a letterbox, and four pictures."""
    root = tmp_path_factory.mktemp("litert")
    recipe = replace(
        Recipe(),
        model=tiny_rectangle(score_form=request.param),
        loss=replace(
            Recipe().loss,
            classification=SigmoidConfig() if request.param == "sigmoid" else SoftmaxConfig(),
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


_MADE: dict[tuple[str, ...], ExportResult] = {}


def exported(world: Path, **options: bool) -> ExportResult:
    """Export once for each choice: a conversion takes half a minute."""
    key = (str(world), *sorted(options))
    if key not in _MADE:
        path = world / f"{'-'.join(key[1:]) or 'plain'}.tflite"
        calibrate = world / "pool" if options.get("int8") else None
        _MADE[key] = export(world / "run", to="litert", out=path, calibrate=calibrate, **options)
    return _MADE[key]


def test_the_float_file_computes_what_torch_computes(world: Path) -> None:
    path = exported(world).path
    detector, found = load_detector(world / "run", "cpu"), load_detector(path, "cpu")
    assert isinstance(detector, TorchDetector)
    assert isinstance(found, GraphDetector)
    assert found.categories == ("a", "b")
    assert (found.resize.height, found.resize.width, found.resize.mode) == (48, 64, "letterbox")
    network = ExportNetwork(detector).eval()
    for picture in sorted((world / "pool").glob("*.png")):
        canvas, _ = detector.resize.apply(read_picture(picture))
        with torch.no_grad():
            boxes, scores = network(torch.from_numpy(canvas.transpose(2, 0, 1)[None].copy()))
        given = found._session.run({"images": canvas[None].astype(np.float32)})
        np.testing.assert_allclose(given["boxes"], boxes.numpy(), atol=2e-3)
        np.testing.assert_allclose(given["scores"], scores.numpy(), atol=1e-5)


def test_with_the_operator_inside_other_programs_read_it(world: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    result = exported(world, with_nms=True)
    detector = load_detector(world / "run", "cpu")
    assert isinstance(detector, TorchDetector)
    found = load_detector(result.path, "cpu")
    images = torch.randint(0, 256, (3, 3, 48, 64), dtype=torch.uint8)
    matched = 0
    for wanted, got in zip(detector.detect(images), found.detect(images), strict=True):  # type: ignore[union-attr]
        parity = compare([wanted], [got], 0.05)
        assert parity.missing + parity.extra == 0
        assert parity.score < 1e-4
        assert parity.box < 0.05
        matched += parity.matched
    assert matched > 150
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
    assert port["quantization"] == (1.0, -128)  # a pixel less 128, whatever the calibration saw
    detector, found = (load_detector(path, "cpu") for path in (exported(world).path, result.path))
    images = torch.randint(0, 256, (4, 3, 48, 64), dtype=torch.uint8)
    near = (detector.score(images).scores - found.score(images).scores).abs()  # type: ignore[union-attr]
    assert float(near.max()) < 0.1
    assert result.megabytes < exported(world).megabytes


def test_a_threshold_is_written_into_the_file(world: Path) -> None:
    path = exported(world, with_nms=True).path
    before = load_detector(path, "cpu")
    assert isinstance(before, GraphDetector)
    point = OperatingPoint(0.4, {"b": 0.5}, "a promise")
    write_point_into_tflite(path, point)
    after = load_detector(path, "cpu")
    assert isinstance(after, GraphDetector)
    assert after.operating_point == point
    assert after.model_id == before.model_id
    assert json.loads(after._session.metadata["hardmine"])["classes"] == ["a", "b"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.txt"]
