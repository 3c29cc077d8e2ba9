"""The project's files: which of them count, what they contain, and outputs moved safely.

Its face: `archive`, `changes`, `conditions`, `declared`, `fingerprints`, `gitignore`, `glob`,
`image_context`, `move`, `names`, `outputs`, `previous_outputs`, `restore`, `select`, `tree`,
`walk`; the other modules are its own.
"""
