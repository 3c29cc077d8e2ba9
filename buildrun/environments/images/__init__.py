"""Images: the engine that keeps them, and those that are derived from a base by content."""
