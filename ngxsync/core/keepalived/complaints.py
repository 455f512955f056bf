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
# and what a host balances is no matter of the VIP
HARMLESS = re.compile(r"resolved by path search|Virtual server \[|Sync group \S+ has only 1 virtual router")
OWN_INTERFACE = re.compile(r"\((.+)\) Ignoring track_interface (\S+) since own interface")
NO_SECURITY = "script_security not enabled"
UNFINISHED = re.compile(r"it was ended by signal \d+ before it was through")
# what it says of an instance without a line: which line of it is meant, "" the whole of it, and what mends it
OF_INSTANCE = (
    (r"Unknown interface!", "", "interface {interface}"),
    (
        r"the virtual router id must be set",
        "",
        "virtual_router_id 51   (1 to 255, a number that no other pair there uses)",
    ),
    (r"VRRPv2 advertisement interval", "advert_int", "advert_int 1"),
    (r"Initial state master is incompatible with AH", "state", "state BACKUP"),
    (r"", "", ""),
)
# what it says of a line: what mends that
OF_LINE = (
    (r"unknown state '(?i:master)'", "state MASTER"),
    (r"unknown state '", "state BACKUP"),
    (r"unknown authentication type", "auth_type PASS"),
    (r"VRID '.*' not valid", "virtual_router_id 51   (1 to 255, a number that no other pair there uses)"),
    (r"Priority not valid", "priority 100"),
    (r"script interval '[\d.]+' must be", "interval 1"),
    (r"_interval '0' is invalid", "take the line away: it is 0 without, too"),
    (r"for ip address - ignoring", "each address in a line of its own"),
    (r"vrrp_version 2 conflicts with", "take the line away: IPv6 has VRRP version 3 alone"),
    (r"Extra '}' found", "take a } away, this one or one above it"),
)
AGAIN_OF_NUMBER = re.compile(r"(invalid )?number '")  # another line says of what
OF_EXTRA = re.compile(r"Unknown keyword|Unexpected '{'")  # what follows from a brace too many, up to where it says so
UPPER = re.compile(r"Unknown keyword '(\w*[A-Z]\w*)'")
LATER = re.compile(r"track script (\S+) not found")


def judge_complaints(side: Side, known: Sequence[Finding]) -> Iterator[Finding]:
    """What keepalived's own test says beyond what is `known`."""
    again = f"keepalived --config-test -f {quote(side.facts['file'])}"
    others: list[str] = []
    for line in side.facts["complaints"]:
        if HARMLESS.search(line) or any(_is_said_by(each, line) for each in known):
            continue
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
            others.append(line)
    yield from _others(side, others, f"mend that line; then again: {again}")


def _others(side: Side, lines: Sequence[str], otherwise: str) -> Iterator[Finding]:
    """Each once; it reads the file several times, and says of a number that it is wrong before it says of which."""
    told: dict[tuple[Place, str], str] = {}
    for line in lines:
        found = PLACED.match(line)
        text = line[found.end() :] if found else line
        if found:
            place = Place(_file_of(side, found[1] or ""), int(found[2]))
            told[place, text] = _mend_of_line(side, place, text) or otherwise
        else:
            place, mend = _of_instance(side, line)
            told[place, text] = mend or otherwise
    extra = next((place for place, text in told if text.startswith("Extra '}'")), None)
    early = {place for place, text in told if extra and OF_EXTRA.match(text) and _is_before(place, extra)}
    explained = {place for place, text in told if not AGAIN_OF_NUMBER.match(text)}
    for (place, text), mend in told.items():
        if (place in early and OF_EXTRA.match(text)) or (AGAIN_OF_NUMBER.match(text) and place in explained):
            continue
        if place == extra and early - {extra}:
            mend = f"take away the }} before line {min(each.line for each in early)}: it ends its block too early"
        yield Finding("keepalived-says", side.host, place, f"keepalived says: {text}", mend)


def _is_before(place: Place, other: Place) -> bool:
    return place.file == other.file and place.line <= other.line


def _of_instance(side: Side, line: str) -> tuple[Place, str]:
    """Where that stands, and the line that mends it, "" where none is known here."""
    instance = next((each for each in side.instances if line.startswith(f"({each.name}) ")), None)
    if instance is None:
        return side.place, ""
    known = [each for each in side.facts["interfaces"] if each != "lo"]
    name, mend = next((name, mend) for text, name, mend in OF_INSTANCE if re.search(text, line))
    return instance.place_of(name), mend.format(interface=" or ".join(known))


def _mend_of_line(side: Side, place: Place, text: str) -> str:
    upper, later = UPPER.search(text), LATER.search(text)
    if upper:
        words = [words for *at, words in side.facts["statements"] if (*at,) == (place.file, place.line)]
        line: list[str] = next((each for each in words if each[0] == upper[1]), [])
        is_secret = upper[1].lower().startswith("auth_p")
        return "" if is_secret else " ".join([upper[1].lower(), *line[1:]])
    script = side.named("vrrp_script", later[1]) if later else None
    if later and script:
        return f"move vrrp_script {later[1]} ({script.place}) to before this block: keepalived has to know it here"
    return next((mend for said, mend in OF_LINE if re.search(said, text)), "")


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
