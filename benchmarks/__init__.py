"""Side-by-side measurements: each module is one benchmark, ``python -m benchmarks.NAME``."""
