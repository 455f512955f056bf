"""`ngxsync-agent status` as a tired person reads it: one word, whether this host may serve, then why, then one thing to do."""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

Answer = Dict[str, Any]
Verdict = NamedTuple("Verdict", [("word", str), ("meaning", str), ("next", str)])

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
NOTHING = "nothing"  # how what a person has to do begins where that is nothing
RECOVER_SAYS = "`ngxsync-agent recover` says what to do"
STEP = {"open": "its files were being replaced", "applied": "its files were replaced, nginx was not told yet"}
WORDS = {"fault": "FAULT: its interface, or its check of nginx", "stop": "stopped"}
SIGNALLED = "its files were replaced, and nginx was told to reload"


def status_lines(answer: Answer) -> List[str]:
    """The text for people; times in this host's time zone."""
    verdict = judge(answer)
    rows = [
        ("accepted", _accepted(answer)),
        ("trees", _trees(answer["edited"])),
        ("nginx", _nginx(answer)),
        ("vrrp", _vrrp(answer)),
        ("unfinished", _unfinished(answer)),
        ("refused", _refused(answer)),
        ("door", _door(answer["door"])),
        ("at boot", _at_boot(answer)),
        ("history", [_history(**answer["history"])]),
    ]
    lines = ["%s as a peer of ngxsync: %s" % (answer["host"], verdict.word), "  " + verdict.meaning, ""]
    for name, texts in rows:
        lines += ["%-11s %s" % (name if place == 0 else "", text) for place, text in enumerate(texts)]
    return lines + ["", "next: " + verdict.next]


def judge(answer: Answer) -> Verdict:
    """The most serious of what is true; the rest is in the rows. Where files and nginx want nothing, the VIP may."""
    verdict = next(verdict for verdict in (rule(answer) for rule in RULES) if verdict is not None)
    hint = _hint_of_vrrp(answer)
    return verdict._replace(next=hint) if hint and verdict.next.startswith(NOTHING) else verdict


def _hint_of_vrrp(answer: Answer) -> str:
    """What has to be done for this host to take the VIP, and to give it up again; "" where nothing has."""
    found = answer.get("vrrp")
    if not found:
        return ""
    if not found["keepalived"]:
        return "`systemctl start keepalived`: without it this host neither takes the VIP nor gives it up"
    if (found["told"] or {}).get("role") == "fault" and not found["carried"]:
        return "`journalctl -u keepalived` says why it is in fault: it takes no VIP until that is mended"
    return ""


def _judge_journal(answer: Answer) -> Optional[Verdict]:
    opened, lock, broken = answer["journal"], answer["lock"], (answer["last"] or {}).get("outcome") == "broken"
    if opened is None:
        return None
    if lock is not None and not broken:
        return Verdict("busy", "A run is at work here right now.", "wait a minute, then `ngxsync-agent status` again")
    if not opened["run"]:
        return Verdict("broken", "The files may be half old, half new: the journal of a run is damaged.", RECOVER_SAYS)
    if broken:
        return Verdict(
            "broken",
            "The files may be half old, half new: undoing a run failed.",
            "mend the cause, then `ngxsync-agent recover`",
        )
    return Verdict(
        "unfinished",
        "The files may be half old, half new: a run was interrupted.",
        "`ngxsync-agent recover` finishes or undoes it",
    )


def _judge_accepted(answer: Answer) -> Optional[Verdict]:
    if answer["accepted"] is not None:
        return None
    hint = "`ngxsync sync` on the master; where this host is it: `ngxsync status`"
    return Verdict("awaiting-first-sync", "Nothing was synced to this host yet.", hint)


def _judge_nginx(answer: Answer) -> Optional[Verdict]:
    nginx = answer["nginx"]
    if nginx["state"] == "down":
        return Verdict(
            "nginx-down",
            "nginx does not run: this host serves nothing.",
            "`%s -t`, then start nginx as this host does" % nginx["start"],
        )
    if nginx["state"] == "stale" and nginx["needs_restart"]:
        restart = "`%s -t`, then restart nginx as this host does, when a pause does no harm"
        meaning = "nginx runs something older than what is on its disk, and a reload does not change that."
        return Verdict("stale-running", meaning, restart % nginx["start"])
    if nginx["state"] == "stale":
        reload = "`%s -t && kill -HUP %d` has it read them" % (nginx["start"], nginx["pid"])
        return Verdict("stale-running", "nginx runs something older than the files on its disk.", reload)
    if nginx["state"] == "unknown":
        return Verdict(
            "unknown", "Which nginx serves here cannot be told.", "see `ps -ef | grep nginx`: " + nginx["why"]
        )
    return None


def _judge_pulled(answer: Answer) -> Optional[Verdict]:
    """A master, whose trees are its own: what was edited here since it pulled is no drift."""
    record = answer["accepted"]
    if record.get("kind") not in ("pull", "promote"):
        return None
    took = "took edits from its peer" if record["kind"] == "pull" else "was promoted"
    then = "It is a master, and " + took + " %s; what was edited here since is its own."
    return Verdict(
        "in-sync", then % age(answer["now"] - record["at"]), "nothing here: `ngxsync status` tells of its peers"
    )


def _judge_trees(answer: Answer) -> Optional[Verdict]:
    edited = answer["edited"]
    if edited is None or edited["count"] is None:
        return Verdict(
            "unknown", "Whether the files are those that were accepted cannot be told.", "`ngxsync diff` on the master"
        )
    if not edited["count"]:
        return None
    if (answer.get("vrrp") or {}).get("carried"):
        meaning = "It holds the VIP and serves, with files that were edited here after the last sync: they are this host's own now."
        return Verdict(
            "drifted", meaning, "nothing tonight; when the other host returns, its runs wait for `ngxsync pull` there"
        )
    meaning = "It serves, with files that somebody edited here after the last sync."
    return Verdict("drifted", meaning, "nothing tonight; before the master pushes again: `ngxsync diff` there")


def _judge_runs(answer: Answer) -> Optional[Verdict]:
    if answer["refused"] is None:
        return None
    meaning = "It serves what was accepted. What the master sent later did not get here."
    return Verdict(
        answer["refused"]["outcome"] or "failed",
        meaning,
        "nothing here: mend it on the master, or live with the older state",
    )


def _judge_proof(answer: Answer) -> Verdict:
    if not answer["accepted"]["proven"]:
        meaning = "The files are the master's, but no reload has proven that nginx runs them."
        return Verdict(
            "not-proven", meaning, "`%s -t && kill -HUP %d`" % (answer["nginx"]["start"], answer["nginx"]["pid"])
        )
    record = answer["accepted"]
    if record.get("kind", "sync") == "rollback":
        back = "It serves an older state on purpose: rolled back from %s, %s; automatic runs wait until the cause is mended there."
        meaning = back % (record["written_by"], age(answer["now"] - record["at"]))
        return Verdict("in-sync", meaning, "nothing to do")
    then = "It serves what %s had %s" % (record["written_by"], age(answer["now"] - record["at"]))
    return Verdict("in-sync", then + "; what was edited there later is not here.", "nothing to do")


RULES: List[Callable[[Answer], Optional[Verdict]]] = [
    _judge_journal,
    _judge_accepted,
    _judge_nginx,
    _judge_pulled,
    _judge_trees,
    _judge_runs,
    _judge_proof,
]


# the rows


def _accepted(answer: Answer) -> List[str]:
    record = answer["accepted"]
    if record is None:
        return ["nothing yet"]
    why = "nginx did not run when it was applied"
    if record.get("kind") == "pull":
        why += ", or had nothing to load anew"
    proven = "proven" if record["proven"] else "not proven: " + why
    text = "%s from %s, %s, %s"
    return [
        text % (record["id"][:12], record["written_by"], _when(record["at"], answer["now"]), proven),
        "by run %s%s" % (record["run"], "" if record.get("kind", "sync") == "sync" else ", a " + record["kind"]),
    ]


def _trees(edited: Optional[Answer]) -> List[str]:
    if edited is None:
        return ["nothing to compare them with"]
    if edited["count"] is None:
        return ["cannot be compared: " + "; ".join(edited["unread"])]
    more = edited["count"] - len(edited["paths"])
    told = [] if not edited["count"] else ["%d differ from accepted, edited here:" % edited["count"]]
    told += ["  " + shown(path) for path in edited["paths"]] + (["  and %d more" % more] if more else [])
    return (told or ["as accepted"]) + ["cannot be read: " + shown(text) for text in edited["unread"]]


def _nginx(answer: Answer) -> List[str]:
    nginx, now = answer["nginx"], answer["now"]
    if nginx["state"] == "down":
        return ["does not run"]
    if nginx["state"] == "unknown":
        return ["unknown: " + shown(nginx["why"])]
    lines = ["runs (process %d), read its configuration %s" % (nginx["pid"], _when(nginx["loaded"], now))]
    if nginx["state"] == "stale":
        when = "was changed " + _when(nginx["changed"], now) if nginx["changed"] is not None else "is gone"
        told = ["nginx refused it: " + shown(nginx["refused"])] if nginx["refused"] else []
        return lines + ["but %s %s" % (shown(nginx["file"]), when)] + told
    return lines


def _vrrp(answer: Answer) -> List[str]:
    found = answer.get("vrrp")
    if not found:
        return []
    told = found["told"] or {"role": "", "since": None}
    if found["carried"]:
        since = ", since " + _when(found["since"], answer["now"]) if found["since"] else ""
        lines = ["VRRP MASTER: it holds %s%s" % (", ".join(map(shown, found["carried"])), since)]
    else:
        since = ", since " + _when(told["since"], answer["now"]) if told["since"] and told["role"] != "master" else ""
        lines = ["VRRP %s%s" % (WORDS.get(told["role"], "BACKUP"), since)]
    return lines if found["keepalived"] else lines + ["keepalived does not run here: `systemctl start keepalived`"]


def _unfinished(answer: Answer) -> List[str]:
    opened, lock = answer["journal"], answer["lock"]
    if opened is None:
        return ["nothing"]
    if not opened["run"]:
        return ["a run whose journal is damaged"]
    who = "at work: process %s" % lock.get("pid", "?") if lock is not None else "interrupted"
    when = ", begun %s" % _when(opened["since"], answer["now"]) if opened["since"] else ""
    return ["run %s%s, %s" % (opened["run"], when, who), STEP.get(opened["phase"], SIGNALLED)]


def _refused(answer: Answer) -> List[str]:
    refused = answer["refused"]
    if refused is None:
        return ["nothing since the last sync"]
    when = " " + _when(refused["at"], answer["now"]) if refused["at"] else ""
    code = " (%s)" % refused["code"] if refused["code"] not in ("", refused["outcome"]) else ""
    first = "run %s%s: %s%s" % (refused["run"], when, refused["outcome"] or "failed", code)
    since = (
        ["%d runs since %s" % (refused["count"], _moment(refused["since"]))]
        if refused["count"] > 1 and refused["since"]
        else []
    )
    return [first] + ["  " + shown(line) for line in refused["lines"]] + since


def _door(door: Optional[Answer]) -> List[str]:
    if not door:
        return ["refused nobody"]
    often = "once" if door["count"] == 1 else "%d times, last" % door["count"]
    return ["refused %s: %s" % (often, shown(door["last"]))]


def _history(runs: int, folder: str) -> str:
    return "%d run%s in %s/runs, what they replaced in %s/blobs" % (runs, "" if runs == 1 else "s", folder, folder)


def _at_boot(answer: Answer) -> List[str]:
    result = answer["recovery_result"]
    failed = (
        "; it failed at this boot (%s): `journalctl -u ngxsync-recover`" % result
        if result not in ("", "success")
        else ""
    )
    return ["recovery " + answer["recovery_unit"] + failed]


def _when(seconds: float, now: float) -> str:
    return "%s (%s)" % (_moment(seconds), age(now - seconds))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def age(seconds: float) -> str:
    """In the largest unit that is whole: "3 hours ago"; a clock that went back is said."""
    if seconds < 0:
        return "in the future by this host's clock"
    size, name = next(((size, name) for size, name in UNITS if seconds >= size), UNITS[-1])
    count = int(seconds // size)
    return "%d %s%s ago" % (count, name, "" if count == 1 else "s")


def shown(text: str) -> str:
    """Names and messages are others' words: nothing of them moves the cursor or begins a line of its own."""
    return "".join(char if char.isprintable() else "\\x%02x" % ord(char) for char in text)
