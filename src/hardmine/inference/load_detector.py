"""One line of text that names any detector."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.errors import NOTICE, CheckpointError, ConfigError
from hardmine.files import peek_text
from hardmine.option_fields import split_settings

if TYPE_CHECKING:
    from hardmine.inference.predict import LoadedDetector

FORMS = (
    "weights (.safetensors) or a run folder, [+decode.KEY=VALUE]; best.pt of Ultralytics; "
    "a Hugging Face folder or hf:NAME; rfdetr:PATH; libreyolo:PATH; "
    "model.onnx[:PRESET|YAML]; model.xml (OpenVINO); model.tflite; "
    "torchvision:NAME[:WEIGHTS|none][@SIDE]; predictions (.json, .csv, or a folder of .json or .txt)"
)

_log = logging.getLogger("hardmine")
PREDICTION_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_OF_A_RUN = ("last.safetensors", "recipe.yaml", "metrics.json")
_TORCHVISION = re.compile(r"torchvision:(?P<name>\w+)(:(?P<weights>.+?))?(@(?P<side>\d+))?")
_FRAMEWORK = re.compile(r"(?P<kind>ultralytics|hf|rfdetr|libreyolo):(?P<path>.+?)(@(?P<side>\d+))?")
_PYTORCH = re.compile(r"(?P<path>.+?\.(pt|pth|ckpt))(@(?P<side>\d+))?", re.IGNORECASE)
_GRAPH = re.compile(
    r"(?P<path>.+?\.(onnx|xml|tflite))(:(?P<how>.+?))?(@(?P<side>\d+))?", re.IGNORECASE
)


def load_detector(
    spec: str | Path,
    device: str | None = None,
    *,
    classes: Path | str | Sequence[str] | None = None,
    fallback: Sequence[str] = (),
) -> LoadedDetector:
    """Return the detector that a line of text names.

    Args:
        spec: one of

            - ``run/last.safetensors`` or the run folder: our own checkpoint;
              ``run+decode.nms_iou=0.6`` decodes it with other settings than its recipe's, without a
              new training;
            - ``torchvision:fasterrcnn_resnet50_fpn[:WEIGHTS|none][@SIDE]``: a state dict's path,
              ``none`` (random, the default), or a name that torchvision downloads;
            - ``model.onnx`` (described by ``model.yaml`` beside it, or recognised by its own marks),
              ``model.onnx:yolov8`` (a preset) or ``model.onnx:other.yaml``, with ``@SIDE`` at the
              end where it takes any size; ``.xml`` and ``.tflite`` likewise;
            - ``best.pt[@SIDE]`` of Ultralytics, or ``ultralytics:PATH[@SIDE]``: run by the package
              ``ultralytics`` that the user installed;
            - a folder that ``save_pretrained`` of ``transformers`` wrote, or ``hf:NAME`` of the hub;
            - ``rfdetr:PATH``, ``libreyolo:PATH[@SIDE]``: run by these packages; a ``.pth`` of theirs
              and a plain state dict of one of torchvision's networks are recognised by the content;
            - a folder with one such file (OpenVINO's of Ultralytics), or a training of Ultralytics
              (``runs/detect/train``), of which ``weights/best.pt`` is taken;
            - ``detections.json``, ``.csv``, or a folder of json or YOLO text files: no model, only its
              answers.
        device: a torch device; chosen when not given.
        classes: class names, or a file with them, over those that the model brings.
        fallback: class names for a model that brings none.

    Returns:
        LoadedDetector: with ``predict(image, score_threshold=…)``, ``categories`` and ``model_id``.

    Raises:
        CheckpointError: missing, unreadable or not as described.
        ConfigError: no such form, settings for a detector that has none, or nothing says what the
            outputs or the classes are.
        MissingExtraError: the model's runtime or its framework is not installed.

    Example:
        >>> detector = hardmine.load_detector("shelf/predictions.json")
        >>> detector.categories
        ('bottle', 'can')
        >>> detector.predict("shelf/images/00.png", score_threshold=0.5)
        Detections(1: bottle 0.90)
    """
    text, settings = split_settings(str(spec))
    classes = Path(classes) if isinstance(classes, str) else classes
    if settings:
        return _with_settings(text, settings, device, classes)
    found = _TORCHVISION.fullmatch(text)
    if found:
        return _torchvision(found, device, classes or fallback or None)
    if text.startswith("torchvision:"):
        raise ConfigError(f"{text}: wanted torchvision:NAME[:WEIGHTS|none][@SIDE]")
    graph = _GRAPH.fullmatch(text)
    if graph:
        side = None if graph["side"] is None else int(graph["side"])
        return _graph(Path(graph["path"]), graph["how"], side, device, classes, fallback)
    framework = _FRAMEWORK.fullmatch(text)
    if framework:
        return _framework(framework["kind"], framework["path"], framework["side"], device, classes)
    weights = _PYTORCH.fullmatch(text)
    if weights and Path(weights["path"]).is_file():
        return _pytorch(Path(weights["path"]), weights["side"], device, classes, fallback)
    path = Path(text)
    if not path.exists():
        raise CheckpointError(f"{text}: no such file; wanted {FORMS}")
    if path.is_dir() and _is_huggingface(path):
        return _framework("hf", text, None, device, classes)
    if path.is_dir() and (inner := _predictions_inside(path)) is not None:
        path = inner
    if path.suffix.lower() in PREDICTION_SUFFIXES or _holds_predictions(path):
        from hardmine.inference.predictions_file import load_predictions

        return load_predictions(path, classes or fallback or None)
    if path.is_dir() and not _is_of_a_run(path):
        inside = _model_inside(path)
        return load_detector(inside, device, classes=classes, fallback=fallback)
    from hardmine.inference.checkpoint_detector import load_checkpoint_detector

    return load_checkpoint_detector(path, device, _names(classes))


def named_path(spec: str) -> Path | None:
    """Return the file that a line names, or nothing for a model without one."""
    spec, _ = split_settings(spec)
    if spec.startswith("torchvision:"):
        return None
    framework = _FRAMEWORK.fullmatch(spec)
    if framework and framework["kind"] == "hf":
        return None  # it may be a name on the hub
    found = _GRAPH.fullmatch(spec) or framework or _PYTORCH.fullmatch(spec)
    return Path(found["path"] if found else spec)


def _with_settings(
    text: str,
    settings: Sequence[str],
    device: str | None,
    classes: Path | Sequence[str] | None,
) -> LoadedDetector:
    """Load a checkpoint of ours with another decoder; nothing else has settings to lay over."""
    from hardmine.inference.checkpoint_detector import load_checkpoint_detector
    from hardmine.recipes.checkpoint import find_checkpoint

    path = named_path(text)
    if path is not None and not path.exists():
        raise CheckpointError(f"{text}: no such file; wanted {FORMS}")
    if path is None or not find_checkpoint(path).name.endswith(".safetensors"):
        raise ConfigError(
            f"{text}: got +{settings[0]}, which only weights (.safetensors) or a run of Hardmine take"
        )
    return load_checkpoint_detector(path, device, _names(classes), settings)


def _framework(
    kind: str,
    path: str,
    side: str | None,
    device: str | None,
    classes: Path | Sequence[str] | None,
) -> LoadedDetector:
    from hardmine.device import choose_device

    where, names = choose_device(device), _names(classes)
    pixels = None if side is None else int(side)
    if pixels is not None and kind in ("hf", "rfdetr"):
        raise ConfigError(f"{kind}:{path}@{side}: has an image size of its own; leave out @{side}")
    match kind:
        case "ultralytics":
            from hardmine.inference.framework_detectors import load_ultralytics

            return load_ultralytics(Path(path), where, classes=names, side=pixels)
        case "libreyolo":
            from hardmine.inference.framework_detectors import load_libreyolo

            return load_libreyolo(Path(path), where, classes=names, side=pixels)
        case "rfdetr":
            from hardmine.inference.framework_detectors import load_rfdetr

            return load_rfdetr(Path(path), where, classes=names)
        case _:
            from hardmine.inference.framework_detectors import load_huggingface

            return load_huggingface(path, where, classes=names)


def _pytorch(
    path: Path,
    side: str | None,
    device: str | None,
    classes: Path | Sequence[str] | None,
    fallback: Sequence[str],
) -> LoadedDetector:
    """Load a ``.pt`` or ``.pth`` by what its content says of its origin."""
    from hardmine.inference.torchvision_detector import TorchvisionWeights, whose_weights

    maker = whose_weights(path)
    if isinstance(maker, TorchvisionWeights):
        _log.log(NOTICE, "%s: recognised as torchvision's %s", path, maker.name)
        end = "" if side is None else f"@{side}"
        found = _TORCHVISION.fullmatch(f"torchvision:{maker.name}:{path}{end}")
        assert found is not None
        names = _names(classes if classes is not None else fallback or None)
        if names is None and maker.num_classes != _COCO:
            raise ConfigError(
                f"{path}: weights of {maker.name} for {maker.num_classes} classes; name them with "
                "--classes FILE, one name a line"
            )
        return _torchvision(found, device, names)
    if maker is not None:
        return _framework(maker, str(path), side, device, classes)
    from hardmine.inference.checkpoint_detector import load_checkpoint_detector

    return load_checkpoint_detector(path, device)  # which says what it is


_COCO = 90
"""Classes of torchvision's published weights, gaps included."""


def _is_huggingface(path: Path) -> bool:
    from hardmine.inference.framework_detectors import is_huggingface

    return is_huggingface(path)


def _torchvision(
    found: re.Match[str], device: str | None, classes: Path | Sequence[str] | None
) -> LoadedDetector:
    from hardmine.device import choose_device
    from hardmine.inference.torchvision_detector import load_torchvision

    side = None if found["side"] is None else int(found["side"])
    return load_torchvision(
        found["name"],
        found["weights"] or "none",
        choose_device(device),
        classes=_names(classes),
        side=side,
    )


def _graph(
    path: Path,
    how: str | None,
    side: int | None,
    device: str | None,
    classes: Path | Sequence[str] | None,
    fallback: Sequence[str],
) -> LoadedDetector:
    from hardmine.inference.graph.graph_detector import Session, open_graph
    from hardmine.inference.graph.graph_sessions import LiteRtSession, OnnxSession, OpenVinoSession
    from hardmine.inference.graph.tflite_file import read_label_map

    session: Session
    names = classes
    match path.suffix.lower():
        case ".onnx":
            session = OnnxSession(path, device)
        case ".tflite":
            session = LiteRtSession(path)
            names = read_label_map(classes) if isinstance(classes, Path) else classes
        case _:
            _refuse_other_xml(path)
            session = OpenVinoSession(path)
    return open_graph(session, path, how, _names(names), fallback, side=side)


def _refuse_other_xml(path: Path) -> None:
    """Refuse an XML file that is no model of OpenVINO, and say what it looks like."""
    head = peek_text(path, 4096)
    if not head or re.search(r"<net[\s>]", head):
        return
    labels = re.search(r"<annotation(s?)[\s/>]", head)
    start = re.sub(r"<\?.*?\?>", "", head, flags=re.DOTALL).strip().partition("\n")[0][:60]
    looks = f"a text that begins {start!r}"
    if labels:
        looks = "labels of CVAT" if labels[1] else "a label of Pascal VOC"
        looks += ", which belong to the images (DATA) and are no detector"
    raise CheckpointError(f"{path}: no model of OpenVINO; it looks like {looks}")


def _names(classes: Path | Sequence[str] | None) -> tuple[str, ...] | None:
    from hardmine.inference.class_names import read_classes

    if classes is None:
        return None
    return read_classes(classes) if isinstance(classes, Path) else tuple(classes)


def _is_of_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in _OF_A_RUN)


def _model_inside(folder: Path) -> Path:
    """Return the one model that a folder holds, or ``weights/best.pt`` of a training of Ultralytics.

    Raises:
        CheckpointError: it holds none, or several.
    """
    best = folder / "weights" / "best.pt"
    found = [best] if best.is_file() else sorted(p for p in folder.iterdir() if _names_model(p))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(
            f"{folder}: a folder with {len(found)} models ({names}); name one of them"
        )
    text = next(iter(sorted(folder.glob("*.txt"))), None)
    line = "" if text is None else peek_text(text, 80).partition("\n")[0]
    said = f" (its {text.name} begins {line!r})" if text is not None else ""
    raise CheckpointError(
        f"{folder}: a folder without a model or predictions{said}; wanted {FORMS}"
    )


def _names_model(path: Path) -> bool:
    name = path.name
    return path.is_file() and bool(_GRAPH.fullmatch(name) or _PYTORCH.fullmatch(name))


def _predictions_inside(folder: Path) -> Path | None:
    """Return where Ultralytics (``labels/``) or mmdetection (``preds/``) put predictions."""
    if _is_of_a_run(folder) or _holds_predictions(folder):
        return None
    found = [folder / name for name in ("labels", "preds") if (folder / name).is_dir()]
    return next((place for place in found if _holds_predictions(place)), None)


def _holds_predictions(path: Path) -> bool:
    """True for a file of predictions, or a folder of them (json or text) without weights in it."""
    from hardmine.inference.prediction_programs import is_prediction_texts

    if path.is_file():
        from hardmine.inference.predictions_file import looks_like_predictions

        return looks_like_predictions(path)
    if _is_of_a_run(path):
        return False
    return any(path.glob("*.json")) or is_prediction_texts(path)


def __getattr__(name: str) -> Any:
    if name == "open_detector":
        warnings.warn("open_detector is now load_detector", DeprecationWarning, stacklevel=2)
        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
