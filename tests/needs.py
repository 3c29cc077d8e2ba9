"""What tests need of the system beside Python."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip a test for want of a part of the system; in continuous integration fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_program(*names: str) -> str:
    """Return the path of the first of these programs that is there, else skip or fail."""
    for name in names:
        if found := shutil.which(name):
            return found
    missing(f"there is no {' or '.join(names)}")
