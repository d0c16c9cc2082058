"""README says what was measured, its links lead somewhere, and the guide is whole."""

import json
import re
from pathlib import Path

import pytest
from sybil import Document

from conftest import blocks
from purelosses.registry import LOSSES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_beside_the_peers_is_what_the_benchmark_wrote():
    record = json.loads((ROOT / "docs/data/benchmarks_segmentation.json").read_text())
    measured = {
        row["row"]: row["candidates"]
        for row in record["results"]
        if row.get("allocator") == "default" and "candidates" in row
    }
    peers = ["purelosses", "MONAI", "SMP", "kornia", "torchvision"]
    header, *rows = README.split("`docs/data/benchmarks_segmentation.json`):\n\n")[1].splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["here", *peers[1:]]
    seen = 0
    for row in rows[1:]:
        if not row.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        for peer, cell in zip(peers, cells, strict=True):
            assert bool(cell) == (peer in measured[name]), (name, peer)
            if cell:
                found = measured[name][peer]
                ratio = found["ms"] / measured[name]["purelosses"]["ms"]
                assert cell == f"{ratio:.2f} · {found['memory']:.2f}"
                seen += 1
    assert seen == 16


def test_the_laws_are_as_many_as_the_record_says():
    record = json.loads((ROOT / "docs/data/laws.json").read_text())
    passed = sum(cell["status"] == "pass" for cell in record)
    assert f"{passed:,} cells apply and all pass" in README, f"{passed:,} pass"
    assert not any(cell["status"] == "fail" for cell in record)


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).is_file(), link


def test_every_file_that_is_named_is_there():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = re.compile(
        r"`(?:python )?((?:docs|examples|tests|tools|benchmarks|purelosses)/[\w./-]+)"
    )
    found = {(page.name, path) for page in pages for path in named.findall(page.read_text())}
    assert len(found) > 30
    # What an example writes is not in the repository.
    missing = {path for _, path in found if not (ROOT / path).exists()}
    assert {path for path in missing if not path.startswith("examples/output/")} == set()


def test_the_doctor_prints_what_the_readme_says(tmp_path, monkeypatch, capsys):
    cli = pytest.importorskip("purelosses_cli")
    code = re.search(r"For `my_loss.py`\n\n```python\n(.*?)```", README, re.S)[1]
    command, said = re.search(
        r"`purelosses (check [^`]+)` says\n\n```\n(.*?)```", README, re.S
    ).groups()
    (tmp_path / "my_loss.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(command.split()) == 1
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert printed == said.strip().splitlines()


def test_the_guide_has_a_place_for_every_loss():
    guide = (ROOT / "docs/which-loss.md").read_text()
    assert [name for name in LOSSES if f"(losses/{name}.md)" not in guide] == []


def test_blocks_before_the_one_asked_for_are_run_once(tmp_path):
    """Workers share a page block by block, and each block needs the names of those before."""
    page = tmp_path / "page.md"
    block = "```python\n{}\n```\n"
    code = ["runs = [1]", "runs.append(2)", "assert runs == [1, 2]", "assert runs == [1, 2]"]
    page.write_text("\n".join(map(block.format, code)))
    *_, third, last = Document.parse(str(page), blocks)
    third.evaluate()
    last.evaluate()
