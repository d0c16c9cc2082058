"""Write what every loss needs in the documentation: a page, and its place in the navigation.

    python tools/gen_pages.py           writes them
    python tools/gen_pages.py --check   fails if something is missing or out of place

A page is written once, from the first line and the example of the docstring, and then belongs to
whoever improves it. The navigation under `Losses` in mkdocs.yml is always written anew, from the
registry and the titles of the pages.
"""

import argparse
import inspect
import re
import sys
import textwrap
from pathlib import Path

import purelosses
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
PAGE = """\
---
search:
  boost: 3
---

# {title}

{summary}

```python exec="1" source="block" result="text" session="{name}"
import torch
from purelosses import {imports}

{example}
```

::: purelosses.{name}

::: purelosses.nn.{module}
    options:
      members: [forward]
"""


def page(spec: LossSpec) -> str:
    document = inspect.getdoc(spec.loss) or ""
    lines = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)$", document, flags=re.M)
    printed = [f"print({line})" if line.startswith(spec.name) else line for line in lines]
    used = {name for name in purelosses.__all__ if re.search(rf"\b{name}\(", "\n".join(lines))}
    return PAGE.format(
        imports=", ".join(sorted({spec.name, *used})),
        title=spec.name.removesuffix("_loss").replace("_", " ").capitalize() + " loss",
        summary=textwrap.fill(document.partition("\n")[0], 100),
        name=spec.name,
        module=spec.module,
        example="\n".join(printed),
    )


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
            entries.append(f"      - {heading}:")
            entries += [f'          - "{title(spec)}": losses/{spec.name}.md' for spec in specs]
    unknown = {spec.family for spec in LOSSES.values()} - FAMILIES.keys()
    assert not unknown, f"FAMILIES lacks {unknown}"
    block = "\n".join(["  - Losses:", *entries, ""])
    return re.sub(r"^  - Losses:\n(?:      .*\n)*", block, NAVIGATION.read_text(), flags=re.M)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if something is out of date")
    check = parser.parse_args().check
    missing = [spec for spec in LOSSES.values() if not (PAGES / f"{spec.name}.md").exists()]
    if check and missing:
        print("no page in docs/losses:", *(spec.name for spec in missing), file=sys.stderr)
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
