"""Where a model may be asked, whoever spells the address however."""

from __future__ import annotations

import pytest

from evalservice.addresses import check_base_url
from evalservice.errors import InvalidInput


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://2852039166/v1",
        "http://0xa9fea9fe/v1",
        "http://169.254.43518/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://[fe80::1]/v1",
        "http://[fd00:ec2::254]/v1",
        "http://metadata.google.internal/v1",
        "http://METADATA.google.internal./v1",
        "http://0.0.0.0/v1",
        "http://169.254.169.254\\.example.com/v1",
        "http://169。254。169。254/v1",
        "http://169.254.169%2e254/v1",
    ],
)
def test_addresses_that_hand_out_a_machines_credentials_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="not reached"):
        check_base_url(url, private=True)


@pytest.mark.parametrize("url", ["ftp://x/v1", "x", "", "http://", "http://..", "http://u:p@x/", "http://x:99999/"])
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="base_url"):
        check_base_url(url, private=True)


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/v1", "https://api.openai.com/v1", "http://10.0.0.7:8000", "http://[::1]:8000/v1"]
)
def test_servers_of_ones_own_are_allowed(url: str) -> None:
    check_base_url(url, private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://api.LOCALHOST./v1",
        "http://127.0.0.1/v1",
        "http://loc%61lhost/v1",
        "http://2130706433/v1",
        "http://10.0.0.7:8000",
        "http://192.168.1.1/v1",
        "http://[::1]:8000/v1",
        "http://[::ffff:10.0.0.7]/v1",
        "http://[fd12::1]/v1",
    ],
)
def test_a_service_for_strangers_does_not_reach_its_own_network(url: str) -> None:
    with pytest.raises(InvalidInput, match="a public address"):
        check_base_url(url, private=False)


def test_a_public_address_is_reached_by_every_service() -> None:
    check_base_url("https://api.openai.com/v1", private=False)
