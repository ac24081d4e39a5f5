"""Does ``missing_labels.csv`` find labels that were hidden? Measured on real photographs of cards.

    python -m benchmarks.hidden_labels --data SETS [--set cards] [--share .1] [--seeds N …] [--epochs N]
        [--model NAME] [--weights FILE] [--out DIR] [--results FILE]

``SETS`` is the folder that ``benchmarks.trial_sets`` made. A share of all labels is left out, never the
last one of an image; a detector is trained on the rest, and ``hardmine diagnose`` lists the places that
look like objects without a label. Prints recall (hidden labels that are on the list, by IoU >= .5) and
precision (places of the list that are hidden labels): of the whole list, and of its first part for each
length, because the list is in order. Trained runs are kept in the folder and found again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardmine.data.formats.coco_writing import write_coco
from hardmine.data.load_dataset import load_dataset
from hardmine.device import describe_machine
from hardmine.diagnosis.diagnose import diagnose
from hardmine.diagnosis.diagnosis_result import Diagnosis
from hardmine.diagnosis.hypotheses import missing_labels
from hardmine.files import write_json
from hardmine.numpy_boxes import box_iou
from hardmine.types import Dataset, ImageRecord, Mask
from hardmine.workflows.train_and_evaluate import train

RESULTS = Path(__file__).parent / "results"
SAME, MET = 0.99, 0.5
"""IoU from which a label is one of the run's own, and from which a place is a hidden label."""


@dataclass(frozen=True)
class Listed:
    """A list of places against the labels that were hidden; ``right`` is in the order of the list."""

    hidden: int
    right: tuple[bool, ...]
    found: tuple[int, ...]
    """How many different hidden labels the first 1, 2, … places have found."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the whole list, and of its first parts of a few lengths."""
        total = len(self.right)
        lengths = sorted({max(1, total * part // 4) for part in (1, 2, 3, 4)}) if total else []
        return {
            "hidden": self.hidden,
            "listed": total,
            "precision": sum(self.right) / max(1, total),
            "recall": (self.found[-1] if total else 0) / max(1, self.hidden),
            "first": [
                {
                    "places": n,
                    "precision": sum(self.right[:n]) / n,
                    "recall": self.found[n - 1] / max(1, self.hidden),
                }
                for n in lengths
            ],
        }


def hide_share(data: Dataset, share: float, seed: int) -> Dataset:
    """Leave out a share of all labels, drawn by chance; the last label of an image stays."""
    rng = np.random.default_rng(seed)
    places = [(i, k) for i, record in enumerate(data.records) for k in range(len(record.labels))]
    wanted = round(share * len(places))
    gone: dict[int, set[int]] = {}
    for place in rng.permutation(len(places)).tolist():
        image, box = places[place]
        if wanted and len(gone.get(image, ())) < len(data.records[image].labels) - 1:
            gone.setdefault(image, set()).add(box)
            wanted -= 1
    records = [
        keep_labels(record, [k not in gone.get(index, ()) for k in range(len(record.labels))])
        for index, record in enumerate(data.records)
    ]
    return data.with_records(records)


def keep_labels(record: ImageRecord, keep: Sequence[bool] | Mask) -> ImageRecord:
    """Return an image with those of its labels for which ``keep`` is true."""
    mask = np.asarray(keep, bool)
    return replace(
        record, boxes=record.boxes[mask], labels=record.labels[mask], ignore=record.ignore[mask]
    )


def found_again(found: Diagnosis, whole: Dataset) -> Listed:
    """Compare the list of a diagnosis with all labels; images are found by their file name."""
    evidence = found.evidence
    assert evidence is not None
    assert evidence.data is not None
    assert evidence.train is not None
    kept = evidence.data.subset(lambda record: len(record.labels) > 0)
    truth = {record.path.name: record for record in whole.records}
    hidden = sum(len(truth[r.path.name].labels) - len(r.labels) for r in kept.records)
    met: set[tuple[str, int]] = set()
    right: list[bool] = []
    counts: list[int] = []
    for each in missing_labels(evidence.train):
        record = kept.records[each.image]
        boxes = truth[record.path.name].boxes.astype(np.float64)
        there = box_iou(boxes, record.boxes.astype(np.float64))
        gone = there.max(1) < SAME if there.shape[1] else np.ones(len(boxes), bool)
        iou = np.where(gone, box_iou(boxes, each.box[None].astype(np.float64))[:, 0], 0.0)
        right.append(bool(iou.max() >= MET))
        if right[-1]:
            met.add((record.path.name, int(iou.argmax())))
        counts.append(len(met))
    return Listed(hidden, tuple(right), tuple(counts))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="cards")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--model", default="ssdlite320_mobilenet_v2")
    parser.add_argument("--weights")
    parser.add_argument("--out", type=Path, default=Path("runs/hidden-labels"))
    parser.add_argument("--results", type=Path, default=RESULTS / "hidden_labels.json")
    options = parser.parse_args(argv)
    folder, out = options.data / options.set, options.out.resolve()
    # A COCO file names images beside it only, so the images are copied beside the new label files.
    shutil.copytree(folder / "train", out / "train", dirs_exist_ok=True)
    shutil.copy(folder / "train.coco.json", out / "all.coco.json")
    whole, rows = load_dataset(out / "all.coco.json"), []
    for seed in options.seeds:
        part = out / f"{options.set}-{seed}.coco.json"
        write_coco(hide_share(whole, options.share, seed), part)
        run = out / f"{options.set}-{seed}"
        train(
            part,
            val=folder / "val.coco.json",
            model=options.model,
            epochs=options.epochs,
            weights=options.weights,
            out=run,
            seed=seed,
            draws=10,
            validate=0,
            resume=True,
        )
        found = diagnose(run)
        row = {"share": options.share, "seed": seed, **found_again(found, whole).to_dict()}
        row["said"] = [
            [each.hypothesis.key, each.verdict.answer.value, each.verdict.effect]
            for each in found.findings
        ]
        rows.append(row)
        print(
            f"seed {seed}: {row['hidden']} hidden, {row['listed']} listed, precision "
            f"{row['precision']:.2f}, recall {row['recall']:.2f}; {row['first']}; "
            f"causes {found.causes}",
            flush=True,
        )
    how = {name: str(value) for name, value in vars(options).items()}
    write_json(options.results, {"machine": describe_machine(), "how": how, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
