"""config.ini of a pair whose hosts share one: what two hosts see of each other's without a value leaving its host."""

import hashlib
from typing import Dict, Optional

CONFIG = "/etc/ngxsync/config.ini"


def marks(path: str = CONFIG) -> Optional[Dict[str, str]]:
    """{"[section] option": a mark of its value}, equal where the values are, whatever their spaces; None where no such file can be read."""
    import configparser  # notify, which needs this file's path alone, does without

    # as core/inifile.py reads it
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with open(path, encoding="utf-8-sig") as stream:
            parser.read_file(stream)
    except (OSError, ValueError, configparser.Error):
        return None
    found = {}
    for section in parser.sections():
        for option, value in parser.items(section):
            lines = "\n".join(line.strip() for line in value.split("\n") if line.strip())
            found["[%s] %s" % (section, option)] = hashlib.sha256(lines.encode("utf-8")).hexdigest()[:12]
    return found
