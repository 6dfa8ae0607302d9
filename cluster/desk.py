"""The driver answers what the actors of its run ask (`actors.desk`), in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray

from evalservice.errors import DatabaseUnavailable, LeaseLost

RETRY_SECONDS = 1.0
Answer = Callable[[Mapping[int, Any]], Mapping[int, Any]]
"""Takes questions by number and gives an answer to each. Raises DatabaseUnavailable to be asked again."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def attended(signal: Any, answers: Mapping[str, Answer], on_lease_lost: Callable[[], None]) -> Iterator[None]:
    """Questions are answered until the block ends; while Postgres is away they wait."""
    if not answers:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_attend, args=(signal, answers, on_lease_lost, done), name="desk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _attend(
    signal: Any, answers: Mapping[str, Answer], on_lease_lost: Callable[[], None], done: threading.Event
) -> None:
    while not done.is_set():
        try:
            asked: Mapping[int, tuple[str, Any]] = ray.get(signal.asked.remote())
            for kind, answer in answers.items():
                questions = {number: question for number, (of_kind, question) in asked.items() if of_kind == kind}
                if questions and (given := _answered(answer, questions, done)) is not None:
                    ray.get(signal.answer.remote(given))
        except LeaseLost:
            on_lease_lost()
            return
        except Exception as error:
            if not done.is_set():
                log.exception("question_not_answered", extra={"error": f"{type(error).__name__}: {error}"})
                ray.get(signal.fail.remote(f"the driver could not answer its actors: {type(error).__name__}: {error}"))
            return


def _answered(answer: Answer, questions: Mapping[int, Any], done: threading.Event) -> Mapping[int, Any] | None:
    while not done.is_set():
        try:
            return answer(questions)
        except DatabaseUnavailable:
            time.sleep(RETRY_SECONDS)
    return None
