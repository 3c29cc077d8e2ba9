"""The files of a project: what they are, which of them count, and what they contain."""
