"""Reading COCO annotations of the size of instances_train2017: seconds and peak memory.

    python -m benchmarks.read_coco [--images N] [--boxes N] [--rounds N] [--folder DIR]

Writes a synthetic file with outlines (about 500 MB) and empty image files into a temporary folder,
then reads it in fresh processes, ours and pycocotools in turn. No image is opened: the file gives
the sizes. Writes ``benchmarks/results/read_coco.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from hardmine.device import describe_machine
from hardmine.files import write_json

RESULT = Path(__file__).parent / "results" / "read_coco.json"
GOALS = {"seconds": 6.0, "peak_mb": 1500.0}
SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375))
CLASSES = 80
OUTLINES = 997
"""Different outlines, drawn once and used in turn."""

_READ = """
import resource, sys, time
wall, cpu = time.perf_counter(), time.process_time()
{body}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(wall, cpu, peak, images, boxes)
"""
_OURS = """
from hardmine.data.load import load_dataset
dataset = load_dataset(sys.argv[1])
images, boxes = len(dataset), sum(len(record.labels) for record in dataset.records)
"""
_PYCOCOTOOLS = """
import contextlib, io
from pycocotools.coco import COCO
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(sys.argv[1])
images, boxes = len(coco.imgs), len(coco.anns)
"""


def write_annotations(folder: Path, images: int, boxes: int, seed: int = 0) -> Path:
    """Write the file and its (empty) images; the same for the same seed."""
    rng = np.random.default_rng(seed)
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "instances_train2017.json"
    ids = rng.permutation(5 * images)[:images].tolist()
    shapes = rng.integers(0, len(SIZES), images)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for index, (number, shape) in enumerate(zip(ids, shapes.tolist(), strict=True)):
            name = f"{number:012d}.jpg"
            (folder / "train2017" / name).touch()
            width, height = SIZES[shape]
            entry = {"license": 3, "file_name": name, "height": height, "width": width}
            url = f"http://images.cocodataset.org/train2017/{name}"
            entry |= {"coco_url": url, "date_captured": "2013-11-14 11:18:45", "id": number}
            file.write((", " if index else "") + json.dumps(entry))
        file.write('], "annotations": [')
        _write_boxes(file, rng, ids, np.array(SIZES)[shapes], boxes)
        classes = [{"supercategory": "thing", "id": i, "name": f"c{i}"} for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(classes)}}}')
    return path


def _write_boxes(file, rng, ids, sizes, boxes: int) -> None:
    outlines = [
        json.dumps([np.round(rng.random(2 * int(k)) * 400, 2).tolist()])
        for k in rng.integers(4, 52, OUTLINES)
    ]
    owner = rng.integers(0, len(ids), boxes)
    size = sizes[owner]
    extent = np.maximum(2, size * rng.random((boxes, 2)) ** 2)
    low = (size - extent) * rng.random((boxes, 2))
    numbers = np.round(np.concatenate([low, extent], axis=1), 2).tolist()
    classes = rng.integers(1, CLASSES + 1, boxes).tolist()
    for index, (image, box, label) in enumerate(zip(owner.tolist(), numbers, classes, strict=True)):
        area = round(box[2] * box[3], 4)
        file.write(
            f'{", " if index else ""}{{"segmentation": {outlines[index % OUTLINES]}, '
            f'"area": {area}, "iscrowd": 0, "image_id": {ids[image]}, "bbox": {box}, '
            f'"category_id": {label}, "id": {index + 1}}}'
        )


def read_once(body: str, path: Path) -> dict[str, float]:
    """Read the file in a fresh process; imports are counted in."""
    code = _READ.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    wall, cpu, peak, images, boxes = map(float, done.stdout.split())
    return {"wall": wall, "cpu": cpu, "peak_mb": peak, "images": images, "boxes": boxes}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="for the temporary files")
    options = parser.parse_args(argv)
    runs: dict[str, list[dict[str, float]]] = {"hardmine": [], "pycocotools": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = write_annotations(Path(folder) / "coco", options.images, options.boxes)
        size_mb = path.stat().st_size / 2**20
        for _ in range(options.rounds):
            runs["hardmine"].append(read_once(_OURS, path))
            runs["pycocotools"].append(read_once(_PYCOCOTOOLS, path))
    assert all(run["images"] == options.images for run in runs["hardmine"])
    middle = {
        name: {key: median(run[key] for run in found) for key in ("wall", "cpu", "peak_mb")}
        for name, found in runs.items()
    }
    ours = middle["hardmine"]
    ratio = middle["pycocotools"]["wall"] / ours["wall"]
    machine = describe_machine()
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    print(f"{options.images} images, {options.boxes} boxes, {size_mb:.0f} MB; imports counted in")
    for name, values in middle.items():
        print(
            f"{name}: {values['wall']:.2f} s ({values['cpu']:.2f} s of CPU), peak "
            f"{values['peak_mb']:.0f} MB"
        )
    print(f"pycocotools / hardmine: {ratio:.1f}")
    reached = ours["wall"] < GOALS["seconds"] and ours["peak_mb"] < GOALS["peak_mb"]
    print(f"goals {GOALS}: {'reached' if reached else 'missed'}")
    write_json(
        RESULT,
        {
            "machine": machine,
            "file_mb": size_mb,
            "seed": 0,
            "median": middle,
            "runs": runs,
            "pycocotools_over_hardmine": ratio,
            "goals": GOALS,
            "reached": reached,
        },
    )
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
