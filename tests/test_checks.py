"""The sentences about what users write, with a remedy where YAML reads a value as another type."""

import pytest
import yaml

from facesets.checks import Closed, DfnbError, explained, parse_yaml, suggestion


class Values(Closed):
    rate: float = 1.0
    count: int = 1
    seeds: tuple[int, ...] = ()
    flag: bool = False
    name: str = ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rate: 1e-3", "^mine.yaml: rate = '1e-3': .* valid number; write .* 1.0e-4: YAML reads"),
        ("count: 1e3", "count = '1e3': .* valid integer; write its digits without quotes"),
        ("seeds: '[0, 1]'", r"seeds = '\[0, 1\]': .* valid array$"),
        ("flag: 'yes'", "flag = 'yes': .* valid boolean$"),
        ("name: 001", "name = 1: .* write it in quotes, and for papermill after -r"),
        ("flag: on", "flag = 'on': .* valid boolean$"),
        ("rate: .nan", "rate = '.nan': .* valid number"),
        ("rate: -.inf", "rate = '-.inf': .* valid number"),
        ("{nmae: a, rate: b}", "no parameter 'nmae'; did you mean name[?]"),
        ("depth: 1", "no parameter 'depth'; known are rate, count, seeds, flag, name$"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_field(text, sentence):
    with pytest.raises(DfnbError, match=sentence):
        Values.check(parse_yaml(text), "mine.yaml")


def test_the_number_of_the_remedy_is_one():
    for text in ("0.0001", "1.0e-4"):
        assert Values.check(parse_yaml(f"rate: {text}"), "mine.yaml").rate == 1e-4


def test_words_that_only_yaml_takes_for_values_are_texts():
    """A date and no, also as keys; JSON has neither."""
    text = "{name: 2026-11-30, no: on, yes: {2026-11-30: off}, flag: True, rate: 1.5, none: ~}"
    assert parse_yaml(text) == {
        **{"name": "2026-11-30", "no": "on", "yes": {"2026-11-30": "off"}},
        **{"flag": True, "rate": 1.5, "none": None},
    }


def test_keys_are_written_once_also_where_mappings_are_merged():
    lines = ["base: &base {k: 0}", "x: {y: &y {<<: *base, k: 1, m: 2}}", "b: {<<: *y}"]
    content = parse_yaml("\n".join([*lines, "c: {<<: [*base, *y]}"]))
    assert content["b"] == content["x"]["y"] == {"k": 1, "m": 2}
    assert content["c"] == {"k": 0, "m": 2}
    for text in ("{k: 1, m: 2, k: 1}", "c: {<<: {k: 1, k: 2}}"):
        with pytest.raises(yaml.YAMLError, match="'k' is written twice"):
            parse_yaml(text)


def test_a_name_spelled_alike_is_suggested_else_the_first_are_listed():
    names = [f"run-{number}" for number in range(100)]
    assert suggestion("demo", names).endswith("run-10, run-11 …")
    assert suggestion("demo", ["smoke", "bed"]) == "; known are smoke, bed"
    assert suggestion("demo", []) == "; known are none"
    assert suggestion("batchsize", ["seed", "batch_size"]) == "; did you mean batch_size?"
    assert (
        suggestion("smoke-bb", ["smoke-b", "x", "smoke-a"]) == "; did you mean smoke-b or smoke-a?"
    )


@pytest.mark.parametrize(
    ("error", "problem"), [(OSError("gone"), "gone"), (KeyError("name"), "it lacks 'name'")]
)
def test_faults_of_files_become_a_sentence(error, problem):
    sentence = rf"^mine is not valid YAML \({problem}\); correct it$"
    with pytest.raises(DfnbError, match=sentence), explained("mine", "YAML", "correct it"):
        raise error


def test_our_own_faults_stay_what_they_are():
    with pytest.raises(AttributeError), explained("mine", "YAML", "correct it"):
        raise AttributeError
