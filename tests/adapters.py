"""A small random LoRA adapter for the demo's model, right or wrong in one respect."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH = 4, 128


def write_adapter(
    folder: Path,
    *,
    rank: int = 4,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    inputs: int = WIDTH,
    outputs: int = WIDTH,
    config: dict[str, Any] | None = None,
) -> str:
    """Write adapter_config.json and adapter_model.safetensors; gives the folder."""
    rng = np.random.default_rng(0)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.{module}.{side}.weight": rng.normal(0, 0.2, shape)
        for layer in range(LAYERS)
        for module in modules
        for side, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank)))
    }
    own = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    own |= {"target_modules": list(modules), **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(own))
    header, data = {}, b""
    for name, values in tensors.items():
        piece = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    head = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    return str(folder)
