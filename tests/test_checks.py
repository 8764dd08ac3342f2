"""The sentences about what users write: values as they are, and a remedy for each type."""

import json
import pickle
import zipfile
from typing import Literal

import pytest
import yaml
from safetensors import SafetensorError

from dfnb.checks import Closed, DfnbError, explained, parse_yaml, suggestion


class Values(Closed):
    rate: float = 1.0
    count: int = 1
    seeds: tuple[int, ...] = ()
    flag: bool = False
    kind: Literal["JPEG", "png"] = "png"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rate: 1e-3", "rate = '1e-3': input should be a valid number; .* write 1.0e-3"),
        ("rate: 1e3", "write 1.0e[+]3"),
        ("count: '3'", "count = '3': input should be a valid integer; write it without quotes"),
        ("seeds: '[0, 1]'", "; write a list, as in .*papermill reads one by -y instead of -p"),
        ("flag: 'yes'", "; write true or false, without quotes"),
        ("kind: jpeg", "kind = 'jpeg': input should be 'JPEG' or 'png'$"),
    ],
)
def test_a_wrong_value_is_answered_by_a_remedy_that_works(text, sentence):
    with pytest.raises(DfnbError, match=sentence):
        Values.check(parse_yaml(text), "mine.yaml")


def test_the_number_of_the_remedy_is_one():
    for text in ("1.0e-3", "1.0e+3"):
        assert Values.check(parse_yaml(f"rate: {text}"), "mine.yaml").rate == float(text)


def test_few_names_are_said():
    names = [f"run-{number}" for number in range(100)]
    assert suggestion("zzz", names).endswith("run-11 and 88 others")
    assert suggestion("zzz", names[:2]) == "; known are run-0, run-1"


FAULTS_OF_FILES = [
    OSError("gone"),
    json.JSONDecodeError("cut", "{", 1),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"),
    KeyError("name"),
    TypeError("a list"),
    RuntimeError("size mismatch"),
    SafetensorError("no header"),
    yaml.YAMLError("a tab"),
    pickle.UnpicklingError("no pickle"),
    zipfile.BadZipFile("cut"),
    EOFError("cut"),
]


@pytest.mark.parametrize("error", FAULTS_OF_FILES, ids=lambda error: type(error).__name__)
def test_faults_of_files_become_a_sentence(error):
    sentence = r"^mine is not valid YAML \(.*\); correct it$"
    with pytest.raises(DfnbError, match=sentence), explained("mine", "YAML", "correct it"):
        raise error


@pytest.mark.parametrize("fault", [AttributeError, NameError, AssertionError, IndexError])
def test_our_own_faults_stay_what_they_are(fault):
    with pytest.raises(fault), explained("mine", "YAML", "correct it"):
        raise fault
