"""lm-evaluation-harness groups: their aggregates repeat those of their tasks, weighted by size or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalservice.interchange.tally import disagreement

Stated = Mapping[str, Mapping[str, float]]


def group_contradictions(
    members: Mapping[str, Sequence[str]], stated: Stated, tasks: Stated, sizes: Mapping[str, int]
) -> list[str]:
    """Where a group's stated value is neither the mean of its tasks nor their mean weighted by test cases.

    stated: by group (and task), what the file says; tasks: by task, what its rows must agree with anyway.
    """
    found = []
    for group in members:
        below = _leaves(group, members)
        for key, value in stated.get(group, {}).items():
            parts = [(tasks[task][key], sizes.get(task, 0)) for task in below if key in tasks.get(task, {})]
            if not parts or any(task not in tasks for task in below):
                continue
            plain = sum(part for part, _ in parts) / len(parts)
            total = sum(size for _, size in parts)
            weighted = sum(part * size for part, size in parts) / total if total else plain
            count = len(parts)
            if disagreement(key, value, plain, count) and (said := disagreement(key, value, weighted, count, "tasks")):
                found.append(f"group {group}: {said}")
    return found


def _leaves(group: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks below a group, each once."""
    waiting, known, leaves = [group], {group}, []
    while waiting:
        name = waiting.pop()
        if name not in members:
            leaves.append(name)
        for member in members.get(name, ()):
            if member not in known:
                known.add(member)
                waiting.append(member)
    return leaves
