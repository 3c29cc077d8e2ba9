"""Projects: where they come from, what they declare, and whether that can work."""
