"""The store: contents by digest, results by key, locks, what is remembered, and runs.

Its face: `action_cache`, `cas`, `digest`, `files`, `fsck`, `gc`, `home`, `listing`, `locks`,
`manifest`, `memo`, `own_files`, `remote.client`, `remote.errors`, `remote.fs`, `remote.transfer`,
`runs`, `stat_signature`; the other modules are its own.
"""
