"""Say what is wrong with a level of settings: the key, what is allowed, the nearest valid name.

Written for people; works on any of the models in ``settings`` by what each field says of itself.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from vagrant_kiwi.settings_sources import unknown

#: The longest value that a message repeats.
_LONGEST = 60


def leaves(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield each setting with its dotted key; a list of models counts as one setting."""
    for name, field in model.model_fields.items():
        inner = _model(field)
        if inner is not None and get_origin(field.annotation) is not tuple:
            yield from leaves(inner, f"{at}{name}.")
        else:
            yield f"{at}{name}", field


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """Return what the setting says of itself: ``allowed``, ``kind`` and ``secret``."""
    said = field.json_schema_extra
    return said if isinstance(said, dict) else {}


def problems(
    error: ValidationError, model: type[BaseModel], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Return one line for each thing that is wrong.

    Args:
        error: what pydantic found.
        model: the model that was validated.
        names: what a dotted key is called in this source, where that is not the dotted key.
    """
    # A value of several forms can fail more than once; the line is the same then.
    found = error.errors(include_url=False)
    return tuple(dict.fromkeys(_line(one, model, names) for one in found))


def _line(one: ErrorDetails, model: type[BaseModel], names: Mapping[str, str]) -> str:
    loc = one["loc"]
    if one["type"] == "invalid_key":
        # A number as a key would look like a place in a list.
        loc = (*loc[:-1], str(loc[-1]))
    spot = _spot(loc, names)
    siblings, field = _at(model, loc)
    if one["type"] in ("extra_forbidden", "invalid_key"):
        # Which other level could it belong to: "build" is timeouts.build.
        also = {key.rpartition(".")[2]: key for key, _ in leaves(model) if "." in key}
        return unknown(spot, siblings, also=also)
    if one["type"] == "missing":
        return f"{spot}: missing. Allowed: {_allowed(field)}"
    reason = one.get("ctx", {}).get("error")
    why = f" ({reason})" if isinstance(reason, ValueError) else ""
    if isinstance(one["input"], bool):
        why += " (YAML reads a bare yes, no, on or off as true or false)"
    guess = _nearest_word(field, one["input"])
    # Only the environment has names of its own, and only there a list is text.
    as_json = ", as JSON" if names and field and extra(field).get("kind") == "list" else ""
    shown = _shown(field, one["input"])
    return f"{spot}: {shown} is not allowed{why}{guess} Allowed: {_allowed(field)}{as_json}"


def _at(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], FieldInfo | None]:
    """Return the dotted keys that are valid beside a place, and the field it lies in."""
    here: type[BaseModel] | None = model
    at, field, siblings = "", None, list(model.model_fields)
    for part in loc:
        if isinstance(part, int):
            at = f"{at[:-1]}[{part}]."
            continue
        if here is None:
            break
        siblings = [f"{at}{name}" for name in here.model_fields]
        if part not in here.model_fields:
            break
        field = here.model_fields[part]
        here = _model(field)
        at = f"{at}{part}."
    return siblings, field


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field, or each item of it, is made of."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _spot(loc: Sequence[int | str], names: Mapping[str, str]) -> str:
    """Return where it is: the dotted key, or what this source calls it with what lies inside."""
    spot = ""
    for part in loc:
        spot += f"[{part}]" if isinstance(part, int) else f".{part}" if spot else part
        spot = names.get(spot, spot)
    # A key can be a URL that was put on the wrong line, password and all.
    return re.sub(r"://\S*@", "://***@", spot)


def _allowed(field: FieldInfo | None) -> str:
    if field is None:
        return "a mapping of settings"
    said = extra(field).get("allowed")
    if said is None and (inner := _model(field)):
        return f"a mapping of {', '.join(inner.model_fields)}"
    return str(said)


def _shown(field: FieldInfo | None, value: object) -> str:
    """Return the value for a message, or words for one that is long or may hold a password."""
    if field is None or extra(field).get("secret"):
        return "this value"
    if isinstance(value, dict):
        return "a mapping"
    if value is not None and not isinstance(value, (str, int, float)):
        return f"a {type(value).__name__}"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"://\S*@", "://***@", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _nearest_word(field: FieldInfo | None, value: object) -> str:
    words = [word for word in get_args(field.annotation) if isinstance(word, str)] if field else []
    near = difflib.get_close_matches(str(value), words, n=1)
    return f"; did you mean {near[0]}?" if near else "."
