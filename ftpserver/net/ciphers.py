"""The TLS 1.3 cipher that the server chooses: the cheapest that the processor accelerates.

Lives here: the order of ciphers, which Python cannot set before version 3.15.
Lives elsewhere: the context for which it is set (tls.py), where OpenSSL's pointers are
(ftpwire/openssl.py).

The server chooses, so clients need no change.
"""

from __future__ import annotations

import ctypes
import ssl
from pathlib import Path

from ftpwire import openssl

FAST_FIRST = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
_OPENSSLS_OWN = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
)
_CPUINFO = Path("/proc/cpuinfo")


def prefer_fast(context: ssl.SSLContext) -> bool:
    """Make a server's context prefer AES-128-GCM. Returns whether it does.

    The order is left alone if the processor has no AES instructions, if an administrator has chosen
    one (in the system's OpenSSL configuration, e.g. by a crypto policy), or if this Python has no
    way to set it that is known to be right.
    """
    if _names(context) != _OPENSSLS_OWN or not _has_aes():
        return False
    order = ":".join(FAST_FIRST)
    set_order = getattr(context, "set_ciphersuites", None)
    if set_order is not None:
        set_order(order)
    else:
        _set_by_pointer(context, order.encode())
    return _names(context) == FAST_FIRST


def _names(context: ssl.SSLContext) -> tuple[str, ...]:
    """Return the TLS 1.3 ciphers, in their order."""
    names = (cipher["name"] for cipher in context.get_ciphers())
    return tuple(name for name in names if name.startswith("TLS_"))


def _has_aes() -> bool:
    try:
        text = _CPUINFO.read_text("ascii", "replace")
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return "aes" in next(lines, "").split()


def _set_by_pointer(context: ssl.SSLContext, order: bytes) -> None:
    """Call OpenSSL itself: the very library that the ssl module is linked with."""
    path = openssl.path()
    call = getattr(ctypes.CDLL(path), "SSL_CTX_set_ciphersuites", None) if path else None
    if call is None:
        return
    call.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    call(openssl.context_pointer(context), order)
