"""Training jobs on Kubernetes: manifests, and what is checked of them without a cluster."""
