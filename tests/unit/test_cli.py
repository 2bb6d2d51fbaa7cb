"""The command line as a whole: help that fits a terminal, and no command at all."""

import argparse

import pytest

from podipc import cli


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


PARSERS = {parser.prog: parser for parser in parsers(cli._parser())}


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_into_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = [line for line in PARSERS[name].format_help().splitlines() if len(line) > 80]
    assert not long


def test_every_command_is_there():
    for name in ("compare", "plot", "ls", "rm", "doctor", "wait", "pod", "pod run", "logd"):
        assert f"podipc {name}" in PARSERS


def test_no_command_is_wrong_and_shows_which_there_are(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "measure every method between two containers" in err
