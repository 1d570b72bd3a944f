"""Audio: a clip becomes a picture of its frequencies, and goes on like any other image."""
