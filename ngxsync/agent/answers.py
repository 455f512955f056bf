"""Answers of the agent: JSON objects with `ok`, and for failures a stable code and a message in four parts."""

from typing import Any, Callable, Dict


class Failure(Exception):
    """Ends a verb with a message for people: what, where, what state things are in now, next step."""

    def __init__(
        self, code: str, what: str, where: str = "", state: str = "unchanged", next: str = "", **more: Any
    ) -> None:
        super(Failure, self).__init__(what)
        self.code = code
        self.message = {"what": what, "where": where, "state": state, "next": next}
        self.more = more

    def answer(self) -> Dict[str, Any]:
        return dict(self.more, ok=False, code=self.code, message=self.message)


class Abandoned(Failure):
    """The caller did not say go: nothing was begun, and nothing is recorded."""

    def __init__(self) -> None:
        super(Abandoned, self).__init__("abandoned", "the caller gave this run up before it began")


def guarded(work: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """Failures are answers; anything else is a bug and says where."""
    try:
        return work()
    except Failure as failure:
        return failure.answer()
    except Exception as error:  # noqa: BLE001 - one of the two outermost places
        import traceback

        where = traceback.format_exc(limit=-4)
        return {
            "ok": False,
            "code": "bug",
            "message": {"what": repr(error), "where": where, "state": "unknown", "next": "report it"},
        }
