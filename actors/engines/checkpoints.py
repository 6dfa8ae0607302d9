"""What a model's folder says before anything is loaded: that it is one, and that engine options and adapters fit it.

Only JSON and the headers of safetensors files are read, so an API process can do it. A hub name cannot be looked into.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalservice.errors import EngineUnavailable, InvalidInput, shown

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
MOST_HEADER_BYTES = 100 * 2**20
MOST_JSON_BYTES = 64 * 2**20
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
PLAIN_LORA = {"use_dora": False, "lora_bias": False, "alora_invocation_tokens": None, "layer_replication": None}
"""Features of peft that change what an adapter computes, with the values under which it is a plain LoRA."""

Shape = tuple[int, ...]


def folder_of(model: str) -> Path | None:
    """The folder that a model's id means; None for a hub name."""
    path = Path(model).expanduser()
    return path if model.startswith(("/", "./", "../", "~")) or path.is_dir() else None


def check_model_path(model: str) -> dict[str, Any] | None:
    """The config.json of a model's folder; None for a hub name. Raises EngineUnavailable for what is neither."""
    folder = folder_of(model)
    wanted = "give a Hugging Face checkpoint's folder or hub name"
    if folder is None:
        if not HUB_NAME.fullmatch(model):
            raise EngineUnavailable(f"model {shown(model, 500)} is neither a folder nor a hub name: {wanted}")
        return None
    if not (folder / "config.json").is_file():
        problem = "has no config.json" if folder.is_dir() else "is not a folder"
        if (folder / "adapter_config.json").is_file():
            problem, wanted = "is a LoRA adapter", "give the model that it belongs to, and this folder as engine.lora"
        raise EngineUnavailable(f"model {shown(model, 500)} {problem}: {wanted}")
    try:
        config = _json(folder / "config.json")
    except ValueError as error:
        raise EngineUnavailable(f"model {shown(model, 500)}: config.json is no JSON object: {error}") from None
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise EngineUnavailable(f"model {shown(model, 500)} has no weights ({', '.join(WEIGHTS)}): {wanted}")
    return config


def check_parallel(engine: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse parallel sizes that a model's heads and layers cannot be divided by. Raises InvalidInput."""
    text = config.get("text_config")
    inner = {**config, **(text if isinstance(text, Mapping) else {})}
    heads, layers = inner.get("num_attention_heads"), inner.get("num_hidden_layers")
    tensor, pipeline = engine.get("tensor_parallel_size") or 1, engine.get("pipeline_parallel_size") or 1
    if isinstance(heads, int) and heads % tensor:
        accepted = f"a divisor of the model's {heads} attention heads"
        raise InvalidInput("engine.tensor_parallel_size", tensor, accepted)
    if isinstance(layers, int) and pipeline > layers:
        raise InvalidInput("engine.pipeline_parallel_size", pipeline, f"at most the model's {layers} layers")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that fits its model."""

    folder: Path
    rank: int


def check_adapter(lora: str, model: str) -> Adapter:
    """Read an adapter and compare it with the model's weights where those are files here.

    Raises InvalidInput that says which module does not fit, and with what numbers.
    """
    folder = Path(lora).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise InvalidInput("engine.lora", lora, "the folder of a LoRA adapter: it has no adapter_config.json")
    try:
        config = _json(folder / "adapter_config.json")
    except ValueError as error:
        raise InvalidInput(
            "engine.lora", lora, f"a LoRA adapter: adapter_config.json is no JSON object: {error}"
        ) from None
    if config.get("peft_type") != "LORA":
        raise InvalidInput("engine.lora", lora, f"a LoRA adapter: its peft_type is {shown(config.get('peft_type'))}")
    for name, plain in PLAIN_LORA.items():
        if (config.get(name) or plain) != plain:
            raise InvalidInput("engine.lora", lora, f"a plain LoRA adapter: {name} is {shown(config[name])}")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise InvalidInput(
            "engine.lora", lora, f"an adapter whose rank r is an integer above 0: it is {shown(ranks[0])}"
        )
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        if not (folder / "adapter_model.bin").is_file():
            raise InvalidInput("engine.lora", lora, "a LoRA adapter: it has no adapter_model.safetensors")
    else:
        _check_shapes(lora, _shapes([weights]), model)
    return Adapter(folder, max(ranks))


def _check_shapes(lora: str, adapter: Mapping[str, Shape], model: str) -> None:
    """Each pair of the adapter's matrices belongs to a matrix of the model, and has its width and height."""
    folder = folder_of(model)
    base = _shapes(sorted(folder.glob("*.safetensors"))) if folder else {}
    if not base:
        return
    packed = bool(_json(folder / "config.json").get("quantization_config")) if folder else False
    for name, shape in adapter.items():
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if side not in ("lora_A", "lora_B"):
            continue
        below = re.search(r"\d+\..+", module)  # from the layer's number on: prefixes differ between libraries
        tail = f".{below.group()}." if below else f"{module}."
        if not any(tail in each for each in base):
            accepted = f"an adapter of model {shown(model, 500)}: that has no module {module}"
            raise InvalidInput("engine.lora", lora, accepted)
        whole = base.get(f"{module}.weight", ())
        if packed or len(whole) != 2 or len(shape) != 2:
            continue
        own, wanted = (shape[1], whole[1]) if side == "lora_A" else (shape[0], whole[0])
        if own != wanted:
            what = "inputs" if side == "lora_A" else "outputs"
            accepted = (
                f"an adapter of model {shown(model, 500)}: {module} has {wanted} {what} there, {own} in the adapter"
            )
            raise InvalidInput("engine.lora", lora, accepted)


def _shapes(files: Iterable[Path]) -> dict[str, Shape]:
    """Tensor names with their shapes, from the files' headers: 8 bytes of length, then JSON."""
    shapes: dict[str, Shape] = {}
    for file in files:
        with file.open("rb") as opened:
            head = opened.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else math.inf
            if length > MOST_HEADER_BYTES:
                raise InvalidInput("engine.lora", str(file), "a safetensors file")
            try:
                header = json.loads(opened.read(int(length)))
            except ValueError:
                raise InvalidInput("engine.lora", str(file), "a safetensors file") from None
        shapes.update({k: tuple(v["shape"]) for k, v in header.items() if k != "__metadata__"})
    return shapes


def _json(file: Path) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object."""
    if file.stat().st_size > MOST_JSON_BYTES:
        raise ValueError("it is too large")
    value = json.loads(file.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"it is {shown(value)}")
    return value
