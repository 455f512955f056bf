"""`probe`: a URL that must answer after a reload, asked by the agent itself."""

import base64
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.parse
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
        reason = answers[0] if answers else "probe %s did not answer within %.1f s" % (shown(url), timeout_s)
        if not reason or time.monotonic() >= end - PAUSE_S:
            return reason
        time.sleep(PAUSE_S)


def shown(url: str) -> str:
    """The URL for messages and records: without user, password and query, which may be secrets."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0].partition("#")[0]
    return "%s://%s" % (scheme, place.rpartition("@")[2])


def _request(url: str) -> urllib.request.Request:
    """User and password as HTTP sends them: urllib takes them for a part of the host. Raises ValueError."""
    parts = urllib.parse.urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if at:
        token = base64.b64encode(urllib.parse.unquote_to_bytes(userinfo)).decode("ascii")
        request.add_header("Authorization", "Basic " + token)
    return request


def _ask_once(url: str, timeout_s: float, answers: List[str]) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by address
    handlers = [_NoRedirect(), urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    try:
        with urllib.request.build_opener(*handlers).open(_request(url), timeout=timeout_s):
            answers.append("")
    except urllib.error.HTTPError as error:
        answers.append("" if 300 <= error.code < 400 else "probe %s answered %d" % (shown(url), error.code))
    except (ValueError, http.client.InvalidURL):  # their texts quote the URL
        answers.append("probe %s: nothing that can be asked" % shown(url))
    except Exception as error:  # noqa: BLE001 - whatever a server can do to http.client is an answer too
        answers.append("probe %s: %s" % (shown(url), error))
