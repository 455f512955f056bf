"""What of one host's keepalived breaks a failover, whatever the other one has. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

from ngxsync.core.checkup import FAILED, WARNING
from ngxsync.core.keepalived.complaints import NO_INTERFACE, judge_complaints
from ngxsync.core.keepalived.finding import NOWHERE, Finding, Place
from ngxsync.core.keepalived.side import Instance, Side, normal, number
from ngxsync.core.keepalived.weights import OWNER

COUNTING = 8  # characters of a password
AGENT = "ngxsync-agent"
OF_SCRIPT = ("interval", "timeout", "weight", "rise", "fall", "user", "init_fail")


def judge_side(side: Side) -> Iterator[Finding]:
    """In the order in which an administrator would mend them."""
    found = [*judge_running(side), *judge_reading(side), *judge_firewall(side)]
    for instance in side.instances:
        found += judge_instance(side, instance)
    found += [*judge_several(side), *judge_scripts(side)]
    yield from found
    yield from judge_complaints(side, found)


def judge_running(side: Side) -> Iterator[Finding]:
    if side.facts["running"] is None and not (side.facts["version"] and side.facts["why"]):  # first it needs its file
        there = bool(side.facts["version"])
        what = "keepalived does not run" if there else "keepalived is not there"
        mend = "systemctl enable --now keepalived" if there else "apt-get install keepalived, or as your system has it"
        yield Finding("not-running", side.host, NOWHERE, what, mend)


def judge_reading(side: Side) -> Iterator[Finding]:
    """The file, what it includes, and what of it could not be followed."""
    if side.facts["why"]:
        is_closed = side.facts["uid"] != 0 and side.facts["why"] == "Permission denied"
        start = "" if side.facts["running"] else " && systemctl enable --now keepalived"
        mend = (
            "ask as root: `sudo ngxsync`, and [peer] user"
            if is_closed
            else f"(umask 077; ngxsync keepalived render {side.host} > {side.place}){start}"
        )
        yield Finding("no-conf", side.host, side.place, f"it cannot be read: {side.facts['why']}", mend)
        return
    for file, line, text in side.facts["problems"]:
        mend, state = "see to that line; what it would say is not judged here", WARNING
        if not line and "executable" in text:
            mend, state = f"chmod a-x {quote(file)}", FAILED
        yield Finding("not-followed", side.host, Place(file, line), text, mend, state)
    for each in side.unclosed:
        what = f"{each.name} has no closing brace: keepalived takes what follows for a part of it, and leaves it out"
        yield Finding("unclosed", side.host, each.place, what, f"}}   (after line {each.last.line})")
    if not side.instances and not side.unclosed:
        mend = f"ngxsync keepalived render {side.host} > {side.place}"
        yield Finding("no-instance", side.host, side.place, "it has no vrrp_instance, so no address ever moves", mend)


def judge_firewall(side: Side) -> Iterator[Finding]:
    way = {"in": "what the other host says never comes in", "out": "what this host says never goes out"}
    for drop in side.facts["firewall"]["drops"]:
        name = "AH, in which VRRP is here (protocol 51)," if drop.get("protocol") == 51 else "VRRP (protocol 112)"
        dropped = f"{drop['place']} drops {name} on {drop['interface']}, {way[drop['direction']]}"
        what = f"{dropped}: {drop['rule']}; mend it where your rules are kept, too"
        yield Finding("firewall", side.host, NOWHERE, what, str(drop["mend"]))
    why = side.facts["firewall"]["why"]
    if why:
        mend = f"see yourself whether protocol 112 passes on {side.host}: nft list ruleset"
        yield Finding("firewall-unread", side.host, NOWHERE, f"whether VRRP passes is not known: {why}", mend, WARNING)


def judge_instance(side: Side, instance: Instance) -> Iterator[Finding]:
    yield from _interfaces(side, instance)
    yield from _sources(side, instance)
    yield from _families(side, instance)
    yield from _password(side, instance)
    yield from _state(side, instance)
    yield from _tracking(side, instance)


def _interfaces(side: Side, instance: Instance) -> Iterator[Finding]:
    known, down = side.facts["interfaces"], set(side.facts.get("down", ()))
    own, tracked = instance.node.get("interface"), instance.node.lines("track_interface")
    found = [(node, node.value, "interface") for node in [own] if node]
    found += [(node, node.name, "") for node in tracked]
    lines = instance.node.lines("virtual_ipaddress", "virtual_ipaddress_excluded", "virtual_routes")
    is_made = instance.node.get("use_vmac")  # by keepalived, under a name of its own
    found += [(node, node.after("dev"), f"{node.name} dev") for node in lines if node.after("dev") and not is_made]
    for node, name, before in found:
        if name not in known:
            others = [each for each in known if each != "lo" and (before or each != instance.interface)]
            mend = f"{before} {' or '.join(others)}".strip() or f"take the line away: {name}"
            yield Finding("no-interface", side.host, node.place, NO_INTERFACE % name, mend)
        elif name in down and not node.after("weight"):
            down.remove(name)  # each once
            what = f"{name} is down: keepalived stays in FAULT, and the VIP does not come here"
            yield Finding("interface-down", side.host, node.place, what, f"ip link set {quote(name)} up, or its cable")


def _sources(side: Side, instance: Instance) -> Iterator[Finding]:
    told = {
        "mcast_src_ip": ("adverts name a sender that is not there, and a filter may drop them", WARNING),
        "unicast_src_ip": ("keepalived stays in FAULT", FAILED),
    }
    for name, (why, state) in told.items():
        node = instance.node.get(name)
        if node and normal(node.value) not in side.addresses:
            what = f"{node.value} is no address of this host: {why}"
            moving = {address for each in side.instances for address in each.addresses}
            own = [text for text in _plain_addresses(side, instance.family) if text not in moving]
            mend = f"{name} {' or '.join(own) or 'ADDRESS'}"
            yield Finding("source-address", side.host, node.place, what, mend, state)


def _plain_addresses(side: Side, family: int) -> list[str]:
    carried = [address for _, address in side.facts["carried"] if not address.startswith("fe80:")]
    return [address for address in carried if (":" in address) == (family == 6)]


def _families(side: Side, instance: Instance) -> Iterator[Finding]:
    for vip in instance.vips:
        if vip.family != instance.family:
            what = f"{vip.address} is of another family than {instance.vips[0].address}, and keepalived leaves it out"
            mend = f"virtual_ipaddress_excluded {{ {vip.text} }}"
            yield Finding("vip-families", side.host, vip.place, what, mend)


def _password(side: Side, instance: Instance) -> Iterator[Finding]:
    node = instance.node.get("authentication")
    if node and instance.version == 3:
        what = "VRRP version 3 ignores it: it crosses no network, and keeps nobody out"
        yield Finding("auth-ignored", side.host, node.place, what, "take the block away: authentication { ... }")
        return
    password = instance.password
    length = number(password.value, 0) if password else 0
    if password and length > COUNTING:
        what = f"the password has {length} characters, and keepalived cuts it to {COUNTING}"
        yield Finding(
            "long-password",
            side.host,
            password.place,
            what,
            f"auth_pass with {COUNTING} characters at most, on both hosts",
        )


def _state(side: Side, instance: Instance) -> Iterator[Finding]:
    for name in ("nopreempt", "preempt_delay"):
        node = instance.node.get(name)
        if node and instance.word("state") == "MASTER":
            what = f"state MASTER makes {name} (line {node.place.line}) mean nothing: at each start this host takes the VIP"
            yield Finding("master-nopreempt", side.host, instance.place_of("state"), what, "state BACKUP")
    closed = instance.node.get("no_accept")
    if closed and instance.priority != OWNER:
        what = "this host drops what is sent to the VIP while it holds it: nobody reaches nginx there"
        yield Finding("no-accept", side.host, closed.place, what, "accept")
    strict = instance.is_strict
    if strict and instance.priority != OWNER and not instance.node.get("accept"):
        what = "in strict mode the host drops what is sent to the VIP, and knows neither password nor unicast peers"
        yield Finding("strict", side.host, strict.place, what, f"take the line away: {strict.name}")


def _tracking(side: Side, instance: Instance) -> Iterator[Finding]:
    # in FAULT a member takes its whole group along
    takes_along = (each for other in side.members_with(instance) for each in other.tracked)
    if not instance.is_tracking and not any(each.weight == 0 and each.is_known for each in takes_along):
        what = f"{instance.name} tracks no script: a dead nginx moves nothing"
        group = side.group_of(instance.name)
        zero = " weight 0" if group and not group.get("sync_group_tracking_weight") else ""
        mends = [f"track_script {{ {name}{zero} }}" for name in side.scripts]
        mends += [f"track_process {{ {name} }}" for name in side.processes]
        mend = mends[0] if mends else "track_script { check_nginx }, with vrrp_script check_nginx as `render` writes it"
        yield Finding("no-track-script", side.host, instance.place, what, mend)
    for each in instance.tracked:
        if each.is_reversed:
            what = f"a failed {each.name} raises the priority, since its weight is reversed: the VIP stays"
            yield Finding("weight-reversed", side.host, each.place, what, f"{each.line}weight {-abs(each.weight)}")
        if each.weight and instance.priority == OWNER:
            what = f"a failed {each.name} moves nothing: of a host with priority {OWNER} keepalived tracks nothing that has a weight"
            why = "" if instance.node.get("priority") else ", and state MASTER without a priority has that"
            yield Finding("weight-too-small", side.host, each.place, what + why, f"{each.line}weight 0")
        group = side.group_of(instance.name)
        if each.is_left_out and each.is_known and group:
            what = f"keepalived tracks no {each.name} here: it has a weight, and vrrp_sync_group {group.value} ({group.place}) takes none"
            yield Finding("weight-in-group", side.host, each.place, what, f"{each.line}weight 0")
        if not each.is_known:
            what = f"there is no vrrp_script {each.name}, and keepalived leaves it out"
            mend = " or ".join(side.scripts) or f"vrrp_script {each.name} {{ ... }}"
            yield Finding("unknown-script", side.host, each.place, what, mend)


def judge_several(side: Side) -> Iterator[Finding]:
    """Several instances on one host."""
    taken = {each.router_id for each in side.instances}
    seen: dict[object, Instance] = {}
    for other in side.instances:
        one = seen.setdefault(_key(other), other)
        if one is not other and one.router_id:
            what = f"{one.name} ({one.place}) has virtual_router_id {one.router_id} on {one.interface} too"
            free = next((each for each in (*range(one.router_id, 256), *range(1, 256)) if each not in taken), 0)
            place = other.place_of("virtual_router_id")
            yield Finding(
                "router-id-twice", side.host, place, what, f"virtual_router_id {free or 'of another network'}"
            )
    if len(side.instances) > 1:
        groups = {group.value if (group := side.group_of(each.name)) else "" for each in side.instances}
        if len(groups) > 1 or "" in groups:
            names = " ".join(each.name for each in side.instances)
            what = f"{names} are in no common vrrp_sync_group: each host may come to hold some of the VIPs"
            is_weighed = any(tracked.weight for each in side.instances for tracked in each.tracked)
            mend = f"vrrp_sync_group all {{ group {{ {names} }} {'sync_group_tracking_weight ' if is_weighed else ''}}}"
            if len({each.word("state") == "MASTER" for each in side.instances}) > 1:  # these would pull a group apart
                mend = f"one state for all of them, and one host with the higher priority in all; then {mend}"
            yield Finding("no-sync-group", side.host, side.instances[1].place, what, mend, WARNING)


def _key(instance: Instance) -> tuple[object, ...]:
    """What adverts are told apart by; different unicast peers or groups are different networks."""
    return (
        instance.router_id,
        instance.interface,
        instance.family,
        frozenset(node.name for node in instance.peers) or instance.group,
    )


def judge_scripts(side: Side) -> Iterator[Finding]:
    """Each fault of a command once, where it stands first."""
    seen: set[tuple[object, ...]] = set()
    for script in side.facts["scripts"]:
        for code, path, what in script["faults"]:
            place, mend = Place(script["file"], script["line"]), _script_mend(side.host, code, path, script)
            if code == "script-user":
                place, mend = _user_of(side, script, place)
            elif code == "script-unquoted":
                mend = _all_of(side, script, place)
            key = (place, mend) if code == "script-user" else (code, path)
            if key not in seen:
                seen.add(key)
                told = what if path and path in what else f"{path}: {what}"
                yield Finding(code, side.host, place, told, mend)


def _words_at(side: Side, script: Mapping[str, Any], place: Place) -> list[str]:
    """All of the line that names the command."""
    found = (words for file, line, words in side.facts["statements"] if (file, line) == (place.file, place.line))
    return next((words for words in found if words[0] == script["keyword"]), [])


def _user_of(side: Side, script: Mapping[str, Any], place: Place) -> tuple[Place, str]:
    """Where it is said who runs it, and the line that says it better."""
    keyword, command = script["keyword"], script["command"]
    rest = _words_at(side, script, place)[2:]
    if keyword != "script" and rest:  # where a user is expected stands an argument, as a rule
        return place, f'{keyword} "{" ".join([command, *rest])}"'
    blocks = (node for node in side.nodes if any(line.place == place for line in node.inside))
    said = next((node.get("user") for node in blocks if node.name == "vrrp_script"), None)
    if said:
        return said.place, "user root"
    said = side.globals.get("script_user")
    mend = "script_user root" if side.globals.inside else "global_defs { script_user root }"
    return (said or side.globals).place, mend


def _all_of(side: Side, script: Mapping[str, Any], place: Place) -> str:
    """The line with its arguments in the quotes; or with each setting that stands on it in a line of its own."""
    keyword, command = script["keyword"], script["command"]
    rest = _words_at(side, script, place)[2:]
    if rest[:1] and rest[0] in OF_SCRIPT:
        return f'{keyword} "{command}"   (and each in a line of its own: {" ".join(rest)})'
    return f'{keyword} "{" ".join([command, *rest])}"'


def _script_mend(host: str, code: str, path: str, script: Mapping[str, Any]) -> str:
    if code == "script-missing" and path.endswith(AGENT):
        code = "agent-missing"
    if code == "script-not-executable" and script["user"] != "root":
        return f"chmod a+rx {quote(path)}"  # its interpreter has to read it, too
    mend = SCRIPT_MENDS.get(code, PUT_IT_THERE)
    name = posixpath.basename(path)
    return mend.format(host=host, path=path, quoted=quote(path), name=name, keyword=script["keyword"])


PUT_IT_THERE = 'put it there, or mend the line: {keyword} "/PATH/OF/IT"'
SCRIPT_MENDS = {
    "agent-missing": "start ngxsync.service on {host}, or `ngxsync peer install {host}` on the other host: either puts it there",
    "script-not-executable": "chmod +x {quoted}",
    "script-open": "chown root:root {quoted}; chmod go-w {quoted}",
    "script-interpreter": "#!/bin/sh   (as the first line of {path}, or what it is written for)",
    "script-noexec": 'script "/usr/local/sbin/{name}"   (put it there)',
    "script-unreadable": "chmod go+r {quoted}",
    "script-shell": 'write it into a file of root\'s with #!/bin/sh as its first line, and then {keyword} "/PATH/OF/IT"',
}
