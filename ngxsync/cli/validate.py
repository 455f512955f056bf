"""`ngxsync validate`: does nginx accept this host's configuration?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ngxsync.cli.group import command
from ngxsync.cli.options import config_option, json_option, open_assembly, print_json
from ngxsync.core.model import REFUSED
from ngxsync.core.render import SCHEMA, json_message, json_problem, render_message, render_problems
from ngxsync.core.wording import human_duration, safe_name
from ngxsync.edges.configfile import read_config

if TYPE_CHECKING:
    from ngxsync.flow.interfaces import Validation
    from ngxsync.flow.pipeline import Refusal


@command(
    "validate",
    example="ngxsync validate && ngxsync sync",
    statuses=(0, 3, 8),
    means={
        0: "accepted, perhaps with warnings",
        3: "refused, with file:line of every problem",
        8: "no test was possible (rehearse), or the files did not keep still for one (unsettled)",
    },
)
@config_option
@json_option
def validate(config: Path, as_json: bool) -> int:
    """Does nginx accept the configuration of this host?

    `nginx -t` decides, in a private view of the machine, so that the running nginx notices nothing of the test; where no
    nginx can be run here, the parser crossplane does. Every problem is shown as file:line, warnings too.
    """
    configuration = read_config(config)
    from ngxsync.flow.pipeline import Refusal

    refusal = None
    with open_assembly(configuration) as assembly:
        try:
            snapshot, validation, _ = assembly.pipeline.validate()
        except Refusal as error:
            refusal, validation = error, error.validation
    if as_json:
        print_json(json_validation(validation, refusal, "" if refusal else snapshot.id))
    else:
        by = (
            f"{safe_name(validation.binary)} -t"
            if validation.decided_by == "nginx"
            else "crossplane, no nginx runs here"
        )
        told = sys.stderr if refusal else sys.stdout
        print("\n".join(render_problems(validation.problems)), end="\n" if validation.problems else "", file=told)
        verdict = render_message(refusal.message) if refusal else f"{safe_name(configuration.nginx.conf)}: accepted"
        print(f"{verdict}\n  decided by: {by} ({human_duration(validation.seconds)})", file=told)
    return refusal.exit_status if refusal else 0


def json_validation(validation: Validation, refusal: Refusal | None, snapshot: str) -> dict[str, Any]:
    """The contract of DESIGN 6, with who decided and every problem."""
    return {
        "schema": SCHEMA,
        "command": "validate",
        "run": "",
        "outcome": REFUSED if refusal else "valid",
        "code": refusal.code if refusal else "",
        "exit": refusal.exit_status if refusal else 0,
        "peers": [],
        "snapshot": snapshot,
        "decided_by": validation.decided_by,
        "binary": validation.binary,
        "duration_s": validation.seconds,
        "problems": [json_problem(problem) for problem in validation.problems],
        "message": json_message(refusal.message if refusal else None),
    }
