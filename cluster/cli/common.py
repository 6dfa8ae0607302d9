"""Options and conversions that every command shares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from pydantic import SecretStr

from cluster.cli.output import native_stderr_to, print_json, say
from evalservice.client import path_of
from evalservice.errors import EvalserviceError, InvalidInput, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cluster.local import Claims
    from cluster.runtime import Platform
    from evalservice.client import Client
    from evalservice.settings import Settings

PIECE_BYTES = 1 << 20

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")]
Description = Annotated[str, typer.Option("--description", metavar="S", help="What it is, in a sentence.")]


@dataclass(frozen=True, slots=True)
class Service:
    """The application: a client of it, and what drives its runs when that is this process. Remote, the rest is None."""

    client: Client
    platform: Platform | None = None
    claims: Claims | None = None


@contextmanager
def service() -> Iterator[Service]:
    """The service at EVALSERVICE_URL, else the same application in this process."""
    from cluster.runtime import read_settings

    settings = read_settings()
    if settings.url is not None:
        with _remote(settings) as client:
            yield Service(client)
        return
    from cluster.local import Claims, local_client

    with _platform(settings) as opened:
        claims = Claims(opened)
        with local_client(opened, claims) as client:
            yield Service(client, opened, claims)


def _remote(settings: Settings) -> Client:
    from evalservice.client import Client

    assert settings.url is not None
    if settings.api_key is None:
        raise InvalidInput("EVALSERVICE_API_KEY", None, "set to an API key of the service at EVALSERVICE_URL: evs_…")
    return Client(settings.url, settings.api_key)


@contextmanager
def platform() -> Iterator[Platform]:
    """Postgres, open for a command that runs the service itself."""
    from cluster.runtime import read_settings

    settings = read_settings()
    if settings.url is not None:
        raise InvalidInput("EVALSERVICE_URL", "…", "unset: this command works on this machine")
    with _platform(settings) as opened:
        yield opened


@contextmanager
def _platform(settings: Settings) -> Iterator[Platform]:
    from cluster.runtime import open_platform

    with open_platform(settings) as opened:
        native_stderr_to(opened.settings.home_path / "logs" / "native.log")
        yield opened


@contextmanager
def sent(client: Client, file: Path) -> Iterator[str]:
    """The file at the service, under a name of its own, for as long as the block lasts."""
    name = uuid.uuid4().hex
    try:
        with file.open("rb") as source:
            client.upload(path_of("dataset-files", name), iter(lambda: source.read(PIECE_BYTES), b""))
    except OSError as error:
        raise InvalidInput("file", str(file), f"a file that can be read ({error.strerror})") from None
    try:
        yield name
    finally:
        with suppress(EvalserviceError):  # what stays is swept after a day
            client.delete(path_of("dataset-files", name))


@contextmanager
def owners_login() -> Iterator[tuple[Settings, str]]:
    """The environment, and the URL of the database owner's login: of DATABASE_URL, else of the embedded Postgres."""
    from cluster.embedded import EmbeddedPostgres
    from cluster.runtime import make_url_checked, read_settings

    settings = read_settings()
    if settings.database_url is not None:
        yield settings, make_url_checked(settings.database_url.get_secret_value()).render_as_string(hide_password=False)
        return
    embedded = EmbeddedPostgres(settings.home_path)
    try:
        yield settings, embedded.acquire()
    finally:
        embedded.release()


@contextmanager
def owners_engine() -> Iterator[Engine]:
    """Postgres as its owner, with the schema of this version."""
    from evalservice.database import make_engine

    with platform(), owners_login() as (_, url):
        engine = make_engine(url, pool_size=1)
        try:
            yield engine
        finally:
            engine.dispose()


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


def body_of(new: Any) -> dict[str, Any]:
    """What was given of an input, as JSON for the API; secrets in plain, for they are meant to arrive."""
    body: dict[str, Any] = new.model_dump(mode="json", exclude_unset=True)
    for name in new.model_fields_set:
        value = getattr(new, name)
        if isinstance(value, SecretStr):
            body[name] = value.get_secret_value()
    return body


def moment(option: str, given: str | None) -> str | None:
    """A moment for the API, from what was typed; one without a time zone is UTC. Raises InvalidInput."""
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidInput(option, given, "a time such as 2026-03-01 or 2026-03-01T12:00:00Z") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()


def minute(moment: str | None) -> str:
    """A moment of the API's, to the minute, in its own time zone (UTC)."""
    return "" if moment is None else moment[:16].replace("T", " ")


def money(given: Decimal | str | None) -> str:
    """Dollars for people: enough digits to tell small amounts apart."""
    if given is None:
        return ""
    value = Decimal(given)
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


def put_away(kind: str, name: str, json: bool) -> None:
    """Delete what nothing hangs on, archive it else (the API gives the document of what it kept), and say which."""
    with service() as opened:
        kept = opened.client.delete(path_of(f"{kind}s", name))
    if json:
        print_json({"name": name, "deleted": kept is None, "archived": kept is not None})
    else:
        say(f"{kind} {name!r} was " + ("deleted" if kept is None else "archived: results hang on it"))


def named(
    kind: str, wanted: str, found: Iterable[dict[str, Any]], names: Callable[[dict[str, Any]], Sequence[str]]
) -> dict[str, Any]:
    """The item of that name (the first of `names`), else the one of that id or prefix.

    Raises NotFound that says what there is, and InvalidInput when several begin so.
    """
    known, matches = [], []
    for item in found:
        if wanted == names(item)[0]:
            return item
        if wanted in names(item):
            matches.append(item)
        known.append(names(item)[0])
    if len(matches) > 1:
        raise InvalidInput(kind, wanted, f"one of {', '.join(names(item)[0] for item in matches)}")
    if matches:
        return matches[0]
    raise NotFound(kind, wanted, f"known are {', '.join(known[:20])}" if known else "there is none yet")


def by_id_or_name(client: Client, path: str, kind: str, reference: str, hint: str) -> dict[str, Any]:
    """What a list of the API has under that id or name. Raises NotFound, and InvalidInput when several have the name.

    hint: what shows the others.
    """
    try:
        found: dict[str, Any] = client.get(path_of(path, uuid.UUID(reference)))
        return found
    except ValueError:
        listed = list(client.items(path_of(path), 10, name=reference))
    if not listed:
        raise NotFound(kind, reference, hint)
    if len(listed) > 1:
        raise InvalidInput(kind, reference, f"one of the ids {', '.join(each['id'] for each in listed)}")
    return listed[0]


def detached(opened: Platform, log_name: str, *arguments: str) -> Path:
    """Start another `evalservice` that outlives this one; gives where it logs, in the home."""
    logs = opened.settings.home_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / log_name
    with path.open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return path
