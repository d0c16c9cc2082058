"""The built site in a browser that has no network: `make browser`, after `make docs`."""

import html
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tools.gen_pages import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.built
SITE = ROOT / "site"
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
LOOKED_AT = [
    "index.html",
    "which-loss.html",
    "gallery.html",
    "families/segmentation.html",
    "losses/dice_loss.html",
    "losses/giou_loss.html",
    "losses/uncertainty_weighted_loss.html",
    "laws.html",
    "performance.html",
    "doctor.html",
    "textbook.html",
]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if not PAGES:
        pytest.fail("site/ is empty: make docs")


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: install it, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page of a browser without network, and everything that went wrong in it."""

    def __init__(self, browser: "playwright.Browser", width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        self.page = context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self.asked)

    def heard(self, message: "playwright.ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def asked(self, request: "playwright.Request") -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"asked for {request.url}")

    def open(self, name: str) -> None:
        self.wrong.clear()
        self.page.goto((SITE / name).as_uri())


@pytest.fixture
def wide(browser):
    visit = Visit(browser, 1280)
    yield visit
    visit.page.context.close()


@pytest.fixture(scope="module")
def phone(browser):
    visit = Visit(browser, 390)
    yield visit
    visit.page.context.close()


@pytest.mark.parametrize("name", LOOKED_AT)
def test_page_works_on_a_phone(phone, name):
    phone.open(name)
    phone.page.wait_for_function(
        "[...document.querySelectorAll('.arithmatex')].every(x => x.querySelector('.katex'))"
    )
    assert phone.page.locator(".katex-error").count() == 0
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.page.evaluate("document.fonts.check('16px Inter')")
    assert phone.wrong == []


def test_formulas_are_there(wide):
    wide.open("losses/huber_loss.html")
    wide.page.wait_for_selector(".katex-display")
    assert wide.page.locator(".katex").count() >= 5
    assert wide.wrong == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("dice", "losses/dice_loss.html"),
        ("dice_loss", "losses/dice_loss.html"),
        ("DiceLoss", "losses/dice_loss.html"),
        ("imbalanced", "class-imbalance.html"),
        ("focal", "losses/sigmoid_focal_loss.html"),
        ("multi-task", "balance.html"),
    ],
)
def test_search_answers(wide, words, found):
    wide.open("index.html")
    wide.page.locator(".md-search__input").click()
    wide.page.keyboard.type(words)
    results = wide.page.locator(".md-search-result__item > a")
    results.first.wait_for(timeout=20_000)
    links = results.evaluate_all("links => links.slice(0, 3).map(link => link.href)")
    assert any(found in link for link in links), links
    assert wide.wrong == []


def test_theme_toggles(wide):
    wide.open("index.html")
    seen = set()
    for _ in range(3):
        seen.add(wide.page.evaluate("document.body.dataset.mdColorScheme"))
        wide.page.locator("label.md-header__button[for^=__palette]:visible").click()
        wide.page.wait_for_timeout(100)
    assert seen == {"default", "slate"}
    assert wide.wrong == []


def test_gallery_filters(wide):
    wide.open("gallery.html")
    cards = wide.page.locator(".card[data-words]")
    total = cards.count()
    wide.page.locator(".gallery-filter").fill("focal tversky")
    shown = wide.page.locator(".card[data-words]:visible")
    assert 1 <= shown.count() < total
    assert "focal_tversky_loss" in shown.first.inner_text()
    assert wide.wrong == []


# Links: every address in every page leads to a file, and every anchor to an element.

ADDRESS = re.compile(r"""\s(?:href|src)=(?:"([^"]*)"|'([^']*)'|([^\s>]+))""")
ANCHOR = re.compile(r"""\s(?:id|name)=(?:"([^"]*)"|'([^']*)'|([^\s>]+))""")


def first(groups: tuple[str, str, str]) -> str:
    return html.unescape(next((group for group in groups if group), ""))


@cache
def anchors(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    return frozenset(first(groups) for groups in ANCHOR.findall(text))


def test_links_lead_somewhere():
    broken, outside = set(), set()
    for name in PAGES:
        path = SITE / name
        text = path.read_text(encoding="utf-8")
        # Code may hold what looks like an attribute; 404.html is served from anywhere.
        text = re.sub(r"<(pre|script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        for address in {first(groups) for groups in ADDRESS.findall(text)}:
            target, _, fragment = address.partition("#")
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
                outside.add(target)
                continue
            if name == "404.html":
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            there = file.exists()
            if there and fragment and file.suffix == ".html":
                there = unquote(fragment) in anchors(file)
            if not there:
                broken.add(f"{name}: {address}")
    print(f"{len(PAGES)} pages; addresses outside, not followed:", *sorted(outside), sep="\n  ")
    assert not broken, "\n".join(sorted(broken))
