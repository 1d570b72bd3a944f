"""Models: how a network is built from its name, and the wrapper that makes it take uint8 images."""
