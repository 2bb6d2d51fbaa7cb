"""The command line as a whole: help, no command at all, and the standard streams as they come."""

import argparse
import os
import signal
import subprocess
import sys

import pytest
from support import PATIENCE, ROOT

from podipc import cli, console


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


def podipc(*words, close=(), **env):
    """Run it with some of its standard streams closed."""
    return subprocess.run(
        [
            *("sh", "-c", 'exec "$@" ' + " ".join(f"{fd}>&-" for fd in close), "sh"),
            *(sys.executable, "-m", "podipc", *words),
        ],
        check=False,
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ls",), 0),
        (("doctor", "--json"), (0, 1, 2)),
        (("doctor",), (0, 1, 2)),
        (("--version",), 0),
        (("wait", "nobody", "--timeout", "0"), 1),
        (("wait", "no/body"), 2),
        (("logd", "--port", "0"), 2),
    ],
)
def test_closed_streams_are_no_error_and_not_mixed_up(words, code, podipc_dir):
    for close in ((0,), (1,), (2,), (0, 1, 2)):
        if words[0] == "logd" and 1 not in close:
            continue  # it would listen
        ran = podipc(*words, close=close)
        assert ran.returncode in (code if isinstance(code, tuple) else (code,)), ran
        assert b"Traceback" not in ran.stderr
        if 1 in close:
            assert ran.stdout == b""
        if code in (1, 2):
            assert ran.stdout == b"", "an error is not for standard output"


def test_what_an_encoding_lacks_is_shown_in_another_way():
    ran = podipc("doctor", PYTHONIOENCODING="ascii")
    assert b"there and back in" in ran.stdout
    assert b"\\xb5s" in ran.stdout
    assert ran.stderr == b""


def test_names_of_channels_cannot_act_on_a_terminal(podipc_dir):
    names = [b"a\x1b[2Jb", b"a\xffb"]
    for name in names:
        os.makedirs(os.path.join(os.fsencode(podipc_dir), name))
    ran = podipc("ls")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"a?[2Jb" in ran.stdout
    assert b"a?b" in ran.stdout
    ran = podipc("rm", *map(os.fsdecode, names))
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"removed a?b" in ran.stdout
    assert not podipc_dir.exists()


@pytest.mark.parametrize("words", [("ls",), ("rm", "--dead")])
def test_a_relative_place_is_refused_as_it_is_everywhere(words):
    ran = podipc(*words, PODIPC_DIR="here")
    assert ran.returncode == 2
    assert b"PODIPC_DIR is 'here', a relative path" in ran.stderr


AT_AN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("name", ["numpy", "podipc.cli", "podipc.lab.plan", "podipc.leftovers"])
@pytest.mark.parametrize("started", ["podipc", "python -m podipc"])
def test_ctrl_c_during_the_imports_ends_it_without_a_traceback(name, started, tmp_path):
    code = AT_AN_IMPORT.format(name=name)
    command = [sys.executable, "-m", "podipc"]
    if started == "podipc":
        (tmp_path / "podipc").write_text(
            "import sys\nfrom podipc.cli import main\nsys.exit(main())"
        )
        command = [sys.executable, tmp_path / "podipc"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    ran = subprocess.run(
        [*command, "ls"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"},
    )
    assert ran.returncode == 130
    assert ran.stdout == ""
    assert ran.stderr in ("", "podipc: interrupted\n")


def test_ctrl_c_during_the_import_of_the_library_is_an_exception(tmp_path):
    code = AT_AN_IMPORT.format(name="podipc.channels")
    code += "try:\n    import podipc\nexcept KeyboardInterrupt:\n    print('interrupted')"
    (tmp_path / "job.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, tmp_path / "job.py", "-m", "podipc"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout == "interrupted\n"


def test_ctrl_c_is_an_exception_again_once_a_command_runs(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/podipc"])
    try:
        cli.starting.begin()
        assert signal.getsignal(signal.SIGINT) is not before
        cli.starting.over()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_not_an_option_is_said_with_the_usage_of_the_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["pod", "exec", "name", "ls", "-l"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "usage: podipc pod exec [-h] [-c CONTAINER] POD -- COMMAND" in error
    assert "podipc pod exec: error: unrecognized arguments: -l" in error


def test_numbers_and_their_words():
    assert [console.count(n, "sender") for n in (0, 1, 2)] == [
        *("no senders", "1 sender", "2 senders")
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--host", ""), "--host is empty"),
        (("--directory", ""), "--directory is empty"),
        (("--keep", "3"), "give --directory as well"),
        (("--max-body", "10M"), "--queue is smaller"),
    ],
)
def test_what_a_logd_of_unset_variables_would_do_silently(words, text, capsys):
    assert cli.main(["logd", "--port", "0", *words]) == 2
    assert text in capsys.readouterr().err
