"""Names in Host headers."""

import pytest

from marketdata.hosts import host_name, is_address, is_loopback


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("LocalHost:6066", "localhost"),
        ("[::1]:80", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("worker.example:", "worker.example"),
        *((wrong, "") for wrong in ("", "a b", "a:b", "u@a", "a:1:2", "[::1", "a\n", "a:999999")),
    ],
)
def test_the_name_has_no_port_and_is_empty_if_malformed(authority: str, name: str) -> None:
    assert host_name(authority) == name


def test_addresses_and_loopback() -> None:
    assert all(is_address(host) for host in ("::1", "[::1]", "10.0.0.1"))
    assert not any(is_address(host) for host in ("10.0.0.1.example", "localhost", ""))
    assert all(is_loopback(host) for host in ("127.0.0.2", "localhost.", "[::1]"))
    assert not any(is_loopback(host) for host in ("10.0.0.1", "localhost.example", ""))
