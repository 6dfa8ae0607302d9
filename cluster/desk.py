"""The driver answers what the actors of its run ask (`actors.desk`), in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray

from evalservice.errors import DatabaseUnavailable, EvalserviceError, RunFailed

RETRY_SECONDS = 1.0
Answer = Callable[[Mapping[int, Any]], Mapping[int, Any]]
"""Takes questions by number and gives an answer to each. Raises DatabaseUnavailable to be asked again."""

log = logging.getLogger(__name__)


class Attendant:
    """Answers questions until it is told to stop, or until it cannot: then the run is stopped.

    patience: seconds for which Postgres may be away while something is asked.
    """

    def __init__(self, signal: Any, answers: Mapping[str, Answer], patience: float) -> None:
        self._signal, self._answers, self._patience = signal, answers, patience
        self._done = threading.Event()
        self._failure: EvalserviceError | None = None

    def check(self) -> None:
        """Raises LeaseLost, DatabaseUnavailable or RunFailed when that is why nothing was answered any more."""
        if self._failure is not None:
            raise self._failure

    def attend(self) -> None:
        """Answer what is asked, until `leave`."""
        try:
            while not self._done.is_set():
                asked: Mapping[int, tuple[str, Any]] = ray.get(self._signal.asked.remote())
                for kind, answer in self._answers.items():
                    questions = {number: question for number, (of_kind, question) in asked.items() if of_kind == kind}
                    if questions and (given := self._answered(answer, questions)) is not None:
                        ray.get(self._signal.answer.remote(given))
        except Exception as error:
            if not self._done.is_set():
                self._failed(error)
        finally:  # nobody may wait for an answer that does not come
            with contextlib.suppress(Exception):
                ray.get(self._signal.close_desk.remote())

    def leave(self) -> None:
        """Answer no more."""
        self._done.set()

    def _answered(self, answer: Answer, questions: Mapping[int, Any]) -> Mapping[int, Any] | None:
        deadline = time.monotonic() + self._patience
        while not self._done.is_set():
            try:
                return answer(questions)
            except DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
                self._done.wait(RETRY_SECONDS)
        return None

    def _failed(self, error: Exception) -> None:
        log.error("question_not_answered", exc_info=error)
        reason = f"the driver could not answer its actors: {type(error).__name__}: {error}"
        self._failure = error if isinstance(error, EvalserviceError) else RunFailed(reason)
        with contextlib.suppress(Exception):
            ray.get(self._signal.set.remote("stopped"))


@contextlib.contextmanager
def attended(signal: Any, answers: Mapping[str, Answer], patience: float) -> Iterator[Attendant]:
    """Questions are answered until the block ends; while Postgres is away they wait. See `Attendant`."""
    attendant = Attendant(signal, answers, patience)
    if not answers:
        yield attendant
        return
    thread = threading.Thread(target=attendant.attend, name="desk", daemon=True)
    thread.start()
    try:
        yield attendant
    finally:
        attendant.leave()
        thread.join()
