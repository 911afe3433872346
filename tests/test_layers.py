"""The layers hold, and it is the installed package that is tested."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import realtime
from tests.conftest import ROOT, missing

PACKAGE = Path(realtime.__file__).resolve().parent
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"


def installed() -> Distribution:
    """Return the installed distribution; in a source tree, where there is none or only a link to the tree, the test is skipped."""
    try:
        found = distribution("realtime-geo")
    except PackageNotFoundError:
        missing("the installed package", "pip install '.[test]'")
        raise
    if json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        missing("an installation that is not editable", "pip install '.[test]'")
    return found


def test_the_installed_package_is_tested() -> None:
    """Or a file that was forgotten in the packaging would be noticed by nobody."""
    found = installed()
    assert Path(str(found.locate_file("realtime/__init__.py"))).resolve() == PACKAGE / "__init__.py"
    assert PACKAGE != ROOT / "realtime", "this is the tree, and not what was installed"


def test_the_installed_package_has_all_files_of_the_tree() -> None:
    installed()
    source = ROOT / "realtime"
    if not source.is_dir():
        return  # the tests were taken elsewhere
    expected = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in expected if not (PACKAGE / path).is_file()} == set()


def test_imports_point_only_downward(tmp_path: Path) -> None:
    if find_spec("importlinter") is None:
        missing("import-linter", "pip install '.[dev]'")
    # In another directory, as the linter would put the present one before what is installed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", LINT, str(ROOT / "pyproject.toml")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


@cache
def imports(path: Path) -> set[str]:
    """Return the packages that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def importers(name: str) -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if name in imports(path)}


def test_libraries_stay_where_they_belong() -> None:
    assert importers("picows") == {"gateway/websocket.py"}
    assert importers("rtree") == {"engine/reference/views.py"}
    assert all(path.startswith("cli/") for path in importers("typer") | importers("rich"))
    assert all(path.startswith("gateway/") for path in importers("starlette") | importers("uvicorn"))


def test_nothing_imports_the_tests() -> None:
    assert importers("tests") == importers("bench") == set()
