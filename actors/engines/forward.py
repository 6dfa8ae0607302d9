"""Log likelihoods by one forward pass of a transformers model: rows of equal kind, padded on the right."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.engines.prompting import Continued


@dataclass(frozen=True, slots=True)
class Row:
    """One continuation of one request: the request's place in the call, and what is to be scored."""

    index: int
    continued: Continued

    @property
    def tokens(self) -> list[int]:
        return self.continued.tokens


def log_likelihoods(torch: Any, model: Any, rows: Sequence[Row], pad: int, device: str) -> list[float]:
    """The sum of log p(token | all before it) over each row's continuation, in order.

    Padding stands on the right, where a causal model's earlier positions do not see it. The last token predicts
    nothing and is left out. Logits are kept from the first position that predicts a continuation on, where the model
    can leave the others out.
    """
    width = max(len(row.tokens) for row in rows) - 1
    ids = torch.tensor([row.tokens[:-1] + [pad] * (width + 1 - len(row.tokens)) for row in rows], device=device)
    mask = torch.tensor(
        [[1] * (len(row.tokens) - 1) + [0] * (width + 1 - len(row.tokens)) for row in rows], device=device
    )
    first = min(row.continued.start for row in rows) - 1
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask, **({"logits_to_keep": width - first} if keeps else {}))
    begin = width - output.logits.shape[1]
    sums = []
    for logits, row in zip(output.logits, rows, strict=True):
        start, wanted = row.continued.start, row.continued.continuation
        own = logits[start - 1 - begin : start - 1 - begin + len(wanted)].float().log_softmax(-1)
        chosen = own.gather(-1, torch.tensor(wanted, device=device).unsqueeze(-1))
        sums.append(float(chosen.sum()))
    return sums
