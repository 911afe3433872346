"""The hashes against what their authors and others have published, and against arithmetic done another way.

Law: no expected value here was computed by `realtime.engine.digest`. A browser and a C++ engine must arrive at the
same numbers, so the ones that no table has were computed twice, in C with `uint32_t` and in JavaScript with `Math.imul`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.engine.digest import digest_of, fmix32, fnv1a32, format_digest, sample_hash


# From the test suite of the FNV reference code and RFC 9923.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x811C9DC5),
        (b"a", 0xE40C292C),
        (b"b", 0xE70C2DE5),
        (b"c", 0xE60C2C52),
        (b"fo", 0x6222E842),
        (b"foo", 0xA9F37ED7),
        (b"foob", 0x3F5076EF),
        (b"fooba", 0x39AAA18A),
        (b"foobar", 0xBF9CF968),
    ],
)
def test_fnv1a32_published(data: bytes, expected: int) -> None:
    assert fnv1a32(data) == expected


# MurmurHash3_x86_32 of no bytes is fmix32(seed), and of n zero bytes below 4 with seed 0 it is fmix32(n). Of four zero
# bytes it is fmix32((0 * 5 + 0xE6546B64) ^ 4). So the published vectors of the whole hash are vectors of its finaliser.
@pytest.mark.parametrize(
    ("h", "expected"),
    [
        (0, 0),
        (1, 0x514E28B7),
        (2, 0x30F4C306),
        (3, 0x85F0B427),
        (0xE6546B64 ^ 4, 0x2362F9DE),
        (0xFFFFFFFF, 0x81F16F39),
    ],
)
def test_fmix32_published(h: int, expected: int) -> None:
    assert fmix32(h) == expected


def _times(a: int, b: int) -> int:
    """The low 32 bits of a product, by shifting and adding."""
    result = 0
    for bit in range(32):
        if b >> bit & 1:
            result = (result + (a << bit)) % 2**32
    return result


@given(st.binary(max_size=200))
def test_fnv1a32_by_shifts(data: bytes) -> None:
    expected = 2166136261
    for byte in data:
        expected = _times(expected ^ byte, 16777619)
    assert fnv1a32(data) == expected


@given(st.integers(0, 2**32 - 1))
def test_fmix32_loses_nothing(h: int) -> None:
    """It is undone step by step: an xor-shift by repeating it, a product by the inverse modulo 2^32."""
    mixed = fmix32(h)
    assert 0 <= mixed < 2**32
    mixed ^= mixed >> 16
    mixed = _times(mixed, pow(0xC2B2AE35, -1, 2**32))
    mixed ^= mixed >> 13 ^ mixed >> 26
    mixed = _times(mixed, pow(0x85EBCA6B, -1, 2**32))
    mixed ^= mixed >> 16
    assert mixed == h


@pytest.mark.parametrize(
    ("id", "version", "expected"),
    [
        ("bus-7", 17, "24418085"),
        ("Zürich", 1, "12ed0b3b"),
        ("😀", 2**53 - 2**32, "e07ff1bd"),
        ("a", 1, "0e76cabf"),  # the zero in front is written
    ],
)
def test_digest_of(id: str, version: int, expected: str) -> None:
    assert format_digest(digest_of(id, version)) == expected


@pytest.mark.parametrize(("id", "expected"), [("bus-7", 0xC51CD344), ("Zürich", 0xAD5BB597), ("a", 0x1A80B1B3)])
def test_sample_hash(id: str, expected: int) -> None:
    assert sample_hash(id) == expected


def test_format_digest() -> None:
    assert format_digest(0) == "00000000"
    assert format_digest(0xABCDEF) == "00abcdef"
    assert format_digest(2**32 - 1) == "ffffffff"


def test_digest_of_a_mirror_is_kept_up_to_date_by_xor() -> None:
    both = digest_of("a", 1) ^ digest_of("b", 2)
    assert format_digest(both) == "67d51237"
    assert both ^ digest_of("a", 1) ^ digest_of("a", 3) == digest_of("b", 2) ^ digest_of("a", 3)


def test_samples_of_numbered_ids_are_even() -> None:
    """What fmix32 is there for: of ids that differ in their last digits alone, every share is near what it should be."""
    hashes = [sample_hash(f"bus-{n}") for n in range(10_000)]
    for share in (0.01, 0.1, 0.5, 0.9):
        below = sum(h < share * 2**32 for h in hashes) / len(hashes)
        # Five standard deviations of a fair draw; the ids are fixed, so this holds always or never.
        assert abs(below - share) < 5 * (share * (1 - share) / len(hashes)) ** 0.5
