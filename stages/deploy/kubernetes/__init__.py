"""Kubernetes manifests for a Triton server: built as data, linted, written as YAML."""
