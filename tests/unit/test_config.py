"""Overrides, strict keys, and plain data both ways."""

import dataclasses
import enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_octo import config, recipes
from megatron_octo.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark-blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    name: str | None = "inner"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    number: int = 1
    rate: float = 0.5
    flag: bool = False
    text: str = "text"
    file: Path = Path("file")
    colour: Colour = Colour.RED
    limit: int | None = None
    inner: Inner = Inner()
    maybe: Inner | None = None
    items: tuple[Inner, ...] = ()
    files: dict[str, Path] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ConfigError(f"number is {self.number}; it counts from 0")


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("number=7", "number", 7),
        ("number=1_000", "number", 1_000),
        ("number=2e9", "number", 2_000_000_000),
        ("number=20000000000000000001", "number", 20_000_000_000_000_000_001),
        ("rate=3e-5", "rate", 3e-5),
        ("rate=2", "rate", 2.0),
        ("flag=true", "flag", True),
        ("flag=False", "flag", False),
        ("text=a=b", "text", "a=b"),
        ("text=", "text", ""),
        ("text=none", "text", "none"),
        ("file=a/b", "file", Path("a/b")),
        ("colour=dark-blue", "colour", Colour.DARK_BLUE),
        ("limit=5", "limit", 5),
        ("limit=none", "limit", None),
        ("maybe=none", "maybe", None),
    ],
)
def test_override_of_every_scalar(assignment: str, field: str, value: Any) -> None:
    found = getattr(config.override(Outer(limit=3, maybe=Inner()), [assignment]), field)
    assert found == value
    assert type(found) is type(value)


def test_override_below_a_section_leaves_the_rest() -> None:
    changed = config.override(Outer(text="kept"), ["inner.rate=2", "inner.name=none", "number=4"])
    assert changed == Outer(text="kept", number=4, inner=Inner(rate=2.0, name=None))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("nummer=3", "unknown field 'nummer': Outer has no 'nummer'; nearest: number"),
        ("inner.rat=3", "unknown field 'inner.rat': Inner has no 'rat'; nearest: rate"),
        ("number.x=3", "'number.x': nothing lies below 'number'"),
        ("maybe.rate=3", "'maybe.rate': nothing lies below 'maybe'"),
        ("number=3.5", "number=3.5: int expected"),
        ("number=many", "number=many: int expected"),
        ("number=", "number=: int expected"),
        ("rate=nan", "rate=nan: float expected"),
        ("rate=inf", "rate=inf: float expected"),
        ("flag=1", "flag=1: bool expected"),
        ("limit=x", "limit=x: int or none expected"),
        ("number=none", "number=none: int expected"),
        ("colour=rad", "colour: 'rad' is not allowed; nearest: red"),
        ("inner=3", "inner=3: Inner expected; only scalars can be set here"),
        ("items=a", "only scalars can be set here"),
        ("number", "'number' is not an override; write path=value"),
        ("=3", "'=3' is not an override"),
        ("number=-1", "number is -1; it counts from 0"),
    ],
)
def test_overrides_that_cannot_be(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(Outer(), [assignment])
    assert message in str(caught.value)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_plain_data(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    file = tmp_path / "config.json"
    file.write_text(config.dumps(recipe))
    assert config.load(type(recipe), file) == recipe
    assert yaml.safe_load(config.to_yaml(recipe)) == config.to_dict(recipe)


def test_plain_data_of_every_kind() -> None:
    full = Outer(
        file=Path("a"), colour=Colour.DARK_BLUE, maybe=Inner(), items=(Inner(rate=2.0),), files={"x": Path("y")}
    )
    data = config.to_dict(full)
    assert (data["file"], data["colour"], data["maybe"]) == ("a", "dark-blue", {"rate": 1.0, "name": "inner"})
    assert (data["items"], data["files"]) == ([{"rate": 2.0, "name": "inner"}], {"x": "y"})
    assert config.from_dict(Outer, data) == full


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nummer": 3}, "unknown field 'nummer': Outer has no 'nummer'; nearest: number"),
        ({"inner": {"rat": 3}}, "unknown field 'inner.rat'"),
        ({"items": [{}, {"rat": 3}]}, "unknown field 'items[1].rat'"),
        ({"number": "3"}, "number: int expected, not '3'"),
        ({"number": True}, "number: int expected, not True"),
        ({"number": None}, "number: int expected, not None"),
        ({"rate": True}, "rate: float expected, not True"),
        ({"text": 3}, "text: str expected, not 3"),
        ({"flag": 1}, "flag: bool expected, not 1"),
        ({"colour": "rad"}, "colour: 'rad' is not allowed; nearest: red"),
        ({"files": {"x": 3}}, "files.x: Path expected, not 3"),
        ({"items": "abc"}, "items: "),
        ({"inner": [1]}, "inner: Inner expected, not [1]"),
        ([1], "value: Outer expected, not [1]"),
    ],
)
def test_plain_data_that_is_no_config(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_dict(Outer, data)
    assert message in str(caught.value)


def test_a_missing_field_is_named() -> None:
    data = config.to_dict(recipes.load("tiny.stable"))
    del data["schedule"]["peak_lr"]
    with pytest.raises(ConfigError, match=r"schedule.*'peak_lr'"):
        config.from_dict(type(recipes.load("tiny.stable")), data)


@pytest.mark.parametrize(("text", "message"), [(None, "cannot read the config"), ("{", "is not JSON")])
def test_a_config_file_that_cannot_be_read(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(Outer, file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a[1]", 2, 3)]),
        ({"a": [1]}, {"a": [1, 2]}, [("a", [1], [1, 2])]),
        ({"a": None}, {"a": {"b": 1}}, [("a", None, {"b": 1})]),
        ({"a": 1}, {"b": 2}, [("a", 1, None), ("b", None, 2)]),
    ],
)
def test_differences(old: Any, new: Any, expected: list[tuple[str, Any, Any]]) -> None:
    assert list(config.differences(old, new)) == expected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    inner: Inner = Inner()
    workers: int = dataclasses.field(default=1, metadata=config.AT_RUN_TIME)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jobs:
    first: Job = Job()
    inner: Inner = dataclasses.field(default=Inner(), metadata=config.AT_RUN_TIME)


def test_fields_of_the_run_are_found_at_any_depth() -> None:
    assert config.at_run_time(Inner()) == frozenset()
    assert config.at_run_time(Jobs()) == {"first.workers", "inner"}
    assert config.at_run_time({"workers": 1}) == frozenset()
