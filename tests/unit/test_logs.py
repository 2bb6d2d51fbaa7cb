"""Lines of a log: taken apart, written as one line each, kept in files that stay whole."""

import errno
import json
import logging
import os
import threading
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podipc import cli
from podipc.logs import lines
from podipc.logs.backlog import Backlog
from podipc.logs.clients import MAX_CLIENTS, MAX_JOURNAL, Clients
from podipc.logs.entries import JSON, LINES, MAX_LINES, TEXT, Entry, Refused, kind_of, parse
from podipc.logs.files import DirectoryInUse, Files
from podipc.logs.records import MAX_TEXT, encode

NOW = 1_700_000_000.0


# --- what comes ---------------------------------------------------------------


def messages(kind, body):
    return [entry.message for entry in parse(kind, body, NOW)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"My log message", ["My log message"]),
        (b"a\nb\r\n", ["a", "b"]),
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"\n", [""]),
        (b"\xff\xc3\xa4\0", ["\\xff\xe4\0"]),
    ],
)
def test_text(body, expected):
    assert messages(TEXT, body) == expected


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("hello", "INFO"),
        ("ERROR: disk full", "ERROR"),
        ("[warn] slow", "WARNING"),
        ("fatal", "CRITICAL"),
        ("debugging is fun", "INFO"),
        ("information: none", "INFO"),
        ("", "INFO"),
    ],
)
def test_level_of_text(line, level):
    assert parse(TEXT, line.encode() + b"\n", NOW)[0].level == level


def test_json():
    (entry,) = parse(JSON, b'{"message": "m", "level": "warn", "time": 12.5, "a": [1]}', NOW)
    assert entry == Entry(12.5, "WARNING", "m", "", {"a": [1]})
    assert messages(JSON, b'[{"message": "a"}, {"message": "b"}]') == ["a", "b"]
    assert messages(LINES, b'{"message": "a"}\n\n{"message": "b"}\n') == ["a", "b"]
    times = [
        parse(JSON, json.dumps({"message": "", "time": t}).encode(), NOW)[0].time
        for t in ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "2023-11-15T00:13:20+02:00", 1.7e9)
    ]
    assert times == [NOW] * 4


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (JSON, b"", "not JSON"),
        (JSON, b"[]", "no line"),
        (LINES, b" \n", "no line"),
        (JSON, b"12", "expected an object"),
        (JSON, b'{"message": 3}', "message: expected a text"),
        (JSON, b'{"level": "INFO"}', "message: expected a text, not nothing"),
        (JSON, b'{"message": "", "level": 7}', "level: expected DEBUG"),
        (JSON, b'{"message": "", "level": "\\n"}', "level: expected DEBUG"),
        (JSON, b'{"message": "", "time": "noon"}', "time: expected seconds"),
        (JSON, b'{"message": "", "time": 1e300}', "time: expected seconds"),
        (JSON, b'{"message": "", "time": true}', "time: expected seconds"),
        (JSON, b'{"message": "", "x": NaN}', "NaN"),
        (JSON, b'{"message": "", "x": [-1e999]}', "-1e999"),
        (JSON, b'{"message": "", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        (JSON, b"[" * 200_000, "nested too deeply"),
        (JSON, b'{"message": "\xff"}', "not UTF-8"),
        (LINES, b'{"message": "a"}\n{"mess', "line 2 is not JSON"),
    ],
)
def test_json_that_is_refused(kind, body, text):
    with pytest.raises(Refused, match=text) as caught:
        parse(kind, body, NOW)
    assert caught.value.code == 400


def test_too_many_lines():
    for kind, body in ((TEXT, b"\n" * (MAX_LINES + 1)), (JSON, b"[" + b"1," * MAX_LINES + b"1]")):
        with pytest.raises(Refused, match="up to 10000") as caught:
            parse(kind, body, NOW)
        assert caught.value.code == 413


def test_kinds():
    fields = Message()
    assert kind_of(fields) == TEXT
    fields["Content-Type"] = "text/plain;charset=UTF-8"
    assert kind_of(fields) == TEXT
    for wrong in ("text/plain; charset=utf-16", "application/x-www-form-urlencoded", "nonsense"):
        fields.replace_header("Content-Type", wrong)
        if wrong != "nonsense":  # which the email package takes for text/plain
            with pytest.raises(Refused):
                kind_of(fields)


@given(st.sampled_from([JSON, LINES, TEXT]), st.binary())
def test_any_body(kind, body):
    try:
        entries = parse(kind, body, NOW)
    except Refused:
        return
    for entry in entries:
        assert lines.as_text(entry).count(b"\n") == 1
        json.loads(lines.as_json(entry))


# --- what is written ----------------------------------------------------------


def test_as_text():
    entry = Entry(NOW, "INFO", "My log message")
    assert lines.as_text(entry) == b"2023-11-14T22:13:20.000Z INFO Received log: My log message\n"
    entry = Entry(NOW + 0.5, "ERROR", "no", "app.db", {"ms": 9, "why": "a\nb"})
    text = b'2023-11-14T22:13:20.500Z ERROR Received log: app.db: no ms=9 why="a\\nb"\n'
    assert lines.as_text(entry) == text


def test_what_could_forge_a_line_is_shown():
    hostile = "a\nb\r\x1b[2J\0\x7f\x9b\u2028\u202e\ud800\ttab \u00e4\U0001f600"
    text = lines.as_text(Entry(NOW, "INFO", hostile, hostile, {hostile: hostile})).decode()
    shown = "a\\nb\\r\\x1b[2J\\x00\\x7f\\x9b\\u2028\\u202e\\ud800\ttab \u00e4\U0001f600"
    assert f"Received log: {shown}: {shown} {shown}=" in text
    assert text.count("\n") == 1
    written = lines.as_json(Entry(NOW, "INFO", hostile, "", {hostile: 1}))
    assert written.count(b"\n") == 1
    assert not {b"\x1b", b"\x7f", b"\0"} & {written[i : i + 1] for i in range(len(written))}
    assert json.loads(written)["message"] == hostile
    assert json.loads(written)[hostile] == 1


@given(st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()))
def test_any_entry_is_one_line(message, fields):
    entry = Entry(NOW, "INFO", message, "x", fields)
    for line in (lines.as_text(entry), lines.as_json(entry)):
        assert len(line.decode().splitlines()) == 1
        assert line.endswith(b"\n")
    json.loads(lines.as_json(entry))


# --- files --------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    return tmp_path / "log"


def opened(place, max_bytes=1000, keep=2, sync=False):
    return Files(str(place), max_bytes, keep, sync=sync)


def kept(place):
    files = sorted(place.glob("pod.log*"), key=lambda p: -int(p.suffix[1:].replace("log", "0")))
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize("sync", [False, True])
def test_rotation(place, sync):
    files = opened(place, 100, 2, sync=sync)
    for number in range(12):
        files.add("", 0, b"%09d\n" % number * 3)  # three of them make 90 bytes
    files.close()
    sizes = {path.name: path.stat().st_size for path in place.glob("pod.log*")}
    assert sizes == {"pod.log": 90, "pod.log.1": 90, "pod.log.2": 90}
    assert kept(place) == b"".join(b"%09d\n" % number * 3 for number in range(3, 12))


def test_rotation_at_the_boundary(place):
    files = opened(place, 100, 1)
    files.add("", 0, b"a" * 99 + b"\n")
    assert not (place / "pod.log.1").exists()
    files.add("", 0, b"\n")
    assert (place / "pod.log.1").stat().st_size == 100
    assert (place / "pod.log").read_bytes() == b"\n"
    files.close()


def test_rotation_without_old_files(place):
    files = opened(place, 100, 0)
    for text in (b"a", b"b"):
        files.add("", 0, text * 60 + b"\n")
    assert [path.name for path in place.glob("pod.log*")] == ["pod.log"]
    assert (place / "pod.log").read_bytes() == b"b" * 60 + b"\n"
    files.close()


def test_what_somebody_did_to_the_files(place):
    """Removed, moved or cut, as other tools rotate."""
    files = opened(place)
    files.add("", 0, b"one\n")
    (place / "pod.log").unlink()
    files.add("", 0, b"two\n")
    assert kept(place) == b"two\n"
    os.truncate(place / "pod.log", 0)
    files.add("", 0, b"three\n")
    assert kept(place) == b"three\n"
    files.close()


def test_no_batch_twice(place):
    files = opened(place)
    files.add("me", 1, b"one\n")
    assert files.has("me", 1)
    assert not files.has("me", 2)
    assert not files.has("you", 1)
    files.close()
    files = opened(place)
    assert files.has("me", 1)
    assert not files.notes
    files.close()


@pytest.mark.parametrize("length", range(10))
def test_killed_while_it_added(place, length):
    """However much of a batch was written, it is there once after it was sent again."""
    files = opened(place)
    files.add("me", 1, b"one\n")
    files.add("me", 2, b"second\nx\n")
    files.close()
    os.truncate(place / "pod.log", 4 + length)
    files = opened(place)
    assert files.has("me", 2) == (length == 9)
    assert bool(files.notes) == (0 < length < 9)
    if length < 9:
        assert kept(place) == b"one\n"
        files.add("me", 2, b"second\nx\n")
    assert kept(place) == b"one\nsecond\nx\n"
    files.close()
    files = opened(place)
    assert not files.notes
    files.close()


def test_killed_while_it_rotated(place):
    files = opened(place, 100)
    files.add("me", 1, b"a" * 90 + b"\n")
    files.close()
    os.rename(place / "pod.log", place / "pod.log.1")
    files = opened(place, 100)
    assert files.has("me", 1)
    files.add("me", 2, b"b" * 90 + b"\n")
    files.close()
    assert kept(place) == b"a" * 90 + b"\n" + b"b" * 90 + b"\n"


def test_part_of_a_line_of_nobody(place):
    place.mkdir()
    (place / "pod.log").write_bytes(b"whole\npart")
    files = opened(place)
    assert "4 bytes" in files.notes[0]
    assert kept(place) == b"whole\n"
    files.close()


@pytest.mark.parametrize(
    "journal",
    [
        *(b"\xff\n", b"[]\n", b"{}\n", b"[" * 9999),
        *(b'{"clients": [["a b", 1]]}\n', b'{"clients": 3}\n'),
        b'{"client": "x", "sequence": -1, "inode": 1, "offset": 0, "length": 0}\n',
    ],
)
def test_a_journal_of_nonsense(place, journal):
    place.mkdir()
    (place / ".clients").write_bytes(journal)
    files = opened(place)
    assert bool(files.notes) == journal.endswith(b"\n")
    files.add("me", 1, b"one\n")
    assert files.has("me", 1)
    files.close()


def test_the_journal_stays_small(place):
    files = opened(place, 1 << 20)
    for number in range(8000):
        files.add(f"client-{number % 3}", number, b"x\n")
    assert (place / ".clients").stat().st_size <= MAX_JOURNAL + 200
    files.close()
    files = opened(place, 1 << 20)
    assert files.has("client-1", 7999 - 1)
    assert kept(place) == b"x\n" * 8000
    files.close()


def test_clients_are_bounded():
    clients = Clients()
    for number in range(MAX_CLIENTS + 1):
        clients.took(f"c{number}", 5)
    assert not clients.has("c0", 5)
    assert clients.has("c1", 5)
    assert clients.has("c1", 4)
    assert not clients.has("c1", 6)


def test_one_agent_a_directory(place):
    files = opened(place)
    with pytest.raises(DirectoryInUse, match="another agent"):
        opened(place)
    files.close()
    opened(place).close()


@pytest.mark.parametrize("name", ["pod.log", ".lock"])
def test_symlinks_are_refused(place, tmp_path, name):
    place.mkdir()
    target = tmp_path / "target"
    target.write_text("mine\n")
    (place / name).symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        opened(place)
    assert target.read_text() == "mine\n"


def test_a_volume_without_locks(tmp_path, monkeypatch):
    """Not taken for another agent's."""

    def flock(fd, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("podipc.logs.files.fcntl.flock", flock)
    with pytest.raises(OSError, match=r"no lock of a file \(No locks available\)") as caught:
        opened(tmp_path / "logs")
    assert caught.value.errno == errno.ENOLCK
    assert not isinstance(caught.value, DirectoryInUse)


# --- the application's side ---------------------------------------------------


def encoded(formatter=None, **kwargs):
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO", "name": "n", **kwargs})
    return json.loads(encode(record, formatter))


def test_records():
    line = encoded(msg="%s \u00e4\ud800", args=("x",), extra_field={"a": 1}, other=object)
    assert line["message"] == "x \u00e4\ud800"
    assert line["extra_field"] == {"a": 1}
    assert line["other"] == str(object)
    assert encoded(level="mine")["extra_level"] == "mine"
    assert encoded(value=float("nan"))["value"] == "nan"
    formatter = logging.Formatter("<%(message)s>")
    assert encoded(formatter)["message"] == "<m>"


@pytest.mark.parametrize(
    ("name", "number", "level"),
    [
        ("\033[33mWARNING\033[0m", 30, "WARNING"),
        ("\u26a0", 35, "WARNING"),
        ("", 5, "DEBUG"),
        ("(fatal)", 99, "CRITICAL"),
        ("", "", "INFO"),
    ],
)
def test_names_of_levels_that_an_agent_refuses(name, number, level):
    """Such a line is not lost: it has the standard level, and the name beside it."""
    record = logging.makeLogRecord({"msg": "m", "name": "n", "levelname": name, "levelno": number})
    (entry,) = parse(LINES, encode(record, None), NOW)
    assert (entry.level, entry.message) == (level, "m")
    assert entry.fields["levelname"] == name


def test_records_with_tracebacks():
    try:
        raise KeyError("gone")
    except KeyError as error:
        info = (type(error), error, error.__traceback__)
    assert "KeyError: 'gone'" in encoded(exc_info=info)["exception"]
    assert "KeyError: 'gone'" in encoded(logging.Formatter(), exc_info=info)["message"]


def test_records_are_bounded():
    huge = "\0" * 10_000_000
    many = {f"f{number}": huge for number in range(200)}
    record = logging.makeLogRecord({"msg": huge, "exc_text": huge, "stack_info": huge, **many})
    line = encode(record, None)
    assert len(line) < 1 << 20
    assert f"({10_000_000 - MAX_TEXT} more characters)" in json.loads(line)["message"]


def sent(backlog):
    found = []
    while (batch := backlog.next()) is not None:
        found += batch.lines
        backlog.done()
    return found


def test_dropping_the_newest():
    backlog = Backlog(3, 10_000, "newest")
    assert [backlog.put(b"%d" % n, 0) for n in range(5)] == [True] * 3 + [False] * 2
    found = sent(backlog)
    assert found[:3] == [b"0", b"1", b"2"]
    assert json.loads(found[3])["message"].startswith("2 lines dropped")
    assert backlog.put(b"5", 0)
    assert sent(backlog) == [b"5"]
    assert backlog.dropped == 2
    assert backlog.waiting == backlog._bytes == 0


def test_the_report_stands_where_lines_are_missing():
    backlog = Backlog(4, 10_000, "newest")
    for number in range(5):
        backlog.put(b"%d" % number, 0)
    backlog.next()
    backlog.done()
    backlog.put(b"5", 0)
    *before, report, last = sent(backlog)
    assert json.loads(report)["message"].startswith("1 line dropped")
    assert [*before, last] == [b"2", b"3", b"5"]


def test_dropping_the_oldest():
    backlog = Backlog(3, 10_000, "oldest")
    assert [backlog.put(b"%d" % n, 0) for n in range(5)] == [True] * 3 + [False] * 2
    found = sent(backlog)
    assert json.loads(found[0])["message"].startswith("2 lines dropped")
    assert found[1:] == [b"2", b"3", b"4"]


def test_bytes_are_bounded():
    backlog = Backlog(1000, 1024, "newest")
    while backlog.put(b"x" * 100, 0):
        pass
    assert backlog.waiting == 10
    assert not backlog.put(b"x" * 2000, 0)


def test_a_line_that_is_refused_is_found():
    backlog = Backlog(1000, 10_000, "newest")
    for number in range(9):
        backlog.put(b"%d" % number, 0)
    found = []
    while (batch := backlog.next()) is not None:
        if b"5" in batch.lines:
            backlog.split("no fives")
        else:
            found += batch.lines
            backlog.done()
    assert [line for line in found if len(line) == 1] == [b"%d" % n for n in range(9) if n != 5]
    (told,) = [json.loads(line)["message"] for line in found if len(line) > 1]
    assert told == "a line of 1 bytes was refused by the agent: no fives"
    assert backlog.refused == 1
    assert backlog.waiting == backlog._bytes == 0


def test_numbers_of_batches_rise():
    backlog = Backlog(1000, 10_000, "newest")
    numbers = []
    for number in range(5):
        backlog.put(b"%d" % number, 0)
        first, again = backlog.next(), backlog.next()
        assert first is again
        numbers.append(first.sequence)
        backlog.done()
    assert numbers == sorted(set(numbers))


def test_waiting_for_room():
    backlog = Backlog(1, 10_000, "newest")
    backlog.put(b"0", 0)
    timer = threading.Timer(0.1, lambda: (backlog.next(), backlog.done()))
    timer.start()
    assert backlog.put(b"1", 30)
    timer.join()
    assert not backlog.put(b"2", 0.01)
    assert backlog.stalled
    assert not backlog.put(b"3", 3600)  # not waited for again


# --- the command line ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--port", "70000"], "not a port"),
        (["--port", "00000000099999999"], "not a port"),
        (["--max-body", "12"], "from 1K"),
        (["--max-bytes", "1M"], "--directory"),
        (["--keep", "3"], "--directory"),
        (["--fsync"], "--directory"),
        (["--keep", "-1"], "from 0 to 999"),
        (["--grace", "soon"], "number of seconds"),
        (["--queue", "4K"], "--max-body"),
    ],
)
def test_wrong_options(words, text, capsys):
    try:
        code = cli.main(["logd", *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert text in capsys.readouterr().err


def test_help_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["logd", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
