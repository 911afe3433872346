"""Everything else is in pyproject.toml; here is the one extension module, `realtime._native`.

It is optional: where no compiler is there, installation says so and goes on, and the reference engine runs.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
SOURCES = [
    "world",
    "pieces",
    "engine",
    "engine_views",
    "engine_flush",
    "engine_looking",
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
    optional=True,
)

setup(ext_modules=cythonize([native], build_dir="build/cython"))
