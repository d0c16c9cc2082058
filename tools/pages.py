"""The parts of the documentation that are made from the registry and from recorded results.

The pages call these functions when the site is built. They return HTML or Markdown; addresses are
those of the built pages, since nothing rewrites them in what a page prints.
"""

import html
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from purelosses.doctor import CODES
from purelosses.laws import LAWS
from purelosses.registry import LOSSES, LossSpec
from tools import coming_from
from tools.gen_pages import FAMILIES, ROOT, title
from tools.pictures import CURVES, FAINT, INKS, figure, sparkline, svg

DATA = ROOT / "docs" / "data"
GROUPS = {
    "P": "Purity",
    "R": "Reductions, weights, masks",
    "T": "Transforms",
    "G": "Graphs",
    "N": "Numerics",
    "E": "Edges",
    "S": "Guards",
    "M": "Modules",
    "C": "Claims",
}


def prose(text: str) -> str:
    """A line of a docstring as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def formula(spec: LossSpec) -> str:
    """The first formula of the docstring."""
    found = re.search(r"\$\$(.+?)\$\$", inspect.getdoc(spec.loss) or "", flags=re.DOTALL)
    assert found is not None, f"{spec.name} has no formula"
    return " ".join(found[1].split())


def first_clause(tex: str) -> str:
    """A formula up to its definitions, or to its second form."""
    for gap in re.finditer(r",?\s*\\q?quad|\\;\s*=\s*\\;", tex):
        clause = tex[: gap.start()]
        if clause.count(r"\begin") == clause.count(r"\end"):
            return clause
    return tex


def typeset(tex: str) -> str:
    return f'<div class="arithmatex">\\[{html.escape(tex)}\\]</div>'


@cache
def evidence_of() -> Mapping[str, list[dict[str, str]]]:
    """What the laws found, by loss."""
    found: dict[str, list[dict[str, str]]] = {}
    for item in json.loads((DATA / "laws.json").read_text()):
        found.setdefault(item["loss"], []).append(item)
    return found


def count(items: Iterable[Mapping[str, str]]) -> Counter[str]:
    return Counter(item["status"] for item in items)


def head(name: str) -> str:
    """Formula and pictures of a loss page."""
    spec = LOSSES[name]
    counts = count(evidence_of().get(name, []))
    failed = f', <span class="bad">{counts["fail"]} fail</span>' if counts["fail"] else ""
    unit = spec.unit.removeprefix("none: ") if spec.unit[:5] == "none:" else f"unit: {spec.unit}"
    chips = [
        f'<a href="../families/{spec.family}.html">{FAMILIES[spec.family]}</a>',
        f'<a href="#evidence"><span class="good">✓</span> {counts["pass"]} laws{failed}</a>',
        f"<span>{html.escape(unit)}</span>",
    ]
    return f'<div class="chips">{"".join(chips)}</div>{typeset(formula(spec))}{figure(name)}'


def reasons(detail: str) -> list[str]:
    """Why a law does not apply, without the names of the cases that say the same."""
    return list(dict.fromkeys(part.partition(": ")[2] or part for part in detail.split("; ")))


def elsewhere(name: str) -> str:
    """What other libraries call the loss: the equalities that the tests hold."""
    found = coming_from.about(name)
    if not found:
        return ""
    body = []
    for row in found:
        theirs = f"{row.library} {row.theirs}" if row.library in PREFIXED else row.theirs
        here = html.escape(row.here, quote=False)
        body.append(f"<tr><td>{prose(theirs)}</td><td><code>{here}</code></td></tr>")
    count = f"{len(body)} equalities" if len(body) > 1 else "1 equality"
    return (
        f"<details{' open' if len(body) <= 6 else ''}><summary>The same value elsewhere: {count}, "
        "tested</summary><table><thead><tr><th>There</th><th>Here</th></tr></thead>"
        f"{''.join(body)}</table></details>"
    )


# Libraries whose rows do not name them.
PREFIXED = ("MONAI", "SMP", "kornia", "torchjd")


def evidence(name: str) -> str:
    """What the laws found for a loss, what it equals elsewhere, and where to read on."""
    items = evidence_of().get(name, [])
    if not items:
        return "<p>The laws have not been run on this loss yet.</p>"
    rows, excepted = [], []
    for key, heading in GROUPS.items():
        counts = count(item for item in items if item["law"][0] == key)
        passed, failed = counts["pass"], counts["fail"]
        if passed or failed:
            kind = "bad" if failed else "good"
            rows.append(
                f'<span>{heading} <b class="{kind}">{passed} of {passed + failed}</b></span>'
            )
    for item in items:
        if item["status"] != "pass":
            what = html.escape("; ".join(reasons(item["detail"])), quote=False)
            said = prose(LAWS[item["law"]].statement)
            excepted.append(f"<tr><td>{item['law']}</td><td>{said}</td><td>{what}</td></tr>")
    kind = "does not apply" if not count(items)["fail"] else "fails or does not apply"
    table = "<table><thead><tr><th>Law</th><th>What it says</th><th>Why not here</th></tr></thead>"
    more = f"<details><summary>What {kind}</summary>{table}{''.join(excepted)}</table></details>"
    links = [
        '<a href="../laws.html">All laws and losses</a>',
        '<a href="../coming-from.html">Coming from another library</a>',
    ]
    chips = f'<div class="chips">{"".join(rows)}</div>'
    return f"{chips}{elsewhere(name)}{more}<p>{' · '.join(links)}</p>"


def card(spec: LossSpec, up: str = "", *, full: bool = True) -> str:
    line = (inspect.getdoc(spec.loss) or "").partition("\n")[0]
    tex = typeset(first_clause(formula(spec))) if full else ""
    words = html.escape(f"{spec.name} {spec.module} {title(spec)} {line}".lower())
    return (
        f'<a class="card" href="{up}losses/{spec.name}.html" data-words="{words}">'
        f"<b>{html.escape(title(spec))}</b><code>{spec.name}</code>{sparkline(spec.name)}"
        f"<p>{prose(line)}</p>{tex}</a>"
    )


def cards(specs: Iterable[LossSpec], up: str = "", *, full: bool = True) -> str:
    return f'<div class="cards">{"".join(card(spec, up, full=full) for spec in specs)}</div>'


def family(name: str) -> str:
    """The losses of a family page."""
    return cards((spec for spec in LOSSES.values() if spec.family == name), up="../")


def gallery() -> str:
    """Every loss, by family, as Markdown."""
    parts = []
    for name, heading in FAMILIES.items():
        specs = [spec for spec in LOSSES.values() if spec.family == name]
        if specs:
            link = f'<a href="families/{name}.html">What they share, and when to take which</a>'
            parts.append(f"## {heading}\n\n{link}\n\n{cards(specs)}\n")
    return "\n".join(parts)


# Benchmarks: what a file in docs/data holds, and the command that writes it.

BENCHMARKS = {
    "benchmarks_segmentation.json": (
        "Segmentation and boxes",
        "make bench",
        "python benchmarks/segmentation.py --json docs/data/benchmarks_segmentation.json",
    ),
    "benchmarks_multitask.json": (
        "Several tasks",
        "make bench",
        "python benchmarks/multitask.py --json docs/data/benchmarks_multitask.json",
    ),
}


def bars(axes: Axes, candidates: Mapping[str, Mapping[str, float]]) -> None:
    """Times, with the spread between quartiles; ours first."""
    names = list(candidates)
    for k, name in enumerate(names):
        ours = name.startswith(("purelosses", "ours"))
        ms, iqr = candidates[name]["ms"], candidates[name].get("iqr", 0.0)
        axes.barh(k, ms, height=0.62, color=INKS[0] if ours else FAINT, alpha=0.85)
        axes.plot([max(ms - iqr / 2, 0), ms + iqr / 2], [k, k], color=INKS[1], linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("ms (median; the line spans the quartiles)")
    axes.set_title("time of value and gradient")


def number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def curves(axes: Axes, sizes: list[int], ratios: Mapping[str, list[float]]) -> None:
    for (name, values), ink in zip(ratios.items(), cycle(INKS)):
        axes.plot(sizes, values, color=ink, label=name)
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("elements")
    axes.set_title("time over that of the plain formula")
    axes.legend()


COLUMNS = {
    "what": "",
    "ms": "ms",
    "iqr": "quartiles apart",
    "memory": "memory ÷ gradient",
    "us": "µs",
    "reference_us": "the reference, µs",
    "ratio": "ratio",
    "us_of_5": "5 tasks, µs",
    "us_of_50": "50 tasks, µs",
}


def table(rows: list[dict[str, Any]]) -> str:
    """The measured rows, with the columns that they have."""
    keys = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    lines = ["| " + " | ".join(COLUMNS[key] for key in keys) + " |"]
    lines.append("|---|" + "--:|" * (len(keys) - 1))
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        cells = [number(cell) if isinstance(cell, int | float) else cell or "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n" + "\n".join(lines)


def benchmark(row: Mapping[str, Any]) -> str:
    """One row: a chart, whether each goal is reached, and the numbers."""
    measured = row.get("candidates", {}).items()
    candidates = {name: found for name, found in measured if found.get("ms") is not None}
    beside = f", beside {row['reference']}" if "reference" in row else ""
    beside = "" if "beside" in row["row"] else beside
    warm = " (warm allocator)" if row.get("allocator") == "warm" else ""
    lines = [f"### {row['row']}{beside}{warm}\n"]
    if candidates:
        size = (4.6, 0.75 + 0.24 * len(candidates))
        chart = svg(lambda axes: bars(axes, candidates), f"{row['row']}: times", size)
        lines.append(f'<figure class="pictures chart">{chart}</figure>\n')
    if "ratios" in row:
        chart = svg(lambda axes: curves(axes, row["sizes"], row["ratios"]), row["row"], (4.6, 2.6))
        lines.append(f'<figure class="pictures chart">{chart}</figure>\n')
    for goal in row.get("goals", ()):
        reached, limit = goal["reached"], goal["limit"]
        kind, mark = ("good", "✓") if reached <= limit else ("bad", "✗")
        lines.append(
            f'- <span class="{kind}">{mark}</span> {goal["text"]}: **{number(reached)}**, '
            + (f"limit {limit:g}" if reached <= limit else f"short of the limit of {limit:g}")
        )
    rows = [{"what": name, **found} for name, found in candidates.items()] + row.get("rows", [])
    if rows:
        lines.append(table(rows))
    if row.get("failed"):
        failed = (what.removesuffix(": not measured") for what in row["failed"])
        lines.append("\nNot measured: " + "; ".join(failed) + ".")
    return "\n".join(lines) + "\n"


def performance() -> str:
    """Every benchmark that has been recorded, as Markdown."""
    parts = []
    for file, (heading, target, command) in BENCHMARKS.items():
        path = DATA / file
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        rows = record.get("results", [])
        goals = [goal for row in rows for goal in row.get("goals", ())]
        reached = sum(goal["reached"] <= goal["limit"] for goal in goals)
        about = {k: v for k, v in record.items() if k not in ("results", "note")}
        parts.append(f"## {heading}\n")
        parts.append(f"**{reached} of {len(goals)} goals reached** in {len(rows)} rows.")
        parts.append(f"Written by `{target}`, that is `{command}`.\n")
        parts.append(" · ".join(f"{key} {shown(value)}" for key, value in about.items()) + "\n")
        if record.get("note"):
            parts.append(f"!!! note\n\n    {record['note']}\n")
        parts += [benchmark(row) for row in rows]
    return "\n".join(parts)


def shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    return f"`{value:.3g}`" if isinstance(value, float) else f"`{value}`"


def standing() -> Counter[str]:
    """The numbers that the home page gives."""
    cells = count(item for items in evidence_of().values() for item in items)
    return cells + Counter(losses=len(LOSSES), laws=len(LAWS))


# The home page.

SAME_LOGIT = {
    "cross-entropy": ("cross_entropy_loss", ""),
    "focal, γ = 2": ("softmax_focal_loss", "γ = 2"),
    "Brier": ("brier_loss", "Brier"),
    "generalized cross-entropy": ("generalized_cross_entropy_loss", "q = 0.7"),
}


def picture_of_home() -> str:
    """What four losses say about the same logit."""

    def draw(axes: Axes) -> None:
        for (label, (name, line)), ink, style in zip(
            SAME_LOGIT.items(), INKS, ("-", "--", "-.", ":"), strict=True
        ):
            x, y, _ = CURVES[name].values(line, 161)
            axes.plot(x, y, style, color=ink, label=label)
        axes.set_xlabel(CURVES["cross_entropy_loss"].label)
        axes.set_title("four losses of the same three logits")
        axes.set_ylim(-0.1, 5)
        axes.legend()

    return f'<figure class="pictures">{svg(draw, "four losses of a logit", (3.6, 2.7))}</figure>'


def promises() -> str:
    """What the library promises, each with the numbers that its evidence holds now."""
    found = standing()
    tried = found["pass"] + found["fail"]
    goals = [
        goal
        for file in BENCHMARKS
        if (DATA / file).exists()
        for row in json.loads((DATA / file).read_text()).get("results", [])
        for goal in row.get("goals", ())
    ]
    memory = [f"{g['reached']:.2f}" for g in goals if g.get("what") == "memory"]
    reached = sum(g["reached"] <= g["limit"] for g in goals)
    cells = [
        (
            "Every loss keeps every law",
            f"Pure, right under every transform, exact at the edges: {found['laws']} laws, each a "
            f"piece of code, run on {found['losses']} losses. "
            f"{found['pass']} of {tried} cells pass.",
            '<a href="laws.html">The matrix</a>',
        ),
        (
            "It is measured beside its peers",
            f"{reached} of {len(goals)} goals for time and memory are reached, and the page says "
            f"which are not. Peak memory of the fused losses is {min(memory)} to {max(memory)} "
            "times their gradient.",
            '<a href="performance.html">Performance</a>',
        ),
        (
            "Your own losses are examined too",
            "The doctor calls a loss in many ways, and names the line that breaks training. It "
            f"knows {len(CODES)} kinds of defect, each with an example that it finds.",
            '<a href="doctor.html">The doctor</a>',
        ),
    ]
    parts = [
        f'<div class="card" markdown>\n\n**{title}**\n\n{text}\n\n{link}\n\n</div>\n'
        for title, text, link in cells
    ]
    return '<div class="cards three" markdown>\n\n' + "\n".join(parts) + "\n</div>\n"


def families() -> str:
    """A card for each family, with the curve of one of its losses."""
    parts = []
    for name, heading in FAMILIES.items():
        names = [spec.name for spec in LOSSES.values() if spec.family == name]
        if names:
            parts.append(
                f'<a class="card" href="families/{name}.html"><b>{heading}</b>'
                f"{sparkline(DRAWN_FOR.get(name, names[0]))}<p>{len(names)} losses</p></a>"
            )
    return f'<div class="cards small">{"".join(parts)}</div>'


DRAWN_FOR = {
    "regression": "huber_loss",
    "likelihood": "poisson_nll_loss",
    "classification": "binary_cross_entropy_loss",
    "noise": "generalized_cross_entropy_loss",
    "segmentation": "lovasz_hinge_loss",
    "boxes": "giou_loss",
    "balance": "geometric_mean_loss",
}
