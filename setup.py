"""Everything else is in pyproject.toml; here is the one extension module, `realtime._native`.

It is optional: where no compiler is there, installation says so and goes on, and the reference engine runs.
"""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

HERE = Path(__file__).parent
SOURCES = [
    "canonical",
    "geometries",
    "states",
    "batches",
    "content",
    "world",
    "world_states",
    "world_deaths",
    "world_check",
    "feeds",
    "pieces",
    "engine",
    "engine_views",
    "engine_flush",
    "engine_looking",
    "engine_feeds",
    "filters",
    "filter_compiler",
    "json",
    "msgpack",
    "ingest",
    "canonical_reader",
    "update_reader",
    "lines",
]

native = Extension(
    "realtime._native",
    sources=["native/_native.pyx", *(f"native/{name}.cpp" for name in SOURCES)],
    depends=sorted(str(path.relative_to(HERE)) for pattern in ("*.h", "*.pxi") for path in (HERE / "native").glob(pattern)),
    include_dirs=["native"],
    extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-plt"],
    language="c++",
)


class BuildIfPossible(build_ext):
    """Builds the extension module, or says that there is none."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            print(
                "realtime-geo: WARNING: the native engine was not built, and the slower reference engine will run. "
                f"A C++17 compiler and Python's headers would be needed (Debian: g++ python3-dev); the reason was: {error}",
                file=sys.stderr,
            )


modules = cythonize([native], build_dir="build/cython")
for module in modules:
    module.optional = True  # cythonize() drops it
setup(ext_modules=modules, cmdclass={"build_ext": BuildIfPossible})
