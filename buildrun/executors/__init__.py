"""Where commands run: on this machine, in containers, as Kubernetes Jobs."""
