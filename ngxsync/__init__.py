"""ngxsync keeps the nginx of a keepalived pair the same: tested, applied, reloaded, proven, or put back."""

__version__ = "0.1.0"
