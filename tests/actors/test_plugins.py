"""Third parties' providers: found by their entry point, whole or without what a wire format may leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.providers import base_url_of, hosted_platforms, wire_format
from actors.providers.limits import RateLimits
from cluster.planning import check_new_model, default_base_urls
from evalservice.catalog.model_config import ModelConfig
from evalservice.errors import InvalidInput
from evalservice.records import ChatRequest, Completion

CODE = """
from evalservice.records import Completion, ItemError

class Old:
    default_base_url = "https://old.example/v1"
    def url(self, base_url, model_id): return base_url + "/ask"
    def headers(self, api_key): return {}
    def body(self, model_id, request): return {"q": request.messages[-1]["content"]}
    def completion(self, payload): return Completion(text=payload["a"])
    def error(self, status, payload, headers): return ItemError("bad_request", "no", retryable=False)
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with one provider that works and one that does not load."""
    (tmp_path / "old_provider.py").write_text(CODE)
    info = tmp_path / "old_provider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: old-provider\nVersion: 1.0\n")
    entries = "[evalservice.providers]\nold = old_provider:Old\nbroken = old_provider:Missing\n"
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugged")
def test_a_provider_that_says_nothing_of_parameters_and_limits_goes_on_working() -> None:
    wire = wire_format("old")
    wire.check({"temperature": 2, "seed": 1})
    assert wire.limits({"x-ratelimit-limit-requests": "5"}) == RateLimits()
    assert wire.body("m", ChatRequest(({"role": "user", "content": "2+2?"},))) == {"q": "2+2?"}
    assert wire.completion({"a": "4"}) == Completion(text="4")


@pytest.mark.usefixtures("plugged")
def test_every_platform_has_its_own_default_address_and_one_that_does_not_load_has_none() -> None:
    assert base_url_of("old") == "https://old.example/v1"
    addresses = default_base_urls()
    assert {"openai", "anthropic", "google", "old", "broken", "vllm", "transformers"} == addresses.keys()
    assert (addresses["old"], addresses["broken"], addresses["vllm"]) == ("https://old.example/v1", "", "")


@pytest.mark.usefixtures("plugged")
def test_a_provider_that_does_not_load_says_so_to_who_uses_it() -> None:
    assert "broken" in hosted_platforms()
    with pytest.raises(InvalidInput, match="does not load"):
        check_new_model("broken", ModelConfig())
