"""Every small change to a module's code that mutmut's operators make, one at a time, as whole source texts.

Not made: changes to annotations, decorators, imports, docstrings, `Literal[...]` and what a `raise` says; and None for
an argument or an assigned value, or no argument without a name, because that nearly always raises by itself.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment


@dataclass(frozen=True)
class Mutation:
    """One change. was, now: the changed lines without their indentation. again: which of those that read the same.

    function: with its class, or "" outside. text: the module's source with it.
    """

    function: str
    was: str
    now: str
    again: int
    text: str

    @property
    def name(self) -> tuple[str, str, str, int]:
        """What it is found again by when lines move."""
        return self.function, self.was, self.now, self.again


def mutations(source: str) -> list[Mutation]:
    """All of them, in the order of the source; none twice and none that the compiler reads as the source itself."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    visitor = _Places(wrapper.module)
    wrapper.visit(visitor)
    same, seen = ast.dump(ast.parse(source)), {source}
    again: Counter[tuple[str, str, str]] = Counter()
    found = []
    for function, text in visitor.found:
        if text in seen or ast.dump(ast.parse(text)) == same:
            continue
        seen.add(text)
        was, now = _changed_lines(source, text)
        again[function, was, now] += 1
        found.append(Mutation(function, was, now, again[function, was, now], text))
    return found


class _Places(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._module = module
        self._lines = module.code.splitlines(keepends=True)
        self._inside: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_aside(node):
            return False
        if isinstance(node, cst.ClassDef | cst.FunctionDef):
            self._inside.append(node.name.value)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                made = [other for other in operator(node) if not _raises(operator, node, other)]
                # Of a text in quotes: the first way to change it, the others are the same to a test.
                made = made[: 1 if isinstance(node, cst.BaseString) else None]
                self.found += [(".".join(self._inside), self._with(node, other)) for other in made]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.ClassDef | cst.FunctionDef):
            self._inside.pop()

    def _with(self, node: cst.CSTNode, other: cst.CSTNode) -> str:
        place = self.get_metadata(WhitespaceInclusivePositionProvider, node)
        start, end = place.start, place.end
        before = "".join(self._lines[: start.line - 1]) + self._lines[start.line - 1][: start.column]
        after = self._lines[end.line - 1][end.column :] + "".join(self._lines[end.line :])
        return before + self._module.code_for_node(other) + after


def _raises(operator: object, node: cst.CSTNode, other: cst.CSTNode) -> bool:
    if operator is operator_arg_removal:
        assert isinstance(node, cst.Call)
        assert isinstance(other, cst.Call)
        gone = [one for one in node.args if one not in other.args]
        return len(other.args) == len(node.args) or any(one.keyword is None for one in gone)
    return operator is operator_assignment


def _is_aside(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Raise):
        return True
    if isinstance(node, cst.Subscript):
        return isinstance(node.value, cst.Name) and node.value.value == "Literal"
    return isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)


def _changed_lines(source: str, text: str) -> tuple[str, str]:
    was, now = source.splitlines(), text.splitlines()
    while was and now and was[0] == now[0]:
        was, now = was[1:], now[1:]
    while was and now and was[-1] == now[-1]:
        was, now = was[:-1], now[:-1]
    return tuple("\n".join(line.strip() for line in lines) for lines in (was, now))  # type: ignore[return-value]
