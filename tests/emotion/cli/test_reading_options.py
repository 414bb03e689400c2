"""Every reading option works in every command that reads data, in both spellings, and means the same."""

import argparse
from dataclasses import fields
from typing import get_type_hints

import pytest

from datamodules.errors import InputError
from datamodules.read_options import ReadOptions, Spelling, as_words, short_words, spellings
from emotion.cli import data, predict
from lightning_modules.config import Options, RunConfig

NAMES = [field.name for field in fields(ReadOptions)]
NEEDS = {"drop_ties": ["--votes", "soft"]}  # without which the option is refused
TEXTS = {"pattern": r"(?P<label>\w+)", "part": "0.5", "faces": "haar", "face_size": "64", "face_margin": "0.1"}
PARSERS = {
    "describe": lambda: data._parser(),
    "check": lambda: data._parser(),
    "prepare": lambda: data._parser(),
    "cache": lambda: data._parser(),
    "predict": predict._predict_parser,
    "evaluate": predict._evaluate_parser,
}
OWN = {
    "predict": ["photo.jpg", "run"],
    "evaluate": ["run", "--data", "faces"],
    "prepare": ["prepare", "--output", "a.csv"],
}


def text_of(spelling: Spelling) -> str:
    """A value that the field takes and that is not its default."""
    if spelling.choices:
        return next(choice for choice in spelling.choices if choice != str(spelling.default))
    if spelling.form == "flag":
        return "false" if spelling.default is True else "true"
    usual = {"list": "happy,sad", "names": "furious=angry"}.get(spelling.form)
    whole = "int" in str(get_type_hints(ReadOptions)[spelling.name])
    return usual or TEXTS.get(spelling.name) or ("3" if whole else "word")


def spelled(spelling: Spelling, word: str) -> list[str]:
    """The words of a command line that set the field."""
    return [word] if spelling.form == "flag" and "." not in word else [word, text_of(spelling)]


def parsed(command: str, words: list[str]) -> ReadOptions:
    args = PARSERS[command]().parse_args([*OWN.get(command, [command]), *words])
    assert isinstance(args, argparse.Namespace)
    return data.reading(args)


def test_every_field_has_a_short_and_a_long_spelling_and_a_help_text() -> None:
    assert list(spellings()) == NAMES
    for spelling in spellings().values():
        assert spelling.words
        assert spelling.long == f"--data.read.{spelling.name}"
        assert len(spelling.about) > 20, spelling.name


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_in_both_spellings(name: str) -> None:
    spelling, needed = spellings()[name], NEEDS.get(name, [])
    runs = [
        RunConfig.resolve([*spelled(spelling, word), *needed])
        for word in (spelling.long, *(word for word, other in short_words().items() if other is spelling))
    ]
    assert len(runs) >= 2
    assert len({run.identity() for run in runs}) == 1
    assert all(run.as_dict() == runs[0].as_dict() for run in runs)
    if name != "images":  # a folder, which changes no result
        assert runs[0].identity() != RunConfig.resolve(needed).identity()
    options = runs[0].instantiate().data.read
    assert getattr(options, name) != spelling.default
    assert parsed("describe", [*spelled(spelling, spelling.words[0]), *needed]) == options


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_command_takes_both_spellings(command: str, name: str) -> None:
    spelling, needed = spellings()[name], NEEDS.get(name, [])
    by_long = parsed(command, [*spelled(spelling, spelling.long), *needed])
    assert getattr(by_long, name) != spelling.default
    parser: argparse.ArgumentParser = PARSERS[command]()
    taken = {"prepare": {"faces"}, "predict": {"faces"}, "evaluate": {"faces", "part"}}.get(command, set())
    if name in taken:  # the command has an option of its own that is called so
        return
    assert parsed(command, [*spelled(spelling, spelling.words[0]), *needed]) == by_long
    assert parser is not None


def test_aliases_add_up_and_several_may_follow_one_option() -> None:
    words = ["--alias", "a=happy", "--data.read.aliases", "b=sad", "--alias", "c=sad", "d=fear"]
    wanted = {"a": "happy", "b": "sad", "c": "sad", "d": "fear"}
    assert RunConfig.resolve(words).data["read"]["aliases"] == wanted
    again = RunConfig.resolve(["--data.read.aliases", '{"a": "happy", "b": "sad", "c": "sad", "d": "fear"}'])
    assert again.identity() == RunConfig.resolve(words).identity()
    assert RunConfig.resolve(["--alias", "1=happy", "--alias", "no=sad"]).data["read"]["aliases"] == {
        "1": "happy",
        "no": "sad",
    }
    assert parsed("describe", ["--alias", "a=happy", "--alias", "b=sad"]).aliases == {"a": "happy", "b": "sad"}
    assert (
        RunConfig.resolve(as_words(ReadOptions(aliases={"a": "fear"}, drop_unknown=False))).data["read"]
        == (RunConfig.resolve(["--alias", "a=fear", "--keep-unknown"]).data["read"])
    )


@pytest.mark.parametrize("form", [["happy", "sad"], ["happy,sad"], ["[happy, sad]"], ['["happy", "sad"]']])
def test_classes_in_any_form(form: list[str]) -> None:
    for word in ("--classes", "--data.read.classes"):
        assert RunConfig.resolve([word, *form, "--seed", "3"]).data["read"]["classes"] == ["happy", "sad"]
        assert parsed("check", [word, *form]).classes == ["happy", "sad"]


def test_words_of_an_options_object_are_read_as_they_were() -> None:
    options = Options.read(["--alias", "a=happy", "--classes", "happy", "sad", "--keep-unknown", "--votes=soft"])
    assert RunConfig.layered(Options.read(options.words())) == RunConfig.layered(options)
    assert options.typed["data.read.aliases"] == "--alias"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alias", "furious"], "--alias: must be NAME=CLASS, such as furious=angry, got 'furious'"),
        (["--classes"], "--classes: needs a value"),
        (["--votes", "some"], "--data.read.votes: must be one of ignore, majority, soft"),
        (["--unknown-label", "drop"], "did you mean --unknown-labels"),
        (["--drop-ties"], "--drop-ties: needs votes"),
        (["--classes", "happy"], "--classes: must name at least 2 different classes"),
        (["--pattern", "(?P<label>"], "--pattern: must be a regular expression"),
        (["--pattern", "abc"], r"has no group named label"),
        (["--per-class", "0"], "--per-class: must be at least 1"),
        (["--part", "2"], "--data.read.part: must be above 0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(") if "?P" in message else message):
        RunConfig.resolve(words).instantiate()
