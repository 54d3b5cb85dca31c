"""The tiny web: what is planted is there, in files that readers read, and the same every time."""

import gzip
import hashlib
import json
from pathlib import Path
from random import Random

import orjson
import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

from megatron_octo.artifacts import read_mark
from megatron_octo.curation.config import TinyWeb
from megatron_octo.curation.tiny_web import page_markup, page_math, page_prose, pages, pages_run
from megatron_octo.curation.tiny_web.pages import Kind, Web
from megatron_octo.errors import ConfigError

CONFIG = TinyWeb(seed=7, documents=240, files=6, planted_questions=8)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("web") / "web"
    pages_run.run(CONFIG, made, False)
    return made


@pytest.fixture(scope="module")
def web() -> Web:
    return Web(CONFIG)


def bodies(out: Path) -> dict[str, str]:
    """URL to HTML or text, of all files."""
    found: dict[str, str] = {}
    for file in sorted((out / "raw").iterdir()):
        if file.name.endswith(".warc.gz"):
            with file.open("rb") as stream:
                for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                    found[record.headers["WARC-Target-URI"]] = record.reader.read().decode()
        else:
            found |= {row["url"]: row["text"] for row in rows(file)}
    return found


def rows(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    return [
        orjson.loads(line)
        for line in zstandard.ZstdDecompressor().stream_reader(file.read_bytes()).readall().splitlines()
    ]


def test_every_page_is_in_one_file(out: Path) -> None:
    assert set(bodies(out)) == {Web.url_of(number) for number in range(240)}
    assert [file.name for file in sorted((out / "raw").iterdir())] == [
        "CC-MAIN-2013-20-00000.warc.gz",
        "CC-MAIN-2014-15-00003.warc.gz",
        "CC-MAIN-2017-26-00001.parquet",
        "CC-MAIN-2018-05-00004.parquet",
        "CC-MAIN-2021-31-00002.jsonl.zst",
        "CC-MAIN-2022-40-00005.jsonl.zst",
    ]


def test_as_many_are_planted_as_asked(out: Path) -> None:
    mark = read_mark(out)
    assert mark is not None
    assert mark["counts"] == {
        "mathematics_pages": 92,
        "documentation_pages": 92,
        "exact_copy_pages": 12,
        "near_copy_pages": 12,
        "foreign_pages": 24,
        "question_pages": 8,
    }


def test_an_exact_copy_is_one_to_the_byte(out: Path) -> None:
    planted, body = json.loads((out / "planted.json").read_text()), bodies(out)
    assert all(body[url] == body[planted["original_of"][url]] for url in planted["exact_copy"])
    assert not any(body[url] == body[planted["original_of"][url]] for url in planted["near_copy"])


def test_a_near_copy_has_few_other_words(web: Web) -> None:
    copies = [page for page in map(web.page, range(240)) if page.kind is Kind.NEAR_COPY]
    for copy in copies:
        assert copy.original is not None
        mine, theirs = " ".join(copy.paragraphs).split(" "), " ".join(web.page(copy.original).paragraphs).split(" ")
        assert 1 <= sum(a != b for a, b in zip(mine, theirs, strict=True)) <= max(1, len(mine) // 200)


def test_every_question_is_quoted_once(web: Web) -> None:
    def words(text: str) -> str:
        return " ".join(text.lower().split())

    text = {number: words(" ".join(web.page(number).paragraphs)) for number in range(240)}
    quoting = [[number for number in text if words(row["question"]) in text[number]] for row in web.questions]
    assert [len(numbers) for numbers in quoting] == [1] * 8
    assert all(web.page(number).kind is Kind.QUESTION for [number] in quoting)


def test_the_same_every_time(out: Path, tmp_path: Path) -> None:
    pages_run.run(CONFIG, tmp_path / "again", False)

    def digests(directory: Path) -> dict[str, str]:
        files = [file for file in directory.rglob("*") if file.is_file() and file.name != "stage.json"]
        return {file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    assert digests(tmp_path / "again") == digests(out)
    assert len(digests(out)) == 8


def test_a_warc_file_has_a_gzip_member_per_page(out: Path) -> None:
    packed = (out / "raw" / "CC-MAIN-2013-20-00000.warc.gz").read_bytes()
    assert (
        gzip.decompress(packed).count(b"WARC-Type: response") == packed.count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") == 40
    )


def test_timestamps_are_of_the_dumps_year(out: Path) -> None:
    assert {row["timestamp"][:4] for row in rows(out / "raw" / "CC-MAIN-2017-26-00001.parquet")} == {"2017"}
    assert {row["cc-path"].split("/")[1] for row in rows(out / "raw" / "CC-MAIN-2021-31-00002.jsonl.zst")} == {
        "CC-MAIN-2021-31"
    }


@pytest.mark.parametrize(
    ("formula", "mathml"),
    [
        ("x + 12", "<mi>x</mi><mo>+</mo><mn>12</mn>"),
        ("x^{2}", "<msup><mi>x</mi><mrow><mn>2</mn></mrow></msup>"),
        ("a_{10} = 3", "<msub><mi>a</mi><mrow><mn>10</mn></mrow></msub><mo>=</mo><mn>3</mn>"),
        (r"\frac{1}{x + 2}", "<mfrac><mrow><mn>1</mn></mrow><mrow><mi>x</mi><mo>+</mo><mn>2</mn></mrow></mfrac>"),
        (
            r"\frac{\sqrt{4}}{2}",
            "<mfrac><mrow><msqrt><mrow><mn>4</mn></mrow></msqrt></mrow><mrow><mn>2</mn></mrow></mfrac>",
        ),
        (r"2 \cdot 3 &lt; 7", "<mn>2</mn><mo>⋅</mo><mn>3</mn><mo>&lt;</mo><mn>7</mn>"),
    ],
)
def test_latex_as_mathml(formula: str, mathml: str) -> None:
    assert (
        page_markup.mathml(formula) == f'<math xmlns="http://www.w3.org/1998/Math/MathML"><mrow>{mathml}</mrow></math>'
    )


@pytest.mark.parametrize(
    ("way", "mark"),
    [
        (0, r"So \(1 + 1 = 2\)."),
        (1, 'So <script type="math/tex">1 + 1 = 2</script>.'),
        (2, '<annotation encoding="application/x-tex">1 + 1 = 2</annotation>'),
        (3, 'So <math xmlns="http://www.w3.org/1998/Math/MathML"><mrow><mn>1</mn>'),
    ],
)
def test_ways_to_write_a_formula(way: int, mark: str) -> None:
    page = page_markup.as_html(Random(1), "Sums", [r"So \(1 + 1 = 2\)."], page_markup.WAYS[way])
    assert mark in page


def test_worked_problems_are_right() -> None:
    """Those whose steps are plain sums and products are checked by doing them."""
    texts = " ".join(text for seed in range(300) for text in page_math.problem(Random(seed)))
    checked = 0
    for formula in page_markup.PLACE.findall(texts):
        sides = [side.replace(r"\cdot", "*").strip() for side in formula.split("=")]
        if len(sides) > 1 and all(set(side) <= set("0123456789+-* ") for side in sides):
            assert len({eval(side) for side in sides}) == 1, formula  # digits and signs only
            checked += 1
    assert checked > 200


def test_there_is_much_prose() -> None:
    sections = page_prose.sections()
    assert len(sections) > 2_000
    assert len({title for title, _ in sections}) > 1_000


def test_planting_more_than_half_is_refused() -> None:
    with pytest.raises(ConfigError, match="plant at most half"):
        TinyWeb(seed=1, documents=200, exact_duplicates=0.2, near_duplicates=0.2, foreign=0.1, planted_questions=1)


def test_fewer_than_ten_pages_to_a_file_are_refused() -> None:
    with pytest.raises(ConfigError, match="give ten to a file"):
        TinyWeb(seed=1, documents=59, files=6)


def test_dumps_cover_all_years() -> None:
    assert [pages.dump_of(file)[8:12] for file in range(12)] == [
        "2013", "2017", "2021", "2014", "2018", "2022", "2015", "2019", "2023", "2016", "2020", "2024",
    ]  # fmt: skip
