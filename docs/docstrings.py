"""Docstrings as the site needs them: their roles and code blocks are reStructuredText's, the site speaks Markdown."""

import ast
import re

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)\.*([\w.]+)`")
_RETURNS = re.compile(r"^ *Returns:\n +(?=\S)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns roles into links and ``::`` into code blocks, lists the options of configurations, and puts a
    function such as ``ops.conv2d`` in the place of the module that it shares its name with."""

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        _convert(pkg)
        _uncover(pkg)


def _convert(item: griffe.Object) -> None:
    if isinstance(item, griffe.Class):
        _list_options(item)
    if item.docstring is not None:
        text = _markdown(item.docstring.value, item)
        if isinstance(item, griffe.Function) and item.returns is not None:
            # Without it, griffe takes what stands before the first colon for the type.
            text = _RETURNS.sub(lambda match: f"{match[0]}{item.returns}: ", text)
        item.docstring.value = text
    for member in item.members.values():
        if not member.is_alias:
            _convert(member)


def _list_options(item: griffe.Class) -> None:
    """Fields ``name: type = option(default, "help", ...)`` become arguments in the docstring of their class."""
    entries = []
    for name, field in item.attributes.items():
        call = field.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "option":
            default, text = (str(argument) for argument in call.arguments[:2])
            field.value = default
            entries.append(f"    {name}: {ast.literal_eval(text)}.\n")
    if entries and item.docstring is not None:
        summary, raises, rest = item.docstring.value.partition("Raises:\n")
        item.docstring.value = f"{summary.rstrip()}\n\nArgs:\n{''.join(entries)}\n{raises}{rest}"


def _uncover(package: griffe.Module) -> None:
    """Python's import puts the function over its module; griffe keeps the module, and the function would be missing."""
    for name, member in list(package.members.items()):
        if member.is_alias or not member.is_module:
            continue
        _uncover(member)
        if package.imports.get(name) == f"{member.path}.{name}":
            function = member.members[name]
            function.parent = package
            package.members[name] = function


def _markdown(text: str, item: griffe.Object) -> str:
    text = _ROLE.sub(lambda role: _link(role[2], bool(role[1]), item), text)
    text = re.sub(r"^ *::\n", "", text, flags=re.MULTILINE)
    return re.sub(r"::\n\n", ":\n\n", text)


def _link(name: str, short: bool, item: griffe.Object) -> str:
    """A link where the site documents ``name``, plain code elsewhere."""
    try:
        path = item.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
