"""What commands run in: virtualenv, conda, the caller's own environment, and images.

Its face: `base`, `export_request`, `gc`, `images.engine`, `images.gc`, `lock_export`, `lockfile`,
`planned_run`, `prefix`, `provider`, `remote`, `resolve`; the other modules are its own.
"""
