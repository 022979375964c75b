"""Measurements of speed and memory. Run as modules from the repository root; benchmarks/README.md says how."""
