"""Environments: one module for each manager, one line for each in the registry."""
