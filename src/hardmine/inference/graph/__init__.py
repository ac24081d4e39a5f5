"""Graphs of any origin (ONNX, OpenVINO) as detectors."""
