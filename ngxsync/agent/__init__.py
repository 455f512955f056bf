"""The part that runs on the peer, and scans the master's own trees: standard library of Python 3.6 only, imports nothing of the rest."""
