"""What is written for other programs, read by those programs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO as FASTER_COCO
from pycocotools.coco import COCO
from torchvision.datasets import Kitti, VOCDetection

from data_files import put_image
from hardmine.data.convert import convert
from hardmine.types import Dataset, ImageRecord, ImageState

BOXES = {"a": [[4, 2, 14, 12], [0, 0, 40, 20]], "b": [[10, 5, 30, 15]], "c": []}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images of 40 x 20: two with boxes, one that a person found empty."""
    records = []
    for seed, (stem, boxes) in enumerate(BOXES.items()):
        labels = np.arange(1, len(boxes) + 1, dtype=np.int64)
        ignore = np.zeros(len(boxes), np.bool_)
        state = ImageState.LABELLED if boxes else ImageState.VERIFIED_EMPTY
        path = put_image(tmp_path / "in" / f"{stem}.jpg", seed, (40, 20))
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        records.append(ImageRecord(path, 40, 20, corners, labels, ignore, state))
    return Dataset(("cat", "no"), tuple(records), tmp_path / "in")


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_torchvision_reads_voc(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "VOCdevkit" / "VOC2012"
    out.parent.mkdir()
    convert({"train": dataset, "val": dataset.subset([0])}, out, "voc")
    found = VOCDetection(str(tmp_path), year="2012", image_set="train")
    assert len(found) == 3
    _, target = found[0]
    objects = target["annotation"]["object"]
    assert [item["name"] for item in objects] == ["cat", "no"]
    corners = [
        [float(item["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for item in objects
    ]
    assert corners == BOXES["a"]
    assert target["annotation"]["size"] == {"width": "40", "height": "20", "depth": "3"}


@pytest.mark.parametrize(
    ("to", "file"),
    [("coco", "annotations/instances_train.json"), ("rfdetr", "train/_annotations.coco.json")],
)
def test_pycocotools_and_faster_coco_eval_read_coco(
    dataset: Dataset, tmp_path: Path, to: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = convert({"train": dataset, "val": dataset.subset([0])}, tmp_path / "out", to).out
    for reader in (COCO(str(out / file)), FASTER_COCO(str(out / file))):
        ids = {image["file_name"]: image["id"] for image in reader.loadImgs(reader.getImgIds())}
        assert set(ids) == {"a.jpg", "b.jpg", "c.jpg"}
        found = reader.loadAnns(reader.getAnnIds(imgIds=[ids["a.jpg"]]))
        assert [item["bbox"] for item in found] == [[4, 2, 10, 10], [0, 0, 40, 20]]
        names = {c["id"]: c["name"] for c in reader.loadCats(reader.getCatIds())}
        assert [names[item["category_id"]] for item in found] == ["cat", "no"]
    capsys.readouterr()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_torchvision_reads_kitti(dataset: Dataset, tmp_path: Path) -> None:
    convert({"train": dataset}, tmp_path / "raw", "kitti")
    (tmp_path / "Kitti").mkdir()
    (tmp_path / "raw").rename(tmp_path / "Kitti" / "raw")
    found = Kitti(str(tmp_path), train=True)
    assert len(found) == 3
    for index, path in enumerate(found.images):
        stem = Path(path).stem
        picture, target = found[index]
        assert picture.size == (40, 20)
        assert [item["bbox"] for item in target] == BOXES[stem]
        assert [item["type"] for item in target] == ["cat", "no"][: len(BOXES[stem])]


@pytest.mark.skipif(find_spec("supervision") is None, reason="supervision is not installed")
@pytest.mark.parametrize("to", ["coco", "rfdetr", "yolo", "createml"])
def test_supervision_reads_what_is_written(dataset: Dataset, tmp_path: Path, to: str) -> None:
    import supervision as sv

    out = convert({"train": dataset}, tmp_path / "out", to).out
    match to:
        case "coco":
            images = out / "images" / "train"
            found = sv.DetectionDataset.from_coco(
                str(images), str(out / "annotations" / "instances_train.json")
            )
        case "rfdetr":
            images = out / "train"
            found = sv.DetectionDataset.from_coco(
                str(images), str(images / "_annotations.coco.json")
            )
        case "yolo":
            images = out / "images" / "train"
            found = sv.DetectionDataset.from_yolo(
                str(images), str(out / "labels" / "train"), str(out / "data.yaml")
            )
        case _:
            images = out / "train"
            found = sv.DetectionDataset.from_createml(
                str(images), str(images / "_annotations.createml.json")
            )
    seen = {Path(path).stem: labels for path, _, labels in found}
    for stem, boxes in BOXES.items():
        np.testing.assert_allclose(seen[stem].xyxy, np.reshape(boxes, (-1, 4)), atol=1e-4)
        names = [found.classes[number] for number in seen[stem].class_id]
        assert names == ["cat", "no"][: len(boxes)]


def test_createml_is_what_apple_documents(dataset: Dataset, tmp_path: Path) -> None:
    """A folder of images and one JSON list; x and y are the centre, in pixels."""
    out = convert({"train": dataset}, tmp_path / "out", "createml").out / "train"
    entries = json.loads((out / "_annotations.createml.json").read_text())
    names = [f"{stem}.jpg" for stem in BOXES]
    assert sorted(p.name for p in out.iterdir()) == ["_annotations.createml.json", *names]
    first = entries[0]["annotations"][0]
    assert entries[0]["image"] == "a.jpg"
    assert first == {"label": "cat", "coordinates": {"x": 9, "y": 7, "width": 10, "height": 10}}


def test_rf_detr_takes_categories_with_a_supercategory_in_train_and_valid(
    dataset: Dataset, tmp_path: Path
) -> None:
    done = convert({"train": dataset, "val": dataset.subset([0])}, tmp_path / "out", "rfdetr")
    assert sorted(p.name for p in done.out.iterdir()) == ["train", "valid"]
    data = json.loads((done.out / "valid" / "_annotations.coco.json").read_text())
    assert all(c.get("supercategory", "none") != "none" for c in data["categories"])
    assert all((done.out / "valid" / image["file_name"]).is_file() for image in data["images"])
    assert done.remarks == ()
    alone = convert(dataset, tmp_path / "alone", "rfdetr")
    assert "there is no valid/" in alone.remarks[0]


TRAIN = """
import sys
from pathlib import Path
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

data = sys.argv[1]
checked = check_det_dataset(data, autodownload=False)
assert checked["names"] == {0: "cat", 1: "no"}, checked["names"]
assert Path(checked["train"]).is_dir() and Path(checked["val"]).is_dir(), checked
YOLO("yolov8n.yaml").train(
    data=data, epochs=1, imgsz=64, batch=2, workers=0, device="cpu", project=sys.argv[2],
    plots=False, val=False, verbose=False, pretrained=False, amp=False, exist_ok=True,
)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
@pytest.mark.parametrize("splits", [["all"], ["train", "val"], ["train", "test"], ["val"]])
def test_ultralytics_trains_on_what_is_written_from_any_folder(
    dataset: Dataset, tmp_path: Path, splits: list[str]
) -> None:
    done = convert(
        dict.fromkeys(splits[:1], dataset) | {name: dataset.subset([0]) for name in splits[1:]},
        tmp_path / "out",
        "yolo",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", TRAIN, str(done.out / "data.yaml"), str(tmp_path / "runs")],
        cwd=elsewhere,
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "YOLO_CONFIG_DIR": str(tmp_path),
            "YOLO_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert list((tmp_path / "runs").rglob("last.pt"))
    labels = {p.name: p.read_text() for p in (done.out / "labels").rglob("*.txt")}
    assert labels["a.txt"].splitlines()[0] == "0 0.225 0.35 0.25 0.5"
    if set(splits) >= {"train", "val"}:
        assert done.remarks == ()
    else:
        assert "since other programs want both train and val" in done.remarks[0]
