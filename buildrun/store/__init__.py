"""The store: contents by digest, results by key, locks, what is remembered, and runs."""
