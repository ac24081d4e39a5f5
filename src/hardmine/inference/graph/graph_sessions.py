"""Loading graphs: ONNX files on ONNX Runtime, OpenVINO IR on OpenVINO, ``.tflite`` on LiteRT."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from hardmine.device import count_workers
from hardmine.errors import CheckpointError, MissingExtraError
from hardmine.inference.fast_scoring import import_openvino
from hardmine.inference.graph.graph_detector import METADATA_KEY, Port
from hardmine.inference.graph.graph_outputs import Array
from hardmine.inference.graph.tflite_file import (
    import_litert,
    metadata_buffer,
    read_model,
    refuse_compiled,
)

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxSession:
    """An ONNX file on ONNX Runtime."""

    def __init__(self, path: Path, device: str | None = None) -> None:
        self._path, self._device = path.resolve(), device
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError(
                f"{path}: needs onnxruntime; pip install 'hardmine[onnx]'"
            ) from None
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, settings, providers=_providers(onnxruntime, device)
            )
        except Exception as error:  # noqa: BLE001  (the library's errors have no common root)
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: not a readable ONNX file ({reason})") from None
        self.inputs = tuple(_port(path, port) for port in self._session.get_inputs())
        self._outputs = [port.name for port in self._session.get_outputs()]
        self.output_shapes = tuple(
            tuple(side if isinstance(side, int) else None for side in port.shape)
            for port in self._session.get_outputs()
        )
        self.output_names = tuple(self._outputs)
        self.on_cpu = self._session.get_providers()[0] == "CPUExecutionProvider"
        facts = self._session.get_modelmeta().custom_metadata_map
        self.metadata: Mapping[str, str] = dict(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file anew in another process: a loaded graph cannot be sent there."""
        return type(self), (self._path, self._device)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in order."""
        return dict(zip(self._outputs, self._session.run(None, dict(feed)), strict=True))


def _providers(onnxruntime: Any, device: str | None) -> list[str]:
    there = onnxruntime.get_available_providers()
    cuda = device is not None and device.startswith("cuda")
    return [
        *(["CUDAExecutionProvider"] if cuda and "CUDAExecutionProvider" in there else []),
        "CPUExecutionProvider",
    ]


def _port(path: Path, port: Any) -> Port:
    if port.type not in _TYPES:
        raise CheckpointError(f"{path}: input {port.name!r} is {port.type}, which is not supported")
    shape = tuple(side if isinstance(side, int) else None for side in port.shape)
    return Port(port.name, shape, _TYPES[port.type])


class OpenVinoSession:
    """An OpenVINO IR (``.xml`` with its ``.bin``), in float32."""

    on_cpu = True

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        openvino = import_openvino()
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            }
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: not a readable OpenVINO model ({reason})") from None
        self.inputs = tuple(
            Port(
                _name(port, port.node.friendly_name),
                _static(port.get_partial_shape()),
                _numpy_name(port),
            )
            for port in model.inputs
        )
        self._outputs = [_name(port, f"output{i}") for i, port in enumerate(model.outputs)]
        self.output_shapes = tuple(_static(port.get_partial_shape()) for port in model.outputs)
        self.output_names = tuple(self._outputs)
        self._of_thread = threading.local()
        self.metadata: Mapping[str, str] = {**_ultralytics_facts(path), **_rt_info(model)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file anew in another process: a loaded graph cannot be sent there."""
        return type(self), (self._path,)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in order."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        found = self._of_thread.request.infer(dict(feed))
        values = [np.array(found[i]) for i in range(len(self._outputs))]
        return dict(zip(self._outputs, values, strict=True))


class LiteRtSession:
    """A ``.tflite`` file on LiteRT (XNNPACK on a CPU), by as many threads as torch or ``--workers`` has.

    Quantised outputs come back as the numbers that they stand for. A ``uint8`` input takes pixels as
    they are; other quantised inputs are named ``float32`` here and take numbers, which are quantised.
    """

    on_cpu = True

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        runtime = import_litert(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        model = read_model(path)
        refuse_compiled(path, model)
        try:
            self._interpreter = runtime.Interpreter(
                model_path=str(path), num_threads=count_workers(torch.get_num_threads())
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: LiteRT cannot run it ({reason})") from None
        self._turn = threading.Lock()
        self._inputs = self._interpreter.get_input_details()
        found = self._interpreter.get_output_details()
        self._outputs = dict(zip(_unlike([port["name"] for port in found]), found, strict=True))
        self.inputs = tuple(_litert_port(port) for port in self._inputs)
        self.output_names = tuple(self._outputs)
        self.output_shapes = tuple(tuple(map(int, port["shape"])) for port in found)
        own = metadata_buffer(model, METADATA_KEY)
        self.metadata: Mapping[str, str] = {} if own is None else {METADATA_KEY: own.decode()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file anew in another process: a loaded graph cannot be sent there."""
        return type(self), (self._path,)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in order; one caller at a time."""
        with self._turn:
            for port in self._inputs:
                self._interpreter.set_tensor(
                    port["index"], _quantised(feed[str(port["name"])], port)
                )
            self._interpreter.invoke()
            return {
                name: _numbers(self._interpreter.get_tensor(port["index"]), port)
                for name, port in self._outputs.items()
            }


def _unlike(names: Sequence[str]) -> list[str]:
    """Return names, each once: converters give several outputs the same one."""
    return [name if names.count(name) == 1 else f"{name}#{i}" for i, name in enumerate(names)]


def _litert_port(port: Mapping[str, Any]) -> Port:
    kind = np.dtype(port["dtype"]).name
    scaled = kind != "uint8" and port["quantization"][0] > 0
    return Port(
        str(port["name"]), tuple(map(int, port["shape"])), "float32" if scaled else str(kind)
    )


def _quantised(values: Array, port: Mapping[str, Any]) -> Array:
    scale, zero = port["quantization"]
    if values.dtype == port["dtype"] or scale == 0:
        return values.astype(port["dtype"], copy=False)
    limits = np.iinfo(port["dtype"])
    whole = np.round(values / scale) + zero
    return np.asarray(np.clip(whole, limits.min, limits.max), port["dtype"])


def _numbers(values: Array, port: Mapping[str, Any]) -> Array:
    scale, zero = port["quantization"]
    if scale == 0 or values.dtype.kind == "f":
        return values
    return np.asarray((values.astype(np.float32) - zero) * scale, np.float32)


def _name(port: Any, otherwise: str) -> str:
    """Return the name of an input or output; a converter may have given it none."""
    return str(port.get_any_name()) if port.get_names() else otherwise


def _static(shape: Any) -> tuple[int | None, ...]:
    if shape.rank.is_dynamic:
        return ()
    return tuple(side.get_length() if side.is_static else None for side in shape)


def _numpy_name(port: Any) -> str:
    return str(np.dtype(port.get_element_type().to_dtype()))


def _ultralytics_facts(path: Path) -> dict[str, str]:
    """Return what Ultralytics writes beside an OpenVINO model and into an ONNX file, in one form."""
    beside = path.with_name("metadata.yaml")
    try:
        facts = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if not isinstance(facts, dict) or "names" not in facts:
        return {}
    return {str(key): str(value) for key, value in facts.items()}


def _rt_info(model: Any) -> dict[str, str]:
    if not model.has_rt_info(["hardmine"]):
        return {}
    return {"hardmine": str(model.get_rt_info(["hardmine"]).astype(str))}
