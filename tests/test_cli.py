"""What the commands say and end with where no other host is needed: usage, configuration, memory, bugs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.manifest import Entry
from ngxsync.cli import exits
from ngxsync.cli.difference import for_terminal, render_listing, text_of
from ngxsync.cli.foreground import Foreground
from ngxsync.cli.group import COMMANDS
from ngxsync.core.cronfields import next_minute
from ngxsync.core.errors import Held, Message
from ngxsync.core.model import Change, PeerResult, Problem, RunResult
from ngxsync.core.plan import kind_of
from ngxsync.core.render import json_run
from ngxsync.edges.state import MasterState
from ngxsync.flow.brake import Brake
from ngxsync.flow.contents import BATCH_BYTES, Content, batches
from tests.hosts import PROJECT
from tests.test_help import ngxsync

FAILURE_KEYS = ["schema", "command", "run", "outcome", "code", "exit", "peers", "problems", "message"]
REPORTING = [name for name in COMMANDS if name in ("sync", "diff", "status", "validate", "history", "pause", "resume")]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.ini"
    file.write_text(
        f"[peer web2]\nhost = 198.51.100.2\nidentity = {tmp_path}/key\n[ngxsync]\nstate_dir = {tmp_path}/state\n"
    )
    return file


@pytest.fixture
def state(tmp_path: Path) -> MasterState:
    return MasterState(tmp_path / "state" / "master", lambda: 1_800_000_000.0)


def test_to_monitoring_all_that_asks_nobody_is_unknown(tmp_path: Path) -> None:
    for arguments, why in (
        (["--nagois"], "No such option '--nagois'"),
        (["--config", f"{tmp_path}/none.ini"], "none.ini"),
    ):
        done = ngxsync("ready", "--nagios", *arguments)
        assert (done.returncode, done.stderr) == (3, "")
        assert done.stdout.startswith("UNKNOWN - ")
        assert why in done.stdout
        assert done.stdout.count("\n") == 1


def told(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit status and message of a failure; nothing of it may be on standard output."""
    assert done.stdout == ""
    return done.returncode, done.stderr


# usage and configuration: 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synk"], "ngxsync: No such command 'synk'. Did you mean 'sync'?"),
        (["sync", "--forse", "drift"], "ngxsync sync: No such option '--forse'. Did you mean '--force'?"),
        (["sync", "--wait"], "ngxsync sync: Option '--wait' requires an argument."),
        (["pause"], "ngxsync pause: Missing argument 'REASON'."),
        (["status", "now"], "ngxsync status: Got unexpected extra argument (now)"),
        (["history", "--limit", "0"], "ngxsync history: Invalid value for '--limit': 0 is not in the range x>=1."),
    ],
)
def test_usage_errors_name_the_nearest_and_the_help(arguments: list[str], message: str) -> None:
    command = message.partition(":")[0]
    expected = f"{message}\n  now: nothing changed\n  next: {command} --help\n"
    assert told(ngxsync(*arguments)) == (2, expected)


def test_durations_are_those_of_the_configuration() -> None:
    status, text = told(ngxsync("sync", "--wait", "1 hour"))
    assert status == 2
    assert "'--wait': '1 hour' is no duration, allowed is a number with ms, s, m, h or d, e.g. 200ms or 10m" in text


def test_reasons_to_force_are_whole_and_known() -> None:
    assert told(ngxsync("sync", "--force", "driftt")) == (
        2,
        "--force: unknown reason 'driftt'\n  now: nothing changed\n  next: did you mean --force drift?\n",
    )
    assert "vip cannot be overridden" in ngxsync("sync", "--force", "vip").stderr


def test_no_configuration(tmp_path: Path) -> None:
    file = tmp_path / "none.ini"
    expected = (
        f"{file}: no such configuration file\n  now: nothing was started and nothing changed\n"
        "  next: write one from config.example.ini, or run: ngxsync init --from-crontab\n"
    )
    assert told(ngxsync("status", "--config", str(file))) == (2, expected)


def test_typos_in_the_configuration_come_all_at_once(config: Path) -> None:
    config.write_text(config.read_text().replace("host =", "hots =") + "log_formt = json\n")
    status, text = told(ngxsync("sync", "--config", str(config)))
    assert status == 2
    assert f"{config}:2: [peer web2] hots: unknown option, did you mean host?" in text
    assert f"{config}:6: [ngxsync] log_formt: unknown option, did you mean log_format?" in text
    assert "  next: mend these lines\n" in text


@pytest.mark.parametrize("arguments", [["sync"], ["diff"], ["pause", "why"], ["resume"]])
def test_an_unknown_peer(config: Path, arguments: list[str]) -> None:
    done = ngxsync(*arguments, "--peer", "wbe2", "--config", str(config))
    expected = f"{config}: no such peer: wbe2\n  now: nothing changed\n  next: did you mean web2?\n"
    assert told(done) == (2, expected)


def test_a_peer_that_was_taken_out_of_the_configuration_too_early(config: Path) -> None:
    status, text = told(ngxsync("peer", "remove", "web1", "--purge", "--config", str(config)))
    assert status == 2
    assert f"{config}: there is no [peer web1] in it, which says how to get there\n  now: nothing changed\n" in text
    assert "put it back until this is done" in text
    assert "did you mean" not in text


def test_a_path_outside_the_trees(config: Path) -> None:
    status, text = told(ngxsync("diff", "/etc/passwd", "--config", str(config)))
    assert status == 2
    assert "/etc/passwd lies in no tree, allowed are paths in /usr/local/nginx" in text


@pytest.mark.parametrize("command", REPORTING)
def test_failures_before_dispatch_are_json_too(command: str) -> None:
    done = ngxsync(command, "--json", "--no-such-option")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (2, "")
    assert list(answer) == FAILURE_KEYS
    assert (answer["schema"], answer["command"], answer["code"], answer["exit"]) == (1, command, "usage", 2)
    assert answer["message"]["what"].startswith("No such option '--no-such-option'.")


def test_an_unknown_command_and_the_configuration_are_json_too(tmp_path: Path) -> None:
    unknown = json.loads(ngxsync("synk", "--json").stdout)
    assert (unknown["command"], unknown["code"]) == ("", "usage")
    missing = json.loads(ngxsync("sync", "--json", "--config", str(tmp_path / "none.ini")).stdout)
    assert (missing["command"], missing["code"], missing["exit"]) == ("sync", "config", 2)
    assert list(missing["message"]) == ["what", "where", "state", "next"]


def test_foreign_text_in_a_message_is_harmless() -> None:
    done = ngxsync("sync", "--force", "a\x1b[31m\nnow: fine")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\nnow: fine" not in done.stderr


# bugs: 70, and a closed pipe


@click.command("crash")
def crash() -> int:
    raise ZeroDivisionError("of our own making")


@click.command("tired")
def tired() -> int:
    raise KeyboardInterrupt


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "crash", __name__)
    assert exits.status_of(["crash"]) == 70
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Traceback (most recent call last):")
    assert "ngxsync: a bug: ZeroDivisionError: of our own making\n" in told.err


def test_an_interrupt_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "tired", __name__)
    assert exits.status_of(["tired"]) == 130
    assert capsys.readouterr().err == "ngxsync: interrupted\n  now: nothing changed\n"


def test_an_interrupt_while_the_libraries_are_read_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    done = ngxsync("status", PYTHONPATH=str(tmp_path))
    assert told(done) == (130, "ngxsync: interrupted\n  now: nothing changed\n")


def test_a_reader_that_leaves_is_no_bug(config: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "ngxsync", "status", "--config", str(config)]
    done = subprocess.run(argv, cwd=PROJECT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_an_answer_that_cannot_be_written_is_no_bug(config: Path, unbuffered: str, option: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "ngxsync", "history", "--config", str(config), *option]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, cwd=PROJECT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("ngxsync: standard output cannot be written: No space left on device\n  now: ")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_closed_standard_output_is_told_before_anything_begins(config: Path) -> None:
    script = f"exec {sys.executable} -m ngxsync sync --config {config} >&-"
    done = subprocess.run(["sh", "-c", script], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "ngxsync: standard output is closed")


@pytest.fixture
def sigint() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted() -> bool:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_at_a_question_waits_for_what_has_begun_on_another_peer(capsys: pytest.CaptureFixture[str]) -> None:
    brake = Brake()
    foreground: Foreground[list[str]] = Foreground(brake)

    def work() -> list[str]:
        brake.pass_by("web3")
        answer = foreground.ask(interrupted)
        with pytest.raises(Held) as held:
            brake.pass_by("web2")
        return [str(answer), held.value.code, "web3 is done"]

    assert foreground.run(work) == ["False", "interrupted", "web3 is done"]
    assert capsys.readouterr().err.startswith("interrupted: waiting for web3's answer")


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_at_a_question_ends_a_run_that_has_not_begun() -> None:
    brake = Brake()
    foreground: Foreground[bool] = Foreground(brake)
    with pytest.raises(KeyboardInterrupt):
        foreground.run(lambda: foreground.ask(interrupted))
    assert brake.is_abandoned


@pytest.mark.usefixtures("sigint")
def test_a_bug_in_a_run_is_raised_where_it_is_waited_for() -> None:
    foreground: Foreground[float] = Foreground(Brake())
    with pytest.raises(ZeroDivisionError):
        foreground.run(lambda: 1 / 0)


# pause, resume, status, history: this host's memory alone


def test_a_pause_is_told_and_ends_by_resume(config: Path) -> None:
    paused = ngxsync("pause", "--for", "2h", "web2 gets\na new disk", "--config", str(config), SUDO_USER="anna")
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith("all peers: paused until 20")
    assert paused.stdout.endswith("(in 2h00m): web2 gets a new disk\n")
    shown = ngxsync("status", "--config", str(config)).stdout
    assert ": paused since " in shown
    assert "  paused:   by anna since " in shown
    assert ": web2 gets a new disk\n  next: ngxsync resume\n" in shown
    assert ngxsync("status", "--exit-code", "--config", str(config)).returncode == 8
    ended = ngxsync("resume", "--config", str(config))
    assert ended.stdout == "all peers: resumed; it was paused by anna: web2 gets a new disk\n"
    assert ngxsync("resume", "--config", str(config)).stdout == "nothing was paused\n"
    assert ": paused" not in ngxsync("status", "--config", str(config)).stdout


def test_one_peers_pause(config: Path) -> None:
    done = ngxsync("pause", "upgrade", "--peer", "web2", "--config", str(config))
    assert done.stdout == "web2: paused until ngxsync resume: upgrade\n"
    answer = json.loads(ngxsync("resume", "--peer", "web2", "--json", "--config", str(config)).stdout)
    assert answer["peers"][0]["pause"]["reason"] == "upgrade"


def test_resuming_one_peer_while_all_are_paused_says_so(config: Path) -> None:
    ngxsync("pause", "upgrade", "--config", str(config), SUDO_USER="anna")
    status, text = told(ngxsync("resume", "--peer", "web2", "--config", str(config)))
    assert status == 8
    assert text.startswith("web2: still paused, with all peers, by anna: upgrade\n")


def test_a_pause_needs_a_reason(config: Path) -> None:
    assert "'REASON': it is empty" in told(ngxsync("pause", " ", "--config", str(config)))[1]


def test_pause_as_json(config: Path) -> None:
    answer = json.loads(ngxsync("pause", "upgrade", "--for", "1m", "--json", "--config", str(config)).stdout)
    assert list(answer) == ["schema", "command", "run", "outcome", "code", "exit", "peers", "message"]
    peer = answer["peers"][0]
    assert list(peer) == ["name", "outcome", "code", "exit", "snapshot", "accepted", "changes", "pause"]
    pause = peer["pause"]
    assert list(pause) == ["who", "reason", "since", "until"]
    assert pause["until"] - pause["since"] == 60.0


def test_status_before_any_run(config: Path) -> None:
    done = ngxsync("status", "--config", str(config))
    assert done.returncode == 0
    assert " -> web2: unknown\n  next: ngxsync sync, or wait for the daemon's next check\n" in done.stdout
    assert "note: the daemon does not run: nothing is synced by itself; start it with: " in done.stdout
    assert ngxsync("status", "--exit-code", "--config", str(config)).returncode == 1


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        ("in-sync", 0, 0),
        ("applied", 0, 0),
        ("refused", 3, 3),
        ("refused", 5, 5),
        ("unreachable", 4, 4),
        ("undone", 6, 6),
        ("broken", 7, 7),
        ("held", 8, 8),
        ("awaiting-first-sync", 8, 8),
        ("not-proven", 1, 1),
        ("unknown", 4, 1),
    ],
)
def test_status_says_what_the_latest_run_left(
    config: Path, state: MasterState, outcome: str, status: int, expected: int
) -> None:
    state.note_result("web2", "00000001-aa", PeerResult("web2", outcome, exit=status))
    word = "in-sync" if outcome == "applied" else outcome
    done = ngxsync("status", "--exit-code", "--config", str(config))
    assert f" -> web2: {word} since " in done.stdout
    assert "  last run: 00000001-aa 2027-01-15 " in done.stdout
    assert done.returncode == expected


def test_a_pause_hides_nothing_that_is_worse(config: Path, state: MasterState) -> None:
    state.note_result("web2", "00000001-aa", PeerResult("web2", "broken", exit=7))
    ngxsync("pause", "looking into it", "--config", str(config))
    done = ngxsync("status", "--exit-code", "--config", str(config))
    assert (done.returncode, ": broken since " in done.stdout, "paused: " in done.stdout) == (7, True, True)


def test_a_pause_that_is_over_is_not_the_status(config: Path, state: MasterState) -> None:
    state.note_result("web2", "00000001-aa", PeerResult("web2", "paused", "paused", 8, message=Message("paused")))
    assert " -> web2: unknown\n" in ngxsync("status", "--config", str(config)).stdout


def test_status_has_file_and_line_of_what_this_host_refused(config: Path, state: MasterState) -> None:
    message = Message("nginx on web1 does not accept its configuration", "", "no peer was changed", "mend it")
    state.note_result("web2", "00000001-aa", PeerResult("web2", "refused", "master-invalid", 3, message=message))
    problem = Problem("unknown directive", "/usr/local/nginx/conf/nginx.conf", 7)
    state.record_run("00000001-aa", json_run("sync", RunResult("00000001-aa", "sync", exit=3, problems=(problem,))))
    shown = ngxsync("status", "--config", str(config)).stdout
    assert "/usr/local/nginx/conf/nginx.conf:7: unknown directive\n" in shown


def test_status_as_json(config: Path) -> None:
    answer = json.loads(ngxsync("status", "--json", "--config", str(config)).stdout)
    assert {"schema", "command", "run", "outcome", "code", "exit", "peers"} <= set(answer)
    assert (answer["outcome"], answer["exit"]) == ("unknown", 1)


def test_damaged_memory_is_told_in_four_parts(config: Path, state: MasterState) -> None:
    ngxsync("pause", "why", "--config", str(config))
    (state.root / "pauses.json").write_text("{")
    status, text = told(ngxsync("status", "--config", str(config)))
    assert status == 2
    assert text.startswith(
        f"{state.root}/pauses.json: the pauses are damaged\n  now: nothing is synced\n  next: remove "
    )


def record(state: MasterState, run: str, **more: Any) -> None:
    change = Change("/usr/local/nginx/conf/a\x1b[31m.conf", "content", None, None)
    peer = PeerResult("web2", "applied", changes=(change,), timings={"scan": 0.1}, accepted="ab" * 32)
    result = RunResult(
        run, "change", "ab" * 32, outcome="applied", peers=(peer,), started=1_799_999_940.0, duration_s=0.5
    )
    state.record_run(run, {**json_run("change", result), **more})


def test_history_is_newest_first(config: Path, state: MasterState) -> None:
    record(state, "00000001-aa")
    record(state, "00000002-bb", outcome="undone", code="", exit=6)
    lines = ngxsync("history", "--config", str(config)).stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("00000002-bb  2027-01-15 ")
    assert lines[0].endswith("change: undone  500ms  snapshot abababababab")
    assert lines[1] == "  web2  applied, 1 change (1 content)"
    assert lines[2].startswith("00000001-aa")
    assert ngxsync("history", "--limit", "1", "--config", str(config)).stdout.splitlines() == lines[:2]


@pytest.mark.parametrize("asked", ["00000001-aa", "1", "00000001"])
def test_one_run_whole(config: Path, state: MasterState, asked: str) -> None:
    record(state, "00000001-aa")
    shown = ngxsync("history", asked, "--config", str(config)).stdout
    assert shown.startswith("run 00000001-aa change: applied, 500ms\n")
    assert "    ~ /usr/local/nginx/conf/a\\x1b[31m.conf  content\n    took: scan 100ms\n" in shown


def test_history_as_json(config: Path, state: MasterState) -> None:
    assert json.loads(ngxsync("history", "--json", "--config", str(config)).stdout)["runs"] == []
    record(state, "00000001-aa")
    answer = json.loads(ngxsync("history", "1", "--json", "--config", str(config)).stdout)
    assert list(answer) == [
        *("schema", "command", "run", "outcome", "code", "exit", "peers", "runs", "message", "replaced")
    ]
    assert (answer["run"], answer["outcome"]) == ("00000001-aa", "applied")
    assert answer["runs"][0]["peers"][0]["changes"][0]["path"] == "/usr/local/nginx/conf/a\x1b[31m.conf"


def test_no_runs_an_unknown_and_a_damaged_one(config: Path, state: MasterState) -> None:
    assert ngxsync("history", "--config", str(config)).stdout == "no runs yet\n"
    status, text = told(ngxsync("history", "9", "--config", str(config)))
    assert (status, text.partition("\n")[0]) == (2, f"{state.root}/runs: no such run: 9")
    record(state, "00000001-aa")
    (state.root / "runs" / "00000001-aa.json").write_text("{")
    assert ngxsync("history", "--config", str(config)).stdout == "00000001-aa  unknown: its record is damaged\n"


# diff's text


def entry(content: str = "1" * 64, **more: Any) -> Entry:
    return Entry("file", 0o644, "root", "root", 10**9, 5, content)._replace(**more)


def change(before: Entry | None, after: Entry | None, path: str = "/t/a", cause: str = "pending") -> Change:
    return Change(path, kind_of(before, after), before, after, None, cause)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (change(None, entry()), "+ /t/a  created"),
        (change(entry(), None, cause="drift"), "- /t/a  deleted (drift)"),
        (change(None, entry(kind="dir")), "+ /t/a/  created"),
        (change(entry(), entry("2" * 64)), "~ /t/a  content"),
        (change(entry(), entry("2" * 64, mode=0o600)), "~ /t/a  content mode 0644 -> 0600"),
        (change(entry(), entry(mode=0o4755)), "~ /t/a  mode 0644 -> 4755"),
        (
            change(entry(), entry(owner="www-data", mode=0o600)),
            "~ /t/a  owner root:root -> www-data:root, mode 0644 -> 0600",
        ),
        (change(entry("a", kind="link"), entry("b\n", kind="link")), "~ /t/a  link a -> b\\n"),
        (change(entry(), entry("b", kind="link", mode=0o777)), "~ /t/a  type file -> link"),
        (change(None, entry(), path="/t/\x1b[2J\n+ x"), "+ /t/\\x1b[2J\\n+ x  created"),
    ],
)
def test_a_line_for_each_change(made: Change, line: str) -> None:
    assert render_listing([made], verbose=False) == [line]


def test_a_time_of_change_is_listed_only_on_request() -> None:
    made = change(entry(), entry(mtime_ns=2 * 10**9 + 1))
    assert render_listing([made], verbose=False) == []
    (line,) = render_listing([made], verbose=True)
    assert line.endswith(":01.000000000 -> 1970-01-01 00:00:02.000000001") or ":02.000000001" in line


@pytest.mark.parametrize("side", ["peer", "own"])
def test_a_secret_of_either_side_is_a_secret(side: str) -> None:
    hidden, plain = Content(None, is_secret=True), Content(b"pass:word\n")
    peer, own = (hidden, plain) if side == "peer" else (plain, hidden)
    text = text_of(change(entry(), entry("2" * 64)), peer, own)
    assert text == "Secret files differ: /t/a 5B sha256 111111111111 -> 5B sha256 222222222222\n"


def test_what_is_too_large_is_told_by_size_and_hash() -> None:
    large = change(entry(size=5 << 20), entry("2" * 64))
    assert (
        text_of(large, None, Content(b"x\n"))
        == "Large files differ: /t/a 5.0M sha256 111111111111 -> 5B sha256 222222222222\n"
    )


def test_batches_are_neither_large_nor_many() -> None:
    changes = [change(entry(size=1 << 20), None, path=f"/t/{number}") for number in range(9)]
    groups = list(batches(changes))
    assert [c for group in groups for c in group] == changes
    assert max(sum(c.before.size for c in group if c.before) for group in groups) <= BATCH_BYTES
    assert [len(group) for group in batches([change(None, entry())] * 2050)] == [1000, 1000, 50]


def test_a_terminal_gets_colours_and_no_escapes_of_others() -> None:
    text = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\x1b[2J\n+[red]new[/red]\tx\r\n context\n"
    lines = list(for_terminal(text, colours=True))
    assert lines[3:] == [
        "\x1b[36m@@ -1 +1 @@\x1b[0m",
        "\x1b[31m-old\\x1b[2J\x1b[0m",
        "\x1b[32m+[red]new[/red]    x\\r\x1b[0m",
        " context",
    ]
    assert "\x1b" not in "".join(for_terminal(text, colours=False))


# the schedule in status

FIELDS = st.tuples(
    st.sampled_from(["*", "0", "*/15", "7,37"]),
    st.sampled_from(["*", "3", "0-6/2", "23"]),
    st.sampled_from(["*", "1", "29", "31", "*/2"]),
    st.sampled_from(["*", "1", "feb", "11,12"]),
    st.sampled_from(["*", "0", "7", "mon-fri", "*/3"]),
).map(" ".join)


@given(FIELDS, st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))
def test_the_next_time_is_the_one_that_the_daemon_runs(fields: str, now: datetime) -> None:
    if " 31 feb " in fields:
        return
    assert next_minute(fields, now) == next(CronSim(fields, now))


def test_the_next_time_is_later_than_now() -> None:
    now = datetime(2026, 11, 22, 3, 30)
    assert next_minute("30 3 * * *", now) == now + timedelta(days=1)
    assert next_minute("30 3 * * *", now - timedelta(microseconds=1)) == now
