"""What a reader's first pass over a log keeps of each metric's values: enough to say of which kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalservice.scoring import Metric


@dataclass(slots=True)
class _Seen:
    binary: bool = True
    within: bool = True


@dataclass(slots=True)
class Tally:
    """The metrics of a log, in the order in which they were first seen."""

    seen: dict[str, _Seen] = field(default_factory=dict)

    def add(self, name: str, value: float | None) -> None:
        """One item's value; None where the item has none."""
        seen = self.seen.setdefault(name, _Seen())
        if value is not None:
            seen.binary = seen.binary and value in (0.0, 1.0)
            seen.within = seen.within and 0.0 <= value <= 1.0

    def metrics(self, lower_is_better: Mapping[str, bool] | None = None) -> tuple[Metric, ...]:
        """A metric is binary if its values were all 0 or 1; it has the scale 0 to 1 if none lay outside."""
        return tuple(
            Metric(
                name,
                "binary" if seen.binary else "continuous",
                (0.0, 1.0) if seen.within else (None, None),
                not (lower_is_better or {}).get(name, False),
            )
            for name, seen in self.seen.items()
        )


def disagreement(metric: str, stated: float, found: float | None, count: int, what: str = "test cases") -> str | None:
    """Why an aggregate and its rows contradict each other; None if they do not."""
    if found is None:
        return f"{metric}: stated {stated:.10g}, but no row has a value"
    if abs(found - stated) <= 1e-6 * max(1.0, abs(stated)):
        return None
    return f"{metric}: stated {stated:.10g}, but {found:.10g} from the rows of {count} {what}"
