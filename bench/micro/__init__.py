"""Benchmarks of the parts, each for every engine that is built, by pytest-benchmark: `python -m bench micro`."""
