"""The loss doctor: what it finds in the corpus, and that nothing it is given makes it fall over."""

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from doctor_corpus import DEFECTS, HEALTHY, Entry
from torch import Tensor, nn

from purelosses.doctor import CODES, KINDS, LossError, Report, check_loss, examine
from purelosses.doctor import examination as doctor
from purelosses.doctor.examination import LEVELS
from purelosses.doctor.library import OWN
from purelosses.registry import LOSSES, Case

# The corpus


@cache
def report_on(name: str) -> Report:
    entry = DEFECTS.get(name) or HEALTHY[name]
    return examine(entry.loss, *entry.sample(), kind=entry.kind, level=entry.level)


def found(entry: Entry) -> bool:
    return any(item.code in entry.codes for item in report_on(entry.name).findings)


def found_line(entry: Entry) -> bool:
    hits = [item for item in report_on(entry.name).findings if item.code in entry.codes]
    return any(item.line in entry.lines for item in hits)


# The entries about deployment compile, and take as long as all others together.
compiling = pytest.mark.parametrize(
    "levels", [("train", "func"), pytest.param(LEVELS, marks=pytest.mark.slow)]
)


@compiling
def test_defects_are_found(levels: tuple[str, ...]) -> None:
    asked = [entry for entry in DEFECTS.values() if entry.level in levels]
    missed = [f"{e.name} ({e.code})" for e in asked if not found(e)]
    assert len(missed) <= 0.05 * len(asked), missed


@compiling
def test_the_line_is_named(levels: tuple[str, ...]) -> None:
    located = [entry for entry in DEFECTS.values() if entry.lines and entry.level in levels]
    missed = [f"{e.name} ({e.code})" for e in located if not found_line(e)]
    assert len(missed) <= 0.1 * len(located), missed


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_losses_pass(name: str) -> None:
    assert report_on(name).ok, str(report_on(name))


def test_an_examination_takes_half_a_second() -> None:
    plain = [e.name for e in (*DEFECTS.values(), *HEALTHY.values()) if e.level == "train"]
    assert statistics.median(report_on(name).seconds for name in plain) < 0.5


# Callables of every sort


def no_arguments() -> Tensor:
    return torch.zeros(())


def raises(error: BaseException, *data: Any) -> Tensor:
    raise error


def returns(value: Any, *data: Any) -> Any:
    return value


def recurses(*data: Any) -> Tensor:
    return recurses(*data)


VALUES: tuple[Any, ...] = (
    None, 1, 0.5, 1j, True, "loss", b"loss", (), [], {}, set(), object(), int, range(3),
    float("nan"), (None, None), {"loss": torch.zeros(())}, [torch.zeros(())],
    (torch.zeros(()), torch.zeros(())), torch.zeros((), dtype=torch.complex64),
    torch.zeros((), dtype=torch.long), torch.zeros(0), torch.zeros(3, 3), torch.tensor(True),
    torch.zeros(()).numpy(), torch.zeros(4).numpy(), torch.zeros((), device="meta"),
    torch.full((), torch.nan), torch.full((), torch.inf), torch.zeros(2, 2).to_sparse(),
    nn.Parameter(torch.zeros(())), torch.zeros((), dtype=torch.float16), lambda: 0, Ellipsis,
)  # fmt: skip
ERRORS = (ValueError(), TypeError("x"), KeyError("k"), RuntimeError("boom"), ZeroDivisionError(),
          StopIteration(), SystemExit(3), RecursionError(), MemoryError(), NotImplementedError(),
          AssertionError("a\nb"), OSError(2, "no"), ArithmeticError())  # fmt: skip
OPERATIONS: tuple[Callable[..., Any], ...] = (
    torch.add, torch.mul, torch.max, torch.sort, torch.svd, torch.dot, torch.outer, torch.stack,
    torch.median, torch.argmax, torch.sum, torch.exp, torch.log, torch.round, torch.nonzero,
    torch.zeros_like, torch.randn_like, torch.bernoulli, F.softmax, F.mse_loss, F.one_hot,
    F.cosine_similarity, F.kl_div, len, print, sum, min, max, sorted, abs, float, str, id, iter,
)  # fmt: skip


class Odd(nn.Module):
    def __init__(self, needed: int) -> None:
        super().__init__()

    def forward(self, *data: Tensor) -> Tensor:
        return data[0].sum()


class Callable_:
    def __call__(self, *data: Tensor) -> Any:
        return [x.tolist() for x in data]


def composed(seed: int) -> Callable[..., Any]:
    """A random chain of operations on what it is given."""
    steps = random.Random(seed).choices(OPERATIONS, k=3)

    def chain(a: Any, b: Any = None) -> Any:
        for step in steps:
            try:
                a = step(a, b)
            except Exception:
                a = step(a)
        return a

    return chain


CALLABLES: list[Any] = [
    no_arguments, recurses, Odd, Odd(1), Callable_(), Callable_, nn.Linear(3, 3), nn.Linear,
    nn.Identity(),
    nn.MSELoss, nn.CrossEntropyLoss(), nn.CTCLoss(), int, type, object, print, 3, None, "loss",
    *(partial(returns, value) for value in VALUES),
    *(partial(raises, error) for error in ERRORS),
    *OPERATIONS,
    *(composed(seed) for seed in range(100)),
]  # fmt: skip


def test_there_are_200_callables() -> None:
    assert len(CALLABLES) >= 200


@pytest.mark.parametrize("chunk", range(8))
def test_no_callable_makes_it_fall_over(chunk: int) -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    samples: tuple[tuple[Any, ...], ...] = (
        (logits, labels),
        (torch.randn(5), torch.randn(5)),
        (torch.rand(2, 1, 4, 4), torch.ones(2, 1, 4, 4)),
        ("no", None),
        ([logits, {"a": labels}], 1),
    )
    for i, thing in enumerate(CALLABLES[chunk::8]):
        report = examine(thing, *samples[i % len(samples)])
        assert json.loads(report.to_json())["findings"] is not None
        assert str(report)
        assert not report.notes
        json.loads(report.to_sarif())
        json.dumps(report.to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_batches_of_its_own(kind: str) -> None:
    losses = {
        "class_logits": F.cross_entropy,
        "segmentation": F.cross_entropy,
        "binary_logits": F.binary_cross_entropy_with_logits,
        "probabilities": F.binary_cross_entropy,
        "masks": F.binary_cross_entropy,
        "embeddings": F.triplet_margin_loss,
    }
    report = examine(losses.get(kind, F.l1_loss), kind=kind)
    assert report.kind == kind
    assert report.ok, str(report)


# What a report is


def broken(prediction: Tensor, target: Tensor) -> Tensor:
    rmse = torch.sqrt(((prediction - target) ** 2).mean())
    return rmse


def quiet(prediction: Tensor, target: Tensor) -> Tensor:
    return torch.sqrt(((prediction - target) ** 2).mean())  # purelosses: ignore[L04]


def other_code(prediction: Tensor, target: Tensor) -> Tensor:
    return torch.sqrt(((prediction - target) ** 2).mean())  # purelosses: ignore[L05]


def test_a_finding_says_everything() -> None:
    report = examine(broken, kind="regression")
    (item,) = [f for f in report.findings if f.severity != "advice"]
    assert (item.code, item.name, item.severity) == ("L04", "not-stable", "error")
    assert item.file == __file__
    assert item.source.startswith("rmse = ")
    assert "prediction equal to target" in item.message
    assert item.why == CODES["L04"].why
    assert item.fix == CODES["L04"].fix
    assert item.anchor == "doctor.md#l04"
    assert not report.ok
    assert "error L04 not-stable" in str(report)


def test_json() -> None:
    data = json.loads(examine(broken, kind="regression").to_json())
    assert data["loss"] == "broken"
    assert data["ok"] is False
    assert data["findings"][0]["code"] == "L04"
    assert data["findings"][0]["line"] > 0


def test_sarif() -> None:
    data = json.loads(examine(broken, kind="regression").to_sarif())
    assert data["version"] == "2.1.0"
    (run,) = data["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    for result in run["results"]:
        assert result["ruleId"] in rules
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] > 0
        assert "\\" not in place["artifactLocation"]["uri"]


def test_rich() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(examine(broken, kind="regression"))
    assert "L04" in console.export_text()
    console.file.close()


def test_a_comment_suppresses_its_code_alone() -> None:
    assert examine(quiet, kind="regression").ok
    assert not examine(other_code, kind="regression").ok


def test_select_and_ignore() -> None:
    assert examine(broken, kind="regression", ignore=["L04"]).ok
    assert not examine(broken, kind="regression", select=["L05"]).findings


def test_check_loss_raises_with_the_report() -> None:
    with pytest.raises(LossError, match="not-stable") as caught:
        check_loss(broken, kind="regression")
    assert isinstance(caught.value, AssertionError)
    assert not caught.value.report.ok
    assert check_loss(F.mse_loss, kind="regression").ok


def test_a_detector_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("of a detector\nand more")

    monkeypatch.setattr(doctor.values, "half_precision", fails)
    report = examine(broken, kind="regression")
    note = "could not judge: L19 (ZeroDivisionError: of a detector)"
    assert report.notes == (note,)
    assert "L04" in {item.code for item in report.findings}  # the others go on
    assert json.loads(report.to_json())["notes"] == [note]
    assert note in str(report)
    told = json.loads(report.to_sarif())["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert [item["message"]["text"] for item in told] == [note]
    assert examine(F.mse_loss, kind="regression").ok  # a note is not a finding


def test_a_code_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="`select` must hold codes such as 'L04', got 'L4'"):
        examine(broken, kind="regression", select=["L4"])
    with pytest.raises(ValueError, match="`ignore` must hold codes"):
        examine(broken, kind="regression", ignore=["L28"])
    assert examine(broken, kind="regression", select=["S1"]).ok  # a law


# Batches and options that were once misjudged: nothing is wrong with any of these.


def geman_mcclure(prediction: Tensor, target: Tensor) -> Tensor:
    squared = (prediction - target) ** 2
    return (2 * squared / (squared + 4.0)).mean()  # a plateau, not a ratio


class OneAgainstAll(nn.Module):
    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index  # None: every label counts

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        hot = [(target == i).float() for i in range(logits.shape[1])]
        return F.binary_cross_entropy_with_logits(logits, torch.stack(hot, 1))


def log_likelihood_of_durations(log_rate: Tensor, target: Tensor) -> Tensor:
    return (target * log_rate.exp() - log_rate + target.log()).mean()  # targets are positive


LOGITS, OTHERS = torch.linspace(-2, 3, 60).sin().reshape(12, 5) * 3, torch.linspace(0, 9, 60)


@pytest.mark.parametrize(
    ("loss", "sample"),
    [
        (
            nn.KLDivLoss(reduction="batchmean"),
            (LOGITS.log_softmax(1), OTHERS.cos().reshape(12, 5).softmax(1)),
        ),
        (nn.NLLLoss(), (LOGITS.log_softmax(1), torch.arange(12) % 5)),
        (
            nn.CTCLoss(),
            (
                LOGITS.reshape(10, 1, 6).log_softmax(2),
                torch.tensor([[1, 2, 3]]),
                torch.tensor([10]),
                torch.tensor([3]),
            ),
        ),
        (geman_mcclure, (OTHERS.sin(), OTHERS.cos())),
        (OneAgainstAll(), (LOGITS, torch.arange(12) % 5)),
        (log_likelihood_of_durations, (LOGITS, 0.1 + OTHERS.reshape(12, 5))),
    ],
    ids=["kl", "nll", "ctc", "geman_mcclure", "ignore_index=None", "durations"],
)
def test_once_misjudged(loss: Any, sample: tuple[Tensor, ...]) -> None:
    report = examine(loss, *sample)
    assert report.ok, str(report)


# Levels


def decides(prediction: Tensor, target: Tensor) -> Tensor:
    error = (prediction - target).abs().mean()
    if error > 1e9:
        return error * 0
    return error


def test_the_level_decides_what_matters() -> None:
    def codes(level: Any) -> set[str]:
        report = examine(decides, kind="regression", level=level)
        return {f.code for f in report.findings if f.severity != "advice"}

    assert codes("train") == set()
    assert "L26" in codes("func")
    assert {"L20", "L21", "L26"} <= codes("deploy")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`kind` must be one of"):
        examine(broken, kind="pictures")
    with pytest.raises(ValueError, match="`level` must be one of"):
        examine(broken, kind="regression", level="hard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`sample` must be one batch"):
        examine(broken)


def test_nothing_is_left_behind() -> None:
    x, y = torch.randn(4, requires_grad=True), torch.randn(4)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    examine(broken, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert x.grad is None
    assert x._version == y._version == 0


# The laws themselves run in test_laws.py; here the doctor calls them, for one loss, and is asked
# about a few of other kinds without them.
FEW = {
    "mse_loss": "library",
    "cross_entropy_loss": "func",
    "dice_loss": "func",
    "giou_loss": "func",
}


def found_above_advice(name: str, case: Case, level: Any) -> set[str]:
    data, options = case.problem(0).arguments
    loss = LOSSES[name].loss
    report = examine(partial(loss, **options) if options else loss, *data, level=level)
    assert not report.notes
    return {item.code for item in report.findings if item.severity != "advice"}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        *FEW.items(),
        *(
            pytest.param(name, "library", marks=pytest.mark.slow)
            for name in LOSSES
            if FEW.get(name) != "library"
        ),
    ],
)
def test_the_library_is_clean(name: str, level: Any) -> None:
    found = found_above_advice(name, LOSSES[name].cases[0], level)
    assert found <= set(OWN.get(name, {})), found


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_case_of_the_library_is_clean(name: str) -> None:
    found = {
        code for case in LOSSES[name].cases for code in found_above_advice(name, case, "train")
    }
    assert found == set(OWN.get(name, {}))


def test_the_laws_are_the_top_level() -> None:
    def unlawful(prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target)

    laws = {f.code for f in examine(unlawful, kind="regression", level="library").findings}
    assert "S1" in laws  # it broadcasts


# The package


def test_every_code_is_complete() -> None:
    assert list(CODES) == [f"L{i:02}" for i in range(28)]
    assert len({code.name for code in CODES.values()}) == len(CODES)


def test_importing_purelosses_does_not_import_the_doctor() -> None:
    code = "import sys, purelosses; assert not [m for m in sys.modules if 'doctor' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fixture(tmp_path: Path) -> None:
    test = "def test_it(check_loss):\n    import torch.nn.functional as F\n"
    (tmp_path / "test_good.py").write_text(test + "    check_loss(F.mse_loss, kind='regression')\n")
    bad = "    check_loss(lambda p, t: (p - t) ** 2, kind='regression')\n"
    (tmp_path / "test_bad.py").write_text(test + bad)
    (tmp_path / "conftest.py").write_text("import sys\nassert 'torch' not in sys.modules\n")
    # An installed package brings the fixture by its entry point; a checkout that was installed
    # before it had one does not, so the module is named. Naming it twice does no harm.
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_purelosses"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "."]
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert "L03 reduction" in result.stdout


# The page


@pytest.mark.parametrize("code", CODES)
def test_the_example_of_each_code_shows_it(code: str) -> None:
    file = Path(__file__).parent.parent / "docs/data/doctor_examples.py"
    spec = importlib.util.spec_from_file_location("doctor_examples", file)
    assert spec is not None
    assert spec.loader is not None
    examples = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = examples
    spec.loader.exec_module(examples)
    loss, options = getattr(examples, code.lower()), examples.OPTIONS[code]
    report = examine(loss, *examples.SAMPLES.get(code, ()), **options)
    assert code in {item.code for item in report.findings}, str(report)
