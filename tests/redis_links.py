"""Links to real servers, and what tests do with them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.exceptions as errors

from realtime.cluster.link import BLOCK_MS, Link
from realtime.cluster.trouble import classify
from realtime.config import RedisConfig
from tests.conftest import ROOT

PASSWORD = "s3cret-of-the-user"


@asynccontextmanager
async def linked(url: str, **settings: Any) -> AsyncIterator[Link]:
    """Have a link that is not opened yet, with short timeouts unless told otherwise."""
    link = Link(RedisConfig(url=url, **({"timeout_s": 1.0, "connect_timeout_s": 1.0, "shards": 4} | settings)), "node 1")
    try:
        yield link
    finally:
        await link.aclose()


async def use(link: Link, shard: int) -> None:
    """Run every command that the bus, the store and the leases use, on one shard's keys."""
    client = link.client(shard)
    tag = f"realtime:{{{shard}}}"
    async with client.pipeline(transaction=False) as pipe:
        pipe.xadd(f"{tag}:log", {b"e": b"epoch", b"s": b"batch"})
        pipe.xadd(f"{tag}:log", {b"e": b"epoch", b"s": bytes(100_000)})
        first, last = await pipe.execute()
    assert (await client.xinfo_stream(f"{tag}:log"))["last-generated-id"] == last
    answer: Any = await client.xrange(f"{tag}:log", f"({first.decode()}", "+", count=10)
    assert [id for id, _ in answer] == [last]
    answer = await link.reader(shard).xread({f"{tag}:log": "0-0"}, count=32, block=BLOCK_MS)
    ((name, entries),) = answer
    assert name == f"{tag}:log".encode()
    assert dict(entries)[first] == {b"e": b"epoch", b"s": b"batch"}
    assert await client.xtrim(f"{tag}:log", minid=last, approximate=False) >= 1
    await client.delete(f"{tag}:writer")
    assert await client.set(f"{tag}:writer", b"epoch", nx=True, px=10_000)
    assert not await client.set(f"{tag}:writer", b"other", nx=True, px=10_000)
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(f"{tag}:writer", f"{tag}:entities")
        assert await pipe.get(f"{tag}:writer") == b"epoch"
        assert isinstance(await pipe.hlen(f"{tag}:entities"), int)
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.hset(f"{tag}:entities", mapping={"bus-1": b"state", "bus-2": b"state"})
        pipe.hdel(f"{tag}:entities", "bus-2")
        pipe.set(f"{tag}:applied", last)
        pipe.pexpire(f"{tag}:writer", 10_000)
        await pipe.execute()
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(f"{tag}:writer")  # and thinks better of it
    assert await client.hscan(f"{tag}:entities", 0, count=500) == (0, {b"bus-1": b"state"})
    for key in ("realtime:world", "realtime:node:17", "viewport:ann"):
        assert await link.home(key).set(key, b"x", px=10_000)
        assert await link.home(key).get(key) == b"x"


async def open_and_use(link: Link) -> None:
    await link.open()
    await use(link, 0)


async def trouble_of(command: Awaitable[Any]) -> str:
    """Return the word for why a command fails."""
    with pytest.raises(errors.RedisError) as caught:
        await command
    return classify(caught.value)


async def failure(link: Link) -> str:
    """Return the word for why a link does not open."""
    return await trouble_of(link.open())


def acl_line() -> str:
    """Return the rules that the docs give, as `ACL SETUSER` takes them."""
    (line,) = re.findall(r"^user (realtime on .*)$", (ROOT / "docs" / "redis.md").read_text(), re.MULTILINE)
    return str(line).replace(">PASSWORD", f">{PASSWORD}")
