"""Builds the native programs of `bench/native/` when they are first needed.

Law: what runs is what the sources say: a program is kept under the hash of its source and of all that it includes from
there, of the compiler's name and of its flags.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "native"
_INCLUDE = re.compile(rb'^#include "([^"]+)"', re.MULTILINE)
FLAGS = ("-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror")


def cache() -> Path:
    """Return where programs are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realtime-bench"


def build(name: str, flags: tuple[str, ...] = FLAGS) -> Path:
    """Return the program made of `bench/native/{name}.cpp`. Raises RuntimeError where it does not compile."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("a C++ compiler is needed: none is named by CXX or found as g++ or c++")
    state = hashlib.sha256("\0".join((compiler, *flags)).encode())
    for path in _sources(SOURCES / f"{name}.cpp"):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    program = cache() / state.hexdigest()[:16] / name
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        made = Path(scratch) / name
        command = [compiler, *flags, str(SOURCES / f"{name}.cpp"), "-o", str(made)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"{name} does not compile:\n{found.stderr}")
        made.rename(program)  # so that two who build at once both find a whole program
    return program


def _sources(program: Path) -> list[Path]:
    """Return a source and the headers that it includes by their names in quotes, and those that they do."""
    found, waiting = set(), [program]
    while waiting:
        path = waiting.pop().resolve()
        if path not in found:
            found.add(path)
            waiting += [path.parent / name.decode() for name in _INCLUDE.findall(path.read_bytes())]
    return sorted(found)
