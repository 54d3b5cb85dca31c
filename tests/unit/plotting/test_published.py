"""The published curves: their summary is the one of the recipe's appendix A; what is stated as data agrees with itself."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import curves, published, published_page
from megatron_octo.plotting.config import PublishedCurves
from megatron_octo.plotting.curves import Curve
from megatron_octo.plotting.published_run import run

DATA = Path(__file__).parents[4] / "shared" / "data" / "rl_curves"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published curves are not in {DATA}")

#: Appendix A of the recipe: last step, then 0 → 196 → last (max@step) of GSM8K, MATH500, OlympiadBench, AMC23, then tokens.
APPENDIX = """
motivation | rl.grpo_llama.3b_math.8k_0411_2024 | 224 | 0.0→8.4→8.3 (9.9@104) | 0.0→9.6→9.6 (10.2@220) | 0.0→5.5→6.1 (7.4@116) | 0.0→7.5→10.0 (10.0@160) | –→3674→3757
motivation | rl.grpo_qwen.3b_math.8k_0411_1954 | 300 | 0.0→85.7→85.6 (86.9@224) | 14.2→63.4→67.0 (67.4@272) | 3.9→27.8→29.1 (29.7@296) | 10.0→47.5→40.0 (52.5@200) | 278→469→500
analysis_data_quality | rl.grpo_llama.3b_analysis_mm.web.pro.20B_math.8k_0411_1333 | 232 | 0.0→66.6→68.8 (69.1@228) | 0.2→35.8→36.6 (37.0@188) | 0.1→12.8→11.3 (12.8@196) | 0.0→17.5→17.5 (20.0@116) | 5→609→672
analysis_data_quality | rl.grpo_llama.3b_analysis_mm.web.pro.plus.20B_math.8k_0411_1331 | 260 | 0.2→67.2→70.6 (70.6@260) | 0.8→31.4→31.8 (37.0@228) | 0.0→10.4→11.3 (12.6@124) | 0.0→12.5→15.0 (22.5@104) | 315→590→611
analysis_data_quality | rl.grpo_llama.3b_analysis_fm4p.20B_math.8k_0411_1327 | 220 | 0.0→10.1→10.2 (15.3@120) | 0.0→10.4→11.0 (16.2@112) | 0.0→5.3→5.6 (7.6@68) | 2.5→10.0→10.0 (15.0@56) | –→4096→4096
analysis_qa | rl.grpo_llama.3b_mmwebpro.synqa.91_math.8k_0411_2017 | 256 | 0.0→66.3→66.0 (68.5@244) | 0.2→33.4→34.6 (36.0@248) | 0.0→9.7→10.7 (11.9@244) | 0.0→10.0→15.0 (20.0@104) | 5→231→324
analysis_qa | rl.grpo_llama.3b_analysis_mmwebpro.openr1.91_math.8k_0411_2030 | 92 | 0.1→–→5.3 (72.9@64) | 0.0→–→7.2 (47.6@68) | 0.4→–→4.9 (19.2@64) | 5.0→–→5.0 (30.0@68) | –→–→4454
analysis_qa | rl.grpo_llama.3b_analysis_mm.web.pro.20B_math.8k_0411_1333 | 232 | 0.0→66.6→68.8 (69.1@228) | 0.2→35.8→36.6 (37.0@188) | 0.1→12.8→11.3 (12.8@196) | 0.0→17.5→17.5 (20.0@116) | 5→609→672
analysis_instruction | rl.grpo_llama.3b_mmwebpro.synqa.91_math.8k_0411_2017 | 256 | 0.0→66.3→66.0 (68.5@244) | 0.2→33.4→34.6 (36.0@248) | 0.0→9.7→10.7 (11.9@244) | 0.0→10.0→15.0 (20.0@104) | 5→231→324
analysis_instruction | rl.grpo_llama.3b_mmwebpro.synqa.ins.89101_math.8k_0410_1935 | 368 | 0.0→70.8→71.2 (73.8@220) | 0.2→38.0→40.8 (42.2@264) | 0.1→13.1→14.9 (14.9@368) | 0.0→12.5→12.5 (27.5@136) | 5→369→1212
analysis_longcot_instruction | rl.grpo_llama.3b_analysis_mmwebpro.openr1.ins.89101_cpt8k_rl8k_math.8k_0411_2035 | 100 | 0.0→–→0.0 (75.3@76) | 0.2→–→0.0 (50.6@76) | 0.9→–→0.0 (19.2@76) | 0.0→–→0.0 (35.0@76) | 82→–→1892
analysis_longcot_instruction | rl.grpo_llama.3b_analysis_mmwebpro.openr1.91_math.8k_0411_2030 | 92 | 0.1→–→5.3 (72.9@64) | 0.0→–→7.2 (47.6@68) | 0.4→–→4.9 (19.2@64) | 5.0→–→5.0 (30.0@68) | –→–→4454
analysis_longcot_template | rl.grpo_llama.3b_analysis_mmwebpro.openr1.ins.89101_cpt8k_rl8k_math.8k_orztemplate_0419_0137 | 80 | 47.5→–→68.6 (76.2@56) | 33.0→–→37.0 (48.0@68) | 9.4→–→10.5 (15.8@32) | 12.5→–→10.0 (37.5@48) | 336→–→1235
analysis_longcot_template | rl.grpo_llama.3b_analysis_mmwebpro.openr1.ins.89101_cpt8k_rl8k_math.8k_0411_2035 | 100 | 0.0→–→0.0 (75.3@76) | 0.2→–→0.0 (50.6@76) | 0.9→–→0.0 (19.2@76) | 0.0→–→0.0 (35.0@76) | 82→–→1892
analysis_length_scheduler | rl.grpo_llama.3b_analysis_mmwebpro.openr1.ins.89101_cpt8k_rl2.4k_math.8k_orztemplate_0419_0135 | 204 | 47.5→76.6→78.1 (78.1@204) | 33.0→55.4→52.4 (55.4@192) | 9.4→22.0→20.7 (22.7@148) | 12.5→30.0→27.5 (40.0@100) | 336→1139→1172
analysis_length_scheduler | rl.grpo_llama.3b_analysis_mmwebpro.openr1.ins.89101_cpt8k_rl8k_math.8k_orztemplate_0419_0137 | 80 | 47.5→–→68.6 (76.2@56) | 33.0→–→37.0 (48.0@68) | 9.4→–→10.5 (15.8@32) | 12.5→–→10.0 (37.5@48) | 336→–→1235
analysis_data_quantity | rl.grpo_llama.3b_analysis_mm.web.pro.plus.20B_math.8k_0411_2209 | 276 | 0.0→66.0→66.9 (67.9@252) | 0.2→35.4→33.0 (35.4@196) | 0.3→11.0→11.0 (12.9@252) | 2.5→12.5→15.0 (25.0@212) | 291→455→421
analysis_data_quantity | rl.grpo_llama.3b_analysis_mm.web.pro.plus.100B_math.8k_0411_1425 | 208 | 1.4→72.2→69.8 (72.2@196) | 2.0→42.2→39.4 (42.4@148) | 0.0→15.0→14.6 (16.5@184) | 2.5→17.5→15.0 (27.5@124) | 310→916→799
analysis_data_quantity | rl.grpo_llama.3b_analysis_mm.web.pro.plus.70B_math.8k_0411_1425 | 228 | 2.3→68.2→68.9 (69.5@220) | 1.6→38.4→38.8 (40.4@224) | 0.6→13.4→11.9 (15.0@128) | 5.0→15.0→5.0 (25.0@156) | 166→499→461
3b_decay_ablation_shortqa_ratio | rl.grpo_llama.3b_stable.130b_decay.synthqa.030.10B_math.8k_0413_0042 | 296 | 0.0→70.2→69.4 (71.6@192) | 0.2→39.2→40.6 (41.2@252) | 0.1→11.4→14.3 (14.4@284) | 5.0→22.5→22.5 (27.5@244) | 433→262→286
3b_decay_ablation_shortqa_ratio | rl.grpo_llama.3b_stable.130b_decay.synthqa.040.10B_math.8k_0413_0042 | 292 | 0.0→69.5→72.9 (72.9@248) | 1.0→38.2→40.8 (44.0@276) | 0.0→11.6→11.0 (14.3@260) | 2.5→10.0→20.0 (25.0@104) | 829→317→382
3b_decay_ablation_shortqa_ratio | rl.grpo_llama.3b_stable.130b_decay.synthqa.020.10B_math.8k_0413_0040 | 236 | 0.0→72.9→72.1 (73.6@200) | 0.2→40.2→41.2 (43.2@144) | 0.0→14.6→13.1 (16.0@168) | 2.5→15.0→27.5 (35.0@204) | 180→535→484
3b_decay_ablation_shortqa_ratio | rl.grpo_llama.3b_stable.130b_decay.synthqa.010.10B_math.8k_0413_0040 | 224 | 0.0→73.3→72.2 (74.0@220) | 0.6→41.6→40.4 (43.6@172) | 0.1→12.9→13.2 (17.1@172) | 2.5→27.5→25.0 (30.0@160) | 270→683→576
3b_decay_ablation_omi2_ratio | rl.grpo_llama.3b_stable.130b_decay.omi.040.10B_math.8k_0413_1104 | 852 | 45.9→83.5→82.8 (84.6@544) | 22.8→55.2→51.4 (57.8@332) | 9.5→19.8→17.8 (22.3@288) | 10.0→17.5→37.5 (40.0@540) | 264→281→303
3b_decay_ablation_omi2_ratio | rl.grpo_llama.3b_stable.130b_decay.omi.030.10B_math.8k_0413_1048 | 832 | 45.9→81.5→81.3 (82.8@228) | 27.0→53.6→50.8 (57.0@516) | 9.4→18.6→18.1 (21.4@128) | 7.5→32.5→27.5 (45.0@584) | 232→313→315
3b_decay_ablation_omi2_ratio | rl.grpo_llama.3b_stable.130b_decay.omi.010.10B_math.8k_0413_0050 | 480 | 28.8→79.2→77.1 (79.8@216) | 26.0→46.6→48.0 (51.8@248) | 7.7→18.6→16.6 (19.8@200) | 7.5→17.5→22.5 (37.5@412) | 218→293→295
3b_decay_ablation_omi2_ratio | rl.grpo_llama.3b_stable.130b_decay.omi.020.10B_math.8k_0413_0050 | 492 | 37.6→80.4→79.6 (82.1@472) | 27.0→50.8→49.2 (54.6@260) | 10.3→16.8→17.7 (20.1@220) | 12.5→27.5→27.5 (37.5@484) | 223→321→287
3b_decay_ablation_openr1_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.030.10B_math.8k_orzbase_0419_0102 | 108 | 1.1→–→83.4 (83.5@96) | 3.0→–→59.2 (59.2@96) | 0.1→–→23.8 (24.7@104) | 0.0→–→37.5 (37.5@52) | 374→–→1761
3b_decay_ablation_openr1_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.020.10B_math.8k_orzbase_0419_0026 | 108 | 0.3→–→81.9 (81.9@108) | 1.8→–→56.2 (56.6@80) | 0.1→–→22.7 (22.9@104) | 0.0→–→35.0 (35.0@108) | 236→–→1640
3b_decay_ablation_openr1_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.010.10B_math.8k_orzbase_0419_0023 | 116 | 0.8→–→78.1 (78.9@96) | 1.6→–→49.8 (51.0@76) | 0.1→–→19.8 (19.8@116) | 0.0→–→22.5 (42.5@104) | 162→–→2313
3b_decay_ablation_openr1_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.040.10B_math.8k_orzbase_0418_2334 | 104 | 1.0→–→83.0 (83.0@100) | 3.8→–→58.0 (59.0@100) | 0.3→–→20.1 (23.2@56) | 0.0→–→35.0 (47.5@100) | 300→–→2430
3b_decay_ablation_omi2_openr1_mix_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.010.omi2.020_rlctx.4.8k_math.8k_orzbase_0415_1540 | 504 | 36.2→82.4→81.0 (83.5@484) | 27.8→57.0→57.2 (61.0@488) | 10.5→22.0→23.3 (24.8@488) | 12.5→27.5→37.5 (37.5@504) | 326→578→672
3b_decay_ablation_omi2_openr1_mix_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.015.omi2.015_rlctx.4.8k_math.8k_orzbase_0415_1539 | 340 | 32.1→81.9→82.2 (83.6@292) | 25.2→57.2→57.8 (59.2@176) | 9.1→22.0→19.8 (24.5@224) | 10.0→32.5→27.5 (42.5@164) | 344→875→1783
3b_decay_ablation_omi2_openr1_mix_ratio | rl.grpo_llama.3b_stable.130b_decay.openr1.020.omi2.010_rlctx.4.8k_orzbase_math.8k_0415_1537 | 444 | 34.3→79.2→79.8 (82.4@308) | 23.2→56.8→55.6 (61.0@248) | 10.5→25.1→22.3 (25.4@200) | 2.5→25.0→37.5 (40.0@192) | 331→539→638
octothinker/1b | rl.grpo_llama.1b_decay_long.20B_math.8k_0421_1805 | 196 | 3.3→57.8→57.8 (58.2@192) | 6.6→42.6→42.6 (43.6@156) | 1.9→15.8→15.8 (18.4@188) | 2.5→20.0→20.0 (30.0@160) | 157→1469→1469
octothinker/1b | rl.grpo_llama.1b_decay_long.short.mix.20B_math.8k_0421_1311 | 692 | 8.8→59.7→64.5 (64.6@600) | 11.4→45.0→45.0 (49.4@536) | 5.3→13.8→15.8 (16.9@376) | 10.0→15.0→15.0 (35.0@128) | 166→347→329
octothinker/1b | rl.grpo_llama.1b_decay_short.20B_math.8k_0422_1125 | 876 | 8.8→61.3→64.2 (65.7@872) | 14.4→44.0→42.6 (47.6@416) | 5.9→14.7→13.2 (17.2@380) | 10.0→25.0→25.0 (35.0@140) | 125→280→249
octothinker/3b | rl.grpo_llama.3b_decay_short.20B_math.8k_0422_1123 | 604 | 18.3→82.5→83.0 (83.4@456) | 29.2→55.6→56.6 (58.8@264) | 11.4→23.0→21.8 (24.4@136) | 10.0→32.5→25.0 (45.0@524) | 331→388→340
octothinker/3b | rl.grpo_llama.3b_decay_long.short.mix.20B_math.8k_0421_1810 | 668 | 29.3→83.3→82.8 (84.6@632) | 32.2→57.6→58.0 (62.6@492) | 12.0→26.0→23.5 (26.4@188) | 10.0→30.0→32.5 (47.5@120) | 335→421→550
octothinker/3b | rl.grpo_llama.3b_decay_long.20B_math.8k_0421_1332 | 300 | 1.7→84.7→85.8 (86.7@228) | 3.6→65.2→65.2 (67.6@248) | 0.1→29.7→27.3 (31.9@148) | 0.0→45.0→40.0 (50.0@172) | 187→1218→2010
"""
ROWS = [line.split(" | ") for line in APPENDIX.strip().splitlines()]


@needs_data
@pytest.mark.parametrize("row", ROWS, ids=[f"{folder}: {run}" for folder, run, *_ in ROWS])
def test_the_summary_is_the_appendix(row: list[str]) -> None:
    folder, run, last, gsm8k, math500, olympiad, amc23, tokens = row
    (found,) = [each for each in summary_of(folder) if each["run"] == run]
    at = published.COMPARED_STEP
    spelled = [published.spell_accuracy(found, name, at=at) for name in ("GSM8K", "MATH500", "OlympiadBench", "AMC23")]
    assert found["last_step"] == int(last)
    assert spelled == [gsm8k, math500, olympiad, amc23]
    assert published.spell_tokens(found, "MATH500", at=at) == tokens


@functools.cache
def summary_of(folder: str) -> list[dict[str, Any]]:
    return curves.summary(curves.read_directory(DATA / folder)["."], at=published.COMPARED_STEP)


@needs_data
def test_every_folder_of_the_publication_is_a_figure_of_ours() -> None:
    folders = curves.read_directory(DATA)
    figures = {folder: published.figure_of(folder, found) for folder, found in folders.items()}
    assert sorted(figures) == sorted(figure.folder for figure in published.FIGURES)
    for folder, figure in figures.items():
        assert figure
        assert set(figure.labels) == {curve.run for curve in folders[folder]}


@needs_data
def test_the_table_of_base_models_is_the_recipes() -> None:
    rows = {row["benchmark"]: row for row in published.read_base_table(DATA / published.BASE_TABLE_FILE)}
    assert len(rows) == 13
    assert rows["gsm8k"] == {
        "benchmark": "gsm8k", "1B Long": 37.15, "1B Hybrid": 42.38, "1B Short": 44.88,
        "3B Long": 56.1, "3B Hybrid": 64.37, "3B Short": 63.31,
    }  # fmt: skip
    assert rows["math-500"]["3B Long"] == 25.8


def test_labels_of_a_figure_differ_and_references_name_runs() -> None:
    runs = set()
    for figure in published.FIGURES:
        assert len(set(figure.labels.values())) == len(figure.labels) > 1
        runs |= set(figure.labels)
    assert set(published.FEW_SHOT) <= runs
    assert {run for _, run in published.BARS} <= set(published.FEW_SHOT)


@pytest.mark.parametrize(
    ("share", "benchmark", "low", "high"),
    [(0.0, "AMC23", 0.0, 0.0876), (0.5, "MATH500", 0.4563, 0.5437), (1.0, "AMC23", 0.9124, 1.0)],
)
def test_wilsons_interval(share: float, benchmark: str, low: float, high: float) -> None:
    found = published.wilson(share, benchmark)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("text", "message"), [("1b long\n{}", "holds 1 objects"), ('{"a": ', "is not the published table")]
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "stable.json"
    file.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        published.read_base_table(file)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one published folder with its runs shortened, and of a folder of somebody else's."""
    root = tmp_path_factory.mktemp("curves")
    motivation = next(figure for figure in published.FIGURES if figure.folder == "motivation")
    for file, tag in (("acc", "val/test_score/MATH500"), ("length", "val_response_length/test_length_correct/MATH500")):
        _export(root / "motivation" / f"{file}.csv", tag, list(motivation.labels), steps=range(0, 204, 4))
    _export(root / "mine" / "entropy.csv", "actor/entropy_loss", ["grpo.a<b>.0412", "grpo.c.0412"], steps=range(5))
    run(PublishedCurves(curves=root), root.parent / "page", False)
    return root.parent / "page"


def _export(file: Path, tag: str, runs: list[str], *, steps: range) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [["Step", *(f"{run} - {tag}" for run in runs)]]
    rows += [[str(step), *(str(step / 1000 * (1 + place)) for place in range(len(runs)))] for step in steps]
    file.write_text("\n".join(",".join(row) for row in rows))


def test_a_page_has_figures_numbers_and_a_summary(page: Path) -> None:
    names = sorted(file.name for file in (page / "figures").iterdir())
    stems = ("base_to_rl", "mine", "motivation", "pass_at_k")
    assert names == sorted(f"{stem}{end}" for stem in stems for end in (".csv", ".png", "_dark.png"))
    assert (page / "figures" / "motivation.csv").read_text().splitlines()[:3] == [
        "run,metric,benchmark,step,paper_step,value,smoothed",
        "rl.grpo_llama.3b_math.8k_0411_2024,accuracy,MATH500,0,0,0.0,0",
        "rl.grpo_llama.3b_math.8k_0411_2024,accuracy,MATH500,4,8,0.004,0.0018",
    ]
    assert (page / "figures" / "mine.csv").read_text().startswith("run,metric,benchmark,step,value,smoothed\n")
    header, *_, mine, _ = (page / "summary.csv").read_text().splitlines()
    assert header.startswith("folder,label,run,last_step,MATH500_at_0,MATH500_at_196")
    assert mine.startswith("mine,a<b>,grpo.a<b>.0412,4,")
    assert ",19.6," in (page / "summary.csv").read_text()


def test_a_page_names_both_scales_and_escapes_names(page: Path) -> None:
    text = (page / "report.html").read_text()
    assert (
        "Lower axis: verl&#39;s steps as logged; upper axis: the steps of the paper&#39;s figures, 2 for each logged one."
        in text
    )
    assert "0.45 of the newest value" in text
    assert "a&lt;b&gt;" in text
    assert "<b>" not in text
    assert not re.search(r"(src|href)=.?https?:", text)


def test_what_was_not_logged_is_a_dash() -> None:
    (row,) = curves.summary([Curve(run="a", metric="loss", benchmark="", steps=(4,), values=(2.0,))], at=196)
    assert row == {"run": "a", "last_step": 4}
    assert published.spell_accuracy(row, "MATH500", at=196) == "–"
    assert published.spell_tokens(row, "MATH500", at=196) == "–"


def test_bars_compare_the_stated_base_with_the_logged_step(page: Path) -> None:
    rows = (page / "figures" / "base_to_rl.csv").read_text().splitlines()
    assert rows[0] == "model,benchmark,base,base_low95,base_high95,after_rl,after_rl_low95,after_rl_high95"
    model, benchmark, *numbers = rows[1].split(",")
    assert (model, benchmark) == ("Llama-3.2-3B", "MATH500")
    assert [float(number) for number in numbers] == pytest.approx(
        [0.074, 0.0542, 0.1003, 0.196, 0.1636, 0.2331], abs=5e-5
    )


def test_a_page_is_drawn_once(page: Path) -> None:
    before = (page / "report.html").stat().st_mtime_ns
    run(PublishedCurves(curves=page.parent / "curves0"), page, False)
    assert (page / "report.html").stat().st_mtime_ns == before


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no directory; name the one that holds the exported curves"):
        run(PublishedCurves(curves=tmp_path / "nowhere"), tmp_path / "out", False)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([(0, 5, 10), (0, 5)], 5), ([(0, 4), (2, 6)], 0), ([], 0)],
)
def test_runs_of_others_are_compared_where_all_of_them_are(steps: list[tuple[int, ...]], expected: int) -> None:
    found = [
        Curve(run=str(place), metric="accuracy", benchmark="mine", steps=own, values=(0.5,) * len(own))
        for place, own in enumerate(steps)
    ]
    assert published_page.compared_step({"mine": found}) == expected
