"""Feature maps: what a network on a CPU does between its convolutions, in kernels of our own."""
