"""Where commands run: one module for each place."""
