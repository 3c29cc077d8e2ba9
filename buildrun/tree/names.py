"""Names that are no part of a project wherever they are."""

import re

# Version control's own, and what buildrun itself moves aside while it works.
_NEVER = rb"\.git|\.buildrun-.*"

# What programs leave behind while they run: it decides no result, and it comes and goes.
_LEFTOVERS = (
    rb"\.hg|\.svn|__pycache__|.*\.pyc|mlruns|mlartifacts|mlflow\.db.*|\.ipynb_checkpoints"
    rb"|\.pytest_cache|\.mypy_cache|\.ruff_cache|\.DS_Store"
)

never = re.compile(_NEVER, re.DOTALL).fullmatch
leftover = re.compile(_NEVER + rb"|" + _LEFTOVERS, re.DOTALL).fullmatch
