"""What the commands do; purelosses_cli.py, which needs no torch, reads their arguments."""

import ast
import contextlib
import difflib
import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from purelosses.doctor import KINDS, Report, examine
from purelosses.doctor.kinds import named
from purelosses.registry import LOSSES, Array, Case, LossSpec
from purelosses.registry.core import PER_CALL

# check


def load(target: str) -> Any:
    """What `path.py:name`, `package.module:name` or either with `()` stands for."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ValueError(f"check: the loss must be path.py:name or module:name, got {target!r}")
    sys.path.insert(0, os.getcwd())  # and it stays, for imports inside functions
    try:
        # What the file prints is not the result.
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = _module(place)
            for part in name.removesuffix("()").split("."):
                found = getattr(found, part)
            return found() if name.endswith("()") else found
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"check: {target} cannot be imported: {told}") from error


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(f"checked_{Path(place).stem}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses want
    spec.loader.exec_module(module)
    return module


def check(options: Namespace) -> int:
    if options.loss is None:
        raise ValueError("check: the loss must be path.py:name or module:name, got nothing")
    loss = load(options.loss)
    kind = options.kind or named(loss)
    if kind is None:
        raise ValueError(
            f"check: --kind must be given, as nothing tells what {options.loss} is called with; "
            f"one of {', '.join(KINDS)}"
        )
    report = examine(
        loss, kind=kind, level=options.level, select=options.select, ignore=options.ignore
    )
    if options.json:
        print(report.to_json())
    elif options.sarif:
        print(report.to_sarif())
    else:
        _print(report)
    if any(item.code == "L00" for item in report.findings):
        print(f"purelosses: check: {options.loss} could not be run", file=sys.stderr)
        return 2
    return 0 if report.ok else 1


def _print(report: Report) -> None:
    try:
        from rich.console import Console
    except ImportError:
        print(report)
        return
    Console(highlight=False).print(report, crop=False)


# list and show


def listing(part: str, as_json: bool) -> int:
    rows = [
        {"name": name, "family": spec.family, "module": spec.module, "summary": _summary(spec)}
        for name, spec in LOSSES.items()
    ]
    rows = [row for row in rows if part.lower() in " ".join(row.values()).lower()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        raise ValueError(f"list: no name, family or summary holds {part!r}")
    width = max(len(row["name"]) for row in rows)
    for family, group in itertools.groupby(rows, lambda row: row["family"]):
        print(family)
        for row in group:
            print(f"  {row['name']:{width}}  {row['summary']}")
    return 0


def _summary(spec: LossSpec) -> str:
    return _plain((inspect.getdoc(spec.loss) or "").partition("\n\n")[0].replace("\n", " "))


def _plain(text: str) -> str:
    """Links of the documentation without their address."""
    return re.sub(r"\[([^\]]+)\][\[(][^\])]*[\])]", r"\1", text)


def _spec(name: str, command: str) -> LossSpec:
    names = {spec.module: key for key, spec in LOSSES.items()} | {key: key for key in LOSSES}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see `purelosses list`"
        raise ValueError(f"{command}: there is no loss {name!r}{hint}")
    return LOSSES[names[name]]


def show(name: str) -> int:
    spec = _spec(name, "show")
    signature = ",\n    ".join(_parameters(spec.loss))
    print(f"purelosses.{spec.name}(\n    {signature},\n)")
    print(f"module: purelosses.nn.{spec.module}; family: {spec.family}\n")
    print(_plain(inspect.getdoc(spec.loss) or ""))
    return 0


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names and defaults, with the star before the options."""
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        found.append(parameter.name + default)
    return found


# plot

# Where the prediction goes: what is drawn along the axis, from where to where.
MOVED: dict[str, tuple[str, float, float]] = {
    "real": ("prediction", -3.0, 3.0),
    "positive": ("prediction", 0.0, 4.0),
    "logits": ("logit", -6.0, 6.0),
    "class_logits": ("logit of class 0, others 0", -6.0, 6.0),
    "unit": ("probability", 0.0, 1.0),
    "distribution": ("probability of class 0", 0.0, 1.0),
    "boxes": ("shift of a unit box along one axis", -2.0, 2.0),
}
# Where the target stays.
TARGETS = {"real": "0", "labels": "class 0", "distribution": "class 0"} | dict.fromkeys(
    ("mask", "unit", "sign", "positive", "counts"), "1"
)


class Curve(NamedTuple):
    label: str
    value: Tensor
    gradient: Tensor


class Plot(NamedTuple):
    title: str  # the loss, with the options that all curves share
    axis: str
    at: Tensor
    curves: list[Curve]


def drawn(spec: LossSpec, varied: Mapping[str, Sequence[Any]], points: int = 201) -> Plot:
    """The loss and its derivative along one prediction, for every choice of the options.

    Args:
        spec: The entry of the loss.
        varied: The values of each option that is not left at its default.
        points: How many points of each curve.

    Returns:
        The curves, and where they were evaluated.
    """
    case, needed = _case(spec, {key: values[0] for key, values in varied.items()})
    first, *_ = case.args
    axis, low, high = MOVED[case.arrays[first].domain]
    if "target" in case.args and case.arrays["target"].domain in TARGETS:
        axis += f"; target {TARGETS[case.arrays['target'].domain]}"
    # Midpoints, so that no curve ends at a pole or is evaluated at a kink.
    at = low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points
    curves = []
    for chosen in itertools.product(*varied.values()):
        given = dict(zip(varied, chosen, strict=True))
        along = partial(_along, spec, case, {**needed, **given})
        gradient, value = torch.vmap(torch.func.grad_and_value(along))(at)
        if not bool((value != value[0]).any()) or bool(value.isinf().sum() > points / 2):
            raise ValueError(f"plot: {spec.name} of one prediction is constant or infinite")
        several = {key: value for key, value in given.items() if len(varied[key]) > 1}
        curves.append(Curve(_told(several), value, gradient))
    shared = {**needed, **{key: values[0] for key, values in varied.items() if len(values) == 1}}
    title = f"{spec.name}({_told(shared)})" if shared else spec.name
    return Plot(title, axis, at, curves)


def _told(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _case(spec: LossSpec, options: Mapping[str, Any]) -> tuple[Case, dict[str, Any]]:
    """The first way of calling the loss that can be drawn, and the options it needs for that."""
    required = {
        parameter.name
        for parameter in inspect.signature(spec.loss).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    }
    for case in () if spec.parameters else spec.cases:
        arrays = case.arrays
        first = next(iter(case.args))
        if not set(case.args) <= set(arrays) or arrays[first].domain not in MOVED:
            continue
        data = {name: _held(arrays[name], case) for name in case.args}
        own = {key: value for key, value in case.options.items() if key not in options}
        for needed in ({}, own):
            given = {**needed, **options}
            fits = spec.domains({**data, **given}).get(first) == arrays[first].domain
            if fits and required <= set(given):
                return case, dict(needed)
    raise ValueError(
        f"plot: {spec.name} with these options is not a loss of one prediction and a target"
    )


def _held(array: Array, case: Case) -> Tensor:
    """The value of an argument that does not move: one unit with a plain target."""
    lengths = {**dict.fromkeys(case.sizes, 1), "C": 3, "corners": case.sizes.get("corners", 4)}
    shape = [lengths[name] for name in array.names]
    match array.domain:
        case "labels":
            return torch.zeros(shape, dtype=torch.long)
        case "real" | "log_scale" | "logits" | "class_logits" | "positions":
            return torch.zeros(shape, dtype=torch.float64)
        case "distribution":
            return _right_class(array, torch.ones((), dtype=torch.float64), shape)
        case "boxes":
            middle = shape[-1] // 2
            return (torch.arange(shape[-1]) >= middle).double().expand(shape)
        case _:
            return torch.ones(shape, dtype=torch.float64)


def _right_class(array: Array, probability: Tensor, shape: Sequence[int]) -> Tensor:
    axis = array.names.index("C")
    rest = (1 - probability) / (shape[axis] - 1)
    return torch.stack([probability, *([rest] * (shape[axis] - 1))]).reshape(
        [-1 if i == axis else 1 for i in range(len(shape))]
    )


def _along(spec: LossSpec, case: Case, options: Mapping[str, Any], t: Tensor) -> Tensor:
    """The loss where the prediction has gone as far as t."""
    first, *others = case.args
    array, rest = case.arrays[first], [_held(case.arrays[name], case) for name in others]
    start = _held(array, case)
    match array.domain:
        case "class_logits":
            axis = array.names.index("C")
            zero = torch.zeros((), dtype=torch.float64)
            row = torch.stack([t, *([zero] * (start.shape[axis] - 1))])
            moved = row.reshape([-1 if i == axis else 1 for i in range(start.ndim)])
        case "distribution":
            moved = _right_class(array, t, start.shape)
        case "boxes":
            along = torch.arange(start.shape[-1]) % (start.shape[-1] // 2) == 0
            moved = start + t * along
        case _:
            moved = t.expand(start.shape)
    result = spec.loss(moved, *rest, **options)
    value: Tensor = result[0] if isinstance(result, tuple) else result
    return value.sum()


def varied_options(spec: LossSpec, words: Sequence[str]) -> dict[str, list[Any]]:
    """The options of a loss, from what follows its name on the command line."""
    known = [
        name
        for name, parameter in inspect.signature(spec.loss).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in PER_CALL
    ]
    found: dict[str, list[Any]] = {}
    for word in itertools.chain.from_iterable(
        word.split("=", 1) if word.startswith("--") else [word] for word in words
    ):
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            if name not in known:
                raise ValueError(
                    f"plot: {spec.name} has no option {name!r}; it has {', '.join(known)}"
                )
            found[name] = []
        elif not found:
            raise ValueError(f"plot: {word!r} must follow an option such as --{known[0]}")
        else:
            found[list(found)[-1]].append(_value(word))
    for name, values in found.items():
        if not values:
            raise ValueError(f"plot: --{name} must be followed by values")
    return found


def _value(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def plot(name: str, words: Sequence[str], output: str | None) -> int:
    spec = _spec(name, "plot")
    found = drawn(spec, varied_options(spec, words))
    if output is None:
        _draw(found)
    else:
        _save(found, output)
    return 0


def _save(found: Plot, output: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plot: -o needs matplotlib: pip install 'purelosses[plot]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve in found.curves:
        left.plot(found.at, curve.value, label=curve.label)
        right.plot(found.at, curve.gradient, label=curve.label)
    left.set(title=found.title, xlabel=found.axis, ylabel="loss")
    right.set(title="gradient", xlabel=found.axis, ylabel="derivative")
    if len(found.curves) > 1:
        left.legend()
    figure.savefig(output)


COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")


def _draw(found: Plot) -> None:
    try:
        from rich.console import Console
        from rich.markup import escape

        console = Console(highlight=False)
        colour = console.color_system is not None

        def say(text: str, curve: int | None = None) -> None:
            style = COLOURS[curve % len(COLOURS)] if curve is not None else None
            console.print(escape(text), style=style, end="", soft_wrap=True)

    except ImportError:
        colour = False

        def say(text: str, curve: int | None = None) -> None:
            print(text, end="")

    # Dots of braille are finer than letters, but without colour they do not tell curves apart.
    letters = "abcdefghijklmnopqrstuvwxyz" if len(found.curves) > 1 and not colour else ""
    for name, lines in (
        (found.title, [curve.value for curve in found.curves]),
        ("gradient", [curve.gradient for curve in found.curves]),
    ):
        finite = torch.cat(lines)
        finite = finite[finite.isfinite()]
        low, high = float(finite.min()), float(finite.max())
        say(f"{name}\n")
        rows = canvas(lines, low, high)
        for i, row in enumerate(rows):
            edge = {0: f"{high:.3g}", len(rows) - 1: f"{low:.3g}"}.get(i, "")
            say(f"{edge:>9} ┤")
            for dots, curve in row:
                drawn = letters[curve % 26] if letters and dots else chr(0x2800 + dots)
                say(drawn if dots else " ", curve if dots else None)
            say("\n")
        start, end = f"{float(found.at[0]):.2g}", f"{float(found.at[-1]):.2g}"
        say(f"{'':10}{start:<8}{found.axis:^{WIDTH - 14}}{end:>8}\n")
    if len(found.curves) > 1:
        for i, each in enumerate(found.curves):
            say(f"{letters[i % 26] if letters else '⠒⠒'} {each.label}   ", i)
        say("\n")


WIDTH, HEIGHT = 64, 12
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille cell, by column and row


def canvas(lines: Sequence[Tensor], low: float, high: float) -> list[list[tuple[int, int]]]:
    """Curves as rows of cells: the dots that are set, and the curve that set them last."""
    cells = [[(0, 0)] * WIDTH for _ in range(HEIGHT)]
    scale = (4 * HEIGHT - 1) / (high - low or 1.0)
    for curve, line in enumerate(lines):
        before: int | None = None
        for x in range(2 * WIDTH):
            value = float(line[round(x * (len(line) - 1) / (2 * WIDTH - 1))])
            if not low <= value <= high:
                before = None
                continue
            y = round((high - value) * scale)
            # Steep pieces are filled, so that a curve has no gaps.
            top, bottom = (y, y) if before is None else (min(y, before), max(y, before))
            for dot in range(top + (before is not None and before < y), bottom + 1):
                dots, _ = cells[dot // 4][x // 2]
                cells[dot // 4][x // 2] = (dots | DOTS[x % 2][dot % 4], curve)
            before = y
    return cells


__all__ = ["check", "drawn", "listing", "load", "plot", "show", "varied_options"]
