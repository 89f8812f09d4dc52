"""Measurements, not tests: what they find and on which machine is in docs/benchmarks.md."""
