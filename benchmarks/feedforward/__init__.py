"""What `benchmarks.fff` compares: trees of neurons, and dense layers in several libraries."""
