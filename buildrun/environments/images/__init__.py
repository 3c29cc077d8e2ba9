"""Docker images: derived from a base, an environment and the project's code."""
