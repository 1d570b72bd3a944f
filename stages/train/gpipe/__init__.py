"""Pipeline parallelism: a network cut into stages that work on micro-batches (arXiv 1811.06965)."""
