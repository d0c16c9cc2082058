"""The command: what it prints and where, its exit status, and that help does without torch.

Entry points are read when a package is installed, so the tests call `purelosses_cli.main`, or
`python -m purelosses_cli`, instead of the script; one test compares pyproject.toml with both.
"""

import importlib
import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import purelosses_cli
from purelosses import cli
from purelosses.doctor import CODES, KINDS, Report
from purelosses.doctor.examination import LEVELS
from purelosses.laws import LAWS
from purelosses.registry import LOSSES

ROOT = Path(__file__).parent.parent
FILE = """\
import torch
from torch import nn

print("imported")

def rmse(prediction, target):
    return torch.sqrt(((prediction - target) ** 2).mean())

def quiet(prediction, target):
    return torch.sqrt(((prediction - target) ** 2).mean())  # purelosses: ignore[L04]

def summed(logits, target):
    return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")

class Entropy(nn.Module):
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)

class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, prediction, target):
        return self.by * (prediction - target).square().mean()

def scaled():
    return Scaled(2.0)

def importing(prediction, target):
    import helping
    return helping.loss(prediction, target)

def raising(prediction, target):
    raise RuntimeError("no")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of somebody who has losses of their own."""
    (tmp_path / "their_losses.py").write_text(FILE)
    (tmp_path / "helping.py").write_text("from torch.nn.functional import mse_loss as loss\n")
    (tmp_path / "broken.py").write_text("raise ImportError('half of it')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    yield tmp_path
    for name in ("their_losses", "helping"):
        sys.modules.pop(name, None)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = purelosses_cli.main(words)
    except SystemExit as left:  # as argparse does
        status = int(left.code or 0)
    told = capsys.readouterr()
    return status, told.out, told.err


Capture = pytest.CaptureFixture[str]

# check


def test_a_finding_and_its_line(here: Path, capsys: Capture) -> None:
    status, out, err = run(capsys, "check", "their_losses.py:rmse", "--kind", "regression")
    assert status == 1
    assert "error L04 not-stable" in out
    assert "their_losses.py:7" in out
    assert "torch.sqrt(((prediction - target) ** 2).mean())" in out
    assert CODES["L04"].fix in out
    assert "imported" not in out
    assert "imported" in err
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "words",
    [
        ("their_losses.py:quiet", "--kind", "regression"),
        ("their_losses:quiet", "--kind", "regression"),
        ("their_losses.py:Entropy",),  # its parameter says logits
        ("their_losses.py:scaled()", "--kind", "regression"),
        ("their_losses.py:importing", "--kind", "regression"),
        ("their_losses.py:rmse", "--kind", "regression", "--ignore", "L04"),
        ("their_losses.py:rmse", "--kind", "regression", "--select", "L01,L05"),
        ("torch.nn:MSELoss", "--kind", "regression"),
        ("torch:nn.functional.l1_loss", "--kind", "regression"),
    ],
)
def test_clean(words: tuple[str, ...], here: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "check", *words)
    assert status == 0, out
    assert "error" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "must be path.py:name or module:name, got nothing"),
        (("their_losses.py",), "must be path.py:name or module:name, got 'their_losses.py'"),
        (("their_losses.py:rmse",), "--kind must be given"),
        (("their_losses.py:none", "--kind", "boxes"), "has no attribute 'none'"),
        (("nowhere.py:rmse", "--kind", "boxes"), "No such file"),
        (("nowhere:rmse", "--kind", "boxes"), "No module named 'nowhere'"),
        (("broken.py:rmse", "--kind", "boxes"), "ImportError: half of it"),
        (("their_losses.py:rmse", "--kind", "pictures"), "invalid choice: 'pictures'"),
        (("their_losses.py:rmse", "--level", "hard"), "invalid choice: 'hard'"),
        (("their_losses.py:rmse", "--kind", "regression", "--select", "L4"), "got 'L4'"),
        (("their_losses.py:rmse", "--kind", "regression", "--gamma", "2"), "unrecognized"),
        (("their_losses.py:raising", "--kind", "regression"), "could not be run"),
        (("their_losses.py:Scaled", "--kind", "regression"), "could not be run"),
        (("--explain", "L99"), "must be one of L00"),
    ],
)
def test_could_not_run(words: tuple[str, ...], message: str, here: Path, capsys: Capture) -> None:
    status, _, err = run(capsys, "check", *words)
    assert status == 2
    assert message in err


def test_json_and_sarif(here: Path, capsys: Capture) -> None:
    loss = ("check", "their_losses.py:rmse", "--kind", "regression")
    status, out, _ = run(capsys, *loss, "--json")
    assert status == 1
    report = json.loads(out)
    assert (report["loss"], report["ok"]) == ("rmse", False)
    assert (report["findings"][0]["code"], report["findings"][0]["line"]) == ("L04", 7)
    status, out, _ = run(capsys, *loss, "--sarif")
    assert status == 1
    (result,) = json.loads(out)["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "their_losses.py"
    assert place["region"]["startLine"] == 7


def test_the_level(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    def examine(loss: object, *, level: str, **options: object) -> Report:
        levels.append(level)
        return Report("", None, level, (), 0.0)

    monkeypatch.setattr(cli, "examine", examine)
    words = ("check", "their_losses.py:rmse", "--kind", "regression")
    assert run(capsys, *words)[0] == run(capsys, *words, "--level", "deploy")[0] == 0
    assert levels == ["train", "deploy"]


def test_the_kind_is_told_by_the_first_parameter(here: Path, capsys: Capture) -> None:
    _, out, _ = run(capsys, "check", "their_losses.py:summed")
    assert "summed (binary_logits, level train)" in out
    assert "L03" in out
    _, out, _ = run(capsys, "check", "their_losses.py:Entropy")
    assert "Entropy (class_logits, level train)" in out


def test_without_rich(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console", "rich.markup"):
        monkeypatch.setitem(sys.modules, name, None)
    status, out, _ = run(capsys, "check", "their_losses.py:rmse", "--kind", "regression")
    assert status == 1
    assert out.startswith("rmse (regression, level train): 1 error\n\nerror L04 not-stable: ")
    status, out, _ = run(capsys, "plot", "mse_loss")
    assert status == 0
    assert "⠑" in out


def test_explain(capsys: Capture) -> None:
    status, out, _ = run(capsys, "check", "--explain", "L23")
    assert status == 0
    assert out.startswith("L23 discontinuity (warning)\n")
    assert CODES["L23"].why in out
    assert CODES["L23"].fix in out
    status, out, _ = run(capsys, "check", "--explain", "S1")  # of the level "library"
    assert (status, out) == (0, f"S1 (a law)\n\n{LAWS['S1'].statement}\n")


# list and show


def test_list(capsys: Capture) -> None:
    status, out, _ = run(capsys, "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith(" ")] == list(LOSSES)
    families = [line for line in out.splitlines() if not line.startswith(" ")]
    assert families == list(dict.fromkeys(spec.family for spec in LOSSES.values()))
    _, out, _ = run(capsys, "list", "boxes", "--json")
    rows = json.loads(out)
    assert {"ciou_loss", "giou_loss"} <= {row["name"] for row in rows}
    assert "dice_loss" not in {row["name"] for row in rows}
    assert {row["module"] for row in rows} >= {"CIoULoss"}
    status, _, err = run(capsys, "list", "crossword")
    assert status == 2
    assert "'crossword'" in err


@pytest.mark.parametrize("name", ["dice_loss", "DiceLoss"])
def test_show(name: str, capsys: Capture) -> None:
    status, out, _ = run(capsys, "show", name)
    assert status == 0
    assert out.startswith("purelosses.dice_loss(\n    prediction,\n    target,\n    *,\n")
    assert "    smooth=1.0,\n" in out
    assert r"\frac{2 \sum_i p_i y_i + s}" in out  # the formula
    assert "smooth: Added to numerator and denominator" in out  # an option
    assert ">>> dice_loss(probs, mask)" in out  # the example
    assert "purelosses.nn.DiceLoss" in out
    assert "][" not in out


def test_show_what_there_is_not(capsys: Capture) -> None:
    status, _, err = run(capsys, "show", "dise_loss")
    assert status == 2
    assert "did you mean dice_loss" in err


# plot


def test_curves_are_the_loss_and_its_derivative() -> None:
    title, axis, at, found = cli.drawn(LOSSES["sigmoid_focal_loss"], {"gamma": [0, 2]}, points=7)
    assert (title, axis) == ("sigmoid_focal_loss", "logit; target 1")
    assert [curve.label for curve in found] == ["gamma=0", "gamma=2"]
    p = 1 / (1 + torch.exp(-at))
    torch.testing.assert_close(found[0].value, -torch.log(p))
    torch.testing.assert_close(found[0].gradient, p - 1)
    torch.testing.assert_close(found[1].value, -((1 - p) ** 2) * torch.log(p))
    # d/dx of -(1-p)^2 log p, with dp/dx = p (1-p)
    slope = (1 - p) ** 2 * (2 * p * torch.log(p) + p - 1)
    torch.testing.assert_close(found[1].gradient, slope)


@pytest.mark.parametrize(
    ("name", "options", "first", "last"),
    [
        ("mse_loss", {}, 9.0, 9.0),
        # Predicting too little costs the level, too much the rest.
        ("quantile_loss", {"quantiles": [0.1]}, 0.1 * 3, 0.9 * 3),
        # Three classes: -log softmax at a margin of -6 and 6.
        ("cross_entropy_loss", {}, math.log(1 + 2 * math.exp(6)), math.log(1 + 2 * math.exp(-6))),
        ("dice_loss", {"smooth": [0.0]}, 1.0, 0.0),
        # A unit box beside another, a gap of 1 between them.
        ("giou_loss", {}, 1 + 1 / 3, 1 + 1 / 3),
    ],
)
def test_ends_of_curves(
    name: str, options: dict[str, list[float]], first: float, last: float
) -> None:
    (curve,) = cli.drawn(LOSSES[name], options, points=2001).curves
    assert abs(float(curve.value[0]) - first) < 0.02
    assert abs(float(curve.value[-1]) - last) < 0.02


def test_options_come_from_the_signature() -> None:
    spec = LOSSES["dice_loss"]
    words = ["--smooth", "0", "1e-5", "--activation=sigmoid", "--squared", "True", "--empty=smooth"]
    assert cli.varied_options(spec, words) == {
        "smooth": [0, 1e-5],
        "activation": ["sigmoid"],
        "squared": [True],
        "empty": ["smooth"],
    }


def test_plot_in_the_terminal(here: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "plot", "sigmoid_focal_loss", "--gamma", "0", "2")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "sigmoid_focal_loss"
    assert "gradient" in lines
    assert lines[-1].split() == ["a", "gamma=0", "b", "gamma=2"]
    # From -6, where both are near 6, to 6, where they are near 0: top left, bottom right.
    assert lines[1].split("┤")[1][0] in "ab"
    assert lines[12].rstrip()[-1] in "ab"
    assert lines[1].rstrip()[-1] not in "ab" or len(lines[1].rstrip()) < 20


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_in_a_file(suffix: str, here: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    file = here / f"curves.{suffix}"
    status, out, _ = run(capsys, "plot", "huber_loss", "--delta", "0.5", "1", "-o", str(file))
    assert (status, out) == (0, "")
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert file.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dise_loss",), "did you mean dice_loss"),
        (("dice_loss", "--smoth", "1"), "dice_loss has no option 'smoth'; it has activation"),
        (("dice_loss", "--where", "1"), "has no option 'where'"),
        (("dice_loss", "--smooth"), "--smooth must be followed by values"),
        (("dice_loss", "3"), "'3' must follow an option"),
        (("chebyshev_loss",), "is not a loss of one prediction"),
        (("cldice_loss",), "is constant or infinite"),
        (("huber_loss", "--delta", "-1"), "`delta` must"),
        (("mse_loss", "-o", "curve.docx"), "docx"),
    ],
)
def test_plot_that_cannot_be(
    words: tuple[str, ...], message: str, here: Path, capsys: Capture
) -> None:
    status, _, err = run(capsys, "plot", *words)
    assert status == 2
    assert message in err


# The command itself


def test_kinds_and_levels_are_those_of_the_doctor() -> None:
    assert tuple(KINDS) == purelosses_cli.KINDS
    assert purelosses_cli.LEVELS == LEVELS


def test_help_version_and_explanations_do_without_torch() -> None:
    program = (
        "import sys, contextlib, purelosses_cli as c\n"
        "for words in (['--help'], ['check', '--help'], ['--version'], ['check', '--explain', "
        "'L01'], []):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        assert c.main(words) == 0\n"
        "assert not {'torch', 'purelosses'} & set(sys.modules)\n"
        "import pytest_purelosses\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "usage: purelosses" in result.stdout
    assert "L01 number-out-of-graph" in result.stdout


def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "purelosses_cli", "check", "torch.nn:L1Loss"]
    result = subprocess.run(
        [*command, "--kind", "regression"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "L1Loss (regression, level train): no findings\n"


def test_entry_points_name_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["purelosses"].partition(":")
    assert getattr(importlib.import_module(module), function) is purelosses_cli.main
    (plugin,) = project["project"]["entry-points"]["pytest11"].values()
    assert hasattr(importlib.import_module(plugin), "check_loss")
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {f"{module}.py", f"{plugin}.py"} <= set(shipped)
