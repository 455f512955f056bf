"""The line of ours in an authorized_keys file, and every other line as it was."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxsync.agent.authorizedkeys import keys_in, parse_line, policy_of, with_key, without_key

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVtTjKmTKkSKJHSlWKUWkWnLjZGhkvhD1fyeuFNaMhP"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0tqh1lgzDbMJRMb4J1VLvF6gk0dxFVDkVnKPTmGaVn"
NAME = "0123456789abcdef" * 4
COMMAND = f"/usr/bin/python3 -I -S /var/lib/ngxsync/agent/current gate {NAME}"
END = "/var/lib/ngxsync/agent/current gate"
LINE = f'restrict,command="{COMMAND}" {KEY} ngxsync of web1\n'.encode()

LINES = st.sampled_from(
    [
        b"",
        b"# a comment",
        b"  \t",
        f"{OTHER} admin".encode(),
        f"{OTHER} admin\r".encode(),
        f'from="10.0.0.*",no-pty {OTHER} \xe9'.encode("latin-1"),
        f'command="echo \\"a b\\", c" {OTHER}'.encode(),
        f"# {KEY} switched off".encode(),
        f"cert-authority {KEY} another thing".encode(),
        b"ssh-ed25519",
        b'from="unclosed ssh-ed25519 AAAA',
        b"\x00\xff\x0b\x1c not text",
    ]
)
OURS = st.sampled_from([KEY, f"{KEY} old comment", f"no-pty {KEY} x", f'command="id" {KEY}', f"\t{KEY}\r"])


@given(st.lists(LINES), st.booleans())
def test_other_lines_stay_byte_for_byte(lines: list[bytes], ended: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    added = with_key(text, COMMAND, KEY, "ngxsync of web1")
    assert added == text + (b"" if not text or text.endswith(b"\n") else b"\n") + LINE
    assert with_key(added, COMMAND, KEY, "ngxsync of web1") == added
    assert without_key(added, KEY, END).rstrip(b"\n") == text.rstrip(b"\n")
    assert without_key(text, KEY, END) == text


@given(st.lists(LINES), OURS, st.lists(LINES), st.lists(OURS, max_size=2))
def test_lines_of_the_same_key_become_the_one_restricted_line_in_place(
    before: list[bytes], first: str, after: list[bytes], more: list[str]
) -> None:
    old = [*before, first.encode(), *after, *(line.encode() for line in more)]
    text = b"".join(line + b"\n" for line in old)
    kept = b"".join(line + b"\n" for line in before) + LINE + b"".join(line + b"\n" for line in after)
    assert with_key(text, COMMAND, KEY, "ngxsync of web1") == kept


def test_what_narrowed_the_old_line_narrows_the_new_one() -> None:
    text = f'from="192.0.2.1,10.*",expiry-time="20270101",environment="A=1" {KEY} x\n'.encode()
    made = with_key(text, COMMAND, KEY, "ngxsync of web1")
    assert made == (
        f'restrict,command="{COMMAND}",from="192.0.2.1,10.*",expiry-time="20270101" {KEY} ngxsync of web1\n'.encode()
    )
    assert with_key(made, COMMAND, KEY, "ngxsync of web1") == made


@pytest.mark.parametrize(
    "state", ["/srv/a b", "/srv/it's", '/srv/"quoted"', "/srv/back\\slash", "/srv/a,b=c", "/srv/ü"]
)
def test_a_command_is_quoted_for_sshd_and_then_for_the_shell(state: str) -> None:
    from shlex import quote, split

    current = f"{state}/agent/current"
    made = with_key(b"", f"/usr/bin/python3 -I -S {quote(current)} gate {NAME}", KEY, "x")
    (line,) = keys_in(made)
    assert line.key.decode() == KEY
    assert policy_of(line, f"{quote(current)} gate") == NAME
    assert policy_of(line, "/srv/other/agent/current gate") is None
    said = next(option for option in line.options if option.startswith(b'command="'))
    shell = said[len(b'command="') : -1].decode().replace('\\"', '"')  # what sshd makes of it
    assert split(shell) == ["/usr/bin/python3", "-I", "-S", current, "gate", NAME]
    printed = subprocess.run(["sh", "-c", f"printf '%s|' {shell}"], capture_output=True, text=True).stdout
    assert printed == f"/usr/bin/python3|-I|-S|{current}|gate|{NAME}|"


def test_a_line_break_can_never_get_into_a_line() -> None:
    with pytest.raises(ValueError, match="line break"):
        with_key(b"", "a\nssh-ed25519 AAAA", KEY, "x")


@pytest.mark.parametrize("line", [b"", b"#x", b"ssh-ed25519", b"no key at all", b'from="a ssh-ed25519 AAAA'])
def test_what_is_no_key(line: bytes) -> None:
    assert parse_line(line) is None
