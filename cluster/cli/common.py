"""Options and conversions that every command shares."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from pydantic import SecretStr

from cluster.cli.output import native_stderr_to
from evalservice.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cluster.runtime import Platform
    from evalservice.catalog.schemas import NewModel
    from evalservice.tables import Model

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")]
Description = Annotated[str, typer.Option("--description", metavar="S", help="What it is, in a sentence.")]


@contextmanager
def platform() -> Iterator[Platform]:
    """Postgres, open for this command."""
    from cluster.runtime import open_platform, read_settings

    with open_platform(read_settings()) as opened:
        native_stderr_to(opened.settings.home_path / "logs" / "native.log")
        yield opened


def json_object(field: str, text: str | None) -> dict[str, Any]:
    """A JSON object given on the command line; {} when it was not given. Raises InvalidInput."""
    if text is None:
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(field, text, f'a JSON object such as {{"temperature": 0}} ({error})') from None
    if "\\u0000" in text:
        raise InvalidInput(field, text, "JSON without NUL characters, which Postgres does not store")
    if not isinstance(value, dict):
        raise InvalidInput(field, text, 'a JSON object such as {"temperature": 0}')
    return value


def json_file(field: str, path: Path | None) -> dict[str, Any]:
    """A JSON object in a file; {} when none is named. Raises InvalidInput."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InvalidInput(field, str(path), f"a JSON file that can be read ({reason})") from None
    return json_object(field, text)


def dollars(field: str, text: str | None) -> Decimal | None:
    """US dollars as an exact decimal. Raises InvalidInput."""
    if text is None:
        return None
    digits = text.strip().removeprefix("$")
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", digits):
        raise InvalidInput(field, text, "US dollars per million tokens: a number of 0 or more, e.g. 0.15")
    return Decimal(digits)


def secret_from_environment(variable: str | None) -> SecretStr | None:
    """The value of a variable that holds a key. Raises InvalidInput when it is not set."""
    if variable is None:
        return None
    value = os.environ.get(variable, "").strip()
    if not value:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,99}", variable):  # perhaps the key itself: not to be repeated
            raise InvalidInput("api_key_env", "…", "the NAME of a variable that holds the key, e.g. OPENAI_API_KEY")
        raise InvalidInput("api_key_env", variable, f"a variable that is set: export {variable}=…")
    if not value.isprintable() or not value.isascii():
        raise InvalidInput("api_key_env", variable, "a key of printable ASCII characters")
    return SecretStr(value)


def money(value: Decimal | None) -> str:
    """Dollars for people: enough digits to tell small amounts apart."""
    if value is None:
        return ""
    return f"${value:.2f}" if value >= 1 or value == 0 else f"${value:.6f}".rstrip("0").ljust(5, "0")


def with_interval(result: dict[str, Any]) -> str:
    """`0.5625 ± 0.0137  [0.5356, 0.5890]`"""
    if result.get("value") is None:
        return "undefined"
    text = f"{result['value']:.4f}"
    if result.get("stderr") is not None:
        text += f" ± {result['stderr']:.4f}"
    if result.get("ci_low") is not None:
        text += f"  [{result['ci_low']:.4f}, {result['ci_high']:.4f}]"
    return text


def register_model(opened: Platform, session: Session, new: NewModel) -> Model:
    """Register a model as this command's user, for the platforms that are installed here."""
    from actors.providers import hosted_platforms
    from evalservice.catalog.model_config import ENGINES
    from evalservice.catalog.service import add_model

    platforms = [*hosted_platforms(), *ENGINES]
    return add_model(session, opened.organization_id, new, opened.box, platforms=platforms, user_id=opened.user_id)
