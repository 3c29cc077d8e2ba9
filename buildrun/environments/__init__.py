"""What commands run in: virtualenv, conda, the caller's own environment, and images."""
