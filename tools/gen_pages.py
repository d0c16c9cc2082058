"""Write what every loss needs in the documentation: a page, and its place in the navigation.

    python tools/gen_pages.py           writes them
    python tools/gen_pages.py --check   fails if something is missing or out of place

A page is written once, from the first line and the example of the docstring, and then belongs to
whoever improves it; the pictures and the record of the laws are drawn when the documentation is
built (tools/pages.py). The navigation under `Losses` in mkdocs.yml is always written anew, from the
registry and the titles of the pages.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path

import purelosses
import purelosses.nn
from purelosses.registry import LOSSES, LossSpec

ROOT = Path(purelosses.__file__).parents[1]
PAGES = ROOT / "docs" / "losses"
NAVIGATION = ROOT / "mkdocs.yml"
FAMILIES = {
    "regression": "Regression",
    "likelihood": "Likelihood and scores",
    "classification": "Classification",
    "noise": "Noisy labels",
    "segmentation": "Segmentation",
    "boxes": "Boxes",
    "balance": "Several tasks",
}
# What every page has, whoever writes the rest. `py` and not `python`, which the tests would run:
# tests/test_site.py tests what is called here.
HEAD = """\
```py exec="1" html="1"
from tools.pages import head

print(head("{name}"))
```
"""
EVIDENCE = """\
## Evidence

```py exec="1" html="1"
from tools.pages import evidence

print(evidence("{name}"))
```
"""
PAGE = """\
---
search:
  boost: 3
---

# {title}

{summary}

{head}
=== "Function"

{function}

=== "Module"

{module}

::: purelosses.{name}

::: purelosses.nn.{module_name}
    options:
      members: [forward]

{evidence}"""
BLOCK = """\
```python exec="1" source="block" result="text" session="{session}"
import torch
from {package} import {names}
{more}
{code}
```"""


def names_of(modules: list[object], code: str) -> list[str]:
    """What the code takes from the modules."""
    public = {name for module in modules for name in module.__all__}  # type: ignore[attr-defined]
    return sorted(public & {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)})


def block(spec: LossSpec, code: str) -> str:
    functions, modules = names_of([purelosses], code), names_of([purelosses.nn], code)
    names = {"purelosses": functions, "purelosses.nn": modules}
    (first, *more) = [package for package, used in names.items() if used]
    return BLOCK.format(
        session=spec.name,
        package=first,
        names=", ".join(names[first]),
        more="".join(f"from {package} import {', '.join(names[package])}\n" for package in more),
        code=code,
    )


def function_example(spec: LossSpec) -> str:
    """The example of the docstring, as a script that prints."""
    document = inspect.getdoc(spec.loss) or ""
    lines = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)$", document, flags=re.M)
    return "\n".join(f"print({x})" if x.startswith(spec.name) else x for x in lines)


def module_example(spec: LossSpec, code: str) -> str:
    """The same with the module: options go to it, data to the call."""
    per_call = set(inspect.signature(getattr(purelosses.nn, spec.module).forward).parameters)

    class Rewrite(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            if not (isinstance(node.func, ast.Name) and node.func.id == spec.name):
                return node
            data = [k for k in node.keywords if k.arg in per_call]
            options = [k for k in node.keywords if k.arg not in per_call]
            module = ast.Call(ast.Name(spec.module), [], options)
            return ast.Call(module, node.args, data)

    lines = code.splitlines()
    for statement in reversed(ast.parse(code).body):
        start, end = statement.lineno - 1, statement.end_lineno
        text = "\n".join(lines[start:end])
        if re.search(rf"\b{spec.name}\(", text):
            lines[start:end] = ast.unparse(Rewrite().visit(statement)).replace("'", '"').split("\n")
    return "\n".join(lines)


def page(spec: LossSpec) -> str:
    document = inspect.getdoc(spec.loss) or ""
    code = function_example(spec)
    return PAGE.format(
        title=spec.name.removesuffix("_loss").replace("_", " ").capitalize() + " loss",
        summary=textwrap.fill(document.partition("\n")[0], 100),
        name=spec.name,
        head=HEAD.format(name=spec.name),
        function=textwrap.indent(block(spec, code), "    "),
        module=textwrap.indent(block(spec, module_example(spec, code)), "    "),
        module_name=spec.module,
        evidence=EVIDENCE.format(name=spec.name),
    )


def incomplete(spec: LossSpec) -> list[str]:
    """What the page of a loss lacks."""
    text = (PAGES / f"{spec.name}.md").read_text(encoding="utf-8")
    wanted = {
        "its pictures": HEAD.format(name=spec.name),
        "its evidence": EVIDENCE.format(name=spec.name),
        "a tab for the function": '=== "Function"',
        "a tab for the module": '=== "Module"',
        "the function": f"::: purelosses.{spec.name}\n",
        "the module": f"::: purelosses.nn.{spec.module}\n",
    }
    return [f"{spec.name}.md lacks {what}" for what, part in wanted.items() if part not in text]


def title(spec: LossSpec) -> str:
    found = re.search(r"^# (.+)$", (PAGES / f"{spec.name}.md").read_text(encoding="utf-8"), re.M)
    assert found is not None, spec.name
    return found[1].removesuffix(" loss")


def navigation() -> str:
    """mkdocs.yml with the entries of all losses, by family."""
    entries = []
    for family, heading in FAMILIES.items():
        specs = [spec for spec in LOSSES.values() if spec.family == family]
        if specs:
            entries += [f"      - {heading}:", f"          - families/{family}.md"]
            entries += [f'          - "{title(spec)}": losses/{spec.name}.md' for spec in specs]
    unknown = {spec.family for spec in LOSSES.values()} - FAMILIES.keys()
    assert not unknown, f"FAMILIES lacks {unknown}"
    block = "\n".join(["  - Losses:", "      - Gallery: gallery.md", *entries, ""])
    return re.sub(r"^  - Losses:\n(?:      .*\n)*", block, NAVIGATION.read_text(), flags=re.M)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if something is out of date")
    check = parser.parse_args().check
    missing = [spec for spec in LOSSES.values() if not (PAGES / f"{spec.name}.md").exists()]
    if check and missing:
        print("no page in docs/losses:", *(spec.name for spec in missing), file=sys.stderr)
        return 1
    lacking = [what for spec in LOSSES.values() if spec not in missing for what in incomplete(spec)]
    if lacking:
        print("docs/losses:", *lacking, sep="\n  ", file=sys.stderr)
        return 1
    for spec in missing:
        (PAGES / f"{spec.name}.md").write_text(page(spec), encoding="utf-8")
    text = navigation()
    if check and text != NAVIGATION.read_text():
        print("the navigation in mkdocs.yml is out of date: make gen", file=sys.stderr)
        return 1
    if not check:
        NAVIGATION.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
