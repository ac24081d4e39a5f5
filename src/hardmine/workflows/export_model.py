"""Exporting a checkpoint, and showing that the export gives what the checkpoint gives."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardmine.errors import ConfigError, DataError
from hardmine.option_fields import split_settings, takes_options
from hardmine.types import Dataset, evenly_spread
from hardmine.workflows.image_sets import load_val
from hardmine.workflows.step_cache import Notify, silent
from hardmine.workflows.train_options import DataOptions, ExportOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hardmine.inference.checkpoint_detector import TorchDetector
    from hardmine.inference.detector import Detector
    from hardmine.inference.export import Parity

Target = Literal["onnx", "openvino", "litert"]
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}

COMPARED_FROM = 0.05
"""Detections below this score may differ: NMS inside a graph has no limit on its candidates."""

_log = logging.getLogger("hardmine")
_COMPARED = 32
_CALIBRATED = 128


@dataclass(frozen=True)
class ExportResult:
    """Where the export is and how it compares with torch; ``ap`` and ``ap50`` are (torch, export).

    ``parity`` is none when there were no images to compare on.
    """

    path: Path
    megabytes: float
    parity: Parity | None
    ap: tuple[float | None, float | None] | None
    ap50: tuple[float | None, float | None] | None


@takes_options(ExportOptions)
def export(
    checkpoint: Path | str,
    *,
    to: Target = "onnx",
    out: Path | str | None = None,
    progress: Notify | None = None,
    options: ExportOptions | None = None,
) -> ExportResult:
    """Write a checkpoint as ONNX, OpenVINO or LiteRT (``.tflite``) and compare the result with torch.

    Args:
        checkpoint: weights or their run folder; SSDs only. ``run+decode.nms_iou=0.6`` exports another
            decoder than the recipe's.
        to: the format to write.
        out: the file; beside the checkpoint when not given.
        progress: called with (what, done, total).
        options: what is in the graph and what it is compared on; each of its fields is also a keyword.

    Raises:
        ConfigError: not an SSD, or int8 without images to calibrate on.
        MissingExtraError: onnx, onnxscript, openvino or litert-torch is not installed.

    Example:
        >>> run = hardmine.train("shelf", val=0.25, recipe="tiny.yaml", out="first", draws=20)
        >>> hardmine.export(run.checkpoint, to="onnx").path.name
        'last.onnx'
        >>> hardmine.export("first", to="onnx", out="model.onnx").path.name
        'model.onnx'
    """
    how, tell = options or ExportOptions(), progress or silent
    file, settings = split_settings(str(checkpoint))
    detector = _ssd(Path(file), settings)
    path = Path(out or _beside(Path(file), to, int8=how.int8)).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        pictures = (
            [] if how.calibrate is None else calibration_pictures(how.calibrate, Path(unpacked))
        )
        return _export(detector, path, to, how, pictures, tell)


def _export(
    detector: TorchDetector,
    path: Path,
    to: Target,
    how: ExportOptions,
    pictures: Sequence[Path],
    tell: Notify,
) -> ExportResult:
    from hardmine.inference.load_detector import load_detector

    data = how.data
    tell("export", 0, 1)
    _write(detector, path, to, how, pictures)
    tell("export", 1, 1)
    exported = load_detector(path, "cpu")
    files = (path, path.with_suffix(".bin")) if to == "openvino" else (path,)
    size = sum(file.stat().st_size for file in files) / 1e6
    if data is not None:
        val = load_val(data, detector.categories, DataOptions(how.images))
        return _with_ap(path, size, detector, exported, val, tell)
    shown = [pictures[place] for place in evenly_spread(len(pictures), _COMPARED)]
    parity = _parity(detector, exported, shown, tell) if shown else None
    return ExportResult(path, size, parity, None, None)


def _write(
    detector: TorchDetector, path: Path, to: Target, how: ExportOptions, calibration: Sequence[Path]
) -> None:
    from hardmine.inference.export import describe, export_onnx, onnx_to_openvino, quantize_onnx

    with_nms, int8 = how.with_nms, how.int8

    def batches() -> Iterator[NDArray[np.uint8]]:
        return _canvases(detector, calibration)

    if to == "litert":
        from hardmine.inference.litert_export import export_litert

        export_litert(detector, path, with_nms=with_nms, calibrate=batches if int8 else None)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        last = small if int8 else whole
        export_onnx(detector, path if to == "onnx" and not int8 else whole, with_nms=with_nms)
        if int8:
            quantize_onnx(whole, path if to == "onnx" else small, batches)
        if to == "openvino":
            facts = json.dumps(describe(detector, with_nms=with_nms))
            onnx_to_openvino(last, path, facts)


def _ssd(checkpoint: Path, settings: Sequence[str]) -> TorchDetector:
    from hardmine.inference.checkpoint_detector import TorchDetector, load_checkpoint_detector

    detector = load_checkpoint_detector(checkpoint, "cpu", settings=settings)
    if not isinstance(detector, TorchDetector):
        raise ConfigError(f"{checkpoint}: only SSD networks can be exported, not torchvision's own")
    return detector


def _beside(checkpoint: Path, to: Target, *, int8: bool) -> Path:
    base = checkpoint / "last" if checkpoint.is_dir() else checkpoint.with_suffix("")
    return base.with_name(f"{base.name}{'-int8' if int8 else ''}{SUFFIXES[to]}")


def calibration_pictures(pool: Path | str, unpack_to: Path) -> list[Path]:
    """Return up to 128 images of a folder, or of whatever else may be a pool, evenly spread.

    Those among them that cannot be read are named and left out.

    Raises:
        DataError: there is no such pool, or no image in it that can be read.
    """
    from hardmine.data.images import read_picture
    from hardmine.mining.sources.local_files import load_pool

    data = load_pool(pool, unpack_to)
    faults, good = [str(problem) for problem in data.problems], []
    for place in evenly_spread(len(data), _CALIBRATED):
        try:
            read_picture(data.records[place].path)
        except DataError as error:
            faults.append(str(error))
        else:
            good.append(data.records[place].path)
    if not good:
        raise DataError(f"{pool}: no image in it that can be read (the first: {faults[0]})")
    if faults:
        _log.warning("%s: left out %d (the first: %s)", pool, len(faults), faults[0])
    return good


def _canvases(detector: TorchDetector, paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    import numpy as np

    from hardmine.data.images import read_picture

    for path in paths:
        canvas, _ = detector.resize.apply(read_picture(path, detector.resize.decoded_cover))
        yield np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])


def _parity(detector: Detector, exported: Detector, paths: Sequence[Path], tell: Notify) -> Parity:
    from hardmine.inference.export import compare

    a, b = (_detect(d, paths, tell) for d in (detector, exported))
    return compare(a, b, COMPARED_FROM)


def _detect(detector: Detector, paths: Sequence[Path], tell: Notify) -> Any:
    from hardmine.inference.predict import detect_images

    return detect_images(detector, paths, progress=lambda done, of: tell("compare", done, of))


def _with_ap(
    path: Path,
    size: float,
    detector: Detector,
    exported: Detector,
    val: Dataset,
    tell: Notify,
) -> ExportResult:
    from hardmine.evaluation.average_precision import average_precision
    from hardmine.evaluation.scored_images import Scored
    from hardmine.inference.export import compare

    paths = [record.path for record in val.records]
    found = [_detect(d, paths, tell) for d in (detector, exported)]
    before, after = (average_precision(Scored(val, tuple(f))) for f in found)
    return ExportResult(
        path,
        size,
        compare(found[0], found[1], COMPARED_FROM),
        (before.ap, after.ap),
        (before.ap50, after.ap50),
    )


def check_detector(
    detector: Detector, pool: Path | str, reference: Path, *, classes: Path | None, min_score: float
) -> Parity:
    """Compare a detector with the detections that its own framework gives.

    Args:
        pool: a folder of images, or whatever else may be a pool; those that the reference names are
            looked at.
        reference: a predictions file in any form that Hardmine reads.
        classes: the reference's class names, where it has numbers only.

    Raises:
        DataError: the reference names none of the images, or other classes.
    """
    from hardmine.inference.class_names import require_classes
    from hardmine.inference.export import compare
    from hardmine.inference.predict import detect_images
    from hardmine.inference.predictions_file import load_predictions
    from hardmine.mining.sources.local_files import load_pool

    wanted = load_predictions(reference, classes or detector.categories)
    require_classes(detector.categories, wanted.categories, str(reference), who="the reference")
    with tempfile.TemporaryDirectory() as unpacked:
        images = load_pool(pool, Path(unpacked))
        paths = [record.path for record in images.records if wanted.names(record.path)]
        if not paths:
            named = next(iter(wanted.by_name), "nothing")
            raise DataError(f"{reference}: names no image of {pool} (it names {named!r})")
        return compare(wanted.detect_images(paths), detect_images(detector, paths), min_score)
