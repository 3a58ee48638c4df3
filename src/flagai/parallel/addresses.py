"""Addresses of this machine: the one that leads to another, free ports, ports in use. Knows no process group."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

from flagai.errors import ConfigError
from flagai.parallel.surroundings import PORT

_SIOCGIFADDR: Final = 0x8915  # Linux: the IPv4 address of an interface, see netdevice(7)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def split_endpoint(endpoint: str, *, where: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `host`, whose port is 29500.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = endpoint.rpartition(":")
    if not colon or endpoint.endswith("]"):
        host, port = endpoint, str(PORT)
    if not host.strip("[]") or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ConfigError(f"cannot be read: {endpoint!r}", where=where, expected="host:port, for instance node1:29500")
    return host.strip("[]"), int(port)


def is_here(host: str) -> bool:
    """Whether a name is that of this machine."""
    if host in (*_LOOPBACK, socket.gethostname(), socket.getfqdn()):
        return True
    try:
        address = socket.getaddrinfo(host, None)[0][4][0]
    except OSError:
        return False
    return address in _LOOPBACK or address_towards(host) == address


def address_towards(host: str) -> str | None:
    """The address under which a host sees this machine; None where no way leads there."""
    try:
        family, _, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(there)  # sends nothing: only the route is chosen
            return str(way.getsockname()[0])
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where that cannot be found out."""
    if sys.platform != "linux" or ":" in address:
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                row = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an address
            if socket.inet_ntoa(row[20:24]) == address:
                return name
    return None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def check_free(port: int, *, where: str, fix: str) -> None:
    """Raise ConfigError where a program listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is in use on {socket.gethostname()}",
                where=where,
                expected="a port that no other program listens on",
                fix=fix,
            ) from error
