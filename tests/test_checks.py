"""The sentences about what users write: values as they are, and a remedy for each type."""

import pytest
import yaml

from dfnb.checks import Closed, DfnbError, explained, parse_yaml, suggestion


class Values(Closed):
    rate: float = 1.0
    count: int = 1
    seeds: tuple[int, ...] = ()
    flag: bool = False
    name: str = ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rate: 1e-3", "rate = '1e-3': input should be a valid number; write 1.0e-3"),
        ("rate: 1.5e3", "write 1.5e[+]3"),
        ("rate: many", "rate = 'many': input should be a valid number$"),
        ("count: 1e3", "count = '1e3': input should be a valid integer; write all its digits"),
        ("count: '3'", "count = '3': input should be a valid integer; write it without quotes"),
        ("seeds: '[0, 1]'", "; write a list, as in .*papermill reads one by -y instead of -p"),
        ("flag: 'yes'", "; write true or false, without quotes"),
        ("name: 001", "name = 1: .* write it in quotes, and for papermill after -r"),
        ("name: 2024", "; write it in quotes"),
        ("name: 1.5", "; write it in quotes"),
        ("name: on", "; write it in quotes"),
        ("name: [a]", "input should be a valid string$"),
    ],
)
def test_a_wrong_value_is_answered_by_a_remedy_that_works(text, sentence):
    with pytest.raises(DfnbError, match=sentence):
        Values.check(parse_yaml(text), "mine.yaml")


def test_the_number_of_the_remedy_is_one():
    for text in ("1.0e-3", "1.0e+3", "1.5e+3"):
        assert Values.check(parse_yaml(f"rate: {text}"), "mine.yaml").rate == float(text)


def test_keys_are_texts_and_written_once_also_where_mappings_are_merged():
    lines = ["base: &base {k: 0}", "x: {y: &y {<<: *base, k: 1, no: 2}}", "b: {<<: *y}"]
    content = parse_yaml("\n".join([*lines, "c: {<<: {0.10: 3}}"]))
    assert content["b"] == content["x"]["y"] == {"k": 1, "no": 2}
    assert content["c"] == {"0.10": 3}
    with pytest.raises(yaml.YAMLError, match="'k' is written twice"):
        parse_yaml("c: {<<: {k: 1, k: 2}}")


def test_few_names_are_said():
    names = [f"run-{number}" for number in range(100)]
    assert suggestion("zzz", names).endswith("run-11 and 88 others")
    assert suggestion("zzz", names[:2]) == "; known are run-0, run-1"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sed", "seed"),  # and not released, which contains it
        ("celeb-df", "celeb-df-v2"),
        ("CelebDF_v2", "celeb-df-v2"),
        ("dmeo", "demo"),
        ("batchsize", "batch_size"),
        ("65b205e7", "xception-s30-65b205e7"),
    ],
)
def test_the_name_that_was_meant_is_suggested(name, meant):
    known = ["released", "seed", "demo", "batch_size", "celeb-df-v2", "xception-s30-65b205e7"]
    assert suggestion(name, known) == f"; did you mean {meant}?"
    assert suggestion("++", known).startswith("; known are released, seed")


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
