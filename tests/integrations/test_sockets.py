"""Bound sockets: the address, whether connections are queued, and errors that name the options."""

from __future__ import annotations

import socket

import pytest

from dllm.errors import ConfigError
from dllm.integrations import sockets
from dllm.integrations.sockets import bind_socket


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "0.0.0.0")])
def test_an_address_is_bound(host: str, address: str) -> None:
    with bind_socket(host, 0) as bound:
        assert bound.getsockname()[0] == address
        assert bound.getsockname()[1] > 0


def test_an_ipv6_address_is_bound() -> None:
    try:
        with bind_socket("::1", 0) as bound:
            assert bound.getsockname()[0] == "::1"
    except ConfigError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


def test_a_name_with_both_kinds_of_addresses_gets_the_ipv4_one(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(sockets.socket, "getaddrinfo", lambda *args, **kwargs: entries)
    with bind_socket("both", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("listen", [False, True])
def test_connections_are_queued_only_by_a_listening_socket(listen: bool) -> None:
    with bind_socket("127.0.0.1", 0, listen) as bound, socket.socket() as client:
        refused = client.connect_ex(bound.getsockname()) != 0
    assert refused != listen


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("192.0.2.1", 0), ("no such host", 0), ("[::1]", 0)])
def test_an_address_that_cannot_be_bound_is_named(host: str, port: int) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_socket(host, port)
    assert str(caught.value).startswith(f"--host {host} --port {port}: ")
    assert "choose another" in str(caught.value)


def test_a_port_that_is_taken_is_named() -> None:
    with bind_socket("127.0.0.1", 0, listen=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: .*in use"):
            bind_socket("127.0.0.1", port)
