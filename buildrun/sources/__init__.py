"""Where a project comes from: a directory, git, an archive, or what fsspec reads.

Its face: `base`, `checkout`, `gc`, `path_downloads`; the other modules are its own.
"""
