"""The five time fields of a crontab line, checked as crontab(5) has them, without the library that runs them.

Every command reads the configuration, and few run a schedule: so the check costs no import. What it passes, cronsim
reads too (a test compares them); what only cronsim knows, such as L and #, is no crontab's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_WAIT = 41 * 366  # days: 29 February on one day of the week, over a year 2100
LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class Field:
    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        """Raises ValueError where the text is no number or name of this field."""
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.lowest
        if not re.fullmatch(r"[0-9]{1,2}", text) or not self.lowest <= int(text) <= self.highest:
            raise ValueError(text)
        return int(text)

    def values(self, text: str) -> set[int]:
        """Raises ValueError where a part of the list is none of *, a, a-b, */n, a-b/n."""
        found: set[int] = set()
        for part in text.split(","):
            shape = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]{1,3}))?", part)
            if not shape or (shape[4] and (int(shape[4]) == 0 or (shape[2] and not shape[3]))):
                raise ValueError(part)
            first = self.lowest if shape[1] else self.number(shape[2])
            last = self.highest if shape[1] else self.number(shape[3] or shape[2])
            if first > last:
                raise ValueError(part)
            found.update(range(first, last + 1, int(shape[4] or 1)))
        return found

    def __str__(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.lowest}-{self.highest}{named}"


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("day of week", 0, 7, DAYS),
)


def check_fields(text: str) -> str | None:
    """What is wrong with these five fields and what is allowed, or None where they are a time that comes one day."""
    parts = text.split()
    if len(parts) != len(FIELDS):
        return f"it has {len(parts)} fields, allowed are five: {', '.join(field.name for field in FIELDS)}"
    values: list[set[int]] = []
    for field, part in zip(FIELDS, parts, strict=True):
        try:
            values.append(field.values(part))
        except ValueError as error:
            return f"{field.name} has {str(error)!r}, allowed are *, {field}, a-b, */n and lists of them"
    _, _, days, months, _ = values
    if not _is_either_day(parts) and min(days) > max(LONGEST[month - 1] for month in months):
        return f"day of month {parts[2]} never comes in month {parts[3]}, allowed is a day that the month has"
    return None


def next_minute(text: str, now: datetime) -> datetime:
    """The next time after `now` (both by the wall clock, without a zone) that these five valid fields name."""
    parts = text.split()
    minutes, hours, days, months, weekdays = (field.values(part) for field, part in zip(FIELDS, parts, strict=True))
    for ahead in range(LONGEST_WAIT):
        day = now.date() + timedelta(ahead)
        fits = (day.day in days, day.isoweekday() in weekdays or (day.isoweekday() == 7 and 0 in weekdays))
        if day.month in months and (any(fits) if _is_either_day(parts) else all(fits)):
            times = (datetime.combine(day, time(hour, minute)) for hour in sorted(hours) for minute in sorted(minutes))
            fire = next((moment for moment in times if moment > now), None)
            if fire is not None:
                return fire
    raise ValueError(text)


def _is_either_day(parts: list[str]) -> bool:
    """Where neither day field begins with a star, a day that fits one of the two is enough."""
    return not parts[2].startswith("*") and not parts[4].startswith("*")
