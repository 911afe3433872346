"""Who may reach Redis: the rights that the docs give, passwords and their rotation, certificates. Nothing secret is shown."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import redis.exceptions as errors

from realtime.cluster.trouble import classify
from tests.redis_links import PASSWORD, acl_line, failure, linked, open_and_use, trouble_of, use
from tests.redis_servers import redis_server, redis_tls, valkey


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as the server runs; test_connections.py runs on both loops


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


# Who may


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_the_rights_in_the_docs_are_enough_and_no_more(kind: str, password_file: str) -> None:
    async with redis_server() if kind == "redis" else valkey() as server:
        await server.add_user(acl_line())
        async with linked(f"{server.url}/1", username="realtime", password_file=password_file) as link:
            await link.open()
            await use(link, 0)
            client = link.client(0)
            for command in (
                "KEYS *",
                "FLUSHALL",
                "CONFIG GET *",
                "EVAL x 0",
                "PUBLISH c m",
                "SCAN 0",
                "ACL WHOAMI",
                "DEBUG SLEEP 0",
                "XDEL a 0",
            ):
                with pytest.raises(errors.NoPermissionError):
                    await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
            with pytest.raises(errors.NoPermissionError) as caught:
                await client.get("other:key")
            assert classify(caught.value) == "forbidden"


async def test_each_right_in_the_docs_is_needed(password_file: str) -> None:
    """Without any one of them something fails; those of sentinels and clusters are needed there."""
    commands = [word for word in acl_line().split() if word.startswith("+")]
    async with valkey(persists=False) as server:
        await server.add_user(acl_line())
        for command in commands:
            if command in ("+role", "+cluster|slots"):
                continue
            await server.call("ACL", "SETUSER", "realtime", f"-{command[1:]}")
            async with linked(f"{server.url}/1", username="realtime", password_file=password_file) as link:
                assert await trouble_of(open_and_use(link)) == "forbidden", command
            await server.call("ACL", "SETUSER", "realtime", command)


async def test_wrong_passwords_and_rotation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    async with valkey() as server:
        await server.add_user(acl_line())
        async with linked(server.url, username="realtime", password_file=str(file)) as link:
            assert await failure(link) == "password"
            file.write_text("s3cret-but-wrong")
            assert await failure(link) == "password"
            file.write_text(PASSWORD)
            await link.open()
            # Rotation: both are good, the file is replaced, the old one goes. Nothing is restarted.
            await server.call("ACL", "SETUSER", "realtime", ">s3cret-and-new")
            file.write_text("s3cret-and-new\n")
            await server.call("ACL", "SETUSER", "realtime", f"<{PASSWORD}")
            await use(link, 0)
            await link.reset()
            await use(link, 0)
            shown = "".join(
                map(repr, [link, link.client(0), link.client(0).connection_pool, *link.client(0).connection_pool._available_connections])
            )
            assert "realtime:node_1" in shown
            assert "s3cret" not in shown + caplog.text
        async with linked(server.url) as link:
            await server.call("CONFIG", "SET", "requirepass", "s3cret")
            assert await failure(link) == "password"


# TLS


async def test_tls(tmp_path: Path) -> None:
    async with redis_tls() as server:
        assert server.certificates is not None
        ca = server.certificates.ca_file
        async with linked(server.url, ca_file=ca) as link:
            await link.open()
            await use(link, 0)
        async with linked(server.url.replace("127.0.0.1", "localhost"), ca_file=ca) as link:
            await link.open()
        async with linked(server.url) as link:
            assert await failure(link) == "tls"  # an authority that nobody knows
        async with linked(server.url, ca_file=str(tmp_path / "absent")) as link:
            assert await failure(link) == "tls"
        async with linked(server.url.replace("rediss", "redis")) as link:
            assert await failure(link) == "lost"
    async with valkey() as server, linked(server.url.replace("redis", "rediss"), ca_file=ca) as link:
        assert await failure(link) in ("tls", "lost")


async def test_the_name_in_the_certificate() -> None:
    async with redis_tls() as server:
        assert server.certificates is not None
        ca = server.certificates.ca_file
        # The same address, by a name that the certificate does not have.
        url = server.url.replace("127.0.0.1", "127.1")
        async with linked(url, ca_file=ca) as link:
            assert await failure(link) == "tls"
        async with linked(url, ca_file=ca, tls_hostname=False) as link:
            await link.open()


async def test_client_certificates(tmp_path: Path) -> None:
    async with redis_tls(wants_client_certificate=True) as server:
        files = server.certificates
        assert files is not None
        async with linked(server.url, ca_file=files.ca_file) as link:
            assert await failure(link) in ("tls", "lost")
        settings = {"ca_file": files.ca_file, "cert_file": files.client_cert_file, "key_file": files.client_key_file}
        async with linked(server.url, **settings) as link:
            await link.open()
            await use(link, 0)
        async with linked(
            server.url, ca_file=files.ca_file, cert_file=joined(tmp_path, files.client_key_file, files.client_cert_file)
        ) as link:
            await link.open()


def joined(directory: Path, *files: str) -> str:
    path = directory / "both.pem"
    path.write_bytes(b"".join(Path(file).read_bytes() for file in files))
    return str(path)


async def test_a_tls_server_that_freezes_is_left_at_once() -> None:
    async with redis_tls() as server:
        assert server.certificates is not None
        async with linked(server.url, ca_file=server.certificates.ca_file, timeout_s=0.3, connect_timeout_s=0.3) as link:
            await link.open()
            server.freeze()
            began = time.monotonic()
            for _ in range(3):
                assert await failure(link) == "timeout"
            await link.reset()
            await link.aclose()
            assert time.monotonic() - began < 5 * 3 * 0.3
            server.thaw()
            await link.open()
