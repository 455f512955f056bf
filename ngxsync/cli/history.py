"""`ngxsync history`: what the runs did, newest first; what one of them replaced on the peers, and its old text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ngxsync.cli.group import command
from ngxsync.cli.options import (
    config_option,
    json_option,
    limit_from,
    open_state,
    peer_option,
    print_json,
    raise_if_unknown_peers,
)
from ngxsync.core.errors import ConfigError, Message
from ngxsync.core.model import APPLIED, IN_SYNC, NOT_PROVEN, UNKNOWN, Change, PeerResult, Plan, Problem, RunResult
from ngxsync.core.render import SCHEMA, count_text, json_message, render_changes, render_run
from ngxsync.core.wording import human_duration, one_line, render_time, short_id
from ngxsync.edges.configfile import read_config
from ngxsync.edges.state import MasterState

ACCEPTED = (APPLIED, NOT_PROVEN)


@command(
    "history",
    example="ngxsync history --limit 5\nngxsync history 12\nngxsync history 12 /usr/local/nginx/conf/nginx.conf",
    statuses=(0, 4),
    means={4: "the old content was asked for, and no peer that has it could be asked"},
)
@click.argument("run", required=False)
@click.argument("path", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="NUMBER", help="How many runs."
)
@peer_option("Ask only this peer what the run replaced there.")
@config_option
@json_option
def history(run: str | None, path: str | None, limit: int, peers: tuple[str, ...], config: Path, as_json: bool) -> int:
    """What the runs did, newest first; with RUN (its id, or the number that it begins with) one of them whole, and what it
    replaced or deleted on the peers, edits made there included. With PATH too, the old content: what turns it into the new one.

    A run that found everything equal and was not asked for by a person leaves no record. Secrets are shown by size and hash
    alone. `ngxsync rollback RUN` brings a snapshot (the state of all files) back, with --path a single file.
    """
    configuration = read_config(config)
    raise_if_unknown_peers(peers, configuration)
    state = open_state(configuration)
    if run is None:
        records = state.history(limit)
        now_there = {peer.name: state.load_peer(peer.name).accepted for peer in configuration.peers}
        lines = render_list(records, now_there, state.now())
        print_json(json_history(None, records)) if as_json else print("\n".join(lines or ["no runs yet"]))
        return 0
    from ngxsync.cli import replaced

    record = find_run(state, run)
    limits = limit_from(path, configuration) if path else ""
    if not (as_json or path):
        print("\n".join(render_record(record, state.now())), flush=True)
    found = replaced.ask_peers(configuration, record, limits, peers)
    status = replaced.exit_of(found, limits)
    if as_json:
        error = replaced.error_of(found) if status else None
        said = {"exit": status, "code": error.code, "message": json_message(error.message)} if error else {}
        print_json({**json_history(run, [record]), **said, "replaced": replaced.as_json(found)})
    else:
        replaced.show(found, limits)
    return status


def render_list(records: Sequence[Mapping[str, Any]], now_there: Mapping[str, str], now: float) -> list[str]:
    """All runs; the newest that left a peer what it has now says so."""
    lines, waiting = [], {name: snapshot for name, snapshot in now_there.items() if snapshot}
    for record in records:
        marked = [name for name, snapshot in waiting.items() if _left(record, name) == snapshot]
        lines += render_summary(record, now, marked)
        for name in marked:
            del waiting[name]
    return lines


def _left(record: Mapping[str, Any], name: str) -> str:
    """The snapshot that the run left on that peer, "" where it accepted none."""
    peers = record.get("peers", ())
    return next((str(p.get("accepted", "")) for p in peers if p["name"] == name and p["outcome"] in ACCEPTED), "")


def find_run(state: MasterState, run: str) -> dict[str, Any]:
    """The record with this id, or whose id has this number. Raises ConfigError where there is none."""
    found = state.load_run(run)
    if found is None and run.isdecimal():
        found = next((each for each in state.history() if int(str(each["run"]).partition("-")[0]) == int(run)), None)
    if found is None:
        hint = "`ngxsync history` lists those that are recorded"
        raise ConfigError(
            Message(f"no such run: {run}", str(state.root / "runs"), "nothing changed", hint), code="unknown-run"
        )
    return found


def json_history(run: str | None, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    newest = records[0] if records else {}
    return {
        "schema": SCHEMA,
        "command": "history",
        "run": str(newest.get("run", "")) if run else "",
        "outcome": str(newest.get("outcome", UNKNOWN)),
        "code": str(newest.get("code", "")),
        "exit": 0,
        "peers": list(newest.get("peers", ())) if run else [],
        "runs": list(records),
        "message": None,
    }


def render_summary(record: Mapping[str, Any], now: float, marked: Collection[str] = ()) -> list[str]:
    """A line for the run, and one for each peer; the peers in `marked` still have what it left there."""
    if record.get("damaged"):
        return [f"{one_line(str(record['run']))}  unknown: its record is damaged"]
    result = result_from(record)
    code = f" ({one_line(result.code)})" if result.code and result.code != result.outcome else ""
    snapshot = f"  snapshot {short_id(result.snapshot)}" if result.snapshot else ""
    lines = [
        f"{result.run}  {render_time(result.started, now)}  {one_line(result.trigger)}: {result.outcome}{code}"
        f"  {human_duration(result.duration_s)}{snapshot}"
    ]
    for peer in result.peers:
        code = f" ({one_line(peer.code)})" if peer.code and peer.code != peer.outcome else ""
        counts = f", {count_text(Plan(peer.changes).counts())}" if peer.changes else ""
        left = f", snapshot {short_id(peer.accepted)}" if peer.accepted and peer.accepted != result.snapshot else ""
        mark = f"  <- {peer.name} has this now" if peer.name in marked else ""
        lines.append(f"  {peer.name}  {peer.outcome}{code}{counts}{left if peer.outcome in ACCEPTED else ''}{mark}")
    return lines


def render_record(record: Mapping[str, Any], now: float) -> list[str]:
    """All that is known of one run: as it was told then, with every path and what each step took."""
    if record.get("damaged"):
        return render_summary(record, now)
    result = result_from(record)
    lines = [render_run(result), f"  began {render_time(result.started, now)}"]
    if result.snapshot:
        lines.append(f"  snapshot {result.snapshot}")
    for peer in result.peers:
        if peer.changes or peer.outcome == IN_SYNC:  # else perhaps nobody compared
            lines.append(f"  {peer.name}: {count_text(Plan(peer.changes).counts())}")
        lines += [f"    {line}" for line in render_changes(peer.changes)]
        steps = ", ".join(f"{one_line(step)} {human_duration(seconds)}" for step, seconds in peer.timings.items())
        lines += [f"    took: {steps}"] if steps else []
    return lines


def result_from(record: Mapping[str, Any]) -> RunResult:
    """A recorded run as the value that it was; what an older release did not record is empty."""
    return RunResult(
        run=record["run"],
        trigger=record.get("trigger", ""),
        snapshot=record.get("snapshot", ""),
        exit=record.get("exit", 0),
        outcome=record.get("outcome", UNKNOWN),
        code=record.get("code", ""),
        peers=tuple(_peer_from(peer) for peer in record.get("peers", ())),
        problems=_problems_from(record),
        message=_message_from(record),
        started=float(record.get("started", 0.0)),
        duration_s=float(record.get("duration_s", 0.0)),
    )


def _peer_from(data: Mapping[str, Any]) -> PeerResult:
    return PeerResult(
        name=data["name"],
        outcome=data["outcome"],
        code=data.get("code", ""),
        exit=data.get("exit", 0),
        snapshot=data.get("snapshot", ""),
        accepted=data.get("accepted", ""),
        changes=tuple(Change(c["path"], c["kind"], None, None, None, c["cause"]) for c in data.get("changes", ())),
        message=_message_from(data),
        problems=_problems_from(data),
        warnings=tuple(data.get("warnings", ())),
        reload=data.get("reload", ""),
        bytes_sent=data.get("bytes_sent", 0),
        timings=data.get("timings", {}),
        run=data.get("run", ""),
    )


def _problems_from(data: Mapping[str, Any]) -> tuple[Problem, ...]:
    return tuple(Problem(p["text"], p["file"], p["line"], p["level"]) for p in data.get("problems", ()))


def _message_from(data: Mapping[str, Any]) -> Message | None:
    return Message(**data["message"]) if data.get("message") else None
