"""What has to be found in each cell of the fault matrix: column by column, from settle to record."""

from __future__ import annotations

from tests.steps import STEPS

APPLIED = "0 applied, new; healed"
CUT = "4 unreachable (cut), old; healed"
CUT_BUT_DONE = "4 unreachable (cut), new; healed"
TRANSFER = "4 unreachable, old; healed"
DIED = "4 unknown (died), old; healed"
DISK = "4 unknown (disk), old; healed"
DISK_OPEN = "4 unknown (disk), open; healed"
NO_ROOM = "4 unknown (no-room), old; healed"
BROKEN = "7 broken, open; then 7 broken, healed by a person"
BROKEN_REBOOTED = "7 broken, open; then 6 undone, healed by a person"
DOWN = "1 not-proven (nginx-down), new; healed"
UNDONE = "6 undone, old; then 6 undone, healed by a person"
NOT_HERE = "3 refused (master-invalid), old; healed"
NOT_THERE = "5 refused, old; healed"
STRANGER = "8 awaiting-first-sync (first-contact), old; then 8 awaiting-first-sync, healed by a person"
DISK_STRANGER = "4 unknown (disk), old; then 8 awaiting-first-sync, healed by a person"
KILLED_OLD, KILLED_NEW = "killed, old; healed", "killed, new; healed"

# settle, scan, validate, plan, stage, rehearse, apply, prove, accept, record
COLUMNS: dict[str, tuple[str, ...]] = {
    # warm interpreters die unnoticed; what dies in the transaction is undone by the next contact, in the same run
    "agent-sigkill": (CUT, APPLIED, APPLIED, CUT, TRANSFER, CUT, DIED, DIED, DIED, APPLIED),
    # from its word to begin on, the peer ends alone
    "daemon-sigkill": (*[KILLED_OLD] * 5, *[KILLED_NEW] * 5),
    # and is asked for what it did
    "connection-cut": (CUT, APPLIED, APPLIED, CUT, TRANSFER, *[APPLIED] * 5),
    "connection-frozen": (*[CUT] * 4, TRANSFER, *[CUT_BUT_DONE] * 4, APPLIED),
    # undone in full, but its answer finds no room: the journal stays until the next contact
    "disk-full": (*[DISK] * 4, NO_ROOM, DISK, *[DISK_OPEN] * 3, APPLIED),
    # nothing can be put back before the reboot, where it is; the answer says so, and later runs hold back as after any undo
    "read-only": (*[DISK] * 4, NO_ROOM, DISK, *[BROKEN_REBOOTED] * 3, APPLIED),
    # the daemon knows what it needs, and records anew; who is asked without a memory is a stranger
    "state-gone": (APPLIED, STRANGER, STRANGER, DISK_STRANGER, STRANGER, STRANGER, *[DISK_STRANGER] * 3, APPLIED),
    # found by its hash and sent again (stage), or no longer used
    "stage-tampered": (*[APPLIED] * 10,),
    # on the master for its own steps; past the rehearsal it is nginx itself that hangs in its reload
    "test-hangs": (APPLIED, NOT_HERE, NOT_HERE, *[NOT_THERE] * 3, BROKEN, BROKEN, APPLIED, APPLIED),
    # dead before the transaction looks: nothing to reload; dead in it: put back, and nobody there who could prove it
    "nginx-dies": (*[DOWN] * 6, BROKEN, BROKEN, APPLIED, APPLIED),
    # from the proof on the port is nginx's own
    "reload-refused": (*[UNDONE] * 8, APPLIED, APPLIED),
    "clock-back": (*[APPLIED] * 10,),
    # the peer is up again when the master goes on: its own steps notice nothing
    "reboot": (CUT, APPLIED, APPLIED, CUT, TRANSFER, *[CUT] * 4, APPLIED),
}

CELLS = {
    (step.name, fault): found for fault, column in COLUMNS.items() for step, found in zip(STEPS, column, strict=True)
}

# what the message of a failed run says besides its four parts, by the begin of the cell's line
SAYS = {
    "1 not-proven (nginx-down)": "applied, but nginx does not run there",
    "3 refused": "nginx -t did not end within 60",
    "4 unknown (died)": "the agent was ended in the middle of its work, and what it had begun was undone",
    "4 unreachable (cut)": "the connection ended before the answer came",
    # with 255, 12 or 10: by which of its processes notices the end first
    "4 unreachable": "(rsync ended with ",
    "5 refused": "nginx -t did not end within 60",
    "6 undone": "bind() to 0.0.0.0:8081 failed (98: Address already in use)",
    "8 awaiting-first-sync": "no accepted snapshot in common",
}
# where the fault says more than the outcome
SAYS_OF_FAULT = {
    ("disk-full", "4"): "No space left on device",
    ("read-only", "4"): "Read-only file system",
    ("read-only", "7"): "Read-only file system",
    ("state-gone", "4"): "/var/lib/ngxsync/peer",
    ("nginx-dies", "7"): "nginx is down: its main process has ended",
    ("test-hangs", "7"): "did not become idle within 30 s",
}

# each step and each fault at least once, none that waits long
IN_CI = (
    ("settle", "agent-sigkill"),
    ("settle", "daemon-sigkill"),
    ("scan", "clock-back"),
    ("validate", "reboot"),
    ("plan", "state-gone"),
    ("stage", "stage-tampered"),
    ("stage", "disk-full"),
    ("stage", "connection-frozen"),
    ("rehearse", "connection-cut"),
    ("rehearse", "nginx-dies"),
    ("apply", "agent-sigkill"),
    ("apply", "read-only"),
    ("apply", "reboot"),
    ("apply", "state-gone"),
    ("prove", "reload-refused"),
    ("prove", "nginx-dies"),
    ("prove", "disk-full"),
    ("accept", "agent-sigkill"),
    ("accept", "test-hangs"),
    ("record", "connection-frozen"),
    ("record", "daemon-sigkill"),
)


def says(fault: str, line: str) -> str:
    """What the text of that run has to say."""
    of_fault = SAYS_OF_FAULT.get((fault, line[:1]))
    return of_fault or next((text for begin, text in SAYS.items() if line.startswith(begin)), "")
