"""The documentation covers everything, and what is generated for it is right and reproducible."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import purelosses
import purelosses.doctor
import purelosses.nn
from purelosses.registry import LOSSES
from tools import coming_from, gen_pages, pages, pictures

DOCS = gen_pages.ROOT / "docs"


def documented() -> Iterator[object]:
    """Every object that a page documents."""
    for path in DOCS.rglob("*.md"):
        for name in re.findall(r"^ *::: (\S+)", path.read_text(encoding="utf-8"), flags=re.M):
            module, _, attribute = name.rpartition(".")
            found = getattr(importlib.import_module(module), attribute)
            if (module, attribute) == ("purelosses.checked", "checked"):
                found = purelosses.checked
            yield found


@pytest.mark.parametrize(
    "module", [purelosses, purelosses.nn, purelosses.doctor], ids=lambda module: module.__name__
)
def test_every_public_name_has_a_page(module):
    objects = list(documented())
    public = {name: getattr(module, name) for name in module.__all__}
    missing = [name for name, value in public.items() if not any(value is x for x in objects)]
    assert not missing


def test_every_family_has_a_page():
    assert {spec.family for spec in LOSSES.values()} == {
        path.stem for path in (DOCS / "families").glob("*.md")
    }


def test_every_picture_is_of_a_loss():
    assert pictures.CURVES.keys() <= LOSSES.keys()


def test_a_loss_without_a_curve_of_its_own_is_drawn_along_a_line():
    x, y, slope = pictures.along_a_line("mse_loss").values("", 7)
    # A parabola: its second difference is 2 / n times the squared step along a unit vector.
    count = LOSSES["mse_loss"].cases[0].problem().tensors["prediction"].numel()
    torch.testing.assert_close(y.diff(n=2), torch.full((5,), 2 / count, dtype=y.dtype))
    torch.testing.assert_close(slope.diff(), torch.full((6,), 2 / count, dtype=y.dtype))
    assert x[1] - x[0] == 1
    # The logarithm of a negative loss is not drawn.
    assert pictures.along_a_line("log_sum_loss").values("", 7)[0][0] > -3


@pytest.mark.parametrize("name", ["huber_loss", "dice_loss", "giou_loss", "weighted_sum_loss"])
def test_pictures_are_reproducible(name):
    first = pictures.figure(name) + pictures.sparkline(name)
    pictures.descend.cache_clear()
    assert pictures.figure(name) + pictures.sparkline(name) == first
    assert not re.search(r"<metadata|<dc:date|#0101", first)
    assert "currentColor" in first


def test_curves_are_those_of_the_formula():
    x, y, slope = pictures.CURVES["huber_loss"].values("δ = 0.5", 5)
    assert x.tolist() == [-4, -2, 0, 2, 4]
    assert y.tolist() == [1.875, 0.875, 0, 0.875, 1.875]
    assert slope.tolist() == [-0.5, -0.5, 0, 0.5, 0.5]


def test_a_shifted_box_is_drawn_where_it_is():
    x, y, _ = pictures.CURVES["iou_loss"].values("IoU", 9)
    # Boxes of 2 x 2 and 2.4 x 1.4 that share 1.2 x 1.4, and boxes that do not touch.
    torch.testing.assert_close(y[5], 1 - torch.tensor(1.68 / (4 + 3.36 - 1.68), dtype=y.dtype))
    assert (x[5], y[0], y[8]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("tex", "clause"),
    [
        (r"\ell = a, \quad a = b", r"\ell = a"),
        (
            r"\begin{cases} a & \quad b \end{cases} \qquad c",
            r"\begin{cases} a & \quad b \end{cases}",
        ),
        (r"\ell = a", r"\ell = a"),
    ],
)
def test_cards_show_the_first_clause_of_a_formula(tex, clause):
    assert pages.first_clause(tex) == clause


def test_module_example_moves_options_to_the_module():
    spec = LOSSES["huber_loss"]
    code = "print(huber_loss(x, y, delta=2.0, where=x > 0))"
    assert gen_pages.module_example(spec, code) == "print(HuberLoss(delta=2.0)(x, y, where=x > 0))"


def test_evidence_counts_what_the_record_holds(monkeypatch):
    record = [
        {"law": "P1", "loss": "mse_loss", "status": "pass", "detail": "fine"},
        {"law": "P2", "loss": "mse_loss", "status": "fail", "detail": "case a: broken"},
        {"law": "T8", "loss": "mse_loss", "status": "n/a", "detail": "a: none; b: none"},
    ]
    monkeypatch.setattr(pages, "evidence_of", lambda: {"mse_loss": record})
    text = pages.evidence("mse_loss")
    assert 'Purity <b class="bad">1 of 2</b>' in text
    assert "<td>broken</td>" in text
    assert "<td>none</td>" in text
    assert "have not been run" in pages.evidence("l1_loss")


def test_a_loss_page_shows_what_its_tests_compare():
    assert "F.huber_loss(x, y, delta=0.5)" in pages.elsewhere("huber_loss")
    dice = pages.elsewhere("dice_loss")
    assert "MONAI <code>DiceLoss(batch)</code>" in dice
    assert "dim=(0, 2, 3)" in dice
    assert "mmdetection" in pages.elsewhere("varifocal_loss")
    assert "torchjd UW" in pages.elsewhere("uncertainty_weighted_loss")
    assert pages.elsewhere("charbonnier_loss") == ""


def test_every_equality_names_what_there_is():
    rows = coming_from.rows()
    assert len(rows) > 140
    for row in rows:
        if row.library == "torch":
            continue
        file, _, test = row.test.partition("::")
        assert f"def {test}(" in (gen_pages.ROOT / file).read_text(encoding="utf-8"), row
    named = {name for row in rows for name in re.findall(r"\b\w+_loss\b", row.here)}
    assert named <= LOSSES.keys()


def test_a_goal_that_is_missed_is_shown_as_missed():
    row = {
        "row": "some loss",
        "candidates": {"purelosses": {"ms": 2.0, "iqr": 0.1, "memory": None}},
        "goals": [
            {"text": "time", "what": "time", "limit": 0.5, "reached": 0.6},
            {"text": "memory", "what": "memory", "limit": 1.2, "reached": 1.1},
        ],
        "failed": ["peer: not installed"],
    }
    text = pages.benchmark(row)
    assert '<span class="bad">✗</span> time: **0.6**, short of the limit of 0.5\n' in text
    assert '<span class="good">✓</span> memory: **1.1**, limit 1.2\n' in text
    assert "| purelosses | 2 | 0.1 |" in text
    assert "Not measured: peer: not installed." in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"row": "a", "reference": "torchjd", "rows": [{"what": "x", "us": 3.5, "ratio": 0.25}]},
            ["### a, beside torchjd\n", "|  | µs | ratio |", "| x | 3.5 | 0.25 |"],
        ),
        ({"row": "b", "sizes": [2, 4], "ratios": {"y": [1, 2]}, "goals": []}, ["### b\n", "<svg"]),
        ({"row": "c", "allocator": "warm", "goals": []}, ["### c (warm allocator)\n"]),
    ],
)
def test_every_shape_of_a_benchmark_row_is_shown(row, said):
    text = pages.benchmark(row)
    for part in said:
        assert part in text


def test_fonts_and_scripts_are_in_the_repository():
    css = (DOCS / "assets" / "extra.css").read_text(encoding="utf-8")
    files = re.findall(r'url\("([^"]+)"\)', css)
    assert files
    for file in files:
        assert (DOCS / "assets" / file).is_file()
        assert (Path(DOCS / "assets" / file).parent / "LICENSE").is_file()
    assert "http" not in css
