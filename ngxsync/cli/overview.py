"""What `ngxsync --help` says, as one constant: it is printed without importing anything."""

OVERVIEW = """\
usage: ngxsync COMMAND [OPTIONS]

Keeps the nginx of a pair of hosts the same: an edit here is tested, sent, tested
there, applied, reloaded and proven to run, or put back.

Set up:
  init         write config.ini from the crontab line that did this job before
  check        can this pair work? named checks on both hosts, with hints
  peer         a restricted key for a peer: peer install, peer remove
  keepalived   keepalived.conf of both hosts: keepalived render, keepalived check
  demo         see it all on this one machine, without touching its own nginx

Look:
  status       what each peer runs, as the latest run left it, and what to do
  ready        would a peer serve the same if the VIP moved to it now? why not
  diff         what differs on the peers, why, and what it means for nginx; the text
  validate     does nginx accept the configuration of this host?
  history      what the runs did, newest first; what one replaced, and its old text

Act:
  sync         make the peers like this host, now
  rollback     take the peers back to an earlier snapshot, or single files of it
  pull         take edits that were made on a peer back to this host
  promote      make this host the one that pushes (pairs without a VIP)
  pause        no automatic runs, until a time or until resume
  resume       end a pause
  run          the daemon: syncs whenever something changes here
  check-nginx  does nginx live here? starts it where not; keepalived asks this
  notify       try the mail server, send what waits; what keepalived calls

Options:
  -h, --help   this text; ngxsync COMMAND --help has options, example, exit statuses
  --version    the version
"""
