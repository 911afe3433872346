"""What all tests share: how they import each other, which package they test, and on which engines.

The root goes to the *end* of the path, so that `tests.*` can be imported and `realtime` is the installed one. Modules that
run a node say `pytestmark = pytest.mark.usefixtures("engine_kind")`: each of their tests then runs once per engine. Where
there is a compiler, a native engine that was not built fails them; without one the reference engine is tested alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

# HYPOTHESIS_PROFILE=long plays the random games for minutes, with --hypothesis-seed=N the same ones again.
settings.register_profile("default", deadline=None, print_blob=True, stateful_step_count=40)
settings.register_profile("long", deadline=None, print_blob=True, stateful_step_count=80, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "cc"))), None)
HAS_NATIVE = importlib.util.find_spec("realtime._native") is not None
ENGINES = ["native", "reference"] if HAS_NATIVE or COMPILER else ["reference"]

# What is about the native engine's own parts and cannot even be imported without it.
collect_ignore = (
    [] if "native" in ENGINES else [f"test_{name}.py" for name in ("bench_engine", "ingest", "intake", "native", "native_parts", "pump")]
)


def pytest_report_header() -> str:
    """Say which engines are tested."""
    if "native" not in ENGINES:
        return "engines: reference alone, as the native one was not built and there is no C++ compiler"
    return "engines: native, reference"


@pytest.fixture(params=ENGINES)
def engine_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let `engine.kind = "auto"` mean this engine: the native one as it was built, or the other as if it was not."""
    from realtime.engine import choice

    kind: str = request.param
    if kind == "native" and not HAS_NATIVE:
        pytest.fail(f"realtime._native was not built though there is a compiler, {COMPILER}: pip install -e .")
    # Not the test's own monkeypatch, which it may undo at any time.
    with pytest.MonkeyPatch.context() as patch:
        if kind == "reference":
            patch.setattr(choice, "_missing", "as a test wants it")
        assert choice.choose_engine("auto")[0] == kind
        yield kind


def missing(what: str, how: str) -> None:
    """Skip the test that lacks a system package, saying how to get it; where CI is set, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing: {how}")
    pytest.skip(f"{what} is missing: {how}")
