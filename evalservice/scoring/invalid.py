"""Pydantic's complaint about parameters as our one-line error: field, value, what is accepted."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from evalservice.errors import InvalidInput


def invalid_parameters(field: str, model: type[BaseModel], error: ValidationError) -> InvalidInput:
    """The first complaint, e.g. `scorers[0].params.rel_tol: -1 is not valid: greater than or equal to 0`."""
    first = error.errors(include_url=False)[0]
    where = ".".join([field, *(str(part) for part in first["loc"])])
    names = [info.alias or name for name, info in model.model_fields.items()]
    if first["type"] == "extra_forbidden":
        return InvalidInput(where, first["input"], f"the parameters are {', '.join(names)}")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return InvalidInput(where, first["input"], message)
