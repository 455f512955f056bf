"""Whether this host's packet filter drops VRRP (protocol 112) on its way in or out: nft's and iptables' rules, read and walked through."""

import json
import os
import shutil
import subprocess
from typing import Any, Dict, Iterator, List, Optional

from . import iptrules, nftrules
from .rulewalk import Outcome, Packet, walk

Answer = Dict[str, Any]

ASK_S = 5.0
LARGEST = 16 << 20  # bytes of a ruleset
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IPTABLES = {4: "iptables", 6: "ip6tables"}
OF_IPTABLES = ("filter", "nat", "mangle", "raw", "security")  # its tables, as nft lists them too
LEGACY = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}


class Unread(Exception):
    """A program that lists rules is there, and did not."""


def drops(packets: List[Packet]) -> Answer:
    """`drops`: what becomes of those packets that are dropped for certain; `why`: what could not be read, "" where all was."""
    found: List[Answer] = []
    why: List[str] = []
    for reader in (_by_iptables, _by_nft):
        try:
            found += [each for each in reader(packets) if each not in found]
        except Unread as error:
            why.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            why.append("the rules of %s are of a form that is not known here" % reader.__name__[4:])
    return {"drops": found, "why": "; ".join(why)}


def _by_nft(packets: List[Packet]) -> Iterator[Answer]:
    text = _output("nft", "-j", "list", "ruleset")
    if text is None:
        return
    is_bridged = "nf_tables" in (_output("iptables", "--version") or "")
    tables = [each for each in nftrules.tables(json.loads(text)) if not (is_bridged and _is_of_iptables(each))]
    for packet in packets:
        for table, base in nftrules.bases_for(tables, packet):
            outcome = walk(table.chains, base, packet)
            if outcome.verdict == "drop":
                if outcome.is_sure:
                    rule = "%s %s %s meta l4proto %d accept" % (table.family, table.name, base, packet.protocol)
                    mend = "nft insert rule " + rule
                    yield _told(packet, "nft %s %s %s" % (table.family, table.name, outcome.chain), outcome, mend)
                break


def _is_of_iptables(table: nftrules.Table) -> bool:
    return table.family in ("ip", "ip6") and table.name in OF_IPTABLES


def _by_iptables(packets: List[Packet]) -> Iterator[Answer]:
    for family, program in IPTABLES.items():
        own = [packet for packet in packets if packet.family == family]
        for command in _savers(family, program) if own else []:
            tables = iptrules.tables(_output(command) or "")
            for packet in own:
                for chains, table, base in iptrules.bases_for(tables, packet):
                    outcome = walk(chains, base, packet)
                    if outcome.verdict == "drop":
                        if outcome.is_sure:
                            tool = command.replace("-save", "")
                            where = "" if table == "filter" else "-t %s " % table
                            mend = "%s %s-I %s -p %d -j ACCEPT" % (tool, where, base, packet.protocol)
                            yield _told(packet, "%s %s %s" % (tool, table, outcome.chain), outcome, mend)
                        break


def _savers(family: int, program: str) -> List[str]:
    """What lists its tables; the older kernel interface is asked only where it has some."""
    found = [program + "-save"]
    try:
        with open(LEGACY[family]) as stream:
            if stream.read().strip() and "nf_tables" in (_output(program, "--version") or ""):
                found.append(program + "-legacy-save")
    except OSError:
        pass
    return found


def _told(packet: Packet, place: str, outcome: Outcome, mend: str) -> Answer:
    return {
        "family": packet.family,
        "direction": packet.direction,
        "interface": packet.interface,
        "place": place,
        "rule": outcome.rule,
        "mend": mend,
        "protocol": packet.protocol,
    }


def _output(*argv: str) -> Optional[str]:
    """None where there is no such program. Raises Unread."""
    program = shutil.which(argv[0], path=PATH)
    if not program:
        return None
    try:
        done = subprocess.run(
            (program,) + argv[1:],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C"},
            timeout=ASK_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unread("%s: %s" % (os.path.basename(argv[0]), error))
    if done.returncode or len(done.stdout) > LARGEST:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [
            "it ended with %d" % done.returncode
        ]
        raise Unread("%s: %s" % (" ".join(argv), said[0][:200]))
    return done.stdout.decode("utf-8", "replace")
