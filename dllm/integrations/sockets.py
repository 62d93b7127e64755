"""Bound sockets for the servers of this package."""

from __future__ import annotations

import socket

from dllm.errors import ConfigError

BACKLOG = 128
"""Connections that may wait until a listening socket is served."""


def bind_socket(host: str, port: int, listen: bool = False) -> socket.socket:
    """Return a TCP socket that is bound to an address.

    Args:
        host: A name or an IPv4 or IPv6 address. For a name with addresses of both kinds the IPv4 address is used.
        port: The port; 0: any that is free.
        listen: Whether connections are queued from now on. Without it they are refused until a server listens on the
            socket, so that a health check fails while the weights are read.

    Raises:
        ConfigError: The host is unknown, or the address cannot be used.
    """
    try:
        # An empty host means all addresses of this machine, which getaddrinfo spells None with AI_PASSIVE. It gets no
        # port, since some C libraries take one beyond 65535 modulo 65536.
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` is often listed as ::1 first, where clients that connect to 127.0.0.1 would find nothing.
        family, kind, protocol, _, (address, _, *scope) = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _explain_failure(host, port, error) from None
    try:
        # A server that is restarted must not wait until connections of its predecessor have timed out.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port, *scope))
        if listen:
            bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        raise _explain_failure(host, port, error) from None
    return bound


def _explain_failure(host: str, port: int, error: OSError | OverflowError) -> ConfigError:
    """Return the error for an address that cannot be bound; a port beyond 65535 is an `OverflowError`."""
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return ConfigError(f"--host {host} --port {port}: {reason}; choose another, or --port 0 for any")
