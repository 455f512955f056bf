"""A peer that lies, babbles or is another: the master ends with a clear error, believes nothing, and touches nothing of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hosts import Host
from tests.liar import GONE, Liar, liar
from tests.pair import ROOT, manifest_of, snapshot_inodes, write_tree
from tests.resident import Resident, Run, by_hand, raise_if_not_in_sync, site

LIES = 40 if os.environ.get("NGXSYNC_TEST_EVERY_STEP") else 15
OUTSIDE = ("/etc/passwd", "/etc/shadow", "/root/.ssh", "/etc/ngxsync")
OWNED = "\x1b]0;owned\x07\x9b31m‮\nok: applied"


@pytest.fixture
def lying(synced: Resident) -> Iterator[Liar]:
    """In sync; from now on web2 says what the test says. Nothing of the master's changes, whatever that is."""
    pair = synced.pair
    before = snapshot_inodes(pair.web1, *OUTSIDE)
    with liar(pair.web2) as opened:
        yield opened
    assert snapshot_inodes(pair.web1, *OUTSIDE) == before


def raise_if_believed(run: Run, *texts: str) -> None:
    """Exit 4 with the code of an answer that is none, in four parts, and nothing that acts on a terminal."""
    assert (run.exit, run.code) == (4, "answer"), run
    message = run.peer["message"]
    assert message["where"].startswith("root@192.0.2.2")
    assert message["state"]
    assert message["next"]
    for text in texts:
        assert text in run.text, run
    assert all(char.isprintable() or char == "\n" for char in run.text), repr(run.text)


ESCAPES = [
    "/etc/passwd",
    f"{ROOT}/../../../etc/passwd",
    "conf/nginx.conf",
    f"{ROOT}/.ngxsync/x",
    f"{ROOT}/a\0b",
    "",
    "/",
]
FILE = ["file", 420, "root", "root", 0, 0, "0" * 64]
SCAN_LIES: list[tuple[list[Any], Any]] = [
    *((["changed", path], FILE) for path in ESCAPES),
    (["changed", f"{ROOT}/{'a/' * 2050}b"], FILE),
    (["changed", f"{ROOT}/{'n' * 300}"], FILE),
    (["changed", f"{ROOT}/\ud800"], FILE),
    *(
        (["changed", f"{ROOT}/x"], [*FILE[:index], value, *FILE[index + 1 :]])
        for index, value in (
            (0, "socket"),
            (1, -1),
            (1, 0o10000),
            (1, True),
            (1, 1.5),
            (2, 7),
            (2, "a\0b"),
            (4, 10**40),
            (4, "0"),
            (5, -1),
            (5, 2**70),
            (6, "../../etc"),
            (6, ""),
        )
    ),
    (["changed", f"{ROOT}/x"], ["link", 0o777, "root", "root", 0, 0, "a\0b"]),
    (["changed", f"{ROOT}/x"], FILE[:5]),
    (["changed"], []),
    (["specials"], ["x"]),
    (["specials"], ["/etc"]),
    (["kept_apart"], ["../x"]),
    (["unread"], [7]),
    (["roots", "/etc"], {"real": "/etc", "dev": 1, "ino": 1, "mounts": []}),
    (["roots", ROOT, "real"], 7),
    (["accepted", "id"], OWNED),
    (["accepted", "run"], "../../../etc/passwd"),
    (["accepted", "at"], 1e300),
    (["accepted", "at"], float("nan")),
    (["accepted", "projection", "trees"], [{"path": ROOT, "exclude": [["(a+)+$"]]}]),
    (["accepted"], GONE),
    (["journal"], {"run": 7, "phase": "open", "since": None}),
    (["missing_users"], ["user $(reboot)"]),
    (["base"], "both"),
    (["base_manifest"], {}),
    (["now"], "now"),
    (["now"], float("inf")),
    (["ok"], False),
    (["id"], "0" * 64),
]


def test_no_lie_of_a_scan_is_believed(lying: Liar, synced: Resident) -> None:
    for path, value in SCAN_LIES:
        lying.lies("scan", (path, value))
        run = synced.sync()
        assert (run.exit, run.code) == (4, "answer"), (path, value, run)
        assert run.peer["message"]["state"] == "web2 unchanged", (path, value, run)
        raise_if_believed(run)
    lying.repents()
    raise_if_not_in_sync(synced)


STAGE_LIES = [
    "/etc",
    f"{ROOT}/conf",
    f"{ROOT}/.ngxsync/../conf",
    f"{ROOT}/.ngxsync/00000001-x/stage",
    "-e sh",
    "",
    None,
    ["x"],
]


def test_rsync_writes_nowhere_but_into_this_runs_own_stage(lying: Liar, synced: Resident) -> None:
    pair = synced.pair
    before = manifest_of(pair.web2), snapshot_inodes(pair.web2, "/etc/passwd", "/root/.ssh")
    write_tree(pair.web1, ROOT, site("new"))
    for folder in STAGE_LIES:
        lying.lies("stage", (["stages", ROOT], folder))
        raise_if_believed(synced.sync(), "the agent's answer to `stage` makes no sense: stages")
    lying.lies("stage", (["stages"], {}))
    raise_if_believed(synced.sync(), f"stages.{ROOT} is missing")
    assert (manifest_of(pair.web2), snapshot_inodes(pair.web2, "/etc/passwd", "/root/.ssh")) == before
    lying.repents()
    assert (synced.sync().outcome, manifest_of(pair.web2)) == ("applied", manifest_of(pair.web1))


VERDICT_LIES: list[list[tuple[list[Any], Any]]] = [
    [(["id"], "0" * 64)],
    [(["run"], "00000001-other")],
    [(["run"], "../../../../etc/passwd")],
    [(["generation"], "")],
    [(["generation"], None)],
    [(["proven"], False)],
    [(["outcome"], "in-sync "), (["code"], OWNED)],
    [(["outcome"], "refused")],
    [(["at"], 1e300)],
    [(["ok"], False)],
    [(["ok"], False), (["outcome"], "applied"), (["code"], "x")],
    [(["problems"], [{"text": "x", "file": "/etc/passwd", "line": -1, "level": "error"}])],
    [(["warnings"], "many")],
    [(["timings"], {"apply": "long"})],
]


@pytest.mark.parametrize("number", range(len(VERDICT_LIES)))
def test_a_verdict_about_something_else_is_not_believed(lying: Liar, synced: Resident, number: int) -> None:
    """The agent is asked again, and by its record the run is applied after all; where that lies too, nothing is claimed."""
    pair = synced.pair
    write_tree(pair.web1, ROOT, site("one"))
    lying.lies("transact", *VERDICT_LIES[number])
    run = synced.sync()
    assert (run.exit, run.outcome) == (0, "applied"), run
    assert manifest_of(pair.web2) == manifest_of(pair.web1)
    write_tree(pair.web1, ROOT, site("two"))
    lying.lies("show", *((["answer", *path], value) for path, value in VERDICT_LIES[number]))
    run = synced.sync()
    raise_if_believed(run)
    assert "is not known" in run.text, run
    lying.repents()
    raise_if_not_in_sync(synced)


SHOW_LIES: list[tuple[list[Any], Any]] = [
    (["files", "/etc/shadow"], {"text": "eA==", "size": 1, "sha256": "", "secret": False}),
    (["files"], {}),
    (["files", f"{ROOT}/html/index.html", "text"], "no base64!"),
    (["files", f"{ROOT}/html/index.html", "text"], 7),
    (["files", f"{ROOT}/html/index.html"], None),
    (["files", f"{ROOT}/html/index.html", "secret"], "no"),
]


def test_diff_shows_only_what_it_asked_for(lying: Liar, synced: Resident) -> None:
    write_tree(synced.pair.web1, ROOT, {"html/index.html": "new\n"})
    for path, value in SHOW_LIES:
        lying.lies("show", (path, value))
        done = synced.pair.ngxsync("diff")
        assert done.returncode == 4, (path, value, done)
        assert "the agent's answer to `show` makes no sense" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_journal_that_never_ends_ends_the_run(lying: Liar, synced: Resident) -> None:
    lying.lies("scan", (["journal"], {"run": OWNED, "phase": OWNED, "since": None}))
    run = synced.sync()
    assert run.exit == 4, run
    assert "still left half done" in run.text


def test_an_endless_answer_ends_at_its_limit(lying: Liar, synced: Resident) -> None:
    lying.says("scan", b"", endless=True)
    run = synced.sync()
    assert run.exit == 4, run
    assert "larger than 256 MB" in run.text


def test_garbage_is_replaced_by_the_right_agent(lying: Liar, synced: Resident) -> None:
    for raw in (
        b"",
        b"[" * 200_000,
        b'{"ok": true',
        b"\xff\xfe\n",
        b'{"ok": 1}\n',
        b'{"ok": true, "x": 1e999}\n' * 2 + b"null\n",
    ):
        lying.says("scan", raw)
        raise_if_not_in_sync(synced)


HOSTILE = [None, True, -1, 2**70, 1.5, float("nan"), float("-inf"), "", "../../etc/passwd", "/etc/shadow", OWNED, "\ud800", "-e sh",
           [], {}, [[]], {"": {}}, GONE, [["file"] * 7], "x" * 100_000]  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index in an answer."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


@pytest.mark.parametrize("verb", ["scan", "stage", "transact"])
def test_whatever_a_peer_answers_the_master_ends_cleanly(lying: Liar, synced: Resident, verb: str) -> None:
    pair = synced.pair
    number = iter(range(10_000))
    lying.lies(verb)
    write_tree(pair.web1, ROOT, site("first"))
    synced.sync()
    honest = lying.honest(verb)

    @settings(
        max_examples=LIES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(st.lists(st.tuples(st.sampled_from(list(places(honest))), st.sampled_from(HOSTILE)), min_size=1, max_size=1))
    def attack(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        write_tree(pair.web1, ROOT, site(f"edit {next(number)}"))
        lying.lies(verb, *changes)
        run = synced.sync()
        assert run.exit in (0, 1, 4, 5, 6, 7, 8), (changes, run)
        assert "Traceback" not in run.text
        assert all(char.isprintable() or char == "\n" for char in run.text), repr(run.text)
        if run.exit == 0:
            assert manifest_of(pair.web1) == manifest_of(pair.web2), (changes, run)

    attack()
    lying.repents()
    assert by_hand(pair, "--yes", "--force", "generation").exit == 0
    assert manifest_of(pair.web1) == manifest_of(pair.web2)


NOISE = {
    "stderr": "echo welcome >&2",
    "stdout": "echo welcome to $(hostname)",
    "half a line": "printf 'no newline at the end'",
    "json-like": """echo '{"ok": true}'; echo '{"ok": false, "code": "x"}'""",
    "10 MB": "head -c 10000000 /dev/zero | tr '\\0' 'x'; head -c 10000000 /dev/zero | tr '\\0' '\\n'",
    "escapes": r"printf '\033]0;owned\007\233\n'",
    "after": "trap 'echo bye; echo {ok} true' EXIT",
    "around": "printf before; trap 'printf after' EXIT",
}


@pytest.fixture
def bashrc(synced: Resident) -> Iterator[Host]:
    """web2, whose root has a ~/.bashrc that the test may write."""
    host = synced.pair.web2
    file = host.path("/root/.bashrc")
    before = file.read_bytes() if file.exists() else None
    yield host
    if before is None:
        file.unlink()
    else:
        file.write_bytes(before)


@pytest.mark.parametrize("kind", NOISE)
def test_a_noisy_login_shell_is_heard_over_or_named(bashrc: Host, synced: Resident, kind: str) -> None:
    """The agent's answers are found in any noise; rsync cannot stand it, and the message says where to look."""
    pair = synced.pair
    bashrc.path("/root/.bashrc").write_text(NOISE[kind] + "\n")
    raise_if_not_in_sync(synced)
    pair.web1.path(f"{ROOT}/html/index.html").unlink()
    assert synced.sync().outcome == "applied"
    write_tree(pair.web1, ROOT, site("new"))
    run = synced.sync()
    if kind in ("stderr", "after"):
        assert (run.exit, run.outcome) == (0, "applied"), run
        assert manifest_of(pair.web1) == manifest_of(pair.web2)
    else:
        assert (run.exit, run.code) == (4, "noisy-shell"), run
        assert ".bashrc" in run.text
        assert "unchanged" in run.text
    assert all(char.isprintable() or char == "\n" for char in run.text), repr(run.text)


@pytest.mark.parametrize("status", [0, 1])
def test_a_shell_that_lets_nobody_in_is_named(bashrc: Host, synced: Resident, status: int) -> None:
    bashrc.path("/root/.bashrc").write_text(f"echo This account is closed; exit {status}\n")
    run = synced.sync()
    assert (run.exit, run.code) == (4, "noisy-shell"), run
    assert "the login shell on web2 answers `scan` in place of the agent: This account is closed" in run.text
    assert ".bashrc" in run.text
