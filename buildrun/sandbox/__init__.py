"""What a command does with files: seen, and kept to what it declares. Knows nothing of steps.

For others: ``accesses``, ``landlock``, ``tracer``.
"""
