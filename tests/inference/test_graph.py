"""Foreign ONNX graphs: what they give must be what torch gives for the same weights."""

from __future__ import annotations

import pickle
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from graph_files import Array, constant_graph, write
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import batched_nms

from hardmine.data.cut_tiles import Tiles
from hardmine.data.resize import Resize
from hardmine.detections import Detections
from hardmine.errors import CheckpointError, ConfigError, HardmineError
from hardmine.inference.detector import make_model_id
from hardmine.inference.graph import graph_detector
from hardmine.inference.graph.graph_config import PRESETS, JoinedOutput, graph_config
from hardmine.inference.graph.graph_detector import GraphDetector
from hardmine.inference.load_detector import load_detector
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan, scan_exactly

SIDE, CELLS, CLASSES = 64, 4, 2


def images(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def describe(path: Path, **values: object) -> None:
    path.with_suffix(".yaml").write_text(yaml.safe_dump(values))


def weights(*shape: int, seed: int, scale: float = 0.3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def opened(spec: Path | str) -> GraphDetector:
    detector = load_detector(spec, "cpu")
    assert isinstance(detector, GraphDetector)
    return detector


def assert_same(found: list[Detections], wanted: list[Detections]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert len(b) > 2
        assert a.labels.tolist() == b.labels.tolist()
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)


def slow_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    *,
    iou: float,
    floor: float = 0.01,
    clip_after: bool = False,
) -> Detections:
    """Return detections from boxes [N, 4] and scores [N, C], one box and class after the other."""
    rows = [
        (float(scores[n, c]), c + 1, boxes[n] if clip_after else boxes[n].clamp(0, SIDE))
        for n in range(len(boxes))
        for c in range(scores.shape[1])
        if float(scores[n, c]) >= floor
    ]
    rows = [r for r in rows if r[2][2] > r[2][0] and r[2][3] > r[2][1]]
    rows.sort(key=lambda row: -row[0])
    stacked = torch.stack([r[2] for r in rows])
    top, label = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    keep = batched_nms(stacked, top, label, iou)
    stacked = stacked.clamp(0, SIDE)
    keep = keep[(stacked[keep, 2:] > stacked[keep, :2]).all(1)]
    return Detections(stacked[keep].numpy(), top[keep].numpy(), label[keep].numpy())


# An SSD with raw outputs.

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def ssd_graph(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """One level of 4 x 4 cells with two priors each: a strided convolution and two 1 x 1 heads."""
    parts = {
        "trunk": weights(8, 3, 16, 16, seed=1, scale=0.05),
        "classes": weights(2 * (CLASSES + 1), 8, 1, 1, seed=2, scale=1.0),
        "boxes": weights(2 * 4, 8, 1, 1, seed=4),
    }
    nodes = [
        helper.make_node("Conv", ["images", "trunk"], ["maps"], strides=[16, 16]),
        helper.make_node("Relu", ["maps"], ["act"]),
    ]
    for name in ("classes", "boxes"):
        nodes += [
            helper.make_node("Conv", ["act", name], [f"{name}_map"]),
            helper.make_node("Transpose", [f"{name}_map"], [f"{name}_t"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [f"raw_{name}"]),
        ]
    inside = [numpy_helper.from_array(value.numpy(), name) for name, value in parts.items()]
    inside += [
        numpy_helper.from_array(np.array([0, -1, size], np.int64), f"{name}_s")
        for name, size in (("classes", CLASSES + 1), ("boxes", 4))
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, SIDE, SIDE))
    outs = [
        helper.make_tensor_value_info(f"raw_{name}", TensorProto.FLOAT, ("n", 32, size))
        for name, size in (("classes", CLASSES + 1), ("boxes", 4))
    ]
    return write(folder / "ssd.onnx", nodes, inside, [image], outs), parts


def priors() -> Array:
    rows = [
        (16 * x + 8, 16 * y + 8, w, h)
        for y in range(CELLS)
        for x in range(CELLS)
        for w, h in ((20, 20), (30, 15))
    ]
    return np.array(rows, np.float32)


def test_an_ssd_with_raw_outputs_agrees_with_torch(tmp_path: Path) -> None:
    path, parts = ssd_graph(tmp_path)
    np.save(tmp_path / "priors.npy", priors())
    describe(
        path,
        preset="ssd",
        classes=["a", "b"],
        input={"mean": list(MEAN), "std": list(STD)},
        outputs={"boxes": "raw_boxes", "scores": "raw_classes", "priors": "priors.npy"},
    )
    detector = opened(path)
    pixels = images().float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    act = F.conv2d(pixels, parts["trunk"], stride=16).relu()
    logits, deltas = (
        F.conv2d(act, parts[name]).permute(0, 2, 3, 1).reshape(len(pixels), 32, -1)
        for name in ("classes", "boxes")
    )
    wanted = []
    for one, delta in zip(logits.softmax(-1), deltas, strict=True):
        p = torch.from_numpy(priors())
        centre = p[:, :2] + 0.1 * delta[:, :2] * p[:, 2:]
        size = p[:, 2:] * (0.2 * delta[:, 2:]).exp()
        wanted.append(
            slow_nms(torch.cat([centre - size / 2, centre + size / 2], 1), one[:, 1:], iou=0.45)
        )
    assert_same(detector.detect(images()), wanted)
    scores = detector.score(images())
    np.testing.assert_allclose(scores.scores, [float(d.scores[0]) for d in wanted], atol=1e-5)
    assert scores.labels.tolist() == [int(d.labels[0]) for d in wanted]
    assert (detector.categories, detector.resize.mode) == (("a", "b"), "stretch")


# YOLO heads.


def yolo_graph(folder: Path, *, objectness: bool, transposed: bool) -> tuple[Path, torch.Tensor]:
    """16 cells; everything is sigmoid of a convolution, boxes times the side."""
    rows = 4 + objectness + CLASSES
    kernel = weights(rows, 3, 16, 16, seed=7, scale=0.1)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["maps"], strides=[16, 16]),
        helper.make_node("Sigmoid", ["maps"], ["unit"]),
        helper.make_node("Mul", ["unit", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["by_row" if not transposed else "out"]),
    ]
    if not transposed:
        nodes.append(helper.make_node("Transpose", ["by_row"], ["out"], perm=[0, 2, 1]))
    scale = np.array([SIDE] * 4 + [1] * (rows - 4), np.float32).reshape(1, rows, 1, 1)
    inside = [
        numpy_helper.from_array(kernel.numpy(), "kernel"),
        numpy_helper.from_array(scale, "scale"),
        numpy_helper.from_array(np.array([0, rows, -1], np.int64), "shape"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, "h", "w"))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    facts = {"names": "{0: 'a', 1: 'b'}", "imgsz": f"[{SIDE}, {SIDE}]"}
    return write(folder / "yolo.onnx", nodes, inside, [image], [out], facts), kernel


@pytest.mark.parametrize(
    ("preset", "objectness", "transposed", "iou"),
    [("yolov8", False, True, 0.7), ("yolov5", True, False, 0.45)],
)
def test_a_yolo_head_agrees_with_torch(
    tmp_path: Path, preset: str, objectness: bool, transposed: bool, iou: float
) -> None:
    """Classes and size come from what Ultralytics writes into the file."""
    path, kernel = yolo_graph(tmp_path, objectness=objectness, transposed=transposed)
    detector = opened(f"{path}:{preset}")
    maps = F.conv2d(images().float() / 255, kernel, stride=16).sigmoid().flatten(2)  # [B, R, 16]
    wanted = []
    for one in maps:
        cx, cy, w, h = one[:4] * SIDE
        boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
        scores = one[5:] * one[4] if objectness else one[4:]
        scores = scores * (scores == scores.amax(0))  # a box has its best class only
        wanted.append(slow_nms(boxes, scores.T, iou=iou, clip_after=True))
    assert_same(detector.detect(images()), wanted)
    assert detector.categories == ("a", "b")
    assert (detector.resize.height, detector.resize.mode) == (SIDE, "letterbox")
    scores = detector.score(images()).scores
    np.testing.assert_allclose(scores, [float(d.scores[0]) for d in wanted], atol=1e-5)


# Other forms, each on one hand-made box: x 8..24, y 16..48 on a canvas of 64.

BOX = [8.0, 16.0, 24.0, 48.0]
FORMS: dict[str, tuple[dict[str, list[object]], dict[str, object]]] = {
    "rtdetr": ({"out": [[[0.25, 0.5, 0.25, 0.5, 0.75, 1]]]}, {"preset": "rtdetr"}),
    "rtdetr_scores": (
        {"out": [[[0.25, 0.5, 0.25, 0.5, 0.1, 0.75]]]},
        {"preset": "rtdetr_scores"},
    ),
    "unit yxyx, counted, labels from 1": (
        {
            "b": [[[0.25, 0.125, 0.75, 0.375], [0, 0, 1, 1]]],
            "s": [[0.75, 0.5]],
            "l": [[2.0, 1.0]],
            "n": [1.0],
        },
        {
            "outputs": {
                "kind": "final",
                "boxes": "b",
                "scores": "s",
                "labels": "l",
                "count": "n",
                "box_form": "yxyx",
                "coordinates": "unit",
                "first_label": 1,
            }
        },
    ),
    "without a batch, labels from 0": (
        {"boxes": [BOX], "scores": [0.75], "labels": [1.0]},
        {"outputs": {"kind": "final"}},
    ),
    "rows": ({"out": [[[*BOX, 0.75, 1.0], [0] * 6]]}, {"outputs": {"kind": "rows"}}),
    "rows that name their image": (
        {"out": [[0.0, 1.0, 0.75, *BOX], [1.0, 0.0, 0.9, *BOX]]},
        {
            "outputs": {
                "kind": "rows",
                "columns": ["image", "label", "score", "x1", "y1", "x2", "y2"],
            }
        },
    ),
    "xywh, sigmoid": (
        {"boxes": [[[8.0, 16.0, 16.0, 32.0]]], "scores": [[[-30.0, float(np.log(3.0))]]]},
        {"outputs": {"kind": "separate", "box_form": "xywh", "score_form": "sigmoid"}},
    ),
    "background last": (
        {"boxes": [[BOX]], "scores": [[[0.0, 0.75, 0.25]]]},
        {"outputs": {"kind": "separate", "background": "last"}},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_box(tmp_path: Path, form: str) -> None:
    outputs, values = FORMS[form]
    graph = {name: np.array(value, np.float32) for name, value in outputs.items()}
    path = constant_graph(tmp_path / "m.onnx", graph)
    describe(path, classes=["a", "b"], **values)
    (found,) = opened(path).detect(images(1))
    best = found.at_least(0.3)
    assert best.labels.tolist() == [2]
    np.testing.assert_allclose(best.scores, [0.75], atol=1e-6)
    np.testing.assert_allclose(best.boxes, [BOX], atol=1e-4)
    assert float(opened(path).score(images(1)).scores[0]) == pytest.approx(0.75)


def test_pixels_reach_the_graph_as_described(tmp_path: Path) -> None:
    """BGR, channels last, (x / 2 - 10) / 4: the first pixel of the first channel is the score."""
    nodes = [
        helper.make_node("Slice", ["images", "start", "stop"], ["one"]),
        helper.make_node("Reshape", ["one", "flat"], ["score"]),
        helper.make_node("Concat", ["box", "score", "none"], ["out"], axis=2),
    ]
    inside = [
        numpy_helper.from_array(np.array([0, 0, 0, 0], np.int64), "start"),
        numpy_helper.from_array(np.array([1, 1, 1, 1], np.int64), "stop"),
        numpy_helper.from_array(np.array([1, 1, 1], np.int64), "flat"),
        numpy_helper.from_array(np.array([[BOX]], np.float32), "box"),
        numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "none"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 8, 8, 3))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 1, 6))
    path = write(tmp_path / "m.onnx", nodes, inside, [image], [out])
    describe(
        path,
        classes=["a", "b"],
        outputs={"box_form": "xyxy"},
        input={
            "channels": "bgr",
            "layout": "nhwc",
            "divide_by": 2,
            "mean": [10, 10, 10],
            "std": [4, 1, 1],
        },
    )
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pixels[0, :, 0, 0] = torch.tensor([200, 100, 25])  # blue 25: (25 / 2 - 10) / 4 = .625
    assert float(opened(path).score(pixels).scores[0]) == pytest.approx(0.625)


def test_a_fixed_batch_is_fed_in_pieces(tmp_path: Path) -> None:
    rows = np.tile(np.array([[*BOX, 0.75, 0.1]], np.float32), (2, 1, 1))
    path = constant_graph(tmp_path / "m.onnx", {"out": rows}, batch=2)
    describe(path, classes=["a", "b"], outputs={"box_form": "xyxy"})
    detector = opened(path)
    assert [len(d.at_least(0.3)) for d in detector.detect(images(5))] == [1] * 5
    assert detector.score(images(3)).scores.tolist() == [0.75] * 3


@pytest.mark.parametrize("inside", [True, False])
def test_the_network_runs_once_for_scoring_and_decoding(tmp_path: Path, inside: bool) -> None:
    row = [*BOX, 0.75, 1.0] if inside else [*BOX, 0.1, 0.75]
    path = constant_graph(tmp_path / "m.onnx", {"out": np.array([[row]])})
    outputs = {"kind": "rows"} if inside else {"box_form": "xyxy"}
    describe(path, classes=["a", "b"], outputs=outputs)
    detector = opened(path)
    runs = 0
    run = detector._session.run

    def counted(feed: dict[str, Array]) -> dict[str, Array]:
        nonlocal runs
        runs += 1
        return run(feed)

    detector._session.run = counted  # type: ignore[method-assign,assignment]
    scores, found = detector.score_and_detect(images(3), 0.5)
    assert runs == 3  # the graph takes one image at a time
    assert scores.labels.tolist() == [2, 2, 2]
    assert [len(d.at_least(0.3)) for d in found] == [1, 1, 1]
    assert [len(d) for d in detector.score_and_detect(images(3), 0.8)[1]] == [0, 0, 0]


@pytest.mark.parametrize(("batch", "runs"), [(1, 6), (4, 2), (None, 6)])
def test_a_scan_runs_the_graph_once_for_each_image(
    tmp_path: Path, batch: int | None, runs: int
) -> None:
    """Also where only a few images are left; a fixed batch is filled in its last run alone."""
    row = np.tile(np.array([[*BOX, 0.75, 0.1]], np.float32), (batch or 1, 1, 1))
    path = constant_graph(tmp_path / "m.onnx", {"out": row}, batch=batch)
    describe(path, classes=["a", "b"], outputs={"box_form": "xyxy"})
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(6):
        Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(pool / f"{i}.png")
    detector = opened(path)
    run, fed = detector._session.run, []

    def counted(feed: dict[str, Array]) -> dict[str, Array]:
        fed.append(len(feed["images"]))
        return run(feed)

    detector._session.run = counted  # type: ignore[method-assign,assignment]
    for number, look in enumerate((scan, scan_exactly)):
        with PoolStore(tmp_path / f"{number}.sqlite") as store:
            assert look(detector, pool, store).num_images == 6
            rows = store.ranked_after(detector.model_id, None, 9, exact=True)
            assert [row.score for row in rows] == [0.75] * 6
        assert fed == [batch or 1] * runs
        fed.clear()


JOINED = np.array([[[*BOX, 0.75, 0.1]]], np.float32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"nothing says what its outputs mean \(out \[1, 1, 6\]\); put m\.yaml beside it"),
        ({"classes": ["a"]}, "gives 2 class scores, the configuration names 1 classes"),
        ({}, "has no class names"),
        ({"preset": "yolo9000"}, "preset: got 'yolo9000', wanted one of yolov5"),
        ({"classes": ["a", "b"], "colour": 1}, r"m\.yaml: colour: .*got 1"),
        ({"classes": ["a", "b"], "outputs": {"kinds": 1}}, r"outputs\.kinds"),
        ({"classes": ["a", "b"], "outputs": {"kind": "magic"}}, "'magic', wanted one of joined"),
        ({"classes": ["a", "b"], "outputs": {"output": "x"}}, r"m\.onnx: no output 'x'; has out"),
        ({"classes": ["a", "b"], "outputs": {"transposed": True}}, "is it transposed"),
        ({"classes": ["a", "b"], "input": {"height": 32}}, "takes 64x64"),
        ({"classes": ["a", "b"], "input": {"name": "x"}}, "no input 'x'; has images"),
        ({"classes": ["a", "b"], "nms": {"iou": 0}}, "wanted 0 <= score_threshold"),
        (
            {"classes": ["a", "b"], "outputs": {"kind": "rows", "columns": ["x1", "score"]}},
            "lack",
        ),
    ],
)
def test_a_faulty_description_is_one_line(
    tmp_path: Path, values: dict[str, object] | None, message: str
) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"out": JOINED})
    if values is not None:
        describe(path, **values)
    with pytest.raises(HardmineError, match=message) as caught:
        opened(path).detect(images(1))
    assert isinstance(caught.value, ConfigError | CheckpointError)
    assert "m." in str(caught.value)


def test_an_unknown_preset_says_the_nearest(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"out": JOINED})
    message = r"m\.onnx: preset: got 'yolo8', wanted one of yolov5, .*; did you mean 'yolov8'\?"
    with pytest.raises(ConfigError, match=message):
        load_detector(f"{path}:yolo8")


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"out": np.array([[[*BOX, 0.75, 2.0]]])})
    describe(path, classes=["a", "b"], outputs={"kind": "rows"})
    with pytest.raises(CheckpointError, match=r"labels 3\.\.3 .* names 2 classes; see 'first_l"):
        opened(path).detect(images(1))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match="not a readable ONNX file"):
        opened(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        opened(tmp_path / "other.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_graph_can_be_sent_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"out": JOINED})
    describe(path, classes=["a", "b"])
    if suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.convert_model(path), path.with_suffix(suffix))
    monkeypatch.chdir(tmp_path)
    one = opened(f"m{suffix}")
    sent = pickle.dumps(one)
    monkeypatch.chdir("/")
    there = pickle.loads(sent)
    assert there.model_id == one.model_id
    found, wanted = there.detect(images(1))[0], one.detect(images(1))[0]
    assert len(wanted)
    assert (found.boxes.tolist(), found.scores.tolist()) == (
        wanted.boxes.tolist(),
        wanted.scores.tolist(),
    )


def test_the_identity_follows_the_description(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"out": JOINED})
    describe(path, classes=["a", "b"])
    one = opened(path).model_id
    assert opened(path).model_id == one
    describe(path, classes=["a", "b"], nms={"iou": 0.3})
    assert opened(path).model_id != one


def test_an_identity_is_what_it_was(tmp_path: Path) -> None:
    """Golden: when it changes, every pool that was scanned is scanned again."""
    config = graph_config({"preset": "yolov8", "classes": ["a", "b"]}, "here")
    assert make_model_id("0123456789abcdef", config, 640, 640) == "3cea4c396f75ef7a"


def test_a_new_field_with_a_default_changes_no_identity() -> None:
    """Copies of the classes with one more field stand for the next version."""
    config = graph_config({"preset": "yolox", "classes": ["a"]}, "here")

    def newer(value: Any) -> Any:
        cls = make_dataclass(
            type(value).__name__,
            [("added", int, field(default=3))],
            bases=(type(value),),
            frozen=True,
            slots=True,
        )
        return cls(**{item.name: getattr(value, item.name) for item in fields(value)})

    assert make_model_id(newer(config)) == make_model_id(config)
    changed = replace(newer(config), added=4)
    assert make_model_id(changed) != make_model_id(config)
    resize = Resize(640, 640, "letterbox")
    assert make_model_id(newer(resize)) == make_model_id(resize)
    assert make_model_id(newer(Tiles(512))) == make_model_id(Tiles(512))


# YOLOX: offsets in grids, BGR pixels of 0 to 255 at the upper left.


def yolox_rows() -> Array:
    """Strides 8, 16, 32 over 64 px: 64 + 16 + 4 cells. The box 8..24, 16..48 (centre 16, 32; size 16,
    32) in cell (0, 1) of stride 16, which is row 64 + 4: offsets 1 and 1, ln 1 and ln 2.
    """
    rows = np.zeros((1, 84, 7), np.float32)
    rows[0, 68] = [1.0, 1.0, 0.0, np.log(2.0), 0.75, 0.0, 1.0]
    return rows


def test_yolox_as_its_exporter_writes_it(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"output": yolox_rows()})
    detector = load_detector(f"{path}:yolox", classes=["a", "b"])
    picture = np.zeros((64, 32, 3), np.uint8)  # centred, the box would lie 16 px further left
    found = detector.predict(picture)
    assert found.labels.tolist() == [2]
    np.testing.assert_allclose(found.scores, [0.75], atol=1e-6)
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)


def test_yolox_decoded_in_the_graph(tmp_path: Path) -> None:
    rows = yolox_rows()
    rows[0, 68, :4] = [16, 32, 16, 32]
    path = constant_graph(tmp_path / "m.onnx", {"output": rows})
    found = load_detector(f"{path}:yolox_decoded", classes=["a", "b"]).predict(
        np.zeros((64, 32, 3), np.uint8)
    )
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)


def test_yolox_takes_bgr_pixels_of_0_to_255() -> None:
    config = graph_config({"preset": "yolox"}, "here")
    colour = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    fed = graph_detector._pixels(colour, config, graph_detector.Port("x", (1, 3, 2, 2), "float32"))
    assert fed[0, :, 0, 0].tolist() == [30, 20, 10]


def test_a_grid_of_another_size_is_refused(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", {"output": yolox_rows()[:, :80]})
    detector = load_detector(f"{path}:yolox", classes=["a", "b"])
    with pytest.raises(
        CheckpointError, match="got 80 boxes per image, wanted 84: the cells of 64x64"
    ):
        detector.detect(images(1))


def test_strides_with_boxes_that_need_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got strides \[8\], box_form xyxy"):
        graph_config({"outputs": {"strides": [8], "box_form": "xyxy"}}, "here")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_description(name: str) -> None:
    preset = PRESETS[name]
    config = graph_config({"preset": name}, "here")
    assert config.outputs.kind == preset.values["outputs"]["kind"]
    assert config.nms.iou == preset.values["nms"]["iou"]


# YOLOs with NMS inside: rows of x1, y1, x2, y2, score, label.


def end_to_end(path: Path, names: str, **facts: str) -> Path:
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [*BOX, 0.9, 1 if "dog" in names else 0]
    return constant_graph(path, {"output0": rows}, metadata={"names": names, **facts})


@pytest.mark.parametrize(
    ("names", "facts", "label"),
    [
        ("{0: 'cat', 1: 'dog'}", {"end2end": "True"}, 2),
        ("{0: 'raccoon'}", {"end2end": "True"}, 1),
        ("{0: 'raccoon'}", {}, 1),
    ],
)
def test_an_end_to_end_yolo_needs_no_preset(
    tmp_path: Path, names: str, facts: dict[str, str], label: int
) -> None:
    (found,) = opened(end_to_end(tmp_path / "m.onnx", names, **facts)).detect(images(1))
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
    assert found.labels.tolist() == [label]
    np.testing.assert_allclose(found.scores, [0.9], atol=1e-6)


@pytest.mark.parametrize("preset", ["rtdetr", "rtdetr_scores", "yolov5", "yolov8", "yolox"])
def test_a_preset_that_contradicts_the_file_is_refused(tmp_path: Path, preset: str) -> None:
    path = end_to_end(tmp_path / "m.onnx", "{0: 'cat', 1: 'dog'}", end2end="True")
    with pytest.raises(ConfigError, match=f"described by {preset} .* but NMS is inside"):
        opened(f"{path}:{preset}")


def test_two_classes_without_a_word_of_the_exporter_are_not_guessed(tmp_path: Path) -> None:
    """[B, 300, 6] may be an RT-DETR of two classes too; the message names what to choose from."""
    path = end_to_end(tmp_path / "m.onnx", "{0: 'cat', 1: 'dog'}")
    with pytest.raises(ConfigError, match=r"fits several layouts; name m\.onnx:yolo_rows .* or"):
        opened(path)
    (found,) = opened(f"{path}:yolo_rows").detect(images(1))
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
    old = opened(f"{path}:rtdetr_scores").config.outputs
    assert isinstance(old, JoinedOutput)
    assert old.coordinates == "unit"
