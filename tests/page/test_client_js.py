"""Runs the tests of `client.js` in Node.js, each of their files a test here.

Law: what is tested is the client of the installed package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import missing

HERE = Path(__file__).parent


@pytest.fixture
def node() -> str:
    """Node.js of a version with a test runner and ES modules."""
    found = shutil.which("node")
    how = "install Node.js 20 or newer (apt install nodejs, or https://nodejs.org)"
    if found is None:
        missing("node", how)
    assert found is not None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        missing(f"a node newer than {version}", how)
    return found


@pytest.mark.parametrize("name", ["mirror.test.mjs", "client.test.mjs", "return.test.mjs", "source.test.mjs"])
def test_in_node(name: str, node: str, tmp_path: Path) -> None:
    # As a .mjs, since Node.js takes a .js without a package.json for CommonJS.
    module, types = tmp_path / "client.mjs", tmp_path / "client.d.ts"
    module.write_text(files("realtime.web").joinpath("client.js").read_text())
    types.write_text(files("realtime.web").joinpath("client.d.ts").read_text())
    environment = os.environ | {"REALTIME_CLIENT_MODULE": module.as_uri(), "REALTIME_CLIENT_TYPES": str(types)}
    done = subprocess.run([node, "--test", str(HERE / name)], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# pass 0" not in done.stdout
