"""The project's files: which of them count, what they contain, and outputs moved safely."""
