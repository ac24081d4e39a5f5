"""Drawn sets that the benchmarks use besides the demo's."""
