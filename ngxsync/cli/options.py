"""Options and arguments that several commands take, and how they print."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ngxsync.agent.manifest import is_below, tree_of
from ngxsync.core.config import Config, raise_if_unknown
from ngxsync.core.options import read_duration
from ngxsync.core.wording import safe_name
from ngxsync.edges.configfile import DEFAULT_FILE
from ngxsync.edges.state import MasterState

if TYPE_CHECKING:
    from ngxsync.assembly import Assembly

Function = TypeVar("Function", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A duration as in config.ini, in seconds; with `zero` also 0."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if self.zero and value in ("0", "0s"):
            return 0.0
        try:
            return read_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def config_option(function: Function) -> Function:
    text = "The configuration."
    kind = click.Path(path_type=Path, readable=False)  # `read_config` says more of it than click
    return click.option("--config", type=kind, default=DEFAULT_FILE, show_default=True, metavar="FILE", help=text)(
        function
    )


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")(function)


def peer_option(text: str) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        return click.option("--peer", "peers", multiple=True, metavar="NAME", help=f"{text} May be given again.")(
            function
        )

    return add


def raise_if_unknown_peers(peers: Iterable[str], config: Config) -> None:
    """Raises ConfigError, with the nearest known name."""
    raise_if_unknown(peers, config)


def limit_from(path: str, config: Config, hint: str = "'PATHS'") -> str:
    """The absolute path that a person names from the current directory. Raises click's usage error outside the trees."""
    absolute = os.path.abspath(path)
    trees = list(config.sync.trees)
    if tree_of(absolute, trees) is None and not any(is_below(tree, absolute) for tree in trees):
        told = f"{safe_name(absolute)} lies in no tree, allowed are paths in {' or '.join(trees)}"
        raise click.BadParameter(told, param_hint=hint)
    return absolute


def open_state(config: Config) -> MasterState:
    """This host's memory, without what a run needs."""
    return MasterState(config.state_dir / "master", time.time)


def open_assembly(config: Config) -> Assembly:
    """The parts of a run, to be used in a `with`, imported when they are. Raises ConfigError."""
    from ngxsync import assembly

    return assembly.open_assembly(config)


def print_json(value: Mapping[str, Any]) -> None:
    """One object on one line; names that are not UTF-8 as Python's surrogate escapes."""
    print(json.dumps(value), flush=True)


def say(text: str) -> None:
    """For the person, not for the pipe."""
    print(text, file=sys.stderr, flush=True)
