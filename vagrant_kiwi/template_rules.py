"""The rules that every template keeps, checked on Jinja's syntax tree: a part of ``templates``.

The first of them: each output ends in ``|rb`` and stands where Ruby expects a value. The others
find what Jinja would pass over in silence.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from jinja2 import meta, nodes

from vagrant_kiwi import ruby

#: In front of a template's name: take ours, even where a site has a file of the same name.
BUILTIN = "builtin/"

#: Names that Jinja itself binds in some places.
_BOUND_BY_JINJA = frozenset({"super", "self", "caller", "loop", "varargs", "kwargs"})

#: Tags that put other text where they stand.
_INSERTING = frozenset({"block", "call", "include"})


@dataclass(frozen=True)
class Problem:
    """Why a template may not be used: the file, its line (from 1) and what is wrong there."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Source:
    """One template file: its text, its syntax tree, and the files behind the names in it."""

    path: Path
    text: str
    tree: nodes.Template
    refers: Mapping[str, Path]

    def blocks(self) -> frozenset[str]:
        """Return the names of the blocks in the file."""
        return frozenset(node.name for node in self.tree.find_all(nodes.Block))

    def macros(self) -> frozenset[str]:
        """Return the names of the macros that the file defines."""
        return frozenset(node.name for node in self.tree.find_all(nodes.Macro))

    def assigned(self) -> frozenset[str]:
        """Return the names that get a value anywhere in the file."""
        return frozenset(n.name for n in self.tree.find_all(nodes.Name) if n.ctx != "load")

    def parents(self) -> tuple[Path, ...]:
        """Return the files that this one extends, as far as they exist."""
        named = (_wanted(node)[0] for node in self.tree.find_all(nodes.Extends))
        return tuple(
            self.refers[name] for name in named if name is not None and name in self.refers
        )


Sources = Mapping[Path, Source]


def check(
    environment: jinja2.Environment,
    loader: jinja2.BaseLoader,
    name: str,
    variables: Collection[str],
    *,
    base: Path | None,
) -> tuple[tuple[Problem, ...], frozenset[Path]]:
    """Check a template and all that it extends, includes or imports.

    Args:
        environment: how templates are written; nothing is rendered.
        loader: finds them, and says in which file.
        name: the template.
        variables: the names that it may use.
        base: the file that the template must extend, directly or not; None: no such rule.

    Returns:
        What is wrong, by file and line, and the files that were read.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
        TemplateError: a file cannot be read.
    """
    sources: dict[Path, Source] = {}
    problems = list(_gather(environment, loader, name, sources))
    assigned = frozenset(name for source in sources.values() for name in source.assigned())
    known = assigned | _BOUND_BY_JINJA | frozenset(variables)
    for source in sources.values():
        problems += _check_outputs(source, sources, assigned)
        problems += _check_places(environment, source)
        problems += _check_names(source, sources, known)
        problems += _check_blocks(source, sources)
    if base is not None and not problems:
        problems += _check_root(next(iter(sources.values())), sources, base)
    order = {path: number for number, path in enumerate(sources)}
    problems.sort(key=lambda problem: (order.get(problem.path, len(order)), problem.line))
    return tuple(problems), frozenset(sources)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the most similar public name, or nothing."""
    public = sorted(other for other in known if not other.startswith("_"))
    close = difflib.get_close_matches(name, public, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _gather(
    environment: jinja2.Environment,
    loader: jinja2.BaseLoader,
    name: str,
    sources: dict[Path, Source],
    above: tuple[Path, ...] = (),
) -> Iterator[Problem]:
    """Read a template and all that it names into ``sources``; yield what prevents that."""
    text, filename, _ = loader.get_source(environment, name)
    path = Path(filename or "")
    if path in sources:
        return
    try:
        tree = environment.parse(text, name, filename)
        environment.compile(text, name, filename)  # finds unknown filters and doubled blocks too
    except jinja2.TemplateSyntaxError as error:
        yield Problem(path, error.lineno, error.message or "syntax error")
        return
    refers: dict[str, Path] = {}
    sources[path] = Source(path, text, tree, refers)
    kinds = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
    for node in sorted(tree.find_all(kinds), key=lambda node: node.lineno):
        for wanted in _wanted(node):
            if wanted is None:
                yield Problem(path, node.lineno, "give the template's name as text in quotes")
                continue
            try:
                _, target, _ = loader.get_source(environment, wanted)
            except jinja2.TemplateNotFound as error:
                yield Problem(path, node.lineno, error.message or f"there is no {wanted}")
                continue
            refers[wanted] = Path(target or "")
            if refers[wanted] in (*above, path):
                yield Problem(path, node.lineno, _circle(node, wanted))
                del refers[wanted]
            else:
                yield from _gather(environment, loader, wanted, sources, (*above, path))


def _wanted(node: nodes.Node) -> list[str | None]:
    """Return the names that extends, include or import give; None where one is computed."""
    expression = node.template  # type: ignore[attr-defined]
    several = isinstance(expression, nodes.List | nodes.Tuple)
    return [
        item.value if isinstance(item, nodes.Const) and isinstance(item.value, str) else None
        for item in (expression.items if several else [expression])
    ]


def _circle(node: nodes.Node, wanted: str) -> str:
    if isinstance(node, nodes.Extends) and not wanted.startswith(BUILTIN):
        return (
            f"{wanted} extends itself, because a site's file comes before ours of the same name; "
            f'to build on ours write {{% extends "{BUILTIN}{wanted}" %}}'
        )
    return f"{wanted} leads back to itself"


def _check_outputs(source: Source, sources: Sources, assigned: frozenset[str]) -> Iterator[Problem]:
    callees = _checked_callees(source, sources, assigned)
    parts: list[nodes.Expr] = [node.call for node in source.tree.find_all(nodes.CallBlock)]
    parts += [part for node in source.tree.find_all(nodes.Output) for part in node.nodes]
    for part in parts:
        if not isinstance(part, nodes.TemplateData) and not _yields_ruby(part, callees):
            yield Problem(source.path, part.lineno, "an output must end in |rb: {{ value|rb }}")
    for node in source.tree.find_all((nodes.FilterBlock, nodes.EvalContextModifier)):
        yield Problem(source.path, node.lineno, "a tag must not change text that is finished Ruby")


def _checked_callees(source: Source, sources: Sources, assigned: frozenset[str]) -> frozenset[str]:
    """Return what may be called as an output, because what it yields is checked where it stands.

    A name that also gets a value anywhere could hold something else, so it does not count.
    """
    found = {"super", "caller"} | source.macros()
    found |= {f"self.{block}" for other in sources.values() for block in other.blocks()}
    for node in source.tree.find_all(nodes.Import):
        found |= {f"{node.target}.{macro}" for macro in _macros_of(node, source, sources)}
    for names in source.tree.find_all(nodes.FromImport):
        macros = _macros_of(names, source, sources)
        found |= {alias for original, alias in _imported(names) if original in macros}
    return frozenset(name for name in found if name.partition(".")[0] not in assigned)


def _macros_of(node: nodes.Node, source: Source, sources: Sources) -> frozenset[str]:
    path = source.refers.get(_wanted(node)[0] or "")
    return sources[path].macros() if path is not None and path in sources else frozenset()


def _imported(node: nodes.FromImport) -> list[tuple[str, str]]:
    return [item if isinstance(item, tuple) else (item, item) for item in node.names]


def _yields_ruby(node: nodes.Node, callees: frozenset[str]) -> bool:
    match node:
        case nodes.Filter(name="rb"):
            return True
        case nodes.CondExpr(expr1=first, expr2=nodes.Expr() as second):
            return _yields_ruby(first, callees) and _yields_ruby(second, callees)
        case nodes.Call(dyn_kwargs=None):
            # A macro that is handed a `caller` would print whatever that one returns.
            return _dotted(node.node) in callees and all(k.key != "caller" for k in node.kwargs)
    return False


def _dotted(node: nodes.Node) -> str:
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr(node=nodes.Name(name=owner)):
            return f"{owner}.{node.attr}"
    return ""


def _check_places(environment: jinja2.Environment, source: Source) -> Iterator[Problem]:
    """Find outputs within Ruby strings, where a literal's quotes would end the string."""
    text: list[str] = []
    lines: list[int] = []
    before = ""
    for line, kind, value in environment.lex(source.text):
        if kind == "data":
            text.append(value.replace(ruby.MARK, ""))
        elif kind == "variable_begin" or (before == "block_begin" and value in _INSERTING):
            text.append(ruby.MARK)
            lines.append(line)
        if kind != "whitespace":
            before = kind
    for number in ruby.marks_in_strings("".join(text)):
        message = "no output or block within a Ruby string; write 'text' + {{ value|rb }}"
        yield Problem(source.path, lines[number], message)


def _check_names(source: Source, sources: Sources, known: frozenset[str]) -> Iterator[Problem]:
    bound = set(known)
    for other in sources.values():
        bound |= other.macros()
        bound |= {node.target for node in other.tree.find_all(nodes.Import)}
        for node in other.tree.find_all(nodes.FromImport):
            bound |= {alias for _, alias in _imported(node)}
    unknown = meta.find_undeclared_variables(source.tree) - bound
    for name in source.tree.find_all(nodes.Name):
        if name.name in unknown:
            hint = nearest(name.name, bound - _BOUND_BY_JINJA)
            yield Problem(source.path, name.lineno, f"{name.name} is not defined{hint}")


def _check_blocks(source: Source, sources: Sources) -> Iterator[Problem]:
    """Find what Jinja drops without a word in a template that extends another."""
    extends = tuple(source.tree.find_all(nodes.Extends))
    for parent in extends:
        if parent not in source.tree.body or len(extends) > 1:
            yield Problem(source.path, parent.lineno, "extend one template, under no condition")
    if not extends or not source.parents():
        return
    blocks = frozenset(block for above in _line(source, sources)[1:] for block in above.blocks())
    for node in source.tree.body:
        if isinstance(node, nodes.Block) and node.name not in blocks:
            hint = nearest(node.name, blocks)
            yield Problem(source.path, node.lineno, f"there is no block {node.name} above{hint}")
        elif isinstance(node, nodes.Output):
            kept = (
                p for p in node.nodes if not isinstance(p, nodes.TemplateData) or p.data.strip()
            )
            for part in kept:
                message = "text outside of all blocks is lost in a template that extends another"
                yield Problem(source.path, part.lineno, message)


def _line(source: Source, sources: Sources) -> list[Source]:
    """Return a template and, in order, the ones that it extends."""
    line = [source]
    while (paths := line[-1].parents()) and paths[0] in sources:
        line.append(sources[paths[0]])
    return line


def _check_root(source: Source, sources: Sources, base: Path) -> Iterator[Problem]:
    """See that a Vagrantfile builds on ours, which keeps Vagrant's /vagrant folder switched off."""
    last = _line(source, sources)[-1]
    if last.path != base:
        message = f'extend "{BUILTIN}{base.name}": it keeps the state folder out of the guest'
        yield Problem(last.path, 1, message)
