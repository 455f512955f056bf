"""How fast `ngxsync diff` says what two trees of 1,000 vhosts mean (a part of `make bench`; alone: ARGS=meaning)."""

from __future__ import annotations

import json
import statistics
import sys

from tests.hosts import PROJECT
from tests.pair import BASE_TREE, ROOT, Pair, write_tree

SIZE = 1_000
ROUNDS = 5
LIMIT_S = 3.0


def vhost(number: int, root: str) -> str:
    """24 lines, as LIBRARIES measured crossplane with."""
    return f"""server {{
    listen 80;
    server_name v{number}.test www.v{number}.test;
    root html/{root};
    index index.html;
    access_log logs/v{number}.log;
    location / {{
        try_files $uri $uri/ =404;
    }}
    location = /version {{
        return 200 "{root}\\n";
    }}
    location ~ \\.php$ {{
        fastcgi_pass 127.0.0.1:9000;
        fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
    }}
    location /api/ {{
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_pass http://127.0.0.1:9001;
    }}
    error_page 404 /404.html;
}}
"""


def measure(pair: Pair) -> list[tuple[str, float, str]]:
    """(what, seconds, goal): the whole command, scans and connection and all, with one vhost edited, and with each one."""
    main = BASE_TREE["conf/nginx.conf"].replace("http {", "http {\n    server_names_hash_max_size 65536;")
    tree = {**BASE_TREE, **{f"conf/vhosts/v{n:05}.conf": vhost(n, "old") for n in range(SIZE)}}
    tree["conf/nginx.conf"] = main
    for host in pair.hosts:
        write_tree(host, ROOT, tree)
    first = pair.ngxsync("sync", "--yes")
    assert first.returncode == 0, first.stderr
    rows = []
    for name, count in (("one", 1), ("each", SIZE)):
        write_tree(pair.web1, ROOT, {f"conf/vhosts/v{n:05}.conf": vhost(n, "new") for n in range(count)})
        walls, works = zip(*(_seconds(pair, 2 * count) for _ in range(ROUNDS)), strict=True)
        what = f"`diff` with its meaning over {SIZE:,} vhosts, {name} of them edited"
        work = f"({statistics.median(works):.1f} s of a processor here)"
        rows.append((f"{what} {work}", statistics.median(walls), f"at most {LIMIT_S:g} s"))
    return rows


def _seconds(pair: Pair, findings: int) -> tuple[float, float]:
    """On the clock, and of this host's processor: a busy machine makes the first long."""
    command = f"TIMEFORMAT='%R %U'; time {sys.executable} -m ngxsync diff --json"
    done = pair.master.run(["/bin/bash", "-c", command], check=False, env={"PYTHONPATH": str(PROJECT)})
    (peer,) = json.loads(done.stdout)["peers"]
    assert len(peer["meaning"]) == findings, done.stderr
    wall, work = done.stderr.split()[-2:]
    return float(wall), float(work)
