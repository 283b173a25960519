"""Where a webhook may go: what stands between an operator's typing and the inside of their network.

A name is resolved once, every address it has is looked at, and the connection goes to one of those: a
name that changes its mind a moment later changes nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from doortab.schemas.errors import RuleRefused, UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host, as text."""

PORTS = {"http": 80, "https": 443}

NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local, and the metadata of AWS, Azure, GCP, Oracle
        "fe80::/10",
        "fd00:ec2::/32",  # AWS' metadata over IPv6
        "100.100.100.200/32",  # Alibaba's metadata
        "192.0.0.192/32",  # Oracle's metadata, the old address
        "0.0.0.0/8",
        "::/128",
    )
)
"""Nobody's alert receiver, whatever the operator allows."""

_UNICAST = ipaddress.ip_network("2000::/3")
_EMBEDDING = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class Target(NamedTuple):
    """Where a URL leads, all of it checked: connect to ``address``, and speak to ``host``."""

    scheme: str
    host: str
    port: int
    address: str
    path: str


def resolve(host: str, port: int) -> list[str]:
    """The addresses of the host, as the system's resolver has them.

    Raises:
        OSError: it has none, or nobody could say.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def split(url: str, allow_private: bool) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a URL that a webhook may have.

    What goes wrong is told without the URL: chats put their secret into it.

    Raises:
        UsageError: it may not have this one.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("a webhook's URL holds characters that a URL does not have; encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"a webhook's URL cannot be read: {error}") from error
    host = parts.hostname
    if parts.scheme not in PORTS or not host:
        raise UsageError("a webhook's URL is not https://host/path")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"the URL of webhook host {host!r} holds a user name; receivers get a signature instead")
    if parts.scheme == "http" and not allow_private:
        raise UsageError(f"the URL of webhook host {host!r} is not encrypted; write https://, or allow private targets")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port if port is not None else PORTS[parts.scheme], path


def target(url: str, allow_private: bool, look_up: Resolve = resolve) -> Target:
    """Where to connect for this URL.

    Raises:
        UsageError: the URL is none for a webhook.
        RuleRefused: one of the host's addresses is inside.
        OSError: the host has no address, or nobody could say.
    """
    scheme, host, port, path = split(url, allow_private)
    addresses = look_up(host, port)
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        why = refusal(address, allow_private)
        if why is not None:
            raise RuleRefused(f"webhook host {host!r} has the address {address}, which is {why}")
    return Target(scheme, host, port, addresses[0], path)


def refusal(text: str, allow_private: bool) -> str | None:
    """Why nothing is sent to the address, or None where it may be."""
    try:
        address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return "not an address"
    if any(address.version == network.version and address in network for network in NEVER):
        return "link-local or a cloud's metadata, and never allowed"
    if address.is_multicast or (address.is_reserved and not address.is_loopback):
        return "not one of a single machine"
    if allow_private or (address.is_global and (address.version == 4 or address in _UNICAST)):
        return None
    return "not public; allow private targets if you mean it"


def _inner(address: Any) -> Address:
    """The IPv4 address inside an IPv6 one that only wraps it (mapped, NAT64, 6to4, Teredo), or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if wrapped is not None:
            return wrapped
        if any(address in network for network in _EMBEDDING):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if int(address) >> 32 == 0 and int(address) > 1:
            return ipaddress.IPv4Address(int(address))
    assert isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    return address
