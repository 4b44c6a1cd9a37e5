"""The commands of ``ectorch`` with their arguments and options, as the program declares them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from typer.models import OptionInfo
from typer.utils import get_params_from_function

from ectorch.cli import app

_KINDS = {"Path": "path", "str": "text", "int": "whole number", "float": "number", "bool": "flag"}
MARK = "<!-- every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, reference())


def reference() -> str:
    """Markdown: a heading, the usage and a list a command."""
    return "\n\n".join(_section(name, function) for name, function in commands().items())


def commands() -> dict[str, Callable[..., Any]]:
    """The function of each command by its name."""
    return {
        registered.name or registered.callback.__name__: registered.callback
        for registered in app.registered_commands
        if registered.callback is not None
    }


def parameters(command: Callable[..., Any]) -> Iterator[tuple[str, bool, str, str, str]]:
    """Of each parameter: its name on the command line, whether an option, kind, default, help."""
    for name, parameter in get_params_from_function(command).items():
        info = parameter.default
        option = isinstance(info, OptionInfo)
        said = name.upper()
        if option:
            said = (info.param_decls or [f"--{name.replace('_', '-')}"])[0]
        yield said, option, _kind(parameter.annotation), _default(info.default), info.help or ""


def _section(name: str, function: Callable[..., Any]) -> str:
    rows = [*parameters(function)]
    usage = " ".join(
        ["ectorch", name]
        + [
            said if needed == "required" else f"[{said}]"
            for said, option, _, needed, _ in rows
            if not option
        ]
        + ["[OPTIONS]"] * any(option for _, option, *_ in rows)
    )
    lines = [f"## ectorch {name}", "", f"```\n{usage}\n```", "", inspect.getdoc(function) or "", ""]
    for said, _, kind, given, words in rows:
        lines.append(f"- **`{said}`** ({kind}{given and f', {given}'}): {words}")
    return "\n".join(lines)


def _default(value: Any) -> str:
    if value is ...:
        return "required"
    if value is None or value is False:
        return ""
    return f"default `{value}`"


def _kind(kind: Any) -> str:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _kind(next(k for k in typing.get_args(kind) if k is not type(None)))
    if typing.get_origin(kind) is list:
        return f"{_kind(typing.get_args(kind)[0])}, one or more"
    words = {
        "Path": "path",
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "flag",
    }
    return words[kind.__name__]
