"""Jinja templates from strangers, bounded in time and memory.

    template = compile_template("{{ question | upper }}", "prompt_template")
    template.render({"question": "Why?"}) -> "WHY?"

Jinja's sandbox keeps a template from attributes that lead out of it, but not from `{{ 'a' * 10**10 }}`, from two
nested loops over `range(100000)`, or from a list that holds itself twice, forty levels deep. Here, therefore: only the
constructs, filters and methods that are listed exist; every loop step, call, filter and operator is an operation of
a budget with a deadline; every value that they make is measured before (`*`, `+`, `~`, replace, join) or after.

Blocks' own line ends and leading blanks are dropped (`trim_blocks`, `lstrip_blocks`); lists and objects print as JSON
and null prints nothing; `x.key` is the key of an object before it is a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from evalservice.catalog.prompt_filters import (
    FILTERS,
    MAX_RENDERED_CHARS,
    TooMuch,
    bounded_range,
    budgeted,
    fits,
    joined,
    length,
    printed,
    refuse_long,
    replaced,
    spend,
    weighed,
)
from evalservice.errors import EvalserviceError, InvalidInput, shown

__all__ = ["MAX_RENDERED_CHARS", "MAX_TEMPLATE_CHARS", "PromptError", "Template", "compile_template"]

MAX_TEMPLATE_CHARS: Final = 64_000
_NODES: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.AssignBlock, nodes.With,
    nodes.FilterBlock, nodes.Name, nodes.NSRef, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair,
    nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call,
    nodes.Compare, nodes.Operand, nodes.Not, nodes.Neg, nodes.Pos, nodes.And, nodes.Or, nodes.Add, nodes.Sub,
    nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Concat,
)  # fmt: skip
_TEXT_METHODS: Final = frozenset(
    {
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit",
        "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
        "removeprefix", "removesuffix", "replace", "rpartition", "rsplit", "rstrip", "split", "splitlines",
        "startswith", "strip", "swapcase", "title", "upper",
    }
)  # fmt: skip
_SLOW_METHODS: Final = frozenset({"lstrip", "rpartition", "rsplit", "rstrip", "strip"})
"""Methods that take time in the product of both lengths."""
_TESTS: Final = (
    "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "gt", "greaterthan", "in",
    "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd", "sequence",
    "string", "true", "undefined", "upper", "==", "!=", ">", ">=", "<", "<=",
)  # fmt: skip


class PromptError(EvalserviceError):
    """A template cannot be rendered for this test case: one line that says where and why."""

    code = "prompt-error"
    status = 422
    exit_code = 2


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `format`: a width of 10^9 is one of its features."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        spend()
        if operator == "+":
            fits(length(left) + length(right))
        elif operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, str | list | tuple) and isinstance(times, int):
                    fits(length(sized) * times)
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("text % values is not available: join texts with ~")
        elif operator == "**" and (abs(right) > 128 or abs(left) > 2**64):
            raise TooMuch("a power beyond 128 bits")
        return weighed(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            name = getattr(__obj, "__name__", "")
            if name == "join":
                return joined(args[0], owner)
            if name == "replace":
                return replaced(owner, *args)
            if name in _SLOW_METHODS:
                refuse_long(args)
        return weighed(super().call(__context, __obj, *args, **kwargs))


class _Instrumented(NodeTransformer):
    """Puts the budget into loops, `~`, slices, comparisons and literals; refuses what is not on the list."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if type(node) not in _NODES:
            raise jinja2.TemplateSyntaxError(f"{type(node).__name__.lower()} is not available in prompts", node.lineno)
        super().generic_visit(node, *args, **kwargs)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not available in prompts", node.lineno)
        chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_stepped", [nodes.Const(chars)])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "join", [])

    def _literal(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.Tuple) and node.ctx != "load":
            return node
        return _filter(node, "_weighed", [])

    visit_List = visit_Tuple = visit_Dict = visit_Compare = visit_Test = _literal

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_weighed", []) if isinstance(node.arg, nodes.Slice) else node


def _filter(node: nodes.Node, name: str, arguments: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)


def _environment() -> _Environment:
    environment = _Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, optimized=False, finalize=printed, cache_size=0,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip
    environment.filters = dict(FILTERS)
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.globals = {"range": bounded_range, "namespace": environment.globals["namespace"]}
    return environment


_ENVIRONMENT: Final = _environment()


class Template:
    """A compiled template that names its field and line when it fails."""

    def __init__(self, source: str, field: str, compiled: jinja2.Template) -> None:
        self.source, self.field, self._compiled = source, field, compiled

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for these variables. Raises `PromptError`."""
        parts: list[str] = []
        chars = 0
        try:
            with budgeted():
                for part in self._compiled.generate(dict(variables)):
                    chars += len(part)
                    fits(chars)
                    parts.append(part)
        except Exception as error:
            raise PromptError(self._explain(error, variables)) from error
        return "".join(parts)

    def _explain(self, error: Exception, variables: Mapping[str, Any]) -> str:
        line = _template_line(error)
        where, lines = self.field, self.source.splitlines()
        if line and line <= len(lines):
            where += f", line {line}, {shown(lines[line - 1].strip())}"
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        if isinstance(error, jinja2.UndefinedError):
            reason += f"; available: {', '.join(list(variables)[:40])}"
        elif isinstance(error, TooMuch):
            reason = f"the template asks for too much: {reason}"
        elif not isinstance(error, jinja2.TemplateError):
            reason = f"{type(error).__name__}: {reason}"
        return f"{where}: {reason}"


def compile_template(source: str, field: str) -> Template:
    """A template ready to render. Raises `InvalidInput` that names the field and the line."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise InvalidInput(field, source, f"a template of at most {MAX_TEMPLATE_CHARS:,} characters")
    try:
        tree = _Instrumented().visit(_ENVIRONMENT.parse(source))
        code = _ENVIRONMENT.compile(tree)
        compiled = jinja2.Template.from_code(_ENVIRONMENT, code, dict(_ENVIRONMENT.globals))
    except jinja2.TemplateSyntaxError as error:
        lines = source.splitlines()
        number = error.lineno or 1
        line = lines[number - 1].strip() if number <= len(lines) else source
        raise InvalidInput(field, line, f"a Jinja template; line {number}: {error.message}") from None
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise InvalidInput(field, source, f"a template that is nested less deeply ({type(error).__name__})") from None
    return Template(source, field, compiled)


def _template_line(error: BaseException) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
