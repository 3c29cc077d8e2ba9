"""From what the user names to a directory that holds a project: one module a kind of source."""
