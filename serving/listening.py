"""What the system must give before a server can listen: addresses, and enough open files."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["ListenError", "allow_open_files", "bind", "is_local", "urls"]


class ListenError(Exception):
    """The address cannot be listened on; the message says why and what would do."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of ``host``. Nobody else can have those from now on, nobody can reach us yet.

    Args:
        port: 0 for any that is free.

    Raises:
        ListenError: the name is unknown, or an address is taken or not ours to take.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            if sys.platform == "win32":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            port = one.getsockname()[1]  # the same for all
    except OSError as error:
        for one in sockets:
            one.close()
        raise ListenError(_why_not(host, port, error)) from error
    return sockets


def is_local(host: str) -> bool:
    """Whether ``host`` can be reached from this machine alone.

    Raises:
        ListenError: the name is unknown.
    """
    try:
        found = _addresses(host, 0)
    except OSError as error:
        raise ListenError(_why_not(host, 0, error)) from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def urls(sockets: Sequence[socket.socket]) -> list[str]:
    """Where each is reached."""
    found = []
    for one in sockets:
        host, port = one.getsockname()[:2]
        found.append(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    return found


def allow_open_files(count: int) -> None:
    """Raise what the system lets this process have open, which is often just 1024, as far as it lets us."""
    if sys.platform == "win32":
        return  # it has no such limit
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _why_not(host: str, port: int, error: OSError) -> str:
    place = f"Cannot listen on port {port} of {host}"
    if isinstance(error, socket.gaierror):
        return f"Cannot listen on {host}: no such name or address is known here ({error.strerror})."
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place}: another program does, perhaps a server that runs already. Give another --port, or "
            "--port 0 for any that is free."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{place}: that takes rights that this user does not have. Give a --port above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}: this machine does not have that address. --host 0.0.0.0 is all that it has."
    return f"{place}: {error.strerror}."
