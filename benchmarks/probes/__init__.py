"""Scripts that run inside of a subject's Python."""
