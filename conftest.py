"""Shared by all tests: how code in documents is run, and the record of the laws."""

import json
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.abstract import AbstractCodeBlockParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

# What docs/integrations needs besides; its pages are skipped where it is not installed.
FRAMEWORKS = ("accelerate", "ignite", "lightning", "skorch", "transformers")


class Page(PythonEvaluator):
    """The blocks of a page in order, whichever of them is asked for.

    A worker may be given blocks from the middle of a page. Those before them that it has not run
    are run first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run: set[tuple[str, int]] = set()

    def __call__(self, example: Example) -> None:
        for name in FRAMEWORKS:
            needed = re.search(rf"^(?:from|import) {name}\b", example.document.text, re.M)
            if needed and find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
        for block in example.document:
            if block.start < example.start and (block.path, block.start) not in self.run:
                self.run.add((block.path, block.start))
                super().__call__(block)
        self.run.add((example.path, example.start))
        super().__call__(example)


# Every block of README and docs that is marked as python, whatever else its first line tells the
# documentation builder; the blocks of a page run in order and share their names.
blocks = AbstractCodeBlockParser(
    [RawFencedCodeBlockLexer(info_pattern=re.compile(r"(?P<language>python)\b[^\n]*$\n", re.M))],
    language="python",
    evaluator=Page(),
    language_lexeme_name="language",
)
pytest_collect_file = Sybil(parsers=[blocks], patterns=["*.md"]).pytest()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--laws", metavar="FILE", help="write what the laws found as JSON")
    parser.addoption("--every-case", action="store_true", help="trace and compile every case")


class Record:
    """Collect the evidence of tests/test_laws.py, from every worker, into one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cells: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.cells += [value for name, value in report.user_properties if name == "evidence"]

    def pytest_sessionfinish(self) -> None:
        from purelosses.laws import LAWS
        from purelosses.registry import LOSSES

        laws, losses = list(LAWS), list(LOSSES)
        self.cells.sort(key=lambda cell: (losses.index(cell["loss"]), laws.index(cell["law"])))
        self.file.write_text(json.dumps(self.cells, indent=1, ensure_ascii=False) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--laws")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(Path(file)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Frameworks warn of their own code: on their pages a warning is no error."""
    for item in items:
        if item.path.parent.name == "integrations":
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bound functions by name: their repr holds an address, which differs between workers."""
    if isinstance(val, partial):
        return f"{val.func.__name__}({', '.join(f'{k}={v}' for k, v in val.keywords.items())})"
    return None


@pytest.fixture(autouse=True)
def _names_of_docstring_examples(doctest_namespace: dict[str, Any]) -> None:
    """Examples in docstrings use the library as a user's file does, after its imports."""
    import optree
    import torch

    import purelosses
    import purelosses.nn

    for module in (purelosses, purelosses.nn):
        doctest_namespace.update({name: getattr(module, name) for name in module.__all__})
    doctest_namespace.update(torch=torch, optree=optree, partial=partial)
