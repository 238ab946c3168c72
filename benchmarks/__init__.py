"""Benchmarks: `python -m benchmarks [name ...]`; each module has NAME and `run(quick) -> rows`."""
