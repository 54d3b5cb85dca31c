"""The report in a real browser; skipped where there is no Chromium."""

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from chromium import Chromium

from megatron_octo.plotting.config import Report

PHONE = 390
TABLES = ("headline", "benchmarks", "several_samples", "rl_runs", "mid_training_runs", "overlap", "stages")
#: The texts of a column, from the top.
COLUMN = """
(name, column) => [...document.querySelectorAll(`#${name}_table tbody tr`)]
  .map(row => row.cells[column]).map(cell => (cell.querySelector("span") ?? cell).firstChild.textContent.trim())
"""
HEADING = "document.querySelectorAll('#{name}_table thead button')[{column}]"
#: Images change with the frame after the one that changes the style.
NEXT_PICTURE = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = chromium.executable()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(chromium.NAMES)} is on the PATH")
    browser = Chromium(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(study: tuple[Report, Path]) -> Path:
    return study[1] / "report.html"


def column(browser: Chromium, name: str, place: int) -> list[str]:
    texts: list[str] = browser.run(f"({COLUMN})('{name}', {place})")
    return texts


def heading(browser: Chromium, name: str, place: int) -> str | None:
    order: str | None = browser.run(f"{HEADING.format(name=name, column=place)}.parentElement.ariaSort")
    return order


def test_the_page_loads_without_a_complaint(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.title") == "A study of <tiny> models"
    assert browser.run("[...document.images].every(image => image.naturalWidth > 600)")
    assert browser.errors == []


def test_a_press_sorts_the_next_turns_round_the_third_restores(browser: Chromium, page: Path) -> None:
    browser.open(page)
    places = {
        "ascending": ["20.0 %", "30.0 %", "30.0 %", "35.0 %"],
        "descending": ["35.0 %", "30.0 %", "30.0 %", "20.0 %"],
    }
    as_it_was = column(browser, "headline", 1)
    assert as_it_was == ["20.0 %", "30.0 %", "35.0 %", "30.0 %"]
    for order, texts in [*places.items(), (None, as_it_was)]:
        browser.click(HEADING.format(name="headline", column=1))
        assert heading(browser, "headline", 1) == order
        assert column(browser, "headline", 1) == texts


def test_keys_sort_too(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run(f"{HEADING.format(name='headline', column=0)}.focus()")
    browser.press("Enter", "\r")
    assert column(browser, "headline", 0) == ["hybrid", "long", "short", "stable"]
    browser.press("Tab")
    browser.press(" ", " ")
    assert heading(browser, "headline", 0) is None
    assert heading(browser, "headline", 1) == "ascending"


def test_numbers_sort_as_numbers_and_blanks_last(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert column(browser, "benchmarks", 6)[0] == "–"  # the control's gain over itself
    browser.click(HEADING.format(name="benchmarks", column=6))
    gains = column(browser, "benchmarks", 6)
    assert gains[-2:] == ["–", "–"]
    values = [float(text.replace("−", "-")) for text in gains[:-2]]
    assert values == sorted(values)
    assert values[0] < 0 < 9 < values[-1]
    browser.click(HEADING.format(name="benchmarks", column=6))
    assert column(browser, "benchmarks", 6)[-2:] == ["–", "–"]
    # By tokens, not by their spelling.
    browser.click(HEADING.format(name="mid_training_runs", column=2))
    assert column(browser, "mid_training_runs", 2) == ["30.7K", "30.7K", "30.7K", "61.4K"]


def test_downloads_are_the_files_beside_the_page(browser: Chromium, page: Path) -> None:
    browser.open(page)
    names = browser.run("[...document.querySelectorAll('a[download]')].map(link => link.download)")
    figures = sorted(file.name for file in (page.parent / "figures").iterdir() if not file.stem.endswith("_dark"))
    assert sorted(names) == sorted([*figures, *(f"{name}.csv" for name in TABLES)])
    for name in names:
        browser.open(page)  # anew: Chrome refuses the eleventh download in a row
        browser.run("document.querySelectorAll('details').forEach(details => details.open = true)")
        content = browser.download(f"document.querySelector('a[download=\"{name}\"]')")
        (saved,) = page.parent.glob(f"*/{name}")
        assert content == saved.read_bytes()
        if name.endswith(".csv"):
            assert len(list(csv.DictReader(io.StringIO(content.decode())))) > 1
        else:
            assert content.startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_does_not_scroll_sideways(browser: Chromium, page: Path, dark: bool) -> None:
    browser.open(page, width=PHONE, height=844, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(details => details.open = true)")
    wider = (
        "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)"
    )
    assert browser.run(f"{wider}.map(each => each.outerHTML.slice(0, 200))") == []
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE]
    inside = "[...document.querySelectorAll('.table')].filter(each => each.scrollWidth > each.clientWidth)"
    assert browser.run(f"{inside}.length") == 0


def test_a_phone_can_sort(browser: Chromium, page: Path) -> None:
    browser.open(page, width=PHONE, height=844)
    browser.click(HEADING.format(name="headline", column=1))
    assert column(browser, "headline", 0) == ["stable", "long", "hybrid", "short"]


def test_the_dark_screen_gets_the_dark_figures(browser: Chromium, page: Path) -> None:
    browser.open(page)
    shown = "[...document.images].map(image => [image.closest('figure').id, image.currentSrc])"
    for dark, suffix, colour in [(False, "", "rgb(255, 255, 255)"), (True, "_dark", "rgb(23, 26, 31)")]:
        browser.emulate(dark=dark)
        browser.run(NEXT_PICTURE)
        assert browser.run(GROUND) == colour
        for name, address in browser.run(shown):
            saved = page.parent / "figures" / f"{name}{suffix}.png"
            assert base64.b64decode(address.split(",")[1]) == saved.read_bytes()


def test_only_our_script_may_run(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stranger = 1'}))"
    )
    assert browser.run("typeof window.stranger") == "undefined"
    assert any("Content Security Policy" in error for error in browser.errors)


def test_paper_is_white_and_has_the_closed_parts(browser: Chromium, page: Path) -> None:
    browser.open(page, dark=True)
    closed = "document.querySelector('#stages_table').checkVisibility()"
    assert not browser.run(closed)
    browser.emulate(dark=True, medium="print")
    browser.run(NEXT_PICTURE)
    assert browser.run(closed)
    assert browser.run(GROUND) == "rgb(255, 255, 255)"
    assert browser.run("document.images[0].currentSrc === document.images[0].src")
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
