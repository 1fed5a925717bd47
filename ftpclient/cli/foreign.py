"""Commands and options of other tools, and the ones to use here instead.

Lives here: the tables, and the message about a word in one of them.
Lives elsewhere: whole command lines (translations.py), misspelled words (ftpwire/likeness.py).
The module is only imported after an unknown word was typed.

A table's value has one of these forms:

- command lines or options, separated by ``, or ``, with a remark in parentheses at the end:
  ``--limit-rate``, ``cat FILE | grep PATTERN``, ``--checksum (size and time are the default)``;
- ``nothing: why it isn't needed``;
- ``none: why it doesn't exist, and what to do instead``.

No value suggests a command that removes something, unless the foreign word removes something.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

_NOTHING, _NONE, _OR = "nothing: ", "none: ", ", or "
_PATHS = frozenset({"check", "edit", "hash", "less", "ln", "ls", "mv", "rm", "stat"})
"""Commands that take the same operands as those of other tools that they stand for."""


def hint(
    kind: str,
    word: str,
    meant: str,
    *,
    programs: Container[str],
    in_shell: bool,
    operands: Sequence[str] = (),
) -> str:
    """Return the message about a word of other tools.

    The lines in it can be typed as they are: outside the shell, they begin with ``ftp``.

    Args:
        kind: ``option`` or ``command``.
        word: The word as displayed.
        meant: The value of its table.
        programs: The commands that have to be typed with ``ftp`` before them.
        operands: The words after a command, which are added to its counterpart if that takes the
            same ones.
    """
    if meant.startswith(_NOTHING):
        return f"{word} isn't needed: {meant.removeprefix(_NOTHING)}"
    if meant.startswith(_NONE):
        return f"unknown {kind} {word}: {meant.removeprefix(_NONE)}"
    lines = [
        f"ftp {line}" if line.partition(" ")[0] in programs else line for line in meant.split(_OR)
    ]
    if _takes_the_same(meant, operands):
        from ftpclient.cli import translations

        lines = [f"{lines[0]} {translations.typed(operands, '' if in_shell else 'ftp ')}"]
    return f"unknown {kind} {word}: did you mean {_OR.join(lines)}?"


def _takes_the_same(meant: str, operands: Sequence[str]) -> bool:
    """Return whether a counterpart takes the operands of the foreign command: paths, no options."""
    name, *options = meant.split(" ")
    return (
        bool(operands)
        and name in _PATHS
        and all(option.startswith("-") for option in options)
        and not any(word.startswith("-") or "://" in word for word in operands)
    )


# options ------------------------------------------------------------------------------------

_EXEC = ("-exec", "-execdir", "-ok", "-okdir")

_UNCOMPRESSED = "nothing: data is not compressed"
_SHOWN = "nothing: progress is shown on every terminal"
_RESUMES = "nothing: resuming is the default"
_WHOLE = "nothing: files are sent whole, and appear under their names when they are complete"
_ONE_ACCOUNT = "none: all files of an account have the same owner"
_NO_HARD_LINKS = "none: there are no hard links"
_NOT_KEPT = "nothing: replaced files are kept; versions lists them, undo and restore restore them"
_FORWARD = "none: forward a port with ssh -L, and connect to localhost:PORT"

_TRANSFERS = {
    **dict.fromkeys(("-z", "-C", "--compress", "--compression", "--compress-level"), _UNCOMPRESSED),
    **dict.fromkeys(("--progress", "--info"), _SHOWN),
    **dict.fromkeys(("--stats", "--stats-one-line"), "nothing: totals are printed at the end"),
    **dict.fromkeys(
        ("--partial", "--partial-dir", "--continue", "--append", "--append-verify"), _RESUMES
    ),
    **dict.fromkeys(
        ("-W", "--whole-file", "--no-whole-file", "--inplace", "--delay-updates", "--temp-dir"),
        _WHOLE,
    ),
    **dict.fromkeys(("-S", "--sparse"), "nothing: holes are kept"),
    "--fsync": "nothing: every file is synced to disk",
    "--bwlimit": "--limit-rate",
    **dict.fromkeys(("--transfers", "--multi-thread-streams"), "--parallel"),
    **dict.fromkeys(
        ("--checkers", "--fast-list", "--no-traverse"),
        "nothing: a tree is compared with one streamed listing",
    ),
    **dict.fromkeys(("--timeout", "--contimeout", "--low-level-retries"), "--retry-for"),
    **dict.fromkeys(("--dryrun", "--just-print"), "--dry-run"),
    "--filter": "--exclude, or --include",
    **dict.fromkeys(("--exclude-glob", "--exclude-if-present"), "--exclude"),
    "--include-glob": "--include",
    **dict.fromkeys(("--exclude-glob-from", "--exclude-rx-from"), "--exclude-from"),
    **dict.fromkeys(
        ("--include-from", "--filter-from", "--include-glob-from", "--include-rx-from"),
        "--exclude-from (in its file, ! before a pattern includes again)",
    ),
    "--cvs-exclude": "--exclude-from",
    "--from0": "-0",
    "--files-from-raw": "--files-from",
    **dict.fromkeys(
        ("--link-dest", "--copy-dest", "--compare-dest", "--hard-links", "-H"), _NO_HARD_LINKS
    ),
    **dict.fromkeys(("-b", "--backup", "--backup-dir", "--suffix"), _NOT_KEPT),
    **dict.fromkeys(
        ("-g", "--owner", "--group", "--chown", "--numeric-ids", "--allow-chown"), _ONE_ACCOUNT
    ),
    **dict.fromkeys(
        ("-A", "--acls", "-X", "--xattrs"), "none: ACLs and extended attributes aren't kept"
    ),
    **dict.fromkeys(("-D", "--devices", "--specials"), "none: devices and FIFOs aren't copied"),
    **dict.fromkeys(("--perms", "--times", "--metadata"), "nothing: modes and times are kept"),
    **dict.fromkeys(
        ("--no-perms", "--no-times", "--chmod", "--no-umask"),
        "none: modes and times are kept; chmod and touch change them afterwards",
    ),
    "--min-size": "none: there is only --max-size, in sync",
    **dict.fromkeys(("-J", "--proxy-jump"), _FORWARD),
    **dict.fromkeys(("-e", "--rsh"), "nothing: a path names the server, e.g. alice@files:www"),
    "--rsync-path": "nothing: there is one server program",
    "--itemize-changes": "--dry-run (it shows why)",
    **dict.fromkeys(("--out-format", "--script"), "--json"),
    "--human-readable": "nothing: sizes are shown with units",
    "--executability": "nothing: modes are kept",
    "--iconv": "nothing: names are sent as bytes, without conversion",
    "--port": "none: write the port in a URL, e.g. ftpd://alice@files:4000/www",
    "--password-file": "none: login saves a token; --password-stdin goes before the command",
    "--list-only": "ls -l -R",
    **dict.fromkeys(
        ("--overwrite", "--depth-first", "--scan-all-first"), "nothing: this is the default"
    ),
    "--allow-suid": "none: setuid and setgid of files aren't kept",
    "--log-file": "none: write 2>FILE, in your own shell",
    "--one-file-system": "none: -x means --exclude here",
}
"""Options of rsync, rclone, lftp, sftp and scp, for all commands that transfer files."""

_PUT_AND_GET = _TRANSFERS | {
    "-f": "nothing: files are replaced and synced to disk by default",
    "-l": "--limit-rate",
    "-i": "-n (instead of an SSH key, login saves a token)",
    "-O": "-t",
    "-d": "-r",
    "-E": "nothing: modes are kept (for lftp's -E, use --remove-source)",
    "-N": "-u",
    **dict.fromkeys(("--ignore-existing", "--immutable", "--only-missing"), "--no-clobber"),
    **dict.fromkeys(("--existing", "--only-existing"), "sync --existing"),
    "--only-newer": "--update",
    **dict.fromkeys(
        ("--delete", "--del", "--delete-after", "--delete-delay", "--delete-during"),
        "sync --delete",
    ),
    "--delete-before": "sync --delete-before",
    "--max-delete": "sync --max-delete",
    **dict.fromkeys(
        ("-I", "--checksum", "--ignore-times", "--ignore-size", "--size-only"),
        "nothing: existing files are always compared by digest",
    ),
    "--max-age": "sync --max-age",
    "--min-age": "sync --min-age",
    "--max-size": "sync --max-size",
    "--relative": "--files-from (its paths keep their directories)",
    "--mkpath": "nothing: a TARGET that ends with a slash is created",
    "--interactive": "--dry-run, or --no-clobber",
}
_PUT = _PUT_AND_GET | {"-o": "put SOURCE TARGET"}
_GET = _PUT_AND_GET | {
    "-o": "get SOURCE TARGET",
    "--ignore-files": "--exclude-from",
}

_SYNC = _TRANSFERS | {
    "-c": "--checksum (resuming is the default)",
    "-i": "--dry-run (it shows why)",
    "-I": "--include (for rsync's -I, use --checksum)",
    "-N": "--max-age",
    "-X": "--exclude (extended attributes aren't kept)",
    "--archive": "nothing: times, modes and links are kept",
    "--recursive": "nothing: sync takes whole trees",
    "--links": "nothing: links are kept as links",
    **dict.fromkeys(
        ("--del", "--delete-after", "--delete-delay", "--delete-during"),
        "--delete (it deletes after the transfers)",
    ),
    "--delete-first": "--delete-before",
    "--delete-excluded": "--delete (excluded files are never deleted)",
    "--ignore-times": "--checksum",
    "--ignore-time": "--checksum",
    "--ignore-size": "--checksum",
    "--only-newer": "--update",
    **dict.fromkeys(("--only-existing", "--ignore-non-existing"), "--existing"),
    "--mkpath": "nothing: a missing DST is created",
    "--relative": "--files-from (its paths keep their directories)",
    "--modify-window": "nothing: differences that the target's disk cannot store are ignored",
    "--no-recursion": "--exclude (the pattern */ excludes all directories)",
    "--use-pget": "nothing: --parallel splits large files, too",
    **dict.fromkeys(("--only-missing", "--immutable"), "--ignore-existing"),
    "--newer-than": "--max-age",
    "--size-range": "--max-size",
    "--older-than": "--min-age",
    "--reverse": "nothing: the path with the colon is the remote one",
    "--dereference": "--copy-links",
    "--use-pget-n": "--parallel (it splits large files, too)",
    **dict.fromkeys(
        ("--remove-source-files", "--Remove-source-files", "--Remove-source-dirs", "--Move"),
        "put -r -T --remove-source, or get -r -T --remove-source",
    ),
    "--interactive": "--dry-run (--delete asks before it deletes)",
    "--track-renames": "nothing: with --delete, renamed files are moved instead of sent",
    "--create-empty-src-dirs": "nothing: empty directories are created",
    **dict.fromkeys(("-m", "--prune-empty-dirs"), "none: empty directories are created"),
    "--loop": "none: run the same command again to continue",
    "--atomic": "put -r -T --atomic",
}

_LS = {
    "-G": "nothing: there are no groups",
    **dict.fromkeys(("-g", "-n", "-o", "-s"), "-l"),
    "-i": "stat",
    "-f": "-U",
    **dict.fromkeys(("-c", "-u"), "-t (it sorts by the time of the last change)"),
    "-p": "nothing: names of directories end with a slash",
    **dict.fromkeys(("-k", "--block-size", "--si"), "-h"),
    "-L": "stat -L",
    "-m": "-C",
    **dict.fromkeys(("--full-time", "--time-style"), "--json"),
    **dict.fromkeys(("-B", "--ignore-backups", "-I", "--ignore", "--hide"), "find -name"),
    "--max-depth": "find -maxdepth",
    "--format": "--json",
}

_FIND = {
    **dict.fromkeys(_EXEC, "find PATH -print0 | xargs -0 ftp COMMAND"),
    **dict.fromkeys(("-o", "-or"), "none: run find once for each test"),
    "-not": "find PATH | grep -v PATTERN",
    "-prune": "--exclude",
    **dict.fromkeys(("-a", "-and"), "nothing: all tests must match"),
    **dict.fromkeys(("-regex", "-iregex", "-ipath"), "find PATH | grep -E PATTERN"),
    **dict.fromkeys(("-printf", "-fprintf", "-fprint", "-fls"), "--json"),
    "-perm": "--json (it has the modes)",
    "-wholename": "-path",
    **dict.fromkeys(("-ctime", "-atime"), "-mtime"),
    **dict.fromkeys(("-cmin", "-amin"), "-mmin"),
    "-depth": "nothing: -delete removes the contents of a directory first",
    "-quit": "find PATH | head -1",
    **dict.fromkeys(("-user", "-group", "-uid", "-gid"), "nothing: all files have the same owner"),
    **dict.fromkeys(("-L", "-follow", "-P"), "nothing: links are not followed"),
}

IN_SHELL: Mapping[str, Mapping[str, str]] = {
    "find": dict.fromkeys(
        _EXEC, "none: -delete removes what was found; other commands take patterns: chmod 644 *.txt"
    ),
}
"""Values that differ inside the shell, where no command starts another `ftp`."""

BEFORE_A_COMMAND = {
    "-V": "--version",
    **dict.fromkeys(("-P", "-p", "--port"), "-s HOST:PORT"),
    **dict.fromkeys(("-u", "-l", "--user"), "-s USER@HOST"),
    **dict.fromkeys(("-H", "--host"), "-s HOST"),
    "--password": "--password-stdin, or FTP_PASSWORD",
    **dict.fromkeys(("-k", "--insecure", "--no-check-certificate"), "--accept-new"),
    "--no-tls": "--plaintext",
    "-e": "-c LINE",
    "-i": "nothing: scripts are asked no questions (instead of an SSH key, login saves a token)",
    "-n": "nothing: --password-stdin or FTP_PASSWORD log in",
    "-d": "--debug",
    "-r": "put -r, or get -r",
    "-a": _RESUMES,
    **dict.fromkeys(("-C", "--compress"), _UNCOMPRESSED),
    "-J": _FORWARD,
    **dict.fromkeys(
        ("-o", "-F", "--config"),
        "none: there is no configuration file; login saves servers, and -s names one",
    ),
    **dict.fromkeys(("-4", "-6"), "-s ADDRESS"),
    "--progress": _SHOWN,
    **dict.fromkeys(("--dry-run", "--dryrun"), "sync --dry-run, or put --dry-run"),
    "--bwlimit": "put --limit-rate, or sync --limit-rate",
    "--transfers": "put --parallel, or sync --parallel",
}
"""Options that other tools take before the command, where `ftp` has its own."""

_RM = {
    **dict.fromkeys(("-i", "-I"), "--dry-run (rm asks no questions)"),
    "-d": "rmdir",
    "--preserve-root": "nothing: / is never removed",
}
_CP = {
    "-i": "-n",
    "-u": "sync --update",
    **dict.fromkeys(("-d", "-P", "--no-dereference"), "--links"),
    "-L": "nothing: a link that you name is followed",
    "-s": "ln -s",
    **dict.fromkeys(("-l", "--link"), _NO_HARD_LINKS),
    **dict.fromkeys(("-b", "--backup"), _NOT_KEPT),
}
_MV = {
    "-i": "-n",
    "-u": "none: -n never replaces; sync --update compares times",
    **dict.fromkeys(("-b", "--backup"), _NOT_KEPT),
}
_DU = {
    **dict.fromkeys(("-k", "-m"), "-h"),
    **dict.fromkeys(("-b", "--apparent-size"), "nothing: sizes are in bytes"),
}
_DF = {
    "-i": "nothing: files are counted, too",
    **dict.fromkeys(("-k", "-H", "-m"), "nothing: sizes have units; --json prints bytes"),
}
_STAT = {**dict.fromkeys(("-c", "--format", "--printf"), "--json"), "-f": "df"}
_CAT = {f"-{letter}": f"cat FILE | cat -{letter}" for letter in "nbsAET"}
_CHMOD = {
    **{f"-{letter}": f"a-{letter}" for letter in "wxX"},
    "-r": "a-r, or -R (to recurse into directories)",
    "--recursive": "-R",
}
_TREE = {"-I": "find", "-f": "find", "-P": "find -name", "--du": "du"}
_CHECK = {
    **dict.fromkeys(("-c", "--checksum"), "nothing: digests are compared"),
    **dict.fromkeys(("-r", "-R", "--recursive"), "nothing: check takes whole trees"),
    "-a": "-v (it also lists what is the same)",
    "--download": "nothing: digests are compared, and get verifies what it reads",
    **dict.fromkeys(("--fast-list", "--checkers"), "nothing: a tree is listed in one request"),
    "--combined": "-v",
}
_DIFF = {
    **dict.fromkeys(("-r", "--recursive", "--brief"), "check"),
    "-u": "nothing: it is the default",
    **dict.fromkeys(
        ("-w", "-b", "-B", "-i", "-y", "-c", "-U", "-s", "--color", "--side-by-side"),
        "none: choose them with DIFF, as in DIFF='diff -y' ftp diff A :B",
    ),
}
_CONNECT = {
    **dict.fromkeys(("-p", "-P", "--port"), "HOST:PORT"),
    **dict.fromkeys(("-u", "-l", "--user"), "USER@HOST"),
    "-i": "login (it saves a token; SSH keys aren't used)",
    **dict.fromkeys(("-b", "-f"), "batch FILE"),
    **dict.fromkeys(("-c", "-e"), "-c LINE (without connect)"),
    **dict.fromkeys(("-J", "--proxy-jump"), _FORWARD),
    "-o": "none: there is no configuration file; login saves servers",
}

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "cat": _CAT,
    "check": _CHECK,
    "chmod": _CHMOD,
    "connect": _CONNECT,
    "cp": _CP,
    "df": _DF,
    "diff": _DIFF,
    "du": _DU,
    "find": _FIND,
    "get": _GET,
    "ln": {"-r": "-s (a relative TARGET is relative to NAME's directory)"},
    "ls": _LS,
    "mv": _MV,
    "put": _PUT,
    "rm": _RM,
    "stat": _STAT,
    "sync": _SYNC,
    "undo": {"--redo": "nothing: a second undo reverts the first"},
    "restore": {
        **dict.fromkeys(
            ("-f", "--to", "--force", "--beside"), "none: use trash restore ID PATH, which has it"
        ),
        **dict.fromkeys(("-V", "--version", "--revision"), "--at"),
    },
    "tail": {"-F": "-f (it also follows a file that is replaced)"},
    "touch": {"-a": "-m (access times aren't kept)"},
    "tree": _TREE,
}
"""For each command, options of other tools and their values."""


# commands -----------------------------------------------------------------------------------

_TRAVELS = "nothing: files are never converted"

COMMANDS = {
    # ftp, sftp, scp
    "account": "login",
    **dict.fromkeys(("ascii", "binary", "image"), _TRAVELS),
    "cdup": "cd ..",
    "chdir": "cd",
    **dict.fromkeys(("chown", "chgrp"), _ONE_ACCOUNT),
    "copy": "cp, or put, or get",
    "del": "rm",
    "delete": "rm",
    "dir": "ls",
    "disconnect": "exit",
    "lumask": "none: modes are kept; chmod changes them",
    "md": "mkdir",
    "mdelete": "rm",
    "mget": "get",
    "modtime": "stat",
    **dict.fromkeys(("more", "zmore", "bzmore"), "less"),
    "mput": "put",
    "newer": "get -u",
    "nlist": "ls -1",
    "passive": "nothing: there is only one connection",
    "progress": "nothing: progress is shown on every terminal; -q turns it off",
    "prompt": "nothing: only sync --delete asks questions",
    "quota": "df",
    "rd": "rmdir",
    "recv": "get",
    "reget": "get (it resumes by itself)",
    "rename": "mv",
    "reput": "put (it resumes by itself)",
    "rsync": "sync",
    "scp": "put, or get",
    "send": "put",
    "sftp": "connect",
    "shell": "connect",
    "symlink": "ln -s",
    "type": "cat",
    "umask": "none: modes are kept; chmod changes them",
    "user": "login",
    "verbose": "nothing: -v prints every name",
    "version": "--version",
    # lftp
    "at": "none: cron or a timer can run ftp batch",
    "attach": "none: jobs end with their shell, and resume goes on with them",
    "cache": "nothing: listings aren't cached",
    "cls": "ls",
    "queue": "put FILE &",
    "debug": "--debug",
    "glob": "nothing: every command expands patterns",
    "lftp": "connect",
    "local": "!COMMAND",
    "mirror": "sync",
    "mmv": "mv",
    "mrm": "rm",
    "pget": "get -P",
    **dict.fromkeys(("quote", "site"), "none: the server takes no raw commands"),
    **dict.fromkeys(("recls", "rels", "renlist"), "ls (listings aren't cached)"),
    "repeat": "none: cron or a timer can run ftp batch",
    "torrent": "none: ftp only speaks the protocol of ftpd",
    # rclone
    "about": "df",
    "bisync": "none: sync goes one way",
    "config": "login",
    "copyto": "cp -T, or put -T, or get -T",
    "copyurl": "none: curl URL | ftp put - NAME",
    "deletefile": "rm",
    "hashsum": "hash",
    "cmp": "diff",
    "cryptcheck": "check",
    "watch": "sync --watch",
    **dict.fromkeys(("colordiff", "sdiff", "vimdiff"), "diff (DIFF chooses the program)"),
    **dict.fromkeys(("bookmarks", "listremotes"), "servers"),
    "lsd": "find -maxdepth 1 -type d",
    "lsf": "ls -1",
    "lsjson": "ls --json",
    "lsl": "find -ls",
    "mount": "none: use edit, or fsspec in Python",
    "move": "mv (to or from the server: put or get with --remove-source)",
    "moveto": "mv -T",
    "ncdu": "du -h --sort size",
    "rcat": "put - NAME",
    "rclone": "sync, or put, or get",
    "serve": "none: ftpd is the server",
    "size": "du -s",
    # smbclient
    "allinfo": "stat",
    "recurse": "nothing: get and put take -r",
    "tar": "get -r, or put -r",
    # other programs
    **dict.fromkeys(("md5sum", "sha1sum", "sha256sum", "b3sum", "cksum", "sum"), "hash"),
    **dict.fromkeys(("zcat", "sed", "awk", "cut"), "cat FILE | COMMAND"),
    **dict.fromkeys(("recover", "undel", "undelete", "unrm"), "restore, or undo"),
    **dict.fromkeys(("restore-trash", "trash-restore", "untrash"), "trash restore"),
    "redo": "undo (a second undo reverts the first)",
    **dict.fromkeys(("list-trash", "trash-list"), "trash"),
    **dict.fromkeys(("cleanup", "empty-trash", "trash-empty"), "trash empty"),
    **dict.fromkeys(("revisions", "snapshots"), "versions"),
    **dict.fromkeys(("revert", "rollback"), "restore --at N PATH, or undo"),
    "grep": "cat FILE | grep PATTERN",
    "locate": "find",
    "nano": "edit",
    "vi": "edit",
    "vim": "edit",
    "sort": "cat FILE | sort",
    "space": "df",
    "uniq": "cat FILE | uniq",
    "wc": "cat FILE | wc",
    "view": "less",
    "wget": "get",
}
"""Commands of other tools, grouped by tool. Whole lines are translated by translations.py."""

OF_TRASH = {
    **dict.fromkeys(("dir", "info", "list", "show"), "trash ls"),
    **dict.fromkeys(("put", "rm", "delete"), "trash empty ID (it purges), or rm PATH"),
    **dict.fromkeys(("clean", "clear", "cleanup", "purge"), "trash empty"),
    **dict.fromkeys(("recover", "undelete", "undo"), "undo ID, or trash restore ID"),
    **dict.fromkeys(("download", "fetch"), "trash get"),
    "diff": "none: use trash get ID PATH FILE, then diff in your own shell",
}
"""Commands that a user may try after ``trash``."""
