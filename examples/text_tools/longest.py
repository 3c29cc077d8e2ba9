"""Print the longest word of a text."""

import sys
from pathlib import Path

words = Path(sys.argv[1]).read_text().split()
print("longest:", max(words, key=len).strip(".,;"))
