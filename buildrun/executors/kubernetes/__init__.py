"""Steps as Kubernetes Jobs."""
