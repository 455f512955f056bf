"""What keepalived's own test of its configuration says, as findings: those that no rule of ours has already. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from shlex import quote

from ngxsync.core.checkup import WARNING
from ngxsync.core.keepalived.finding import Finding, Place
from ngxsync.core.keepalived.side import Side

NO_INTERFACE = "there is no interface %s here"
PLACED = re.compile(r"\((?:(\S.*?): )?Line (\d+)\) ")
# what keepalived says of things that are judged here, in words of ours and with what mends them: the codes of which one was found
COVERED = {
    r"doesn't exist": ("no-interface",),
    r"Non-existent interface": ("no-interface",),
    r"will not work with initial state": ("master-nopreempt",),
    r"[Tt]rack script .* not found": ("unknown-script", "script-user"),
    r"Unable to set (default user|uid/gid)": ("script-user",),
    r"Disabling track script|cannot be accessed|Cannot find script|[Uu]nsafe permissions|not executable": (
        "script-missing",
        "script-not-executable",
        "script-open",
    ),
    r"missing '}'s|Unexpected '\{'|Unknown keyword|No VIP specified": ("unclosed",),
    r"Truncating auth_pass": ("long-password",),
    r"address family must match": ("vip-families",),
    r"ignoring tracked script .* due to SYNC group": ("weight-in-group",),
    r"ignoring tracked script .* due to address_owner": ("weight-too-small",),
    r"does not support authentication": ("auth-ignored", "strict"),
    r"State MASTER must match being address owner": ("strict",),
}
HARMLESS = re.compile(r"resolved by path search|Sync group \S+ has only 1 virtual router")
OWN_INTERFACE = re.compile(r"\((.+)\) Ignoring track_interface (\S+) since own interface")
NO_SECURITY = "script_security not enabled"
UNFINISHED = re.compile(r"it was ended by signal \d+ before it was through")


def judge_complaints(side: Side, known: Sequence[Finding]) -> Iterator[Finding]:
    """What keepalived's own test says beyond what is `known`."""
    again = f"keepalived --config-test -f {quote(side.facts['file'])}"
    for line in side.facts["complaints"]:
        if HARMLESS.search(line) or any(_is_said_by(each, line) for each in known):
            continue
        found = PLACED.match(line)
        own = OWN_INTERFACE.match(line)
        if NO_SECURITY in line:
            what = "script security is off: keepalived runs a script as root that others can change"
            mend = "enable_script_security" if side.globals.inside else "global_defs { enable_script_security }"
            # with it on, a script of nobody's is left out where there is no user keepalived_script
            if not side.globals.get("script_user") and any(each["user"] == "root" for each in side.facts["scripts"]):
                mend += "   (and there, in a line of its own: script_user root)"
            yield Finding("script-security", side.host, side.globals.place, what, mend, WARNING)
        elif UNFINISHED.match(line):
            what = f"what keepalived's own test says is not known here: {line}"
            yield Finding("untested", side.host, side.place, what, f"unshare --pid --fork {again}", WARNING)
        elif own:
            what = f"{own[2]} is tracked in any case, and keepalived's own test refuses to be told so"
            mend = f"take the line away: {own[2]}"
            yield Finding("own-interface", side.host, _tracked_at(side, own[1], own[2]), what, mend, WARNING)
        else:
            place = Place(_file_of(side, found[1] or ""), int(found[2])) if found else side.place
            what = f"keepalived says: {line[found.end() :] if found else line}"
            yield Finding("keepalived-says", side.host, place, what, f"mend that line; then again: {again}")


def _tracked_at(side: Side, name: str, interface: str) -> Place:
    lines = (line for each in side.instances if each.name == name for line in each.node.lines("track_interface"))
    return next((line.place for line in lines if line.name == interface), side.place)


def _is_said_by(finding: Finding, line: str) -> bool:
    if not any(finding.code in codes for text, codes in COVERED.items() if re.search(text, line)):
        return False
    return "doesn't exist" not in line or any(
        NO_INTERFACE % word in finding.what for word in re.split(r"[\s'\"(),:]+", line)
    )


def _file_of(side: Side, said: str) -> str:
    """keepalived names an included file as its include does: from the folder of the file that includes it."""
    main = str(side.facts["file"])
    known = (str(file) for file, _, _ in side.facts["statements"] if str(file).endswith(f"/{said}"))
    return next(known, posixpath.join(posixpath.dirname(main), said)) if said else main
