"""What the service manager hears and what the log shows."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxsync.core.errors import Message
from ngxsync.core.wording import escaped
from ngxsync.edges import service
from ngxsync.edges.service import StatusLine, sd_notify, setup_logging, watchdog_interval_s
from tests.host import PATIENCE_S


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(10)
        if request.param == "path":
            channel.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            channel.bind("")  # the kernel chooses a free abstract name
            monkeypatch.setenv("NOTIFY_SOCKET", "@" + channel.getsockname()[1:].decode())
        yield channel


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_each_state_reaches_the_manager_in_one_datagram(manager: socket.socket) -> None:
    assert service.ready("watching 2 trees, 1 peer")
    assert heard(manager) == ["READY=1", "STATUS=watching 2 trees, 1 peer"]
    assert service.status("web2: in-sync")
    assert heard(manager) == ["STATUS=web2: in-sync"]
    assert service.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]
    assert service.stopping("waiting for web2's answer")
    assert heard(manager) == ["STOPPING=1", "STATUS=waiting for web2's answer"]


def test_reloading_carries_the_monotonic_clock_in_microseconds(manager: socket.socket) -> None:
    before = float(Path("/proc/uptime").read_text().split()[0])
    assert service.reloading()
    first, second = heard(manager)
    assert first == "RELOADING=1"
    name, value = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert abs(int(value) / 1e6 - before) < 60


def test_a_line_break_in_a_status_makes_no_second_field(manager: socket.socket) -> None:
    sd_notify(STATUS="web2\nSTOPPING=1")
    assert heard(manager) == [r"STATUS=web2\nSTOPPING=1"]


def test_what_was_true_before_a_reload_is_not_told_after_it(manager: socket.socket) -> None:
    now = ["in-sync"]
    asked, answer_it = threading.Event(), threading.Event()

    def text() -> str:
        said = now[0]
        if not asked.is_set():  # the first to ask gets its answer late
            asked.set()
            answer_it.wait(10)
        return said

    line = StatusLine(text)
    slow = threading.Thread(target=line.tell)
    slow.start()
    asked.wait(10)
    now[0] = "the new configuration was not taken"
    reloaded = threading.Thread(target=line.ready)
    reloaded.start()
    reloaded.join(0.3)  # it says so now, or waits
    answer_it.set()
    for thread in (slow, reloaded):
        thread.join(10)
    assert [heard(manager), heard(manager)] == [["STATUS=in-sync"], ["READY=1", f"STATUS={now[0]}"]]


def test_only_a_line_that_is_new_is_sent_and_one_that_did_not_arrive_is_sent_again(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = StatusLine(lambda: "in-sync")
    with monkeypatch.context() as deaf:
        deaf.delenv("NOTIFY_SOCKET")
        line.tell()
    line.tell()
    line.tell()
    service.watchdog()
    assert [heard(manager), heard(manager)] == [["STATUS=in-sync"], ["WATCHDOG=1"]]


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service.ready("here")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not service.ready("here")


@pytest.mark.parametrize(
    ("limit", "pid", "interval_s"),
    [
        pytest.param("120000000", str(os.getpid()), 60.0, id="own pid"),
        ("3000000", None, 1.5),
        ("120000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_the_managers_patience(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, pid: str | None, interval_s: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", limit), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == interval_s


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """The loggers as before, whatever the test set up."""
    root, ours = logging.getLogger(), logging.getLogger("ngxsync")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def logged(log_format: str, text: str, *arguments: object, level: int = logging.INFO, **extra: object) -> str:
    stream = io.StringIO()
    setup_logging(log_format, stream=stream)
    logging.getLogger("ngxsync.daemon").log(level, text, *arguments, **extra)  # type: ignore[arg-type]
    return stream.getvalue()


pytestmark = pytest.mark.usefixtures("untouched_logging")


def test_a_line_on_a_terminal_has_its_time_and_its_level() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d warning: web2: held\n",
        logged("text", "%s: held", "web2", level=logging.WARNING),
    )


def test_a_message_in_four_parts_stays_one_record() -> None:
    message = Message("nginx refused", "web2:/etc/nginx/nginx.conf:3", "web2 unchanged", "mend line 3")
    first, *rest = logged("text", "%s", message).splitlines()
    assert first.endswith("info: web2:/etc/nginx/nginx.conf:3: nginx refused")
    assert rest == ["  now: web2 unchanged", "  next: mend line 3"]


def test_a_forged_line_does_not_look_like_a_record() -> None:
    text = logged("text", "file %s", "a\n2026-01-01T00:00:00 info: all is well\x1b[2J\r\u202e\udcff")
    assert text.splitlines()[1:] == [r"  2026-01-01T00:00:00 info: all is well\x1b[2J\r\u202e\xff"]


def test_names_in_any_script_stay_readable() -> None:
    assert escaped("höchst 例え.conf") == "höchst 例え.conf"
    assert escaped("a\tb\x00\x7f\x9b") == r"a\tb\x00\x7f\x9b"


def test_json_has_one_object_a_line_with_the_fields_of_the_call() -> None:
    text = logged("json", "web1 -> web2: %s\n", "applied", extra={"fields": {"run": "r1", "bytes": 10, "level": "x"}})
    assert text.count("\n") == 1
    entry = json.loads(text)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "ngxsync.daemon",
        "message": "web1 -> web2: applied\n",
        "run": "r1",
        "bytes": 10,
    }


def test_json_of_a_name_that_is_not_utf_8_can_be_written_and_read() -> None:
    text = logged("json", "%s", "a\udcff\x1b")
    assert text.isascii()
    assert json.loads(text)["message"] == "a\udcff\x1b"


def test_a_failure_shows_its_traceback_in_both_formats() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        text, as_json = (logged(kind, "failed", exc_info=True, level=logging.ERROR) for kind in ("text", "json"))
    assert text.splitlines()[-1] == "  lines"
    assert all(line.startswith("  ") for line in text.splitlines()[1:])
    assert json.loads(as_json)["error"].endswith("ValueError: two\nlines")


def test_libraries_speak_from_warnings_on_and_ours_from_information_on() -> None:
    stream = io.StringIO()
    setup_logging("text", stream=stream)
    for name in ("any.library", "ngxsync"):
        logging.getLogger(name).info("information")
        logging.getLogger(name).warning("warning of %s", name)
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == [
        "warning: warning of any.library",
        "info: information",
        "warning: warning of ngxsync",
    ]


def test_setting_up_again_replaces_the_format() -> None:
    logged("text", "before")
    assert logged("json", "after").count("\n") == 1


JOURNAL_PROGRAM = """
import logging, os, sys
if sys.argv[2] == "same":
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from ngxsync.edges.service import setup_logging
setup_logging(sys.argv[1], level=logging.DEBUG)
logger = logging.getLogger("ngxsync")
for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, logging.ERROR + 5):
    logger.log(level, "one\\n<0>two")
"""


def test_a_line_of_another_thread_is_not_lost_while_the_format_is_replaced() -> None:
    class Former(logging.StreamHandler[io.StringIO]):
        """When it ends somebody logs just then."""

        def close(self) -> None:
            thread = threading.Thread(target=logger.info, args=("web2 applied",))
            thread.start()
            thread.join(PATIENCE_S)
            super().close()

    stream, logger = io.StringIO(), logging.getLogger("ngxsync.daemon")
    setup_logging("text", stream=io.StringIO())
    logging.getLogger().handlers = [Former(io.StringIO())]
    logger.info("started")
    setup_logging("json", stream=stream)
    assert json.loads(stream.getvalue())["message"] == "web2 applied"


SIGNALLED = """
import os, signal, sys
from ngxsync.daemon.service import HANDLED, caught_signals
install = signal.signal
def at_once(number, handler):
    former = install(number, handler)
    os.kill(os.getpid(), number)
    return former
signal.signal = at_once
with caught_signals() as signals:
    signal.signal = install
    print(sorted(signals.wait(5.0) for _ in HANDLED) == sorted(HANDLED))
"""


def test_a_signal_that_comes_as_soon_as_it_is_caught_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def journal_lines(log_format: str, journal: str) -> list[str]:
    environ = {"PATH": os.environ["PATH"], "JOURNAL_STREAM": "1:1"}
    argv = [sys.executable, "-c", JOURNAL_PROGRAM, log_format, journal]
    root = Path(service.__file__).parents[2]
    return subprocess.run(
        argv, stderr=subprocess.PIPE, text=True, check=True, env=environ, cwd=root
    ).stderr.splitlines()


def test_every_line_in_the_journal_has_its_priority_and_no_time() -> None:
    lines = [line for number in (7, 6, 4, 3, 2, 3) for line in (f"<{number}>one", f"<{number}>  <0>two")]
    assert journal_lines("text", "same") == lines


def test_json_in_the_journal_has_its_priority() -> None:
    lines = journal_lines("json", "same")
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]
    assert all(json.loads(line[3:])["message"] == "one\n<0>two" for line in lines)


def test_a_stream_that_is_redirected_away_from_the_journal_has_no_priorities() -> None:
    lines = journal_lines("text", "other")
    assert lines[2].endswith("info: one")
    assert not any(line.startswith("<") for line in lines)


def test_a_manager_that_reads_nothing_costs_no_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        while sd_notify(WATCHDOG=1):
            pass  # until its queue is full
        before = time.process_time()
        assert not sd_notify(WATCHDOG=1)
        assert time.process_time() - before < 0.2
