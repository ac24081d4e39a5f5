"""Runtimes of fast scoring: torch, OpenVINO, ONNX Runtime."""
