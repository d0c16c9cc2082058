"""What the examples end with: a table, a picture and, with --docs, both for the documentation."""

import json
import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def publish(
    name: str, title: str, columns: list[str], rows: list[list[str]], figure: Figure
) -> None:
    """Print the table and write the picture to output/; with --docs, both to docs/ too."""
    table = Table(title=title)
    for column in columns:
        first = column == columns[0]
        table.add_column(column, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    pictures = [HERE / "output" / f"{name}.png"]
    if "--docs" in sys.argv:
        pictures.append(DOCS / "assets" / f"{name}.png")
        found = {
            "title": title,
            "columns": columns,
            "rows": rows,
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        text = json.dumps(found, indent=1, ensure_ascii=False)
        (DOCS / "data" / f"{name}.json").write_text(text + "\n")
    for path in pictures:
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=120)
        console.print(f"Picture: {os.path.relpath(path)}", soft_wrap=True)
