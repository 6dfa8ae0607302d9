"""Which addresses a model may be asked at: what must never be reached, whoever spells it however."""

from __future__ import annotations

import ipaddress
import socket

from evalservice.errors import InvalidInput
from evalservice.organizations.secrets import origin_of

_METADATA_NAMES = {"metadata.google.internal", "metadata.goog", "instance-data"}
_METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")


def check_base_url(url: str, *, private: bool) -> None:
    """Refuse what is no http(s) URL, and addresses that must not be reached. private: loopback and private may be.

    Raises InvalidInput naming `base_url`.
    """
    origin = origin_of(url)
    host = origin.split("://", 1)[1].rsplit(":", 1)[0].strip("[]").lower().rstrip(".")
    if not host:
        raise InvalidInput("base_url", url, "an address with a host name")
    if host in _METADATA_NAMES or is_refused(host, private=True):
        raise InvalidInput("base_url", url, "link-local and metadata addresses are not reached")
    if not private and (host == "localhost" or host.endswith(".localhost") or is_refused(host, private=False)):
        raise InvalidInput(
            "base_url",
            url,
            "a public address: this service does not reach loopback and private ones "
            "(its operator may allow them with EVALSERVICE_PRIVATE_ADDRESSES=true)",
        )


def is_refused(host: str, *, private: bool) -> bool:
    """Whether a host is an address (in any spelling: 2852039166 is 169.254.169.254) that must not be reached.

    Link-local, multicast and unspecified addresses, and the metadata services of clouds; without `private` also
    loopback and private networks. Names are not resolved here: whoever connects asks again with what they resolve to.
    """
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError, UnicodeError):
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    if not private and not address.is_global:
        return True
    return address.is_link_local or address.is_multicast or address.is_unspecified or address == _METADATA_V6
