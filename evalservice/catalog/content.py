"""Messages whose content is a list of parts, in the OpenAI form: what is checked before a model is asked.

    {"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                 {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0…"}}]}

Images are named by an http(s) URL, which is passed on as text and never fetched here, or given as base64 data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from evalservice.catalog.sandbox import MAX_RENDERED_CHARS, PromptError
from evalservice.errors import shown
from evalservice.records import JSON

MAX_IMAGE_CHARS: Final = 28 << 20
"""Characters of a data URL: 20 MiB of an image, in base64."""
MAX_IMAGES_CHARS: Final = 40 << 20
"""Characters of all data URLs of one test case."""
MAX_URL_CHARS: Final = 8192
SYSTEM_ROLES: Final = ("system", "developer")

PASSED_ON: Final = ("input_audio", "file", "refusal")
"""Further parts of the OpenAI form: a provider that does not take them says so, for the test case that has them."""


class MessagesError(PromptError):
    """The messages of a test case cannot be sent; no template is to blame."""


def check_messages(messages: Sequence[Mapping[str, JSON]]) -> None:
    """Raises MessagesError, naming the message and the part, for what no provider could read or what is too large."""
    chars = images = 0
    for number, message in enumerate(messages):
        content = message.get("content")
        where = f"messages[{number}].content"
        if isinstance(content, str):
            chars += len(content)
        elif isinstance(content, list):
            for position, part in enumerate(content):
                text, image = _part_chars(f"{where}[{position}]", part)
                chars, images = chars + text, images + image
    if chars > MAX_RENDERED_CHARS:
        raise MessagesError(f"messages: more than {MAX_RENDERED_CHARS:,} characters")
    if images > MAX_IMAGES_CHARS:
        raise MessagesError(f"messages: images of more than {MAX_IMAGES_CHARS >> 20} MiB in base64")


def refuse_system_messages(messages: Sequence[Mapping[str, JSON]]) -> None:
    """Raises MessagesError when a message is of the system role, for a model that has none."""
    for number, message in enumerate(messages):
        if message.get("role") in SYSTEM_ROLES:
            raise MessagesError(
                f"messages[{number}].role: {message['role']!r}, but the model's configuration says that it has no "
                "system prompt (system_prompt: false)"
            )


def _part_chars(where: str, part: JSON) -> tuple[int, int]:
    """Characters of text and of image data in a part."""
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise MessagesError(f"{where}: an object with a type (text, image_url) is expected, this is {shown(part, 60)}")
    kind = part["type"]
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise MessagesError(f"{where}.text: a text is expected, this is {shown(part.get('text'), 60)}")
        return len(part["text"]), 0
    if kind == "image_url":
        url = image_url(part)
        if url is None:
            given = shown(part.get("image_url"), 60)
            raise MessagesError(f'{where}.image_url: an object {{"url": …}} is expected, this is {given}')
        return 0, _image_chars(f"{where}.image_url.url", url)
    if kind not in PASSED_ON:
        known = ", ".join(("text", "image_url", *PASSED_ON))
        raise MessagesError(f"{where}.type: {shown(kind)} is not known; known are {known}")
    return len(str(part)), 0


def _image_chars(where: str, url: str) -> int:
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")) or len(url) > MAX_URL_CHARS:
            raise MessagesError(
                f"{where}: {shown(url, 60)} is not an http(s) URL of at most {MAX_URL_CHARS} characters, "
                "nor data:image/…;base64,…"
            )
        return 0
    if len(url) > MAX_IMAGE_CHARS:
        raise MessagesError(f"{where}: an image of more than {MAX_IMAGE_CHARS >> 20} MiB in base64")
    media_type, data = split_data_url(url)
    if not media_type.startswith("image/") or data is None:
        raise MessagesError(f"{where}: {shown(url, 60)}, expected is data:image/…;base64,…")
    try:
        found = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessagesError(f"{where}: the image is not base64 ({error})") from None
    if not found:
        raise MessagesError(f"{where}: the image is empty")
    return len(url)


def split_data_url(url: str) -> tuple[str, str | None]:
    """(media type, base64 text) of a data URL (RFC 2397); None for data in another encoding.

    "data:image/png;base64,iVBORw0" -> ("image/png", "iVBORw0")
    """
    head, _, data = url.removeprefix("data:").partition(",")
    media_type, *parameters = head.split(";")
    return media_type.strip().lower(), data if "base64" in parameters and data else None


def image_url(part: Mapping[str, JSON]) -> str | None:
    """The URL of an `image_url` part; None when it has none."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else None
    return url if isinstance(url, str) else None


def without_image_data(messages: Sequence[JSON]) -> list[JSON]:
    """The messages as a result keeps them: of an image's data the SHA-256, for the data set has the rest.

    "data:image/png;base64,iVBORw0…" -> "data:image/png;sha256=9f86d0…"
    """
    return [
        {**message, "content": [_without_data(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _without_data(part: JSON) -> JSON:
    url = image_url(part) if isinstance(part, Mapping) and part.get("type") == "image_url" else None
    if url is None or not url.startswith("data:"):
        return part
    media_type, data = split_data_url(url)
    digest = hashlib.sha256((data or url).encode(errors="replace")).hexdigest()
    return {**part, "image_url": {**part["image_url"], "url": f"data:{media_type[:100]};sha256={digest}"}}
