"""The addresses that this server may be made to call, by pushes and by functions that are URLs.

A guard judges the very address that is then connected to, so a name that changes its mind between
two look-ups gains nothing. Three rules:

- Only addresses of the open internet (`is_public`), unless the operator has allowed others: a
client must not make the server reach what only this machine or its network can reach.
- Never this server's own ports (`OwnPorts`), whatever else is allowed: a request that it makes
  itself comes from this machine.
- IPv4 addresses inside IPv6 ones are judged as what they stand for.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Guard = Callable[[IpAddress, int], bool]
"""Says whether an address and a port may be connected to."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's host, from each virtual machine
            "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata
            "192.88.99.0/24",  # relays of 6to4, once
            "::/96",  # IPv4 addresses as they were once written
            "64:ff9b:1::/48",  # NAT64 of one's own network
            "2001::/23",  # protocol assignments, Teredo among them
            "3fff::/20",  # for documentation
            "5f00::/16",  # segment routing
        ),
    )
)
"""Not of the open internet, although Python (3.11 to 3.13) does not know it of all of them."""


def is_public(address: IpAddress) -> bool:
    """Return whether an address is one of the open internet.

    That is: not this machine's, nor a private network's, a group's or one with a special purpose.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    if any(address in network for network in _SPECIAL if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner


class OwnPorts:
    """The ports that this server listens on."""

    def __init__(self, ports: frozenset[int] = frozenset()) -> None:
        """Take the ports' numbers."""
        self._ports = ports

    def may_be_called(self, address: IpAddress, port: int) -> bool:
        """Return whether this is not one of the server's own ports. A `Guard`."""
        return port not in self._ports or not _is_of_this_machine(address)

    def public_only(self, address: IpAddress, port: int) -> bool:
        """Return the same for addresses of the open internet; False for others. A `Guard`."""
        return is_public(address) and self.may_be_called(address, port)


def _is_of_this_machine(address: IpAddress) -> bool:
    """Return whether what is sent to an address stays here: then a socket can be bound to it."""
    if isinstance(address, ipaddress.IPv6Address):
        address = _inner(address) or address
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
