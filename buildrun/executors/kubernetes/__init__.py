"""Steps as Kubernetes Jobs: made, followed, and their files brought there and back."""
