"""Messages with parts: images and texts pass through to the prompt, what no provider could read is the item's error."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given

from evalservice.catalog.content import (
    MAX_IMAGE_CHARS,
    check_messages,
    refuse_system_messages,
    without_image_data,
)
from evalservice.catalog.criteria import parse_criteria
from evalservice.catalog.datasets import load_cases
from evalservice.catalog.prompts import PromptError, PromptRenderer
from evalservice.records import TestCase
from tests.actors.vendor import PNG, TALK, messages_of_any_shape

PICTURE = f"data:image/png;base64,{PNG}"


def image(url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_messages_with_images_go_from_the_dataset_to_the_prompt_as_they_are() -> None:
    [case] = load_cases([(1, {"input": {"messages": TALK}, "expected_output": "a cat"})])
    criteria = parse_criteria({"scorers": "includes", "system_prompt": "Look."})
    assert PromptRenderer(criteria).render(case) == ({"role": "system", "content": "Look."}, *TALK)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png;base64,%%%", "messages[0].content[0].image_url.url: the image is not base64"),
        ("data:image/png;base64,abc", "the image is not base64"),
        ("data:image/png;base64,", "expected is data:image/…;base64,…"),
        ("data:image/svg+xml,<svg/>", "expected is data:image/…;base64,…"),
        ("data:text/html;base64,AAAA", "expected is data:image/…;base64,…"),
        ("file:///etc/passwd", "'file:///etc/passwd' is not an http(s) URL"),
        ("cat.png", "'cat.png' is not an http(s) URL"),
        ("https://example.com/" + "a" * 9000, "at most 8192 characters"),
        ("data:image/png;base64," + "A" * MAX_IMAGE_CHARS, "an image of more than 28 MiB"),
        (None, "image_url: an object"),
        (7, "image_url: an object"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_image_that_is_none_is_refused_by_name(url: Any, says: str) -> None:
    with pytest.raises(PromptError) as refused:
        check_messages(image(url))
    assert says in refused.value.message
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("text", "messages[0].content[0]: an object with a type"),
        ({"text": "no type"}, "an object with a type"),
        ({"type": "hologram"}, "messages[0].content[0].type: 'hologram' is not known"),
        ({"type": "text", "text": 7}, "messages[0].content[0].text: a text is expected, this is 7"),
    ],
)
def test_a_part_that_is_not_known_is_refused_by_name(part: Any, says: str) -> None:
    with pytest.raises(PromptError) as refused:
        PromptRenderer(parse_criteria({"scorers": "includes"})).render(
            TestCase(0, {"messages": [{"role": "user", "content": [part]}]})
        )
    assert says in refused.value.message


def test_images_of_one_test_case_are_bounded_together() -> None:
    large = "data:image/png;base64," + base64.b64encode(bytes(15 << 20)).decode()
    check_messages(image(large))
    with pytest.raises(PromptError, match="more than 40 MiB"):
        check_messages([*image(large), *image(large), *image(large)])


def test_texts_in_parts_count_as_texts() -> None:
    with pytest.raises(PromptError, match="more than"):
        check_messages([{"role": "user", "content": [{"type": "text", "text": "x" * 5_000_000}]}])


@given(messages_of_any_shape())
def test_messages_of_any_shape_are_accepted_or_refused(messages: Any) -> None:
    with contextlib.suppress(PromptError):
        check_messages(messages)


def test_a_system_message_is_refused_for_a_model_that_has_none() -> None:
    refuse_system_messages(TALK[1:-1])
    with pytest.raises(PromptError, match=r"messages\[0\].role: 'system'"):
        refuse_system_messages(TALK)


def test_a_result_keeps_the_hash_of_an_image_in_place_of_its_data() -> None:
    kept = without_image_data(TALK)
    digest = hashlib.sha256(PNG.encode()).hexdigest()
    assert kept[2]["content"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;sha256={digest}"}}]
    assert [kept[number] == TALK[number] for number in range(len(TALK))].count(False) == 1


@given(messages_of_any_shape())
def test_messages_of_any_shape_are_kept(messages: Any) -> None:
    assert len(without_image_data(messages)) == len(messages)
