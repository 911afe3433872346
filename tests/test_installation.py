"""Installed where there is no compiler: it says so, goes on, and runs on the reference engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SERVE = """
import asyncio, json, urllib.request
import realtime
from realtime.config import load
from realtime.server import Server

async def main():
    async with Server(load(settings=["server.port=0", "http.port=0"])) as server:
        get = lambda: urllib.request.urlopen(server.http_url + "/readyz").read()
        print(json.dumps({"file": realtime.__file__, "ready": json.loads(await asyncio.to_thread(get))}))

asyncio.run(main())
"""


@pytest.mark.timeout(300)
def test_without_a_compiler_the_reference_engine_is_installed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("native", "realtime"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("REALTIME_", "PIP_", "PYTHONPATH"))}

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=bare | environment, capture_output=True, text=True, timeout=120, check=False
        )

    # Nothing is downloaded: what builds it is installed beside the tests.
    options = ["-v", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    installed = run("-m", "pip", "install", *options, "--target", str(target), str(source), CC="/bin/false", CXX="/bin/false")
    output = installed.stdout + installed.stderr
    assert installed.returncode == 0, output[-4000:]
    assert "WARNING: the native engine was not built, and the slower reference engine will run." in output, output[-4000:]
    assert not list((target / "realtime").glob("_native*.so"))

    config = run("-m", "realtime", "config", PYTHONPATH=str(target))
    assert (config.returncode, config.stderr) == (0, "")
    assert "# engine: reference" in config.stdout.splitlines()
    refused = run("-m", "realtime", "config", "--set", "engine.kind=native", PYTHONPATH=str(target))
    assert refused.returncode == 2
    assert "engine.kind: the native engine was not built when this was installed" in refused.stderr + refused.stdout

    served = run("-c", SERVE, PYTHONPATH=str(target))
    assert served.returncode == 0, served.stderr
    answer = json.loads(served.stdout)
    assert Path(answer["file"]).is_relative_to(target)
    assert answer["ready"]["engine"] == "reference"
