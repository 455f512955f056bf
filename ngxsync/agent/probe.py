"""`probe`: a URL that must answer after a reload, asked by the agent itself."""

import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import Any, List

PAUSE_S = 0.1


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def ask(url: str, timeout_s: float) -> str:
    """ "" where the URL answers 2xx or 3xx, else the reason. Asked until the time is over: a fresh worker may be slow."""
    end, reason = time.monotonic() + timeout_s, ""
    while True:
        left = max(0.2, end - time.monotonic())
        answers: List[str] = []
        # in a thread, since a server that sends a byte now and then keeps every socket's own time-out from ever passing
        asking = threading.Thread(target=_ask_once, args=(url, left, answers), daemon=True)
        asking.start()
        asking.join(left)
        reason = answers[0] if answers else "probe %s did not answer within %.1f s" % (url, timeout_s)
        if not reason or time.monotonic() >= end - PAUSE_S:
            return reason
        time.sleep(PAUSE_S)


def _ask_once(url: str, timeout_s: float, answers: List[str]) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by address
    handlers = [_NoRedirect(), urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=timeout_s):
            answers.append("")
    except urllib.error.HTTPError as error:
        answers.append("" if 300 <= error.code < 400 else "probe %s answered %d" % (url, error.code))
    except Exception as error:  # noqa: BLE001 - whatever a server can do to http.client is an answer too
        answers.append("probe %s: %s" % (url, error))
