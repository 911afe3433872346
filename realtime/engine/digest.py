"""The hashes of the protocol: one number for an entity's version, one for its place in a sample.

Law: servers and clients in every language compute these bit for bit alike, for a client proves its mirror by XORing
`digest_of` over all that it holds. What is hashed is UTF-8, every result is an unsigned 32-bit number, and nothing
here knows the process: Python's own `hash` differs from one to the next.

Sources: FNV-1a is Fowler, Noll and Vo's (RFC 9923, "The FNV Non-Cryptographic Hash Algorithm", with the 32-bit prime
and offset basis). It is quick on short input, but ids that differ in their last byte alone hash close together.
fmix32 is the finaliser of MurmurHash3_x86_32 by Austin Appleby (smhasher, `MurmurHash3.cpp`, public domain): it makes
each bit of the input reach each bit of the output, so that an XOR of many does not cancel and a sample is even.
"""

from __future__ import annotations

_FNV_BASIS = 0x811C9DC5
_FNV_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a32(data: bytes) -> int:
    """FNV-1a of `data`, 32 bits wide."""
    state = _FNV_BASIS
    for byte in data:
        state = (state ^ byte) * _FNV_PRIME & _MASK
    return state


def fmix32(h: int) -> int:
    """MurmurHash3's finaliser, a bijection of the unsigned 32-bit numbers; `h` must be one."""
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK
    return h ^ h >> 16


def digest_of(id: str, version: int) -> int:
    """What an entity at a version contributes to the digest of a mirror: fmix32(FNV-1a-32 of `id@version`).

    The digest of a mirror is the XOR of these, 0 for an empty one: it can be kept up to date entity by entity.
    """
    return fmix32(fnv1a32(f"{id}@{version}".encode()))


def format_digest(x: int) -> str:
    """A digest as it stands on the wire: 8 lower-case hex digits."""
    return f"{x:08x}"


def sample_hash(id: str) -> int:
    """Where an entity stands in a sample among those of its rank: fmix32(FNV-1a-32 of the id), lower is kept first."""
    return fmix32(fnv1a32(id.encode()))
