"""Fetching an image from a public address, and from no other.

The name is looked up once, every address it has must be public, and the connection goes to the address that was
checked: a name that answers otherwise the second time gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
import time

import httpx2

from rsiccllm.errors import InputError


def public_address(host: str, port: int, name: str) -> str:
    """An address of `host`, all of whose addresses are public. Raises InputError where one is not, or none is found."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise InputError(f"{name}: no address is known for its host") from None
    for address in found:
        known = ipaddress.ip_address(address.partition("%")[0])
        inner = getattr(known, "ipv4_mapped", None) or getattr(known, "sixtofour", None) or _translated(known)
        if not known.is_global or known.is_multicast or (inner is not None and not inner.is_global):
            raise InputError(f"{name}: its host is at an address that is not public; such are never fetched")
    return sorted(found)[0]


def _translated(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a NAT64 (RFC 6052) or an IPv4-compatible one stands for."""
    if not any(address in network for network in _TRANSLATED):
        return None
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::/96")))


def fetch(url: str, name: str, max_bytes: int, seconds: float) -> bytes:
    """What stands at an http(s) URL on a public address. Raises InputError for anything else, and past the limits."""
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise InputError(f"{name}: not a valid address") from None
    if parts.scheme not in {"http", "https"} or not parts.host or parts.userinfo:
        raise InputError(f"{name}: expected http(s)://HOST/... without a user name")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    address = public_address(parts.host, port, name)
    end = time.monotonic() + seconds
    data = bytearray()
    try:
        with (
            httpx2.Client(timeout=seconds, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "GET",
                parts.copy_with(host=address),
                headers={"Host": parts.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": parts.host},
            ) as response,
        ):
            if response.status_code != 200:
                raise InputError(f"{name}: its address answers with status {response.status_code}, expected 200")
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > max_bytes:
                    raise InputError(f"{name}: more than {max_bytes:,} bytes at its address")
                if time.monotonic() > end:
                    raise InputError(f"{name}: took longer than {seconds:g} s to fetch")
    except httpx2.HTTPError as error:
        raise InputError(f"{name}: could not be fetched ({type(error).__name__})") from None
    return bytes(data)
