"""Model files of Triton's Python backend; copied into the repository and run inside the server."""
