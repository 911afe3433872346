"""The native engine's own tests: its C++ parts under the sanitizers, and what libFuzzer makes of them for some seconds.

Everything is compiled here, from native/*.cpp alone and without Python. Of the fuzzers the seeds are printed; an input
that breaks one is kept where the failure says, and `<fuzzer> <input>` plays it again. `REALTIME_FUZZ_S` lets each run
for another number of seconds.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

NATIVE = ROOT / "native"
FUZZ_S = int(os.environ.get("REALTIME_FUZZ_S", "5"))
SANITIZED = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]
# A sanitizer that finds something must not be overruled from outside.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1:quarantine_size_mb=64", "UBSAN_OPTIONS": "print_stacktrace=1"}
JOBS = 2
LENGTHS = {"fuzz_engine": 1024}  # bytes of an input at most, where a run of more would take long
FUZZERS = sorted(path.stem for path in (NATIVE / "fuzz").glob("fuzz_*.cpp"))


def run(*command: str | Path, timeout_s: float) -> str:
    """Run a command and return what it printed; a failure shows it."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=ENVIRONMENT, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(map(str, command[:4]))} … ended with {done.returncode}:\n{output[-8000:]}"
    return output


def compiled(compiler: str, sources: list[Path], directory: Path, *flags: str) -> list[Path]:
    """Compile sources; return the object files."""
    directory.mkdir()
    objects = [directory / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(JOBS) as pool:
        list(
            pool.map(
                lambda pair: run(compiler, *SANITIZED, *flags, "-c", pair[0], "-o", pair[1], timeout_s=300),
                zip(sources, objects, strict=True),
            )
        )
    return objects


def clang() -> str:
    """Return the path of clang++."""
    found = next(filter(None, map(shutil.which, ("clang++", "clang++-14"))), None)
    if found is None:
        missing("clang++", "apt-get install clang-14 libclang-rt-14-dev")
    return str(found)


@pytest.mark.timeout(600)
def test_the_parts_hold_under_the_sanitizers(tmp_path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("g++", "c++"))), None)
    if compiler is None:
        missing("g++", "apt-get install g++")
    sources = sorted(NATIVE.glob("*.cpp")) + sorted((NATIVE / "tests").glob("*.cpp"))
    objects = compiled(str(compiler), sources, tmp_path / "objects", "-fsanitize=address,undefined")
    program = tmp_path / "tests"
    run(str(compiler), "-fsanitize=address,undefined", *objects, "-o", program, timeout_s=60)
    output = run(program, timeout_s=120)
    print(output)
    count = sum(len(re.findall(r"^TEST\(", source.read_text(), re.MULTILINE)) for source in (NATIVE / "tests").glob("test_*.cpp"))
    assert count > 0
    assert output.endswith(f"{count} tests passed\n")


@pytest.mark.timeout(600)
def test_fuzzers_find_nothing(tmp_path: Path) -> None:
    compiler = clang()
    flags = "-fsanitize=fuzzer-no-link,address,undefined"
    objects = compiled(
        compiler, sorted(NATIVE.glob("*.cpp")) + [NATIVE / "fuzz" / f"{name}.cpp" for name in FUZZERS], tmp_path / "objects", flags
    )
    parts = [path for path in objects if path.stem not in FUZZERS]

    def fuzz(name: str) -> str:
        program, found = tmp_path / name, tmp_path / f"{name}-found"
        corpus = NATIVE / "fuzz" / "corpus" / name.removeprefix("fuzz_")
        found.mkdir()
        run(compiler, "-fsanitize=fuzzer,address,undefined", tmp_path / "objects" / f"{name}.o", *parts, "-o", program, timeout_s=60)
        seed = random.randrange(1, 1 << 31)
        limits = [
            f"-max_total_time={FUZZ_S}",
            f"-seed={seed}",
            f"-max_len={LENGTHS.get(name, 4096)}",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ]
        output = run(program, *limits, f"-artifact_prefix={found}/", found, *filter(Path.is_dir, [corpus]), timeout_s=FUZZ_S + 60)
        [runs] = map(int, re.findall(r"stat::number_of_executed_units:\s*(\d+)", output))
        assert runs > 20, f"{name} did nothing"
        return f"{name}: {runs} runs, seed {seed}"

    with ThreadPoolExecutor(JOBS) as pool:
        for line in pool.map(fuzz, FUZZERS):
            print(line)
