"""The command line's verbs, one a file: from options to a request, and what is printed of it."""
