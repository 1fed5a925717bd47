"""What other tools call our commands and options, and what is meant here.

Lives here: the tables, and what is said of a word in one of them.
Lives elsewhere: whole command lines (translations.py), words that were misspelled
(ftpwire/likeness.py). It is imported when a word was typed that isn't ours.

What is meant has one of these forms:

- command lines or options, separated by ``, or ``, with a remark in parentheses at the end:
  ``--limit-rate``, ``cat FILE | grep PATTERN``, ``--checksum (size and time are the default)``;
- ``nothing: why none is needed``;
- ``none: why there is none, and what to do instead``.

None of them leads to what removes something, except where that is what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

_NOTHING, _NONE = "nothing: ", "none: "


def hint(kind: str, word: str, meant: str) -> str:
    """What to say of a word of other tools.

    Args:
        kind: ``option`` or ``command``.
        word: As it is shown.
    """
    if meant.startswith(_NOTHING):
        return f"no {kind} {word}, and none is needed: {meant.removeprefix(_NOTHING)}"
    if meant.startswith(_NONE):
        return f"no {kind} {word}: {meant.removeprefix(_NONE)}"
    return f"no {kind} {word}: did you mean {meant}?"


# options ------------------------------------------------------------------------------------

_UNCOMPRESSED = "nothing: bytes travel as they are, without compression"
_SHOWN = "nothing: a terminal shows it by itself"
_RESUMES = "nothing: resuming is the default"
_WHOLE = "nothing: files are sent whole, and a name never shows half a file"
_ONE_ACCOUNT = "none: all files of an account belong to it"
_NO_HARD_LINKS = "none: there are no hard links"
_NOT_KEPT = "nothing: what is replaced is kept; versions lists it, undo and restore bring it back"
_FORWARD = "none: forward a port with ssh -L, and connect to localhost:PORT"

_TRANSFERS = {
    **dict.fromkeys(("-z", "-C", "--compress", "--compression", "--compress-level"), _UNCOMPRESSED),
    **dict.fromkeys(("--progress", "--info"), _SHOWN),
    **dict.fromkeys(("--stats", "--stats-one-line"), "nothing: the totals come at the end"),
    **dict.fromkeys(
        ("--partial", "--partial-dir", "--continue", "--append", "--append-verify"), _RESUMES
    ),
    **dict.fromkeys(
        ("-W", "--whole-file", "--no-whole-file", "--inplace", "--delay-updates", "--temp-dir"),
        _WHOLE,
    ),
    **dict.fromkeys(("-S", "--sparse"), "nothing: holes are kept"),
    "--fsync": "nothing: every file is on disk before it counts as stored",
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
        "--exclude-from (in its file, ! before a pattern takes back in)",
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
    **dict.fromkeys(("-D", "--devices", "--specials"), "none: devices and FIFOs aren't made anew"),
    **dict.fromkeys(("--perms", "--times", "--metadata"), "nothing: modes and times are kept"),
    **dict.fromkeys(
        ("--no-perms", "--no-times", "--chmod", "--no-umask"),
        "none: modes and times are kept; chmod and touch change them afterwards",
    ),
    "--min-size": "none: there is --max-size of sync alone",
    **dict.fromkeys(("-J", "--proxy-jump"), _FORWARD),
    **dict.fromkeys(
        ("-e", "--rsh"), "nothing: the server is named in the path, as in alice@files:www"
    ),
    "--rsync-path": "nothing: there is one server program",
    "--itemize-changes": "--dry-run (it tells why)",
    **dict.fromkeys(("--out-format", "--script"), "--json"),
    "--human-readable": "nothing: sizes are shown with units",
    "--executability": "nothing: modes are kept",
    "--iconv": "nothing: names travel as the bytes that they are",
    "--port": "none: a URL has the port, as in ftpd://alice@files:4000/www",
    "--password-file": "none: login saves a token, and --password-stdin goes before the command",
    "--list-only": "ls -l -R",
    **dict.fromkeys(
        ("--overwrite", "--depth-first", "--scan-all-first"), "nothing: it is always so"
    ),
    "--allow-suid": "none: setuid and setgid of files are dropped",
    "--log-file": "none: 2>FILE, in your own shell",
    "--one-file-system": "none: -x means --exclude here",
}
"""Options of rsync, rclone, lftp, sftp and scp for whatever moves files."""

_PUT_AND_GET = _TRANSFERS | {
    "-f": "nothing: files are replaced, and each is on disk before it counts as stored",
    "-l": "--limit-rate",
    "-i": "-n (for a key of SSH: login saves a token)",
    "-O": "-t",
    "-d": "-r",
    "-E": "nothing: modes are kept (that of lftp is --remove-source)",
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
        "nothing: what is there is always compared by digest",
    ),
    "--max-age": "sync --max-age",
    "--min-age": "sync --min-age",
    "--max-size": "sync --max-size",
    "--relative": "--files-from (its paths keep their directories)",
    "--mkpath": "nothing: with a slash at its end, a TARGET is made",
    "--interactive": "--dry-run, or --no-clobber",
}
_PUT = _PUT_AND_GET | {"-o": "put SOURCE TARGET"}
_GET = _PUT_AND_GET | {
    "-o": "get SOURCE TARGET",
    "--ignore-files": "--exclude-from",
}

_SYNC = _TRANSFERS | {
    "-c": "--checksum (resuming, as with put -c, is the default)",
    "-i": "--dry-run (it tells why)",
    "-I": "--include (for that of rsync: --checksum)",
    "-N": "--max-age",
    "-X": "--exclude (extended attributes aren't kept)",
    "--archive": "nothing: times, modes and links are kept",
    "--recursive": "nothing: sync takes whole trees",
    "--links": "nothing: links are kept as links",
    **dict.fromkeys(
        ("--del", "--delete-after", "--delete-delay", "--delete-during"),
        "--delete (deletions come after the transfers)",
    ),
    "--delete-first": "--delete-before",
    "--delete-excluded": "--delete (what is left out is never deleted)",
    "--ignore-times": "--checksum",
    "--ignore-time": "--checksum",
    "--ignore-size": "--checksum",
    "--only-newer": "--update",
    **dict.fromkeys(("--only-existing", "--ignore-non-existing"), "--existing"),
    "--mkpath": "nothing: DST is made",
    "--relative": "--files-from (its paths keep their directories)",
    "--modify-window": "nothing: what the target's disk can't keep counts as the same",
    "--no-recursion": "--exclude (the pattern */ leaves all directories out)",
    "--use-pget": "nothing: --parallel splits large files, too",
    **dict.fromkeys(("--only-missing", "--immutable"), "--ignore-existing"),
    "--newer-than": "--max-age",
    "--size-range": "--max-size",
    "--older-than": "--min-age",
    "--reverse": "nothing: the path with the colon is the server's",
    "--dereference": "--copy-links",
    "--use-pget-n": "--parallel (it splits large files, too)",
    **dict.fromkeys(
        ("--remove-source-files", "--Remove-source-files", "--Remove-source-dirs", "--Move"),
        "put -r -T --remove-source, or get -r -T --remove-source",
    ),
    "--interactive": "--dry-run (and --delete asks)",
    "--track-renames": "nothing: with --delete, what was renamed is moved",
    "--create-empty-src-dirs": "nothing: empty directories are made",
    **dict.fromkeys(("-m", "--prune-empty-dirs"), "none: empty directories are made"),
    "--loop": "none: the same command again goes on",
    "--atomic": "put -r -T --atomic",
}

_LS = {
    "-G": "nothing: there are no groups",
    **dict.fromkeys(("-g", "-n", "-o", "-s"), "-l"),
    "-i": "stat",
    "-f": "-U",
    **dict.fromkeys(("-c", "-u"), "-t (it sorts by the time of the last change)"),
    "-p": "nothing: directories are shown with a slash",
    **dict.fromkeys(("-k", "--block-size", "--si"), "-h"),
    "-L": "stat -L",
    "-m": "-C",
    **dict.fromkeys(("--full-time", "--time-style"), "--json"),
    **dict.fromkeys(("-B", "--ignore-backups", "-I", "--ignore", "--hide"), "find -name"),
    "--max-depth": "find -maxdepth",
    "--format": "--json",
}

_FIND = {
    **dict.fromkeys(
        ("-exec", "-execdir", "-ok", "-okdir"), "find PATH -print0 | xargs -0 ftp COMMAND"
    ),
    **dict.fromkeys(("-o", "-or"), "one find for each"),
    "-not": "find PATH | grep -v PATTERN",
    "-prune": "--exclude",
    **dict.fromkeys(("-a", "-and"), "nothing: all criteria must be met"),
    **dict.fromkeys(("-regex", "-iregex", "-ipath"), "find PATH | grep -E PATTERN"),
    **dict.fromkeys(("-printf", "-fprintf", "-fprint", "-fls"), "--json"),
    "-perm": "--json (it has the modes)",
    "-wholename": "-path",
    **dict.fromkeys(("-ctime", "-atime"), "-mtime"),
    **dict.fromkeys(("-cmin", "-amin"), "-mmin"),
    "-depth": "nothing: -delete begins with what is deepest",
    "-quit": "find PATH | head -1",
    **dict.fromkeys(("-user", "-group", "-uid", "-gid"), "nothing: all of it is yours"),
    **dict.fromkeys(("-L", "-follow", "-P"), "nothing: links are not followed"),
}

BEFORE_A_COMMAND = {
    "-V": "--version",
    **dict.fromkeys(("-P", "-p", "--port"), "-s HOST:PORT"),
    **dict.fromkeys(("-u", "-l", "--user"), "-s USER@HOST"),
    **dict.fromkeys(("-H", "--host"), "-s HOST"),
    "--password": "--password-stdin, or FTP_PASSWORD",
    **dict.fromkeys(("-k", "--insecure", "--no-check-certificate"), "--accept-new"),
    "--no-tls": "--plaintext",
    "-e": "-c LINE",
    "-i": "nothing: scripts are never asked, and login saves a token instead of a key",
    "-n": "nothing: --password-stdin or FTP_PASSWORD log in",
    "-d": "--debug",
    "-r": "put -r, or get -r",
    "-a": _RESUMES,
    **dict.fromkeys(("-C", "--compress"), _UNCOMPRESSED),
    "-J": _FORWARD,
    **dict.fromkeys(
        ("-o", "-F", "--config"),
        "none: there is no file of settings; login saves servers, and -s names one",
    ),
    **dict.fromkeys(("-4", "-6"), "-s ADDRESS"),
    "--progress": _SHOWN,
    **dict.fromkeys(("--dry-run", "--dryrun"), "sync --dry-run, or put --dry-run"),
    "--bwlimit": "put --limit-rate, or sync --limit-rate",
    "--transfers": "put --parallel, or sync --parallel",
}
"""Those of `ftp` itself, before the command."""

_RM = {
    **dict.fromkeys(("-i", "-I"), "--dry-run (rm asks nothing)"),
    "-d": "rmdir",
    "--preserve-root": "nothing: / is never removed",
}
_CP = {
    "-i": "-n",
    "-u": "sync --update",
    **dict.fromkeys(("-d", "-P", "--no-dereference"), "--links"),
    "-L": "nothing: a link that is named is followed",
    "-s": "ln -s",
    **dict.fromkeys(("-l", "--link"), _NO_HARD_LINKS),
    **dict.fromkeys(("-b", "--backup"), _NOT_KEPT),
}
_MV = {
    "-i": "-n",
    "-u": "none: -n never replaces, and sync --update looks at times",
    **dict.fromkeys(("-b", "--backup"), _NOT_KEPT),
}
_DU = {
    **dict.fromkeys(("-k", "-m"), "-h"),
    **dict.fromkeys(("-b", "--apparent-size"), "nothing: sizes are bytes"),
}
_DF = {
    "-i": "nothing: files are counted, too",
    **dict.fromkeys(
        ("-k", "-H", "-m"), "nothing: sizes are shown with units, and --json has bytes"
    ),
}
_STAT = {**dict.fromkeys(("-c", "--format", "--printf"), "--json"), "-f": "df"}
_CAT = {f"-{letter}": f"cat FILE | cat -{letter}" for letter in "nbsAET"}
_CHMOD = {
    **{f"-{letter}": f"a-{letter}" for letter in "wxX"},
    "-r": "a-r, or -R (for a whole tree)",
    "--recursive": "-R",
}
_TREE = {"-I": "find", "-f": "find", "-P": "find -name", "--du": "du"}
_CHECK = {
    **dict.fromkeys(("-c", "--checksum"), "nothing: digests are compared"),
    **dict.fromkeys(("-r", "-R", "--recursive"), "nothing: check takes whole trees"),
    "-a": "-v (it names what is the same, too)",
    "--download": "nothing: digests are compared, and get verifies what it reads",
    **dict.fromkeys(("--fast-list", "--checkers"), "nothing: a tree is listed at once"),
    "--combined": "-v",
}
_CONNECT = {
    **dict.fromkeys(("-p", "-P", "--port"), "HOST:PORT"),
    **dict.fromkeys(("-u", "-l", "--user"), "USER@HOST"),
    "-i": "login (it saves a token: keys of SSH aren't used)",
    **dict.fromkeys(("-b", "-f"), "batch FILE"),
    **dict.fromkeys(("-c", "-e"), "-c LINE (before the command, and instead of it)"),
    **dict.fromkeys(("-J", "--proxy-jump"), _FORWARD),
    "-o": "none: there is no file of settings; login saves servers",
}

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "cat": _CAT,
    "check": _CHECK,
    "chmod": _CHMOD,
    "connect": _CONNECT,
    "cp": _CP,
    "df": _DF,
    "du": _DU,
    "find": _FIND,
    "get": _GET,
    "ln": {"-r": "-s (a relative TARGET counts from NAME's directory)"},
    "ls": _LS,
    "mv": _MV,
    "put": _PUT,
    "rm": _RM,
    "stat": _STAT,
    "sync": _SYNC,
    "undo": {"--redo": "nothing: a second undo does it again"},
    "restore": {
        **dict.fromkeys(
            ("-f", "--to", "--force", "--beside"), "none: trash restore ID PATH has it"
        ),
        **dict.fromkeys(("-V", "--version", "--revision"), "--at"),
    },
    "tail": {"-F": "-f (it follows what is replaced, too)"},
    "touch": {"-a": "-m (times of reading aren't kept)"},
    "tree": _TREE,
}
"""For each command, the options of other tools."""


# commands -----------------------------------------------------------------------------------

_ORDERED = "none: jobs aren't there yet; lines run one after another: put a; put b"
_TRAVELS = "nothing: files always travel as they are"

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
    "lumask": "none: modes are kept as they are, and chmod changes them",
    "md": "mkdir",
    "mdelete": "rm",
    "mget": "get",
    "modtime": "stat",
    **dict.fromkeys(("more", "zmore", "bzmore"), "less"),
    "mput": "put",
    "newer": "get -u",
    "nlist": "ls -1",
    "passive": "nothing: there is one connection only",
    "progress": "nothing: a terminal shows it, and -q doesn't",
    "prompt": "nothing: only sync --delete asks",
    "quota": "df",
    "rd": "rmdir",
    "recv": "get",
    "reget": "get (it goes on with what is there by itself)",
    "rename": "mv",
    "reput": "put (it goes on with what is there by itself)",
    "rsync": "sync",
    "scp": "put, or get",
    "send": "put",
    "sftp": "connect",
    "shell": "connect",
    "symlink": "ln -s",
    "type": "cat",
    "umask": "none: modes are kept as they are, and chmod changes them",
    "user": "login",
    "verbose": "nothing: -v names every file",
    "version": "--version",
    # lftp
    "at": "none: cron or a timer can run ftp batch",
    "attach": _ORDERED,
    **dict.fromkeys(("bg", "fg", "jobs", "kill", "queue", "wait"), _ORDERED),
    "cache": "nothing: every listing is a new one",
    "cls": "ls",
    "debug": "--debug",
    "glob": "nothing: every command expands patterns",
    "lftp": "connect",
    "local": "!COMMAND",
    "mirror": "sync",
    "mmv": "mv",
    "mrm": "rm",
    "pget": "get -P",
    **dict.fromkeys(("quote", "site"), "none: there are no other commands for the server"),
    **dict.fromkeys(("recls", "rels", "renlist"), "ls (every listing is a new one)"),
    "repeat": "none: cron or a timer can run ftp batch",
    "torrent": "none: the only protocol is that of ftpd",
    # rclone
    "about": "df",
    "bisync": "none: sync goes one way",
    "config": "login",
    "copyto": "cp -T, or put -T, or get -T",
    "copyurl": "none: curl URL | ftp put - NAME",
    "deletefile": "rm",
    "hashsum": "hash",
    **dict.fromkeys(("cmp", "cryptcheck", "diff"), "check"),
    **dict.fromkeys(("bookmarks", "listremotes"), "servers"),
    "lsd": "find -maxdepth 1 -type d",
    "lsf": "ls -1",
    "lsjson": "ls --json",
    "lsl": "find -ls",
    "mount": "none: edit, or fsspec in Python, work on remote files",
    "move": "mv (between here and the server: put or get with --remove-source)",
    "moveto": "mv -T",
    "ncdu": "du -h --sort size",
    "rcat": "put - NAME",
    "rclone": "sync, or put, or get",
    "serve": "none: ftpd is the server",
    "size": "du -s",
    # smbclient
    "allinfo": "stat",
    "recurse": "nothing: -r is an option of get and put",
    "tar": "get -r, or put -r",
    # other programs
    **dict.fromkeys(("md5sum", "sha1sum", "sha256sum", "b3sum", "cksum", "sum"), "hash"),
    **dict.fromkeys(("zcat", "sed", "awk", "cut"), "cat FILE | COMMAND"),
    **dict.fromkeys(("recover", "undel", "undelete", "unrm"), "restore, or undo"),
    **dict.fromkeys(("restore-trash", "trash-restore", "untrash"), "trash restore"),
    "redo": "undo (a second one does it again)",
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
"""Commands, by what other tools have them. For lines of them see translations.py."""

OF_TRASH = {
    **dict.fromkeys(("dir", "info", "list", "show"), "trash ls"),
    **dict.fromkeys(("put", "rm", "delete"), "trash empty ID (it removes for good), or rm PATH"),
    **dict.fromkeys(("clean", "clear", "cleanup", "purge"), "trash empty"),
    **dict.fromkeys(("recover", "undelete", "undo"), "undo ID, or trash restore ID"),
    **dict.fromkeys(("download", "fetch"), "trash get"),
    "diff": "none: trash get ID PATH FILE, then diff in your own shell",
}
"""Commands that others have, or that one might try, after ``trash``."""
