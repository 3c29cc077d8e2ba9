"""The project's files: which of them count, what they contain, and outputs moved safely.

Its face: `archive`, `changes`, `declared`, `fingerprints`, `gitignore`, `glob`, `image_context`,
`move`, `names`, `outputs`, `previous_outputs`, `restore`, `select`, `walk`; the other modules are
its own.
"""
