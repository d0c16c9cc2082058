"""Nothing is forgotten: functions, registry, modules, oracles, pages and options agree."""

import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles import ORACLES

import purelosses
import purelosses.nn
from purelosses.laws import LAWS
from purelosses.registry import LOSSES
from purelosses.registry.core import module_name

ROOT = Path(__file__).parents[1]
PUBLIC = {name: getattr(purelosses, name) for name in purelosses.__all__}
FAMILIES = sorted({spec.family for spec in LOSSES.values()})


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_public_loss_is_registered() -> None:
    assert {name for name in PUBLIC if name.endswith("_loss")} == set(LOSSES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_function_of_a_family_is_public(family: str) -> None:
    module = importlib.import_module(f"purelosses.{family}")
    functions = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    own = {
        name
        for name, function in functions.items()
        if function.__module__.startswith(module.__name__) and name[0] != "_"
    }
    # shared with segmentation
    internal = {"binary_cross_entropy_with_logits", "sigmoid_focal_with_logits"}
    assert own - internal <= set(PUBLIC)


def test_every_loss_has_a_module() -> None:
    by_hand = {"Balancing", "Criterion", "CombinedLoss"}
    # Balancers, of losses and of gradients; other state belongs to an aggregator.
    pairs = {
        name.removesuffix("_update")
        for name, value in PUBLIC.items()
        if name.endswith("_update") and value.__module__.split(".")[1] in ("balance", "gradients")
    }
    stateful = {module_name(name) for name in pairs if f"{name}_loss" not in PUBLIC}
    losses = {spec.module for spec in LOSSES.values()}
    assert set(purelosses.nn.__all__) - by_hand == losses | stateful


def test_every_update_has_a_first_state() -> None:
    updates = [name.removesuffix("_update") for name in PUBLIC if name.endswith("_update")]
    assert updates
    assert [name for name in updates if f"{name}_init" not in PUBLIC] == []


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == set(LOSSES)


def test_every_loss_has_a_page() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "losses").glob("*.md")}
    assert pages == set(LOSSES)


@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
def test_the_page_of_a_loss_shows_function_and_module(spec: Any) -> None:
    page = text(f"docs/losses/{spec.name}.md")
    assert f"::: purelosses.{spec.name}\n" in page
    assert f"::: purelosses.nn.{spec.module}\n" in page
    assert f"losses/{spec.name}.md" in text("mkdocs.yml")


def test_every_public_name_has_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    names = {f"purelosses.{name}" for name in PUBLIC} - {"purelosses.checked"}
    names |= {f"purelosses.nn.{name}" for name in purelosses.nn.__all__}
    names |= {"purelosses.checked.checked"}  # a class in a module of the same name
    assert {name for name in names if f"::: {name}\n" not in pages} == set()


def sections(name: str) -> dict[str, str]:
    """A docstring by its sections; the text before the first is under the empty name."""
    document = inspect.getdoc(PUBLIC[name]) or ""
    parts = re.split(r"^(\w[\w ]*):$", document, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_option_is_documented(name: str) -> None:
    documented = re.findall(r"^    (\*{0,2}\w+):", sections(name)["Args"], flags=re.M)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    assert documented == [stars.get(p.kind, "") + p.name for p in parameters]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_docstring_follows_the_house_form(name: str) -> None:
    found = sections(name)
    first, _, rest = found[""].partition("\n")
    assert re.fullmatch(r"[A-Z`].{20,98}\.", first), first
    assert rest.startswith("\n") or not rest
    assert {"Args", "Returns", "Raises", "Examples"} <= set(found)
    if name in LOSSES:
        assert "$$" in found[""], "a formula"
        assert {"Coming from", "Source"} <= set(found)


# Where libraries disagree about a factor, a normaliser, a constant or a direction.
DISPUTED = [
    "active_passive_loss", "brier_loss", "charbonnier_loss", "chi2_dro", "class_weights",
    "corn_loss", "crps_ensemble_loss", "cross_entropy_loss", "energy_score_loss",
    "gaussian_nll_loss", "huber_loss", "js_divergence_loss", "kl_divergence_loss",
    "knowledge_distillation_loss", "mse_loss", "multiclass_hinge_loss", "poisson_nll_loss",
    "pseudo_huber_loss", "sigmoid_focal_loss", "smooth_l1_loss", "smooth_labels",
    "softmax_focal_loss", "symmetric_cross_entropy_loss",
]  # fmt: skip


@pytest.mark.parametrize("name", DISPUTED)
def test_a_disputed_convention_is_said(name: str) -> None:
    assert "\nConventions: " in sections(name)[""]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_data_by_position_and_options_by_keyword(name: str) -> None:
    parameters = list(inspect.signature(PUBLIC[name]).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    data = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(data) in ((1, 2, 3) if data[0].name == "losses" else (2, 3, 4))
    assert all(parameter.default is parameter.empty for parameter in data)
    assert set(kinds[len(data) :]) <= {inspect.Parameter.KEYWORD_ONLY}


def test_the_record_of_the_laws_is_complete_and_without_a_failure() -> None:
    cells = json.loads(text("docs/data/laws.json"))
    found = {(cell["law"], cell["loss"]) for cell in cells}
    assert len(found) == len(cells)
    # Compiling everything with inductor takes hours: those cells may be empty.
    quick = [law for law in LAWS if LAWS[law].kind != "slow"]
    assert {(law, loss) for law in quick for loss in LOSSES} - found == set()
    assert [cell for cell in cells if cell["status"] not in ("pass", "n/a")] == []


def test_every_law_applies_to_some_loss() -> None:
    cells = json.loads(text("docs/data/laws.json"))
    applied = {cell["law"] for cell in cells if cell["status"] == "pass"}
    quick = {law for law in LAWS if LAWS[law].kind != "slow"}
    assert quick - applied == set()


@pytest.mark.parametrize("loss", PUBLIC.values(), ids=PUBLIC)
def test_public_functions_are_annotated(loss: Callable[..., Any]) -> None:
    signature = inspect.signature(loss)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
