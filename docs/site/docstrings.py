"""Turn docstrings into Markdown: Sphinx roles become links, doctests become code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|func|class|meth|data|attr):`(~?)([\w.]+)`")
#: A table of reStructuredText: from its first rule to its last.
TABLE = re.compile(r"^(=+(?: +=+)+)\n(?:.*\n)*?\1\n(?:.*\n)*?\1$", re.MULTILINE)
#: A term in code with its definition on the next lines.
TERM = re.compile(r"^(``[^`\n]+``)\n    (?=\S)", re.MULTILINE)
#: From a prompt to the next empty line.
DOCTEST = re.compile(r"^([ \t]*)>>> .*(?:\n[ \t]*\S.*)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a whole package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite them."""
        self._visit(pkg, pkg)

    def _visit(self, package: griffe.Module, place: Any) -> None:
        if place.docstring is not None:
            place.docstring.value = _markdown(package, place, place.docstring.value)
        for member in place.members.values():
            if not member.is_alias:
                self._visit(package, member)


def _markdown(package: griffe.Module, place: Any, text: str) -> str:
    text = TABLE.sub(_cells, DOCTEST.sub(_fenced, text))
    text = TERM.sub(r"\1\n:   ", text)
    return ROLE.sub(lambda match: _link(package, place, *match.groups()), text)


def _cells(match: re.Match[str]) -> str:
    """Return a table of Markdown; columns begin where the rules do."""
    rule, *lines = match[0].splitlines()
    starts = [found.start() for found in re.finditer("=+", rule)]
    ends = [*starts[1:], None]
    rows = [
        [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        for line in lines
        if not line.startswith("==")
    ]
    header, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([header, "|---" * len(starts) + "|", *body])


def _fenced(match: re.Match[str]) -> str:
    indent = match[1]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


def _link(package: griffe.Module, place: Any, short: str, name: str) -> str:
    shown = name.rpartition(".")[2] if short else name
    target = _path(package, place, name)
    return f"[`{shown}`][{target}]" if target else f"`{shown}`"


def _path(package: griffe.Module, place: Any, name: str) -> str | None:
    """Return the full path of a name where it is defined; None if it is not ours."""
    try:
        path = place.resolve(name)
    except griffe.NameResolutionError:
        path = name
    if not path.startswith(f"{package.name}."):
        return None
    try:
        found: Any = package[path.removeprefix(f"{package.name}.")]
        found = found.final_target if found.is_alias else found
    except (KeyError, griffe.AliasResolutionError):
        return None
    described = found.is_module or found.is_class or found.is_function
    private = any(part.startswith("_") for part in found.path.split("."))
    return found.path if described and not private else None
