"""What people type and what Hydra reads: free text on its way in, and commands that can be pasted on their way out.

Imports nothing heavy: a wrong option must be answered before torch is loaded.
"""

from __future__ import annotations

import os
import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from esd import UserError

TEXT_OPTIONS = ("concept", "erase_from", "prompt", "templates")  # options whose values are people's words, not Hydra's grammar
LIST_OPTIONS = ("concept", "erase_from", "preserve")  # those that a comma divides
PATH_OPTIONS = ("edit", "resume", "out", "init", "preserve")  # options whose values may hold what that grammar has no place for
GROUP_PATH_OPTIONS = ("path", "csv", "real", "folder", "images")  # those in a group: model.path, protocol.csv, …
PLAIN_VALUE = r"[\w/\-\\+.$%*@?|: ]*"  # what it takes as it stands


def hydra_literal(text: str) -> str:
    """Text as Hydra's grammar and OmegaConf's interpolation leave it alone. Backslashes count before a quote, and before ${."""
    text = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", r"\'"), text) + "'"


def read(argument: str) -> Override | None:
    """The option as Hydra reads it; None where its grammar has no place for it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def quote_free_text(argument: str, multirun: bool) -> str:
    """Free text as Hydra takes it: concept=Monet's garden → concept='Monet\\'s garden'.

    A comma divides concepts, which are a list in one run and a sweep in a multirun. What begins with a quote or a bracket is
    Hydra's where Hydra can read it ('a, b' or [a, b]), and text where it cannot ('90s cartoon, [ACME] logo). Paths that
    Hydra takes as they are stay. Raises UserError for a list that cannot be read, with how to write it.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    path = name in PATH_OPTIONS or name.rpartition(".")[2] in GROUP_PATH_OPTIONS
    if not equals or not value or not (path or name in TEXT_OPTIONS):
        return argument
    if path and re.fullmatch(PLAIN_VALUE, value, re.ASCII):
        return argument
    if value[0] in "'\"[" or value.startswith("${"):
        its = read(argument)
        if value[0] == "[" and closing(value) == len(value) - 1 and (its is None or has_dict(its)):
            if re.fullmatch(r"\[[\w ,.;&!?/-]*\]", value):  # plain words in other letters than Hydra's: [Ван Гог, η]
                return quoted_list(argument)
            right = shell_quoted(quoted_list(argument))
            raise UserError(f"{argument} cannot be read as a list: put its texts in quotes, {right}")
        if its and name == "templates" and value[0] in "'\"" and not its.is_sweep_override():
            return f"{key}=[{value}]"
        if its and (multirun or not its.is_sweep_override()):
            return argument
        if its and name in LIST_OPTIONS:  # 'a','b'
            return f"{key}=[{value}]"
    divided = name in LIST_OPTIONS and not (name in PATH_OPTIONS and os.path.isfile(os.path.expanduser(value)))
    parts = value.split(",") if divided or (path and multirun) else [value]
    listed = ",".join(hydra_literal(part.strip()) for part in parts)
    as_list = name == "templates" or (len(parts) > 1 and not multirun)
    return f"{key}=[{listed}]" if as_list else f"{key}={listed}"


def has_dict(override: Override) -> bool:
    """Whether Hydra took a text's braces for its own: templates=[{}]."""
    return isinstance(value := override.value(), list) and any(isinstance(part, dict) for part in value)


def closing(value: str) -> int:
    """Where the bracket closes that the value begins with; -1 where it does not."""
    depth = 0
    for i, letter in enumerate(value):
        depth += (letter == "[") - (letter == "]")
        if depth == 0:
            return i
    return -1


def quoted_list(argument: str) -> str:
    """A list of bare texts with quotes around those that need them."""
    key, _, value = argument.partition("=")
    parts = [part.strip().strip('"') for part in value[1:-1].split(",")]
    bare = re.compile(r"[\w \-]*", re.ASCII)
    quoted = [part if bare.fullmatch(part) else hydra_literal(part) if '"' in part else f'"{part}"' for part in parts]
    return f"{key}=[{', '.join(quoted)}]"


def check_readable(arguments: list[str]) -> None:
    """Raises UserError for the first option that Hydra's grammar has no place for, in words of ours."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, equals, value = argument.partition("=")
        if not equals and not key.startswith("~"):
            option = before if "=" in before else "concept=Van"
            raise UserError(
                f"'{argument}' has no '=': options are name=value, and a value with spaces goes in quotes, for example "
                f"{shell_quoted(f'{option} {argument}')}"
            )
        try:
            OverridesParser.create().parse_override(argument)
        except HydraException as error:
            if " while evaluating " in str(error):  # range() and its like: Hydra says what the function wants
                continue
            right = shell_quoted(f"{key}={hydra_literal(value)}")
            raise UserError(f"{argument} cannot be read: put the value in quotes, {right}") from error


def as_typed(argument: str) -> str:
    """An option of one run as a person would type it: concept='dog' → concept=dog. What would then be read otherwise stays."""
    its = read(argument)
    if its is None or its.is_sweep_override() or its.is_delete():
        return argument
    value = its.value()
    listed = isinstance(value, list) and all(isinstance(part, str) for part in value)
    if not listed and not isinstance(value, str):
        return argument
    plain = f"{argument.partition('=')[0]}={','.join(value) if listed else value}"
    try:
        again = read(quote_free_text(plain, False))
    except UserError:
        return argument
    same = again and not again.is_sweep_override() and (type(again.value()), again.value()) == (type(value), value)
    return plain if same else argument


def text_option(name: str, text: object) -> str:
    """name=text, quoted for Hydra only where it has to be."""
    return as_typed(f"{name}={hydra_literal(str(text))}")


def shell_quoted(argument: str) -> str:
    """An argument as a shell takes it, quoted as a person would: concept="Monet's garden"."""
    key, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"[\w.+~/@-]+", key, re.ASCII):
        key, equals, value = "", "", argument
    if "'" in value and not re.search(r'["$`!]|\\(?=[\\\n]|\Z)', value):
        return f'{key}{equals}"{value}"'
    return f"{key}{equals}{shlex.quote(value) if value else ''}" if equals else shlex.quote(value)


def command_line(module: str, *arguments: str) -> str:
    """python -m module arguments: what is recorded and printed, to be pasted into a shell."""
    return " ".join(["python", "-m", module, *(shell_quoted(as_typed(argument)) for argument in arguments)])
