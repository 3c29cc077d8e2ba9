"""``python -m buildrun``."""

from buildrun.cli import entry

if __name__ == "__main__":
    entry()
