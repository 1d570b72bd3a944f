"""Hosts: which of the named hosts this is, and through which interface the others reach it."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Sequence

from pipeline.errors import ConfigError

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 16


def own_index(hosts: Sequence[str]) -> int:
    """Return which of the hosts this machine is.

    Raises:
        ConfigError: none of them, or more than one.
    """
    own = [index for index, host in enumerate(hosts) if _is_here(host)]
    if len(own) == 1:
        return own[0]
    what = (
        f"{' and '.join(hosts[index] for index in own)} are all this host"
        if own
        else f"none of {', '.join(hosts)} is this host ({socket.gethostname()})"
    )
    raise ConfigError(
        f"stages.train.launch.hosts: {what}. Give each host once, by a name or an address that it "
        "has itself, and start the command on all of them."
    )


def address_of(host: str) -> str:
    """Return a host's IPv4 address, or the name itself if it has none."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return host


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an IPv4 address."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("256s", name.encode()[: _NAME_BYTES - 1])
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
        if socket.inet_ntoa(answer[20:24]) == address:
            return name
    return None


def _is_here(host: str) -> bool:
    """Tell whether an address is this host's own: only then a socket can be bound to it."""
    if host == socket.gethostname():
        return True
    try:
        places = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in places:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
