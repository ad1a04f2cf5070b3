"""How far the handle of a store travels in a verb, by the source: `python docs/trips.py [VERB …] [--root FOLDER]`.

It also prints how many files are passed, and which of them are so small, and so alone, that they could be merged.
With `--write` the figures of now are put into `docs/explanation/architecture.md`.

A *stay* is a call that hands the cohort to a function in another file, or a method of the cohort itself. Stays are put
in the order in which the source makes them, depth first, branches that exclude each other one after the other; a
*climb* is a stay that lies on a higher floor than the one before, among all modules by their imports. Calls through the
tables of tasks are followed to the task of cells.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "explanation" / "architecture.md"
ROW: Final = re.compile(r"^(\| `(\w+)` \| [^|]+ \| )(\d+), (\d+)(?= \|)", re.MULTILINE)
WINGS: Final = ("store", "analysis", "cluster", "pipelines")
HANDLE: Final = "cohort"
SMALL: Final = 60
PACKAGE: Final = "fintune_xr"
# What a call through a table or protocol comes to for cells, which is the route that all figures are of.
TABLES: Final = {"steps_of": "pipelines.instance.steps", "SECTIONS": "pipelines.report.instance"}


@dataclass
class Source:
    """All functions of a tree, and what names mean in each module."""

    root: Path
    functions: dict[str, dict[str, ast.FunctionDef]] = field(default_factory=dict)
    names: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    n_lines: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Source:
        """The tree under `root`."""
        made = cls(root)
        for path in _files(root):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removeprefix(f"{PACKAGE}.")
            text = path.read_text()
            tree, made.n_lines[module] = ast.parse(text), text.count("\n")
            made.functions[module] = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
            made.names[module] = dict(_imported(tree))
        for module in made.functions:
            made._floor(module, ())
        return made

    def of_verb(self, verb: str) -> str:
        """The module whose function is the verb. Raises StopIteration where there is none."""
        return next(module for module in VERBS[verb] if verb in self.functions.get(module, {}))

    def _floor(self, module: str, above: tuple[str, ...]) -> int:
        if module not in self.floors:
            below = {of for of, name in self.names[module].values()}
            below |= {f"{of}.{name}" for of, name in self.names[module].values()}
            known = [one for one in below if one in self.functions and one not in (*above, module)]
            self.floors[module] = max((self._floor(one, (*above, module)) + 1 for one in known), default=0)
        return self.floors[module]

    def importers(self, module: str) -> set[str]:
        """Modules that import it, or a name of it."""
        return {
            other
            for other, names in self.names.items()
            if any(module in (of, f"{of}.{name}") for of, name in names.values())
        }

    def meant(self, module: str, call: ast.Call) -> tuple[str, str] | None:
        """Module and name of the function that is called, where it is one of the tree."""
        function = call.func
        if isinstance(function, ast.Name):
            return self._found(self.names[module].get(function.id, (module, function.id)))
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            of, name = self.names[module].get(function.value.id, ("", ""))
            return self._found((f"{of}.{name}" if of else name, function.attr))
        table = _table(function)
        if table and isinstance(function, ast.Attribute):
            return self._found((TABLES[table], function.attr)) or self._found(
                self.names[TABLES[table]].get(function.attr, ("", ""))
            )
        if table:
            return self._found((TABLES[table], "cell_sections"))
        return None

    def _found(self, meant: tuple[str, str]) -> tuple[str, str] | None:
        return meant if meant[1] in self.functions.get(meant[0], {}) else None


def stays(source: Source, module: str, name: str) -> list[str]:
    """Modules that the cohort is handed to from function `name` of `module`, in order, that module first."""

    def follow(at: str, what: str, above: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
        for call in _calls(source.functions[at][what]):
            if isinstance(call.func, ast.Attribute) and _is_handle(call.func.value):
                yield "store.cohort"
            to = source.meant(at, call)
            if to is None or not _hands_on(call):
                continue
            if to[0] != at:
                yield to[0]
            if to not in above:
                yield from follow(*to, (*above, (at, what)))

    return [module, *follow(module, name)]


def climbs(source: Source, visited: list[str]) -> int:
    """Stays on a higher floor than the one before."""
    heights = [source.floors[module] for module in visited]
    return sum(later > earlier for earlier, later in itertools.pairwise(heights))


def measured(root: Path, verbs: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Stays and climbs of each verb."""
    source = Source.of(root)
    trips = {verb: stays(source, source.of_verb(verb), verb) for verb in verbs}
    return {verb: (len(visited), climbs(source, visited)) for verb, visited in trips.items()}


def mergeable(source: Source, visited: list[str]) -> list[str]:
    """Of the modules that were visited those of fewer than SMALL lines that a single module imports."""
    small = sorted(module for module in set(visited) if source.n_lines[module] < SMALL)
    return [module for module in small if len(source.importers(module)) == 1]


def figures_of_page() -> dict[str, tuple[int, int]]:
    """Stays and climbs of each verb, as the page has them."""
    return {verb: (int(n_stays), int(n_climbs)) for _, verb, n_stays, n_climbs in ROW.findall(PAGE.read_text())}


def page_with(figures: Mapping[str, tuple[int, int]]) -> str:
    """The page with `figures` of now in its table."""
    return ROW.sub(lambda row: f"{row[1]}{', '.join(map(str, figures[row[2]]))}", PAGE.read_text())


def _files(root: Path) -> Iterator[Path]:
    for room in (PACKAGE, *WINGS):
        for path in sorted((root / room).rglob("*.py")):
            if room != PACKAGE or path.relative_to(root).parts[1] not in WINGS:
                yield path


def _imported(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Names by the module and name that they stand for, also of imports inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            of = node.module.removeprefix(PACKAGE).removeprefix(".")
            yield from ((one.asname or one.name, (of, one.name)) for one in node.names)


def _calls(function: ast.FunctionDef) -> list[ast.Call]:
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    # A call that is an argument of another is made before it: the end of a call is when it is made.
    return sorted(calls, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0))


def _hands_on(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(_is_handle(one) for one in given)


def _is_handle(value: ast.expr) -> bool:
    named = isinstance(value, ast.Name) and value.id == HANDLE
    return named or (isinstance(value, ast.Attribute) and value.attr == HANDLE)


def _table(function: ast.expr) -> str:
    """The table or protocol that a call goes through, if any."""
    inner = function.value if isinstance(function, (ast.Attribute, ast.Subscript)) else None
    named = inner.func if isinstance(inner, ast.Call) else inner
    return named.id if isinstance(named, ast.Name) and named.id in TABLES else ""


def main(arguments: list[str]) -> None:
    """Prints a row for each verb, or writes those of this checkout."""
    if "--write" in arguments:
        PAGE.write_text(page_with(measured(ROOT, VERBS)))
        return
    root = Path(arguments[arguments.index("--root") + 1]) if "--root" in arguments else ROOT
    wanted = [word for word in arguments if word in VERBS] or list(VERBS)
    source = Source.of(root)
    for verb in wanted:
        visited = stays(source, source.of_verb(verb), verb)
        small = mergeable(source, visited)
        sys.stdout.write(
            f"{verb}: {len(visited)} stays, {climbs(source, visited)} climbs, {len(set(visited))} files; "
            f"with fewer than {SMALL} lines and a single importer: {', '.join(small) or 'none'}\n"
        )


VERBS: Final = {
    verb: (f"pipelines.steps.{verb}", f"pipelines.report.{verb}", f"pipelines.{verb}")
    for verb in ("ingest", "infer", "evaluate", "associate", "bootstrap", "report")
}

if __name__ == "__main__":
    main(sys.argv[1:])
