"""The HTTP client of one endpoint: connected to addresses that may be reached, or to the environment's proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import timedelta
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError
from pyreqwest.http import Url
from pyreqwest.proxy import ProxyBuilder

from evalservice.addresses import is_refused

CONNECT_TIMEOUT = 10.0
PROBE_TIMEOUT = 1.0
RESOLVED_FOR = 300.0
"""Seconds after which a name is looked up again."""
UNRESOLVED_FOR = 1.0
REFUSED_FOR = 5.0
"""A name with a single address is not looked up again sooner, however many requests cannot connect."""
NEVER = float("-inf")


class Connection:
    """One client for all requests to `url`; a name is resolved here, and only what may be reached is connected to.

    headers: of every request. timeout: seconds from sending a request to the last byte of its answer. private:
    whether loopback and private networks may be reached; link-local addresses and metadata services never are.
    Behind a proxy it is the proxy that resolves the name, and who set the proxy vouches for it.
    """

    def __init__(self, url: str, headers: dict[str, str], timeout: float, *, private: bool) -> None:
        self._url = url
        self._headers, self._timeout, self._private = headers, timeout, private
        self._proxy = environment_proxy(url)
        self._client: Client | None = None
        self._address: str | None = None
        self._resolved_until = self._look_again_at = NEVER
        self._has_others = False
        self._unresolved: OSError | None = None
        self._opening = asyncio.Lock()

    async def client(self) -> Client:
        """The client to send the next request with.

        Raises OSError: the name does not resolve in time, or only to what may not be reached; ValueError: no URL.
        """
        if not self._is_current():
            async with self._opening:
                if not self._is_current():
                    await self._renew()
        if self._client is None:
            assert self._unresolved is not None
            raise self._unresolved
        return self._client

    def refused(self, client: Client) -> None:
        """`client` could not connect: the next one goes to an address of the name that answers."""
        if client is self._client and self._proxy is None:
            self._address = None
            self._resolved_until = NEVER if self._has_others else min(self._resolved_until, self._look_again_at)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _is_current(self) -> bool:
        return asyncio.get_running_loop().time() < self._resolved_until

    async def _renew(self) -> None:
        """Another client, the one there is, or why there is none; for a while, and for all who wait."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._open()
            self._resolved_until, self._look_again_at = loop.time() + RESOLVED_FOR, loop.time() + REFUSED_FOR
        except OSError as error:  # a client that there is goes on: its address was allowed
            late = f"its name was not resolved within {CONNECT_TIMEOUT:g} s"
            self._unresolved = OSError(late if isinstance(error, TimeoutError) else str(error))
            self._resolved_until = loop.time() + UNRESOLVED_FOR

    async def _open(self) -> None:
        builder = (
            ClientBuilder()
            .default_headers(self._headers)
            .timeout(timedelta(seconds=self._timeout))
            .connect_timeout(timedelta(seconds=CONNECT_TIMEOUT))
            .follow_redirects(False)
            .no_proxy()
        )
        if self._proxy is not None:
            self._client = builder.proxy(ProxyBuilder.all(self._proxy)).build()
            return
        url = Url(self._url)  # as the client itself reads it, so that the host which is checked is the one it asks
        host, port = (url.host_str or "").strip("[]"), url.port_or_known_default or 0
        allowed = await self._allowed_addresses(host, port)
        self._has_others = len(allowed) > 1
        address = self._address if self._address in allowed else await _first_to_answer(allowed, port)
        if self._client is None or address != self._address:
            # Requests under way keep the client that they were sent with; its connections close with the last of them.
            self._address = address
            self._client = builder.resolve(host, address, port).build()

    async def _allowed_addresses(self, host: str, port: int) -> list[str]:
        """What the name resolves to and may be reached, in the order in which the system would try them (RFC 6724)."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        allowed = [address for address in addresses if not is_refused(address, private=self._private)]
        if not allowed:
            raise OSError("it resolves only to addresses that are not reached (link-local, metadata, private)")
        return list(dict.fromkeys(allowed))


async def _first_to_answer(addresses: list[str], port: int) -> str:
    """The first that takes a connection, as a client with all of them would find it; else the first."""
    for address in addresses if len(addresses) > 1 else []:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                _, writer = await asyncio.open_connection(address, port)
            writer.close()
            return address
    return addresses[0]


def could_not_connect(error: RequestError) -> bool:
    """Whether a request failed before anything was sent: no connection, or no TLS."""
    return any(cause["message"] == "client error (Connect)" for cause in error.details["causes"] or ())


def reason(error: RequestError) -> str:
    """What went wrong, most general first. The first cause only repeats the URL."""
    causes = [cause["message"] for cause in error.details["causes"] or ()]
    return ": ".join(causes[1:]) or error.message


def environment_proxy(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for a URL."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)
