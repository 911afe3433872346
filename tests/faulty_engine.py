"""A build of the native engine that can be given faults, one at a time: see native/faults.h.

Law: it is made of the sources as they are, into a directory of the test's own, and never stands where the package is. It
is imported under another name than the native engine, whose faults nobody can reach because there are none.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import COMPILER, ROOT, missing

NATIVE = ROOT / "native"
NAME = "faulty._native"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DREALTIME_FAULTS", f"-I{NATIVE}", f"-I{sysconfig.get_path('include')}")


class FaultyEngine(NamedTuple):
    """The class of the engines that it makes, and the library that puts faults in force for all of them."""

    engine: Any
    library: ctypes.CDLL

    def put(self, point: str, period: int = 1) -> None:
        """Put a fault in force, for the first of every `period` occasions; an empty name: none."""
        is_there = self.library.realtime_break(point.encode(), period)
        assert is_there or not point, f"native/faults.h has no {point}: the mutant would be no mutant"


def _run(*command: str | Path) -> None:
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{command[0]} fails:\n{found.stdout}{found.stderr}"


def build(directory: Path) -> FaultyEngine:
    """Compile the engine into the directory, on all cores, and import it."""
    if find_spec("Cython") is None:
        missing("Cython", "pip install cython")
    assert COMPILER is not None
    sources = sorted(NATIVE.glob("*.cpp"))

    def compiled(source: Path) -> Path:
        path = directory / f"{source.stem}.o"
        _run(str(COMPILER), *FLAGS, "-c", source, "-o", path)
        return path

    def skin() -> Path:
        source = directory / "_native.cpp"
        _run(sys.executable, "-m", "cython", "-3", "--cplus", "--module-name", NAME, NATIVE / "_native.pyx", "-o", source)
        return compiled(source)

    with ThreadPoolExecutor() as pool:
        last = pool.submit(skin)
        objects = [*pool.map(compiled, sources), last.result()]
    library = directory / "_native.so"
    _run(COMPILER, "-shared", *objects, "-o", library)
    return load(library)


def load(path: Path) -> FaultyEngine:
    """Import such a build."""
    spec = spec_from_file_location(NAME, path, loader=ExtensionFileLoader(NAME, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    library = ctypes.CDLL(str(path))
    library.realtime_break.argtypes = (ctypes.c_char_p, ctypes.c_uint32)
    library.realtime_break.restype = ctypes.c_bool
    return FaultyEngine(module.NativeEngine, library)
