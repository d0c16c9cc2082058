"""The command `purelosses`: its arguments, and what it can tell without torch.

It lies outside the package, because importing the package imports torch, which takes seconds. What
needs torch is in purelosses/cli.py.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As in purelosses.doctor, compared by a test.
LEVELS = ("train", "func", "deploy", "library")
KINDS = (
    "binary_logits", "class_logits", "probabilities", "regression", "boxes", "embeddings",
    "segmentation", "masks", "scores",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="purelosses", description="Losses for PyTorch, and a doctor for yours."
    )
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="examine a loss of yours",
        description="Examine a loss. Exit status: 0 nothing above advice, 1 findings, 2 it could "
        "not be run.",
    )
    check.add_argument(
        "loss",
        nargs="?",
        help="path.py:name or package.module:name; a function, a module, or name() for what the "
        "call returns",
    )
    check.add_argument(
        "--kind",
        choices=KINDS,
        metavar="KIND",
        help=f"what the loss is called with: {', '.join(KINDS)}; by default what the name of its "
        "first parameter says",
    )
    check.add_argument("--level", choices=LEVELS, default="train", help="what matters")
    form = check.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the report as JSON")
    form.add_argument("--sarif", action="store_true", help="print the report as SARIF")
    check.add_argument("--select", type=_codes, metavar="CODES", help="only these: L01,L04")
    check.add_argument("--ignore", type=_codes, metavar="CODES", help="all but these")
    check.add_argument("--explain", metavar="CODE", help="say what a code means, and stop")

    listing = commands.add_parser("list", help="list the losses by family")
    listing.add_argument("filter", nargs="?", default="", help="part of a name, family or summary")
    listing.add_argument("--json", action="store_true", help="print JSON")

    show = commands.add_parser("show", help="show formula, options and example of a loss")
    show.add_argument("name", help="a function or its module: dice_loss, DiceLoss")

    plot = commands.add_parser(
        "plot",
        help="draw the value and the gradient of a loss",
        allow_abbrev=False,
        description="Draw a loss of one prediction and its gradient. Every option of the loss can "
        "be given; several values make several curves: --gamma 0 1 2.",
    )
    plot.add_argument("name", help="a loss: sigmoid_focal_loss")
    plot.add_argument("-o", "--output", metavar="FILE", help="a picture; else in the terminal")
    return top


def _codes(text: str) -> list[str]:
    return [code.strip() for code in text.split(",") if code.strip()]


def explain(code: str) -> str:
    """What a code means, from the file of the codes alone if it is one of the doctor's."""
    package = importlib.util.find_spec("purelosses")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "doctor" / "codes.py"
    spec = importlib.util.spec_from_file_location("purelosses_codes", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entry = module.CODES.get(code)
    if entry is None:
        from purelosses.laws import LAWS  # those need torch

        if code in LAWS:
            return f"{code} (a law)\n\n{LAWS[code].statement}"
        known = ", ".join([*module.CODES, *LAWS])
        raise ValueError(f"--explain must be one of {known}, got {code!r}")
    return f"{code} {entry.name} ({entry.severity})\n\n{entry.why}\n\nInstead: {entry.fix}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    top = parser()
    known, rest = top.parse_known_args(arguments)
    if rest and known.command != "plot":
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return _run(top, known, rest)
    except ValueError as error:
        print(f"purelosses: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `purelosses list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(top: argparse.ArgumentParser, known: Any, rest: list[str]) -> int:
    if known.version:
        print(importlib.metadata.version("purelosses"))
        return 0
    if known.command is None:
        top.print_help()
        return 0
    if known.command == "check" and known.explain:
        print(explain(known.explain))
        return 0
    from purelosses import cli

    match known.command:
        case "check":
            return cli.check(known)
        case "list":
            return cli.listing(known.filter, known.json)
        case "show":
            return cli.show(known.name)
        case _:
            return cli.plot(known.name, rest, known.output)


if __name__ == "__main__":
    sys.exit(main())
