"""First project files: proposed from scripts or from a DVC pipeline, or copied from a template.

Its face: `draft`, `dvc`, `new_files`, `scripts`, `templates`; the other modules are its own.
"""
