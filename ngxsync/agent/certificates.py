"""The certificates that a configuration names: until when each is good, and whether the key beside it belongs to it.

The end of a certificate is read from its DER by hand: ssl of Python 3.6 parses one only as a connection's. Whether a key belongs
to it is OpenSSL's word (load_cert_chain); one with a passphrase is not judged, and nobody is asked for it.
"""

import base64
import binascii
import calendar
import hashlib
import re
import time
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .directives import Directive, named_files, open_file

Answer = Dict[str, Any]
Pair = NamedTuple("Pair", [("certificate", str), ("key", str), ("file", str), ("line", int)])

LIMIT = 2000  # pairs
LONGEST = 1 << 20  # bytes of one file
IN_ALL_S = 3.0  # what is left then is told without the key's match; a key costs OpenSSL 0.7 ms
QUICKLY_S = 0.3
SIDES = ("", "proxy_", "grpc_", "uwsgi_")
FIRST = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.DOTALL
)
MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
SEQUENCE, UTC_TIME, VERSION = 0x30, 0x17, 0xA0


class Encrypted(Exception):
    """The key has a passphrase."""


def pairs(directives: Iterable[Directive], conf_dir: str, prefix: str) -> List[Pair]:
    """The first certificate of a block with its first key, and so on; "" for a key that is elsewhere, or no file."""
    found: Dict[Tuple[str, str], Pair] = {}
    for block in _blocks(directives):
        for side in SIDES:
            ends = [side + name for name in ("ssl_certificate", "ssl_certificate_key")]
            certificates, keys = [[each for each in block if each.name == name] for name in ends]
            for number, named in enumerate(certificates):
                certificate = _path(named, conf_dir, prefix)
                key = _path(keys[number], conf_dir, prefix) if number < len(keys) else ""
                if certificate and len(found) < LIMIT:
                    found.setdefault((certificate, key), Pair(certificate, key, named.file, named.line))
    return list(found.values())


def _path(named: Directive, conf_dir: str, prefix: str) -> str:
    return next((item.path for item in named_files([named], conf_dir, prefix)), "")


def _blocks(directives: Iterable[Directive]) -> Iterator[List[Directive]]:
    """What stands directly in each block of each file, or in the file outside of any."""
    file, around = "", [[]]  # type: str, List[List[Directive]]
    for each in directives:
        while len(around) > (each.depth + 1 if each.file == file else 0):
            yield around.pop()
        while len(around) <= each.depth:
            around.append([])
        around[-1].append(each)
        file = each.file
        if each.block:
            around.append([])
    yield from around


def described(found: Iterable[Pair], in_all_s: float) -> List[Answer]:
    end = time.monotonic() + in_all_s
    return [describe(pair, match=time.monotonic() < end) for pair in found]


def describe(pair: Pair, match: bool = True) -> Answer:
    """`matches` is None where it is not to be known; `why` says what is wrong, or why it is not known."""
    answer: Answer = dict(pair._asdict(), matches=None, not_after=None, fingerprint="", why="")
    try:
        der = leaf(pair.certificate)
        answer["fingerprint"] = hashlib.sha256(der).hexdigest()
        answer["not_after"] = not_after(der)
    except FileNotFoundError:
        return answer  # that is told apart: of each file that nginx reads
    except OSError as error:
        return dict(answer, why="%s: %s" % (pair.certificate, error.strerror or error))
    except (ValueError, IndexError):
        return dict(answer, why="%s: no certificate can be read in it" % pair.certificate)
    if pair.key and match:
        answer["matches"], answer["why"] = belongs(pair.certificate, pair.key)
    return answer


def leaf(path: str) -> bytes:
    """The DER of the first certificate of a PEM file. Raises OSError, ValueError."""
    with open_file(path) as stream:
        found = FIRST.search(stream.read(LONGEST))
    if found is None:
        raise ValueError("no certificate")
    return base64.b64decode(b"".join(found.group(1).split()))


def not_after(der: bytes) -> float:
    """The end of its validity in seconds since 1970. Raises ValueError, IndexError where the bytes are no certificate.

    Certificate is a SEQUENCE that begins with tbsCertificate: [0] version (may be missing), serialNumber, signature, issuer, validity.
    """
    inner, _, _ = _element(der, 0, SEQUENCE)
    at, _, _ = _element(der, inner, SEQUENCE)
    if der[at] == VERSION:
        _, at, _ = _element(der, at)
    for _ in range(3):
        _, at, _ = _element(der, at)
    validity, _, _ = _element(der, at, SEQUENCE)
    _, second, _ = _element(der, validity)
    begin, end, tag = _element(der, second)
    return _moment(der[begin:end].decode("ascii"), tag)


def _element(der: bytes, at: int, tag: Optional[int] = None) -> Tuple[int, int, int]:
    """(where the content begins, where it ends, tag) of the element at `at`."""
    if tag is not None and der[at] != tag:
        raise ValueError("tag %d at %d" % (der[at], at))
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin], "big")
    if begin + length > len(der):
        raise ValueError("cut off")
    return begin, begin + length, der[at]


def _moment(text: str, tag: int) -> float:
    """YYMMDDHHMMSSZ (until 2049) or YYYYMMDDHHMMSSZ."""
    if tag == UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def belongs(certificate: str, key: str) -> Tuple[Optional[bool], str]:
    """(whether the key is that of the certificate or None, why that is not known)."""
    try:
        import ssl  # Python can be built without
    except ImportError:
        return None, "this Python has no OpenSSL to try it with"
    try:
        open_file(key).close()  # a pipe would be waited for
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")  # how strong a key has to be is nginx's to say
        context.load_cert_chain(certificate, key, password=_refuse)
    except FileNotFoundError:
        return None, ""
    except Encrypted:
        return None, "%s has a passphrase" % key
    except ssl.SSLError as error:
        return (False, "") if error.reason in MISMATCH else (None, "%s: no key can be read in it" % key)
    except (OSError, ValueError, binascii.Error) as error:
        return None, "%s: %s" % (key, getattr(error, "strerror", "") or error)
    return True, ""


def _refuse() -> str:
    raise Encrypted()
