"""The pages of the public port."""

from __future__ import annotations

import pytest

from realtime.config import ServerConfig
from realtime.gateway.public import pages


def test_the_client_module_may_be_loaded_by_any_page_and_the_console_by_none_but_its_own() -> None:
    found = pages(ServerConfig())
    assert found["/client.js"].headers["Access-Control-Allow-Origin"] == "*"
    assert found["/client.js"].content_type.startswith("text/javascript")
    for path, page in found.items():
        assert page.status == 200
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        if path == "/" or path.startswith("/console/"):
            assert "Access-Control-Allow-Origin" not in page.headers
            assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
            assert "unsafe" not in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("console", "host", "is_there"),
    [
        ("loopback", "127.0.0.1", True),
        ("loopback", "::1", True),
        ("loopback", "localhost", True),
        ("loopback", "0.0.0.0", False),
        ("loopback", "192.168.1.4", False),
        ("always", "0.0.0.0", True),
        ("never", "127.0.0.1", False),
    ],
)
def test_the_console_is_there_where_it_is_enabled(console: str, host: str, is_there: bool) -> None:
    found = pages(ServerConfig(host=host, console=console))  # type: ignore[arg-type]
    assert ("/" in found) == is_there
    assert any(path.startswith("/console/") for path in found) == is_there
    assert found.keys() >= {"/healthz", "/client.js", "/client.d.ts"}


def test_nothing_but_the_packages_own_files_is_there() -> None:
    assert not [path for path in pages(ServerConfig()) if ".." in path or path.endswith((".py", ".pyc"))]
