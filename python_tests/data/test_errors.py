import pytest

from sdgan_ext._errors import CheckpointError, ConfigError, DataError, DivergedError, SdganError, nearest, printable


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (DataError, ValueError),
        (ConfigError, ValueError),
        (CheckpointError, RuntimeError),
        (DivergedError, ArithmeticError),
    ],
)
def test_each_is_for_users_and_of_a_builtin_kind(error, builtin):
    assert issubclass(error, SdganError) and issubclass(error, builtin)
    assert str(error("one sentence")) == "one sentence"


def test_nearest():
    assert nearest("mnits", ("mnist", "digits")) == ", did you mean 'mnist'?"
    assert nearest("DIGITS", ("mnist", "digits")) == ", did you mean 'digits'?"
    assert nearest("photographs", ("mnist", "digits")) == ""
    assert nearest("x", ()) == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat 1.png", "cat 1.png"),
        ("ein Bär, 猫.png", "ein Bär, 猫.png"),
        ("a\nb.png", r"a\nb.png"),
        ("\x1b[2Jb.png", r"\x1b[2Jb.png"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff.png", r"\udcff.png"),
        (7, "7"),
    ],
)
def test_printable(name, shown):
    assert printable(name) == shown
    assert printable(name).isprintable()


def test_a_message_has_an_end():
    message = str(DataError("cannot read " + "n" * 100_000 + ": it is no image"))
    assert len(message) <= 900 and message.startswith("cannot read nnn") and message.endswith("nnn: it is no image")
    assert str(DataError("x" * 900)) == "x" * 900
