from __future__ import annotations

import pickle

import pytest

from cnnstudy import errors
from cnnstudy.errors import CnnstudyError, EnvironmentTrouble, InputError, as_sentence, did_you_mean, without_secrets


def subclasses(cls: type[CnnstudyError]) -> list[type[CnnstudyError]]:
    return [cls, *(deeper for below in cls.__subclasses__() for deeper in subclasses(below))]


def test_a_users_mistake_exits_with_2_and_trouble_around_the_study_with_3() -> None:
    assert {error.exit_code for error in subclasses(InputError)} == {2}
    assert {error.exit_code for error in subclasses(EnvironmentTrouble)} == {3}
    assert not set(subclasses(InputError)) & set(subclasses(EnvironmentTrouble))


def test_every_error_stands_in_the_drawn_tree() -> None:
    drawn = errors.__doc__ or ""
    for error in subclasses(CnnstudyError):
        if error.__module__ == errors.__name__:
            assert error.__name__ in drawn


@pytest.mark.parametrize("name", sorted(errors.BY_NAME))
def test_an_error_survives_the_way_from_a_worker(name: str) -> None:
    error = errors.BY_NAME[name]("something is missing.")
    assert type(error).__name__ == name
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), "something is missing.")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("epoch", "; did you mean 'epochs'?"),
        ("Epochs", "; did you mean 'epochs'?"),
        ("batch-size", "; did you mean 'batch_size'?"),
        ("last_block", "; did you mean 'last-block'?"),
        ("last-bloc", "; did you mean 'last-block'?"),
        ("VAL/LOSS", "; did you mean 'val/loss'?"),
        ("xyz", "."),
        ("", "."),
    ],
)
def test_did_you_mean(given: str, expected: str) -> None:
    assert did_you_mean(given, ["epochs", "batch_size", "last-block", "val/loss"]) == expected


def test_a_sentence_ends_once() -> None:
    assert as_sentence("it is down") == as_sentence(CnnstudyError("it is down.")) == "it is down."


def test_did_you_mean_gives_the_nearest_as_it_is_spelt() -> None:
    assert did_you_mean("vgg", ["VGG19x", "VGG16"]) == "; did you mean 'VGG16'?"
    assert did_you_mean("anything", []) == "."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa'ss@host/x", "http://***@host/x"),
        ("postgresql://u:a/b@c@host/db?sslmode=require&password=x", "postgresql://***@host/db?sslmode=***&password=***"),
        ("no https:/u:p@host/a.zip?sig=x (looked for it)", "no https:/***@host/a.zip?sig=*** (looked for it)"),
        ("with url: /base?X-Amz-Signature=x/api", "with url: /base?X-Amz-Signature=***"),
        ("connection: password=x host=db", "connection: password=*** host=db"),
        ("there is no model models:/fake@champion; did you mean 'a'?", None),
        ("sqlite:////tmp/mlflow.db, who@host said", None),
    ],
)  # fmt: skip
def test_what_is_said_of_an_address_holds_no_secret(text: str, shown: str | None) -> None:
    expected = text if shown is None else shown
    assert without_secrets(text) == str(CnnstudyError(text)) == expected
