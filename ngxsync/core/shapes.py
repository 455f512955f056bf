"""Shapes that a JSON value of a peer may have: predicates, and what holds of the keys and items in a value. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ngxsync.agent.manifest import DIR, FILE, LINK, entry_from_json, is_clean, tree_of
from ngxsync.core.wording import safe_name

Shape = Any  # a predicate; {key: shape} of the keys that must be there; [shape] of each item

OWN_FOLDER = ".ngxsync"
LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes, of Linux
LATEST_S = 253_402_214_400.0  # the year 9999 in every time zone
HEX = re.compile(r"[0-9a-f]{64}\Z")
CODE = re.compile(r"[a-z][a-z-]{0,40}\Z")
RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}\Z")


def misfit(value: Any, shape: Shape, place: str = "") -> str:
    """Which part does not fit, "" where all does."""
    if callable(shape):
        return "" if shape(value) else f"{place or 'it'} is {safe_name(repr(value)[:60])}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (misfit(item, shape[0], f"{place}[{i}]") for i, item in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{place or 'it'} is no object"
    missing = next((key for key in shape if key not in value and not isinstance(shape[key], Maybe)), None)
    if missing is not None:
        return f"{place + '.' if place else ''}{missing} is missing"
    inside = ((key, f"{place}.{key}" if place else key) for key in shape if key in value)
    return next(filter(None, (misfit(value[key], shape[key], there) for key, there in inside)), "")


class Maybe:
    """A key that may be missing."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __call__(self, value: Any) -> bool:
        return not misfit(value, self.shape)


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LATEST_S and math.isfinite(value)


def moment(value: Any) -> bool:
    return bool(number(value) and value >= 0)


def digest(value: Any) -> bool:
    return text(value) and HEX.match(value) is not None


def run_name(value: Any) -> bool:
    return text(value) and RUN.match(value) is not None


def code(value: Any) -> bool:
    return text(value) and CODE.match(value) is not None


def name(value: Any) -> bool:
    """What may be a file's name or a link's target."""
    try:
        return text(value) and "\0" not in value and len(value.encode("utf-8", "surrogateescape")) < LONGEST_PATH
    except UnicodeEncodeError:
        return False


def path(value: Any) -> bool:
    return name(value) and is_clean(value)


def entry(value: Any) -> bool:
    """Of a manifest, as its kind has it."""
    try:
        found = entry_from_json(value)
    except (TypeError, ValueError):
        return False
    if any(type(part) is bool for part in value) or not 0 <= found.mode <= 0o7777 or abs(found.mtime_ns) >= 2**95:
        return False
    fits = {FILE: digest(found.content), DIR: found.content == "", LINK: found.content != "" and name(found.content)}
    return fits[found.kind] and count(found.size) and name(found.owner) and name(found.group)


def equal(wanted: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(wanted) and value == wanted


def one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words if text(value) else False


def nullable(shape: Shape) -> Callable[[Any], bool]:
    return lambda value: value is None or not misfit(value, shape)


def mapping(key: Callable[[Any], bool], shape: Shape) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(key(k) and not misfit(v, shape) for k, v in value.items())


def row(*shapes: Shape) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(shapes):
            return False
        return not any(misfit(part, shape) for part, shape in zip(value, shapes, strict=True))

    return fits


def below(trees: list[str]) -> Callable[[Any], bool]:
    """A path in one of the trees, and in no folder of ours."""

    def fits(value: Any) -> bool:
        tree = tree_of(value, trees) if path(value) else None
        if tree is None:
            return False
        return all(part != OWN_FOLDER and len(part) <= LONGEST_NAME for part in value[len(tree) :].split("/"))

    return fits
