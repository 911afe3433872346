"""What all tests share: how they import each other, and which package they test.

The root goes to the *end* of the path, so that `tests.*` can be imported and `realtime` is the installed one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

# HYPOTHESIS_PROFILE=long plays the random games for minutes, with --hypothesis-seed=N the same ones again.
settings.register_profile("default", deadline=None, print_blob=True, stateful_step_count=40)
settings.register_profile("long", deadline=None, print_blob=True, stateful_step_count=80, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def missing(what: str, how: str) -> None:
    """Skip the test that lacks a system package, saying how to get it; where CI is set, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing: {how}")
    pytest.skip(f"{what} is missing: {how}")
