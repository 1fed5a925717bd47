"""The code that server and client share: frames, messages, errors, paths, digests.

Nothing here opens a socket or a file by name: the callers pass them in.
"""

__version__ = "0.1.0"
SOFTWARE = f"ftpd/{__version__}"
