"""The names of the runtimes of fast scoring; light, so that a command line can import them."""

from __future__ import annotations

from typing import Literal, get_args

RuntimeName = Literal["auto", "torch", "openvino", "onnxruntime"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
