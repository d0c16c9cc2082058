"""What the doctor hands back: findings, and a report that prints as text, JSON or SARIF."""

import json
import linecache
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from purelosses.doctor.codes import CODES, SEVERITIES, Severity

PAGE = "doctor.md"
IGNORE = re.compile(r"#\s*purelosses:\s*ignore(?:\[([A-Z0-9,\s]+)\])?")


@dataclass(frozen=True)
class Site:
    """A line of somebody's code."""

    file: str
    line: int

    @property
    def source(self) -> str:
        return linecache.getline(self.file, self.line).strip()


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be, and where."""

    code: str
    name: str
    severity: Severity
    message: str  # what was measured
    file: str | None
    line: int | None
    source: str  # the line itself
    why: str
    fix: str
    anchor: str  # in the documentation

    @property
    def where(self) -> str:
        if self.file is None:
            return ""
        here = Path.cwd()
        path = Path(self.file)
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{self.line}"

    @property
    def ignored(self) -> bool:
        """Whether a comment on the line says so."""
        comment = IGNORE.search(self.source)
        if comment is None:
            return False
        codes = comment.group(1)
        return codes is None or self.code in re.split(r"[,\s]+", codes)

    def __str__(self) -> str:
        lines = [f"{self.severity} {self.code} {self.name}: {self.message}"]
        if self.file is not None:
            lines.append(f"    {self.where}: {self.source}")
        return "\n".join([*lines, f"    why: {self.why}", f"    fix: {self.fix}"])


def finding(
    code: str, message: str, site: Site | None = None, severity: Severity | None = None
) -> Finding:
    """A finding with what its code says of itself."""
    entry = CODES[code]
    return Finding(
        code,
        entry.name,
        severity or entry.severity,
        message,
        site.file if site else None,
        site.line if site else None,
        site.source if site else "",
        entry.why,
        entry.fix,
        f"{PAGE}#{code.lower()}",
    )


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first, one per code and line."""
    ranked = sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code))
    unique: dict[tuple[str, str | None, int | None], Finding] = {}
    for item in ranked:
        unique.setdefault((item.code, item.file, item.line), item)
    return tuple(unique.values())


LEVELS_OF_SARIF = {"error": "error", "warning": "warning", "advice": "note"}
COLOURS = {"error": "bold red", "warning": "yellow", "advice": "cyan"}


@dataclass(frozen=True)
class Report:
    """The findings about one loss."""

    loss: str
    kind: str | None
    level: str
    findings: tuple[Finding, ...]
    seconds: float
    notes: tuple[str, ...] = ()  # what could not be judged, and why

    @property
    def ok(self) -> bool:
        """Whether there is nothing above advice."""
        return all(item.severity == "advice" for item in self.findings)

    def to_json(self) -> str:
        """All of it as a JSON object; each finding has the fields of `Finding`."""
        fields = ("loss", "kind", "level", "ok", "seconds")
        head = {name: getattr(self, name) for name in fields}
        findings = [asdict(item) for item in self.findings]
        return json.dumps({**head, "findings": findings, "notes": self.notes}, indent=2)

    def to_sarif(self) -> str:
        """SARIF 2.1.0, which code hosts show on the line of a change."""
        codes = sorted({item.code for item in self.findings})
        named = {item.code: item for item in self.findings}
        rules = [
            {
                "id": code,
                "name": named[code].name,
                "shortDescription": {"text": named[code].name},
                "fullDescription": {"text": named[code].why},
                "help": {"text": named[code].fix},
            }
            for code in codes
        ]
        driver = {"name": "purelosses", "rules": rules}
        run: dict[str, Any] = {
            "tool": {"driver": driver},
            "results": [_result(item) for item in self.findings],
        }
        if self.notes:
            told = [{"level": "note", "message": {"text": note}} for note in self.notes]
            run["invocations"] = [{"executionSuccessful": True, "toolExecutionNotifications": told}]
        schema = "https://json.schemastore.org/sarif-2.1.0.json"
        return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2)

    def __str__(self) -> str:
        parts = [f"\n{part}" for part in (*self.findings, *self.notes)]
        return "\n".join([self._headline(), *parts])

    def _headline(self) -> str:
        counts = [(s, sum(f.severity == s for f in self.findings)) for s in SEVERITIES]
        told = ", ".join(f"{n} {s}{'s' * (n > 1 and s != 'advice')}" for s, n in counts if n)
        kind = self.kind or "unknown kind"
        return f"{self.loss} ({kind}, level {self.level}): {told or 'no findings'}"

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(self._headline(), style="bold green" if self.ok else "bold")]
        for item in self.findings:
            colour = COLOURS[item.severity]
            head = (f"\n{item.severity} {item.code}", colour)
            parts.append(Text.assemble(head, " ", (item.name, "bold"), f"  {item.message}"))
            if item.file is not None:
                line = Text.assemble("  ", (item.where, "dim"), "  ", ("│ ", colour), item.source)
                line.no_wrap, line.overflow = True, "ignore"  # so that it can be copied
                parts.append(line)
            grid = Table.grid(padding=(0, 1))
            grid.add_row(Text("  why", "dim"), Text(item.why))
            grid.add_row(Text("  fix", "dim"), Text(item.fix, "green"))
            parts.append(grid)
        parts += [Text(f"\n{note}", style="dim") for note in self.notes]
        return Group(*parts)


def _result(item: Finding) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": item.code,
        "level": LEVELS_OF_SARIF[item.severity],
        "message": {"text": f"{item.message} {item.fix}"},
    }
    if item.file is not None:
        path = Path(item.file)
        relative = path.is_relative_to(Path.cwd())
        uri = path.relative_to(Path.cwd()).as_posix() if relative else path.as_uri()
        region = {"startLine": item.line, "snippet": {"text": item.source}}
        location = {"artifactLocation": {"uri": uri}, "region": region}
        result["locations"] = [{"physicalLocation": location}]
    return result


class LossError(AssertionError):
    """Raised by `check_loss`; its message is the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
