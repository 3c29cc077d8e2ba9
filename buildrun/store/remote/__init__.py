"""Results shared between machines, at any place that fsspec reaches."""
