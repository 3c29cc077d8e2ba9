"""Results of steps: contents by digest, manifests by key, restored and collected."""
