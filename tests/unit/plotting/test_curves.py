"""Reading of exported curves: what is accepted, how runs are put together, and what is refused."""

from pathlib import Path

import pytest

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import curve_figures, curves
from megatron_octo.plotting.curve_figures import CurvePanels
from megatron_octo.plotting.curves import Curve

EXPORT = """\
"Step","a_0411 - val/test_score/GSM8k","a_0411 - val/test_score/GSM8k__MIN","a_0411 - val/test_score/GSM8k__MAX","b - val/test_score/GSM8k"
"0","0.1","0.05","0.15",""
"4","0.3","0.3","0.3","0.25"
"8","","","","NaN"
"""
METRICS = """\
{"step": 0, "eval/gsm8k/accuracy": 0.25, "eval/gsm8k/response_length_correct": null, "eval/gsm8k/truncated": 0.5}
{"step": 1, "reward": 0.5}
{"step": 4, "eval/gsm8k/accuracy": 0.5, "eval/gsm8k/response_length_correct": 80.5, "eval/gsm8k/truncated": 0.25}
"""


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def curve(run: str, points: dict[int, float], *, metric: str = "accuracy", benchmark: str = "MATH500") -> Curve:
    return Curve(run=run, metric=metric, benchmark=benchmark, steps=tuple(points), values=tuple(points.values()))


def test_an_export_is_read_without_blanks_and_bounds(tmp_path: Path) -> None:
    assert curves.read(write(tmp_path / "acc.csv", EXPORT)) == [
        curve("a_0411", {0: 0.1, 4: 0.3}, benchmark="GSM8K"),
        curve("b", {4: 0.25}, benchmark="GSM8K"),
    ]


def test_a_run_without_any_value_is_left_out(tmp_path: Path) -> None:
    assert curves.read(write(tmp_path / "length.csv", "Step,a - x,b - x\n0,,1\n")) == [
        curve("b", {0: 1.0}, metric="x", benchmark="")
    ]


def test_our_own_metrics_are_read_with_their_evaluations_alone(tmp_path: Path) -> None:
    assert curves.read(write(tmp_path / "long" / "metrics.jsonl", METRICS)) == [
        curve("long", {0: 0.25, 4: 0.5}, benchmark="GSM8K"),
        curve("long", {0: 0.5, 4: 0.25}, metric="eval/gsm8k/truncated", benchmark=""),
        curve("long", {4: 80.5}, metric="length_correct", benchmark="GSM8K"),
    ]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("val/test_score/OlympiadBench", ("accuracy", "OlympiadBench")),
        ("val-core/math_500/acc/mean@1", ("accuracy", "math_500")),
        ("eval/my set/accuracy", ("accuracy", "my set")),
        ("val_response_length/test_length_correct/AMC23", ("length_correct", "AMC23")),
        ("eval/test/response_length_correct", ("length_correct", "test")),
        ("actor/entropy_loss", ("actor/entropy_loss", "")),
    ],
)
def test_tags_say_what_they_measure(tag: str, expected: tuple[str, str]) -> None:
    assert curves.quantity(tag) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no W&B export of curves: its columns are none"),
        ("question,answer\nx,y\n", "no W&B export of curves: its columns are question, answer, not Step"),
        ("Wall Time,a - x\n1,2\n", "export the chart as CSV with Step as its x axis"),
        ("Step,loss\n1,2\n", "not Step and `<run> - <tag>`"),
        ("Step,a - x\n0,1\n4,high\n", r"acc\.csv:3 is not a row of numbers"),
        ("Step,a - x\n0,1\n4\n", r"acc\.csv:3 is not a row of numbers"),
        ("Step,a - x\nfour,1\n", r"acc\.csv:2 is not a row of numbers"),
    ],
)
def test_another_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        curves.read(write(tmp_path / "acc.csv", text))


def test_metrics_without_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rows without a step"):
        curves.read(write(tmp_path / "metrics.jsonl", '{"loss": 1}\n'))


def test_a_resumed_run_is_one_curve_and_the_first_piece_counts() -> None:
    first, resumed = curve("a", {0: 0.1, 4: 0.2}), curve("a", {4: 0.9, 8: 0.3})
    other = curve("a", {0: 7.0}, metric="length_correct")
    assert curves.merge([first, other, resumed]) == [curve("a", {0: 0.1, 4: 0.2, 8: 0.3}), other]


def test_a_directory_is_read_folder_by_folder(tmp_path: Path) -> None:
    write(tmp_path / "web" / "1.csv", "Step,a - val/test_score/MATH500\n0,0.1\n")
    write(tmp_path / "web" / "2_resumed.csv", "Step,a - val/test_score/MATH500\n0,0.5\n4,0.2\n")
    for seed in (1, 2):
        write(tmp_path / "rl" / f"seed{seed}" / "metrics.jsonl", METRICS)
    write(tmp_path / "train" / "stable" / "metrics.jsonl", '{"step": 1, "loss": 2.0}\n')
    found = curves.read_directory(tmp_path)
    assert list(found) == ["rl", "web"]
    assert found["web"] == [curve("a", {0: 0.1, 4: 0.2})]
    assert list(dict.fromkeys(each.run for each in found["rl"])) == ["seed1", "seed2"]


def test_a_directory_without_curves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no curves"):
        curves.read_directory(tmp_path)


def test_the_summary_is_rounded_and_leaves_out_what_was_not_reached() -> None:
    found = [
        curve("a", {0: 0.0, 4: 0.5, 8: 0.4444, 12: 0.5}),
        curve("a", {4: 10.6}, metric="length_correct"),
        curve("b", {0: 0.25}),
    ]
    a, b = curves.summary(found, at=8)
    assert a == {
        "run": "a", "last_step": 12,
        "MATH500_at_0": 0.0, "MATH500_at_8": 44.4, "MATH500_last": 50.0, "MATH500_best": 50.0, "MATH500_best_step": 4,
        "MATH500_tokens_at_0": None, "MATH500_tokens_at_8": None, "MATH500_tokens_last": 11,
    }  # fmt: skip
    assert (b["last_step"], b["MATH500_at_8"], b["MATH500_last"]) == (0, None, 25.0)


def test_the_moving_mean_starts_at_the_first_value() -> None:
    assert curve_figures.ema([1.0, 2.0, 0.0], 0.5).tolist() == [1.0, 1.5, 0.75]


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (["grpo_decay.omi.010.10B_0413", "grpo_decay.omi.020.10B_0413"], ["010", "020"]),
        (["seed1", "seed2"], ["seed1", "seed2"]),
        (["a.b", "a.x.b"], ["b", "x.b"]),
        (["only.one"], ["only.one"]),
        (["x" * 60], ["x" * 21 + "…" + "x" * 22]),
        (["x" * 60, "x" * 61], ["x" * 60, "x" * 61]),
    ],
)
def test_labels_say_what_runs_differ_in(runs: list[str], labels: list[str]) -> None:
    assert list(curve_figures.short_labels(runs).values()) == labels


def test_a_line_ends_where_its_run_ended_and_every_value_is_a_dot() -> None:
    found = [curve("a", {0: 0.2, 4: 0.4, 8: 0.6}), curve("b", {0: 0.1, 4: 0.1})]
    panels = CurvePanels(
        labels={"a": "a", "b": "b"}, plotted_per_step=2, mark_step=4, references={("a", "MATH500"): 7.4}
    )
    (axes,) = curve_figures.draw(found, panels).axes
    dots, smooth, end = axes.lines[:3]
    assert list(dots.get_ydata()) == pytest.approx([20, 40, 60])
    assert list(smooth.get_ydata()) == pytest.approx([20, 29, 42.95])
    assert list(axes.lines[5].get_xdata()) == [0, 4]
    assert end.get_xdata() == 8
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [7.4]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [4]
    (top,) = axes.child_axes
    shown = dict(zip(top.get_xticks(), (label.get_text() for label in top.get_xticklabels()), strict=True))
    assert (shown[4], shown[8]) == ("8", "16")
    assert top.get_xlabel() == "step of the paper's figures (× 2)"


def test_a_missing_panel_keeps_its_place() -> None:
    found = [
        curve("a", {0: 0.2}),
        curve("a", {0: 90.0}, metric="length_correct"),
        curve("a", {0: 80.0}, metric="length_correct", benchmark="AMC23"),
    ]
    assert curve_figures.quantities(found) == [
        ("accuracy", "MATH500"), ("length_correct", "MATH500"), ("accuracy", "AMC23"), ("length_correct", "AMC23"),
    ]  # fmt: skip
    figure = curve_figures.draw(found, CurvePanels(labels={"a": "a"}, references={("a", "AMC23"): 5.0}))
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], [], ["not in the export"], []]
