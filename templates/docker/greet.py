"""Greet somebody from within a container."""

import argparse
import os
import platform

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", default="world")
options = parser.parse_args()
print(f"{os.environ['GREETING']}, {options.name}! This is Python {platform.python_version()}.")
