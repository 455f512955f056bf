"""keepalived.conf as our parser reads it: comments, quotes, conditions, definitions, includes; and what is told of it to whom."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent import vrrpfacts, vrrpfiles, vrrpscripts
from ngxsync.agent.vrrpfacts import masked
from ngxsync.agent.vrrplines import Reader, Statement, command_words, split, uncommented, words
from ngxsync.core.keepalived.quoting import command
from tests.hosts import PROJECT


def read(text: str, *, host: str = "web1", files: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Each statement as "line word word", and what could not be followed."""

    def find(pattern: str, folder: str) -> list[tuple[str, str]]:
        path = os.path.normpath(os.path.join(folder, pattern))
        return [(path, files[path])] if files and path in files else []

    reader = Reader(host, find)
    found = [f"{each.line} {' '.join(each.words)}" for each in reader.read("/etc/keepalived/keepalived.conf", text)]
    return found, [f"{problem.line} {problem.text}" for problem in reader.problems]


def test_comments_and_quotes() -> None:
    assert [uncommented(line) for line in ("a # b", "a ! b", '"a # b" ! c', "a \\# b", "\t! x", "a\\b")] == [
        "a",
        "a",
        '"a # b"',
        "a # b",
        "",
        "a\\b",
    ]
    assert words('auth_pass "a b"c') == ["auth_pass", "a b", "c"]
    assert command_words("notify '/a b'\\ c \"d 'e'\" \\x41\\102\\n x''y") == [
        "notify",
        "/a b c",
        "d 'e'",
        "AB\n",
        "xy",
    ]
    assert split('a { b "{" }') == ["a", "{", 'b "{"', "}"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1), min_size=1, max_size=4))
def test_what_we_write_is_what_we_read(meant: list[str]) -> None:
    line = f"script {command(tuple(meant))}"
    assert uncommented(line) == line
    assert split(line) == [line]
    assert command_words(command_words(line)[1]) == meant


def test_conditions_and_definitions() -> None:
    text = """\
@web1 $PRIORITY=100
@web2 $PRIORITY=99
@^web1 nopreempt
$NET=192.0.${SUB}
$SUB=2
vrrp_instance VI {
  priority $PRIORITY
  @web1 state MASTER
  virtual_ipaddress { ${NET}.100/24 }
  notify "${_PWD}/x $unknown"
}
$MANY= \\
  interface eth0 \\
  priority $PRIORITY \\
  @web2 state MASTER \\
  track_script { chk }
~SEQ(X, 1, 3) y
vrrp_instance VI_2 {
  $MANY
}
"""
    found, problems = read(text)
    assert found == [
        "6 vrrp_instance VI",
        "6 {",
        "7 priority 100",
        "8 state MASTER",
        "9 virtual_ipaddress",
        "9 {",
        "9 192.0.2.100/24",
        "9 }",
        "10 notify /etc/keepalived/x $unknown",
        "11 }",
        "18 vrrp_instance VI_2",
        "18 {",
        "19 interface eth0",
        "19 priority 100",
        "19 track_script",
        "19 {",
        "19 chk",
        "19 }",
        "20 }",
    ]
    assert problems == ["17 ~SEQ is not followed here"]
    other, _ = read(text, host="web2")
    assert "19 state MASTER" in other
    assert other[0] == "3 nopreempt"
    assert "7 priority 99" in other


def test_includes() -> None:
    files = {"/etc/keepalived/d/a.conf": "a\ninclude b.conf\n", "/etc/keepalived/d/b.conf": "b\n"}
    found, problems = read("include d/a.conf\nincluder /none\nc", files=files)
    assert found == ["1 a", "1 b", "3 c"]
    assert problems == ["2 include /none: there is no such file"]
    files["/etc/keepalived/d/b.conf"] = "include b.conf"
    assert "too deeply" in read("include d/a.conf", files=files)[1][0]
    assert read("include /none/*.conf\ninclude d/[0-9]?.conf")[1] == [], "a folder may be empty"
    many = read("a { b\n" * 12000)[1]
    assert "the rest is not read" in many[0]


def test_what_grows_without_end_is_told_and_left_out() -> None:
    """Definitions of definitions, and braces beside braces: a few lines that mean more than a disk holds."""
    levels = "".join(f"$A{n}={f' $A{n + 1}' * 300}\n" for n in range(9))
    found, problems = read(f"{levels}$A9=x\na $A0\nb {'c' * 9000}\nd")
    assert found == ["13 d"]
    assert [each.split(" ")[0] for each in problems] == ["11", "12"]
    levels = "".join(f"$B{n}= \\\n" + f"$B{n + 1} \\\n" * 300 + "\n" for n in range(9))
    found, problems = read(f"{levels}$B9=\n$B0\nb")
    assert found == []
    assert "the rest is not read" in problems[0]
    assert len(vrrpfiles.braces("/{a,b}" * 40)) == vrrpfiles.MOST_FILES


@pytest.mark.parametrize("said", ["Unknown option --config-test", "keepalived: unrecognized option '--config-test'"])
def test_a_keepalived_without_a_test_of_its_own_has_no_complaint(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "keepalived"
    fake.write_text(f'#!/bin/sh\necho "{said}" >&2\necho "Usage: keepalived [OPTION...]"\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(vrrpfiles, "PATH", f"{tmp_path}:/bin")
    assert vrrpfiles.complaints(None, "/x", []) == []
    fake.write_text("#!/bin/sh\necho \"Unknown keyword 'optoin'\"\nexit 1\n")
    assert vrrpfiles.complaints(None, "/x", []) == ["Unknown keyword 'optoin'"]


def test_keepalived_s_own_test_with_a_script_of_another_user(tmp_path: Path) -> None:
    """There 2.2.7 ends itself, and says nothing of what it would say."""
    file = tmp_path / "k.conf"
    file.write_text(
        "global_defs {\n script_user nobody\n enable_script_security\n}\nvrrp_script c {\n script /bin/true\n}\n"
        "vrrp_instance V {\n interface lo\n virtual_router_id 1\n track_script {\n  c\n }\n}\n"
    )
    found = vrrpfiles.complaints(None, str(file), [])
    assert "(V) Unknown interface!" in found, found
    file.write_text(file.read_text().replace("nobody", "root"))
    assert vrrpfiles.complaints(None, str(file), []) == found


def test_a_line_that_keepalived_quotes_has_no_password_in_it(tmp_path: Path) -> None:
    """Where braces are astray the line is in no block of ours, and keepalived's own test quotes it whole."""
    file = tmp_path / "k.conf"
    file.write_text('global_defs {\n}\n}\nauth_pass "0pen one\n auth_passs "0pen two\n')
    said = vrrpfiles.complaints(None, str(file), [])
    assert any("Unterminated quote 'auth_pass" in line for line in said), said
    assert "0pen" not in "".join(said)


def test_files_are_found_as_keepalived_finds_them(tmp_path: Path) -> None:
    for name in ("b.conf", "a.conf", "c.txt", ".d.conf"):
        (tmp_path / name).write_text(name)
    (tmp_path / "e.conf").write_text("run")
    (tmp_path / "e.conf").chmod(0o755)
    (tmp_path / "f.conf").mkdir()
    found = vrrpfiles.Files().find("*.conf", str(tmp_path))
    assert [text for _, text in found] == ["a.conf", "b.conf", ""], "an executable one counts as empty"
    (tmp_path / "k.conf").write_text("include e.conf\n")
    running = vrrpfiles.Running(0, ["keepalived", "-f", f"{tmp_path}/k.conf"], "/", "")
    problems = vrrpfiles.read(running).problems
    assert [(each.file, each.line) for each in problems] == [(f"{tmp_path}/e.conf", 0)], "it is there, and not missing"
    (tmp_path / "k.conf").chmod(0o755)
    assert vrrpfiles.read(running).problems[0].file == f"{tmp_path}/k.conf"
    (tmp_path / "k.conf").unlink()
    assert [text for _, text in vrrpfiles.Files().find(f"{tmp_path}/{{c,b}}.*", "/")] == ["c.txt", "b.conf"]
    assert vrrpfiles.braces("x{a,b{c,d}}y") == ["xay", "xbcy", "xbdy"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        vrrpfiles.read_text(str(tmp_path / "pipe"))


def test_which_file_it_was_started_with() -> None:
    for args in (["-n", "-f", "/x"], ["-f/x"], ["--use-file=/x", "-l"], ["--use-file", "/x"], ["-f", "/y", "-f", "/x"]):
        assert vrrpfiles.option_of(["keepalived", *args], "f", "use-file") == "/x"
    assert vrrpfiles.option_of(["keepalived", "-D"], "f", "use-file") == ""


def test_a_password_is_compared_and_not_told() -> None:
    ours, theirs = (masked(["auth_pass", text], "00") for text in ("12345678", "123456789"))
    assert ours[1:] != theirs[1:]
    assert (ours[1], theirs[1]) == ("8", "9")
    assert ours[2] == theirs[2], "eight characters count"
    assert masked(["auth_pass", "12345678"], "01")[2] != ours[2]
    assert "12345678" not in "".join(ours)
    assert masked(["auth_type", "PASS"], "00") == ["auth_type", "PASS"]
    assert masked(["auth_pass"], "00") == ["auth_pass"]
    for words_of in (
        ["auth_type", "PASS", "auth_pass", "s3cret"],
        ["auth_pas", "s3cret"],
        ["AUTH_PASS", "s3cret"],
        ["auth_pass", "x", "s3cret"],
    ):
        assert "s3cret" not in masked(words_of, "00"), "all on one line, mistyped, in parts"
        assert "s3cret" in vrrpfacts._passwords([Statement("k.conf", 1, words_of)])


def faults_of(*lines: str) -> list[tuple[str, str]]:
    statements = [Statement("k.conf", number, command_words(line)) for number, line in enumerate(lines, 1)]
    return [
        (code, path) for each in vrrpscripts.scripts(statements, vrrpfiles.PATH) for code, path, _ in each["faults"]
    ]


def test_an_interface_that_is_down() -> None:
    script = "mount -t sysfs sysfs /sys && $0 -c 'from ngxsync.agent.vrrpfacts import down; print(down())'"
    for first, found in (("", "['lo']"), ("ip link set lo up && ", "[]")):
        argv = ["unshare", "--net", "--mount", "sh", "-c", first + script, sys.executable]
        assert subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True).stdout.strip() == found


@contextmanager
def file_system(option: str) -> Iterator[Path]:
    """One of its own, in which root alone writes."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{option},mode=0755", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def test_scripts_that_keepalived_cannot_or_will_not_run(tmp_path: Path) -> None:
    def told(line: str) -> list[str]:
        return [
            code
            for code, path in faults_of(line)
            if path.startswith((str(tmp_path), "/none", "if", "cat", "none", "<"))
        ]

    script = tmp_path / "check.sh"
    script.write_text("#!/bin/sh\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and not folder.stat().st_mode & stat.S_ISVTX:
            folder.chmod(0o755)
    script.chmod(0o700)
    assert told(f'script "{script} a b"') == []
    script.chmod(0o777)
    assert told(f'script "{script}"') == ["script-open"]
    script.chmod(0o644)
    assert told(f'script "{script}"') == ["script-not-executable"]
    script.chmod(0o755)
    tmp_path.chmod(0o775)
    os.chown(tmp_path, 0, 33)
    assert told(f'notify "{script}" root') == ["script-open"]
    os.chown(tmp_path, 0, 0)
    script.chmod(0o700)
    assert "script-not-executable" in told(f'notify "{script}" nobody')
    script.chmod(0o755)
    assert told(f"script {script} a") == ["script-unquoted"]
    for text, found in (
        ("#!/bin/sh\r\nexit 0\n", ["script-interpreter"]),
        ("#! /none/bash -e\n", ["script-interpreter"]),
        ("#! /usr/bin/env sh\n", []),
        ("#!\t/bin/sh -e\r\n", []),
        ("exit 0\n", ["script-interpreter"]),
        ("#!\n", ["script-interpreter"]),
        ("", ["script-interpreter"]),
        ("\x7fELF\0", []),
    ):
        script.write_bytes(text.encode())
        assert told(f'script "{script}"') == found, text
    script.write_text("#!/bin/sh\n")
    script.chmod(0o711)
    assert told(f'notify "{script}" nobody') == ["script-unreadable"]
    assert told(f'notify "{script}" root') == []
    script.chmod(0o777)
    assert told(f'notify "{script}" nobody') == ["script-open"], "who may change the check moves the VIP"
    script.chmod(0o755)
    assert told('script "/none/check.sh"') == ["script-missing"]
    assert told('script "none-such-program"') == ["script-missing"]
    assert told('notify "/none" nobody-such')[-1:] == ["script-missing"]
    assert told(f'notify_master "{script}" nobody-such') == ["script-user"]
    for line in (
        "cat /x | grep y",
        "if true; then exit 1; fi",
        "cat /x > /dev/null 2>&1",
        "cat $(pidof nginx)",
        "</dev/tcp/127.0.0.1/80",
    ):
        assert told(f'script "{line}"') == ["script-shell"], line
    assert told("script \"cat '/a b|c' 'd > e' http://x/?a&b\"") == []
    for line in ("/bin/sh -c '$(true)'", "/usr/bin/env sh -c 'a && b'"):
        assert told(f'script "{line}"') == [], "the shell that is asked for understands it"
    assert faults_of('script "/bin/sh -c true || false"') == [("script-shell", "/bin/sh")]
    assert faults_of("notify_priority_changes yes") == []
    with file_system("noexec") as folder:
        shutil.copy(script, folder)
        assert [code for code, _ in faults_of(f'script "{folder}/check.sh"')] == ["script-noexec"]
    assert [each["user"] for each in vrrpscripts.scripts([Statement("", 1, ["notify", "/x"])], "")] == ["root"]
