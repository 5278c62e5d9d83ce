"""pydantic's findings in plain words: field, value, rule."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError

from sweeps.errors import SettingsError, nearest

_RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "model_attributes_type": "a section",
    "dataclass_type": "a section",
    "dataclass_exact_type": "a section",
    "missing": "there",
    "finite_number": "a finite number",
}


def explain(error: ValidationError, kind: type[Any]) -> SettingsError:
    """The first finding as a SettingsError; ``kind`` is the type that was being validated."""
    findings = error.errors()
    finding = findings[0]
    path = [str(part) for part in finding["loc"]]
    cause = finding.get("ctx", {}).get("error")
    if cause is not None and hasattr(cause, "rule"):
        return rule_broken(cause)
    value, place = finding["input"], _without_tags(path)
    if finding["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(kind, place[:-1])
        return SettingsError(".".join(place), value, f"a known key{nearest(place[-1], known)}")
    if finding["type"] == "missing":
        return SettingsError(".".join(place), None, "there")
    # Where several types are allowed, each says why it is not the one.
    same = [_rule(other) for other in findings if _without_tags([str(p) for p in other["loc"]]) == place]
    return SettingsError(".".join(place), value, " or ".join(dict.fromkeys(same)))


def rule_broken(error: Any) -> SettingsError:
    """A rule of the trainable's own, which knows its field by its full name. Any other ValueError is a bug."""
    if not hasattr(error, "rule"):
        raise error
    return SettingsError(error.field, error.value, error.rule)


def _rule(finding: Any) -> str:
    context = finding.get("ctx", {})
    match finding["type"]:
        case "greater_than":
            return f"above {context['gt']}"
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "less_than":
            return f"below {context['lt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "literal_error":
            return f"one of {context['expected']}"
        case "string_pattern_mismatch":
            return "letters, digits, dots, dashes and underscores, starting with a letter or digit"
        case "value_error":
            return str(context["error"])
    return _RULES.get(finding["type"], str(finding["msg"]))


def _without_tags(path: list[str]) -> list[str]:
    """Drop what pydantic puts into a path to name a member of a union."""
    tags = ("literal[", "constrained-", "function-", "nullable")
    plain = {"int", "float", "str", "bool"}
    kept = [part for part in path if not part.startswith(tags)]
    return kept[:-1] if len(kept) > 1 and kept[-1] in plain else kept


def _known_keys(kind: Any, path: list[str]) -> list[str]:
    for part in path:
        kind = _field_types(kind).get(part)
    return list(_field_types(kind))


def _field_types(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: info.annotation for name, info in kind.model_fields.items()}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in fields(kind)}
    return {}
