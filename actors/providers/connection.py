"""The HTTP client of one endpoint: connected to addresses that may be reached, or to the environment's proxy."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import RequestError
from pyreqwest.proxy import ProxyBuilder

from evalservice.addresses import is_refused

CONNECT_TIMEOUT = 10.0
RESOLVED_FOR = 300.0
"""Seconds after which a name is looked up again."""


class Connection:
    """One client for all requests to `url`; a name is resolved here, and only what may be reached is connected to.

    headers: of every request. timeout: seconds from sending a request to the last byte of its answer. private:
    whether loopback and private networks may be reached; link-local addresses and metadata services never are.
    Behind a proxy it is the proxy that resolves the name, and who set the proxy vouches for it.
    """

    def __init__(self, url: str, headers: dict[str, str], timeout: float, *, private: bool) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._headers, self._timeout, self._private = headers, timeout, private
        self._proxy = environment_proxy(url)
        self._client: Client | None = None
        self._address: str | None = None
        self._resolved_at = 0.0
        self._failed: str | None = None
        self._opening = asyncio.Lock()

    async def client(self) -> Client:
        """The client to send the next request with.

        Raises OSError: the name does not resolve, or only to what may not be reached.
        """
        if self._is_current():
            assert self._client is not None
            return self._client
        async with self._opening:
            if not self._is_current():
                await self._open()
            assert self._client is not None
            return self._client

    def refused(self, client: Client) -> None:
        """`client` could not connect: where the name has more than one address, the next client tries another."""
        if client is self._client and self._proxy is None:
            self._failed = self._address
            self._resolved_at = 0.0

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _is_current(self) -> bool:
        if self._client is None:
            return False
        return self._proxy is not None or asyncio.get_running_loop().time() - self._resolved_at < RESOLVED_FOR

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
        allowed = await self._allowed_addresses()
        self._resolved_at = asyncio.get_running_loop().time()
        others = [address for address in allowed if address != self._failed]
        address = self._address if self._address in others else (others or allowed)[0]
        self._failed = None
        if self._client is None or address != self._address:
            # Requests under way keep the client that they were sent with; its connections close with the last of them.
            self._address = address
            self._client = builder.resolve(self._host, address, self._port).build()

    async def _allowed_addresses(self) -> list[str]:
        """What the name resolves to and may be reached, in the order in which the system would try them (RFC 6724)."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        allowed = [address for address in addresses if not is_refused(address, private=self._private)]
        if not allowed:
            raise OSError("it resolves only to addresses that are not reached (link-local, metadata, private)")
        return list(dict.fromkeys(allowed))


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
