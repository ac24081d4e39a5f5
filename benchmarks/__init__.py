"""Benchmarks: each prints its machine and versions and writes a JSON result."""
