"""What keepalived.conf says: written for both hosts of a pair, read from both, and judged. Pure."""
