"""vLLM's engine options: which there are, what they take, and which are the operator's. Imports nothing of vLLM.

The installed vLLM is asked by reading its source (`vllm/engine/arg_utils.py` and the literals that it imports), because
importing it takes seconds and memory that an API process has no use for. Where none is installed, what is certain of
every version is still checked; the rest is for the engine to say.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engines.common import CHAT_TEMPLATE, LORA, Accepts, check_keys, check_values, integer, number, one_of, text
from evalservice.errors import InvalidInput

OPERATORS_OPTIONS = re.compile(
    r"""model|model_weights|model_class_overrides|served_model_name|tokenizer|tokenizer_mode|runner|convert|spec_model
      | trust_remote_code|hf_token|hf_overrides|logits_processors|logprobs_mode|device_ids|nnodes
      | load_format|default_mm_loras|media_io_kwargs|skip_tokenizer_init|tokens_only
      | allowed_.*|data_parallel_.*|master_.*|numa_.*|.*_logging|_.*
      | (?!override_generation_config$|quantization_config$).*_config
      | .*_(cls|plugin|path|file|dir|endpoint|address|port|rank)(?<!max_lora_rank)""",
    re.VERBOSE,
)
"""Options that load code, read or write files, open sockets, or would make the model another one than it says."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_FLAG = one_of(True, False)
_SIZE = integer(1)
COMMON: dict[str, Accepts] = {
    "lora": LORA,
    "chat_template": CHAT_TEMPLATE,
    "dtype": one_of("auto", "half", "float16", "bfloat16", "float", "float32"),
    "quantization": text(),
    "kv_cache_dtype": text(),
    "revision": text(),
    "max_model_len": integer(1),
    "gpu_memory_utilization": number(0.0, 1.0),
    "kv_cache_memory_bytes": _SIZE,
    "tensor_parallel_size": _SIZE,
    "pipeline_parallel_size": _SIZE,
    "distributed_executor_backend": one_of("mp", "ray"),
    "max_num_seqs": _SIZE,
    "max_num_batched_tokens": _SIZE,
    "block_size": _SIZE,
    "max_lora_rank": one_of(*LORA_RANKS),
    "seed": integer(0),
    "enable_prefix_caching": _FLAG,
    "enable_chunked_prefill": _FLAG,
    "enforce_eager": _FLAG,
    "enable_lora": _FLAG,
    "trust_remote_code": _FLAG,
}
"""Options that every version has, and ours. Some are narrower than vLLM's own types, which take names of classes."""
NEAR = 0.86
"""So alike, a name that no installed vLLM can vouch for is a slip of the pen."""


def gpus_needed(engine: Mapping[str, Any]) -> int:
    """GPUs that one engine with these options occupies."""
    check_values({name: value for name, value in engine.items() if name in _PARALLEL}, COMMON)
    tensor, pipeline = (engine.get(name) or 1 for name in _PARALLEL)
    return int(tensor) * int(pipeline)


_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")


def check_engine(engine: Mapping[str, Any], trusted: Collection[str] = ()) -> None:
    """Refuse options that the installed vLLM does not have, values that it does not take, and the operator's options.

    trusted: operator's options that are allowed all the same, such as trust_remote_code. Raises InvalidInput.
    """
    found = importlib.util.find_spec("vllm")
    places = list(found.submodule_search_locations or ()) if found else []
    known = installed_options(places[0]) if places else None
    names = {*engine, *COMMON, *(known or ())}
    denied = {name for name in names if OPERATORS_OPTIONS.fullmatch(name) and name not in trusted}
    if known:
        check_keys(engine, {*known, "lora", "chat_template"} - denied, denied & known.keys())
    else:
        near = {name for name in engine if name not in COMMON and difflib.get_close_matches(name, COMMON, 1, NEAR)}
        check_keys(engine, names - denied - near, denied)
    check_values(engine, COMMON)
    check_values(engine, known or {})


@functools.cache
def installed_options(package: str) -> dict[str, Accepts]:
    """Each field of the installed vLLM's EngineArgs with what its annotation accepts; empty if that cannot be read."""
    try:
        module = _Module.read(Path(package) / "engine" / "arg_utils.py", Path(package).parent)
        [arguments] = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"]
    except (OSError, SyntaxError, ValueError):
        return {}
    fields = [node for node in arguments.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    options = {}
    for node in fields:
        assert isinstance(node.target, ast.Name)
        options[node.target.id] = module.accepts(node.annotation)
    if isinstance(methods := module.literal("QuantizationMethods"), Accepts):
        options["quantization"] = methods  # its annotation takes any text
    return options


Check = Callable[[Any], bool]
_PLAIN: dict[str, Accepts] = {
    "int": Accepts("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": Accepts("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "bool": Accepts("true or false", lambda value: isinstance(value, bool)),
    "str": Accepts("a text", lambda value: isinstance(value, str)),
    "list": Accepts("a list", lambda value: isinstance(value, list)),
    "dict": Accepts("an object", lambda value: isinstance(value, dict)),
    "None": Accepts("null", lambda value: value is None),
}
_ANYTHING = Accepts("anything", lambda value: True)


@dataclass(frozen=True, slots=True)
class _Module:
    """One source file of vLLM, and where the names that it imports come from."""

    body: list[ast.stmt]
    root: Path

    @classmethod
    def read(cls, file: Path, root: Path) -> _Module:
        return cls(_parsed(file), root)

    def accepts(self, node: ast.expr) -> Accepts:
        """What an annotation accepts of JSON values; anything where it is more than names, unions and literals."""
        match node:
            case ast.Constant(value=None):
                return _PLAIN["None"]
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _either(self.accepts(left), self.accepts(right))
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                return self._members(inner.elts if isinstance(inner, ast.Tuple) else [inner])
            case ast.Subscript(value=ast.Name(id="list" | "dict" as name)):
                return _PLAIN[name]
            case ast.Name(id=name) if name in _PLAIN:
                return _PLAIN[name]
            case ast.Name(id=name):
                return self.literal(name) or _ANYTHING
        return _ANYTHING

    def _members(self, nodes: Sequence[ast.expr]) -> Accepts:
        """One of a literal's values, or what the aliases among them accept."""
        values = [node.value for node in nodes if isinstance(node, ast.Constant)]
        aliases = [self.accepts(node) for node in nodes if not isinstance(node, ast.Constant)]
        return functools.reduce(_either, aliases, one_of(*values)) if values else functools.reduce(_either, aliases)

    def literal(self, name: str) -> Accepts | None:
        """What an alias accepts that this module or one that it imports assigns."""
        for node in self.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self.accepts(node.value)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return self.accepts(node.value) if node.value else None
        for node in self._imports():
            if node.module and any(each.name == name for each in node.names):
                file = self.root.joinpath(*node.module.split("."))
                file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
                try:
                    return _Module.read(file, self.root).literal(name)
                except (OSError, SyntaxError):
                    return None
        return None

    def _imports(self) -> list[ast.ImportFrom]:
        blocks = [node.body for node in self.body if isinstance(node, ast.If)]  # if TYPE_CHECKING
        every = [*self.body, *(node for block in blocks for node in block)]
        return [node for node in every if isinstance(node, ast.ImportFrom)]


@functools.lru_cache(maxsize=16)
def _parsed(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def _either(one: Accepts, other: Accepts) -> Accepts:
    if _ANYTHING in (one, other):
        return _ANYTHING
    return Accepts(f"{one.text} or {other.text}", lambda value: one.check(value) or other.check(value))


def check_lora_rank(engine: Mapping[str, Any], rank: int) -> int:
    """The max_lora_rank that an adapter of this rank needs. Raises InvalidInput where a smaller one is set."""
    fitting = [each for each in LORA_RANKS if each >= rank]
    if not fitting:
        raise InvalidInput("engine.lora", rank, f"an adapter of at most rank {LORA_RANKS[-1]}")
    given = engine.get("max_lora_rank")
    if given is not None and given < rank:
        raise InvalidInput("engine.max_lora_rank", given, f"at least {fitting[0]}: the adapter's rank is {rank}")
    return int(given or fitting[0])
