"""Where a project comes from: a directory, git, an archive, or what fsspec reads."""
