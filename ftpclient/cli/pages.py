"""The parts of `ftp`'s help that aren't docstrings of its commands.

Lives here: arguments, the order of options, examples, exit statuses. Lives elsewhere: the layout
(ftpwire/command_help.py), the commands (commands/). It is only imported to show help.
"""

from __future__ import annotations

from ftpwire.command_help import Page

_SELECTION = ("--exclude", "--include", "--exclude-from")
_LISTED = ("--files-from", "--null")
_INTO = ("--target-directory", "--no-target-directory")
_PATH = {"PATH": "Remote files or directories; patterns like '*.txt' are expanded."}
_FILES = {"PATH": "Remote files; patterns like '*.txt' are expanded."}
_SERVER = {"SERVER": "[USER@]HOST[:PORT], an ftpd:// URL or a saved name."}
_COPY = {
    "SOURCE": "Remote files or directories.",
    "TARGET": "The new name, or an existing directory to go into.",
}
_LINKS = (
    "A symbolic link that you name is followed; links inside a directory stay links. A link that "
    "another user may have set as a trap is refused. --copy-links follows all of them."
)
_HEADINGS = "With several files, the name of each is printed above it, except with -q."
_RETRYING = (
    "A lost connection is retried until --retry-for has passed without progress. If you give "
    "--retry-for, the first connection is retried as well."
)
_ID = "An operation, by its ID from `trash ls`."

STATUSES = {
    0: "Everything was done.",
    1: "Some of it failed, or check or diff found differences.",
    2: "The command line is wrong; nothing was done.",
    3: "The log-in was refused.",
    4: "There is no connection to the server.",
    5: "A file or directory does not exist.",
    6: "Permission was denied.",
    7: "The quota is used up, or the disk is full.",
    8: "The content of a file does not match its digest.",
    9: "The server's key is unknown or has changed.",
    10: "The server does not understand the request, or breaks the protocol.",
    11: "Not confirmed, or stopped by a safety limit.",
    12: "Restored in part: something was in the way.",
    130: "Ctrl-C interrupted it.",
    141: "The reader of the output has exited.",
}
"""The exit statuses of every command."""

OPERATORS = (
    ("A; B && C || D", "Run one after another, depending on exit statuses."),
    ("COMMAND &", "Run in the background, as a job."),
    ("COMMAND | LOCAL", "Send the output to a local command."),
    ("COMMAND > FILE", "Write the output to a local file; >> appends to it."),
    ("!COMMAND", "Run a local command; ! alone starts a local shell."),
)
"""The operators of a shell line."""

PAGES: dict[str, Page] = {
    "": Page(
        together="Commands (COMMAND --help explains one)",
        commands={
            "Transfer": {
                "put get": "Upload or download files and directories.",
                "sync check diff": "Mirror or compare directories; compare files.",
            },
            "Browse": {
                "ls tree find": "List or search directories.",
                "stat hash du df": "Show details, digests and used space.",
                "cat head tail less": "Show the contents of files.",
            },
            "Change": {
                "cp mv rm ln": "Copy, move, remove or link.",
                "mkdir rmdir": "Create or remove directories.",
                "edit touch chmod": "Edit a file; set times or modes.",
            },
            "Restore": {
                "undo trash restore": "Undo a command; restore from the trash.",
                "versions kept": "List earlier versions or interrupted uploads.",
            },
            "Account": {
                "login logout register": "Log in or out; create an account.",
                "passwd token whoami": "Manage password and tokens; show the name.",
            },
            "Servers": {
                "connect discover": "Start a shell; find servers.",
                "status servers": "Show the connection; list saved servers.",
                "open close bookmark": "Switch servers; save this place.",
            },
            "Scripts and the shell": {
                "batch completion": "Run a file of commands; set up the Tab key.",
                "cd pwd": "Change or show the remote directory.",
                "lcd lpwd lls lmkdir": "Change, show, list or create local directories.",
                "alias unalias set": "Define aliases; change settings.",
                "history source": "Show past lines; run a file of commands.",
                "echo clear": "Print words; clear the screen.",
                "help exit": "Show help; leave the shell.",
            },
            "Jobs": {
                "jobs wait": "List jobs or their output; wait for them.",
                "kill fg bg": "Stop a job; show one in the foreground.",
                "resume": "Resume unfinished transfers.",
            },
        },
        options={
            "Options": ("--server", "-c", "--json", "--quiet", "--verbose", "--version", "--help"),
            "Security": (
                *("--accept-new", "--accept-key", "--ca", "--plaintext", "--no-verify"),
                "--password-stdin",
            ),
            "Scripts": ("--rc", "--debug"),
        },
        rare=(
            *("--rc", "--accept-new", "--accept-key", "--ca", "--plaintext", "--no-verify"),
            *("--password-stdin", "--debug"),
        ),
        more=(
            "The server is named by a path, by --server or by FTP_SERVER. Without these, it is the "
            "default server, which login has saved.",
            "The password comes from FTP_PASSWORD or --password-stdin. Without these, the token "
            "that login has saved is used, or the password in ~/.netrc. Otherwise you are asked "
            "for it.",
            "`~/.config/ftp-client/rc` holds lines that a shell at a terminal runs first: `set` "
            "and `alias` belong there.",
        ),
        see_also=("ftpd(1)",),
    ),
    # moving files
    "put": Page(
        arguments={
            "SOURCE": "Local files, directories or devices; - is standard input.",
            "TARGET": "A remote name or directory (default: the current directory); a "
            "directory name with a slash at its end is created if missing.",
        },
        options={
            "Common options": (
                *("--recursive", "--no-clobber", "--update", "--dry-run", "--atomic"),
                *("--parallel", "--limit-rate", "--json", "--help"),
            ),
            "Selection": (*_SELECTION, *_LISTED, "--ignore-files", "--copy-links", "--links"),
            "Target": (*_INTO, "--remove-source", "--no-versions", "--no-empty"),
            "Failures": ("--no-resume", "--retry-for", "--fail-fast"),
        },
        rare=(*_LISTED, "--ignore-files", "--links", *_INTO, "--no-versions", "--no-empty"),
        more=(
            f"A FIFO or device that you name is read to its end. {_LINKS}",
            "--remove-source removes a file once the server has stored it, and directories that "
            "became empty.",
            _RETRYING,
        ),
        examples=(
            ("ftp put report.pdf", "Upload a file into your home."),
            ("ftp put -r site /www", "Upload a directory as /www, or into it."),
            ("ftp put -r --atomic site /www", "Replace /www as a whole."),
            ("mysqldump db | ftp put - /db.sql", "Upload standard input."),
        ),
        see_also=("get", "sync", "kept"),
    ),
    "get": Page(
        arguments={
            "SOURCE": "Remote files or directories; patterns are expanded.",
            "TARGET": "A local name or directory (default: .); - is standard output.",
        },
        options={
            "Common options": (
                *("--recursive", "--no-clobber", "--update", "--dry-run", "--at"),
                *("--parallel", "--limit-rate", "--json", "--help"),
            ),
            "Selection": (*_SELECTION, *_LISTED, "--copy-links", "--links"),
            "Target": (*_INTO, "--remove-source"),
            "Failures": ("--no-resume", "--retry-for", "--fail-fast"),
        },
        rare=(*_LISTED, "--links", *_INTO),
        more=(
            f"TARGET can be a FIFO or a device. {_LINKS}",
            "--remove-source removes a file from the server once it is stored locally, and "
            "directories that became empty.",
            _RETRYING,
        ),
        examples=(
            ("ftp get report.pdf", "Download a file."),
            ("ftp get -r /www site", "Download a directory."),
            ("ftp get alice@files:a.txt .", "Download from another server."),
            ("ftp get /db.sql - | mysql db", "Print to standard output."),
        ),
        see_also=("put", "sync", "cat"),
    ),
    "sync": Page(
        arguments={
            "SRC": "A directory; a remote one is :PATH or names its server.",
            "DST": "The directory to make like SRC; exactly one of them is remote.",
        },
        options={
            "Common options": (
                *("--delete", "--dry-run", "--watch", "--update", "--checksum", "--copy-links"),
                *("--parallel", "--limit-rate", "--json", "--help"),
            ),
            "Deleting": ("--delete-before", "--max-delete", "--force", "--yes", "--no-trash"),
            "Selection": (
                *(*_SELECTION, "--size-only", "--existing", "--ignore-existing"),
                *("--max-size", "--min-age", "--max-age", *_LISTED),
            ),
            "Failures": ("--no-resume", "--retry-for"),
        },
        rare=(
            *("--delete-before", "--no-trash", "--size-only", "--existing", "--ignore-existing"),
            *("--max-size", "--min-age", "--max-age", *_LISTED),
        ),
        examples=(
            ("ftp sync site :/www", "Upload what is new or changed."),
            ("ftp sync --delete -n site :/www", "Show what would be deleted."),
            ("ftp sync alice@files:docs docs", "Mirror to this machine."),
            ("ftp sync --watch site :/www", "Upload again after each change."),
        ),
        statuses={1: "Some files failed.", 11: "A safety limit stopped it; nothing was deleted."},
        see_also=("check", "put", "get"),
    ),
    "check": Page(
        arguments={
            "SRC": "A file or directory; a remote one is :PATH or names its server.",
            "DST": "What to compare it with; exactly one of them is remote.",
        },
        options={
            "Common options": ("--size-only", "--one-way", "--verbose", "--json", "--help"),
            "Selection": (*_SELECTION, "--ignore-files"),
            "Failures": ("--retry-for",),
        },
        examples=(("ftp check site :/www", "Compare a directory with its upload."),),
        statuses={0: "No differences.", 1: "Differences, or something was unreadable."},
        see_also=("diff", "sync", "hash"),
    ),
    "diff": Page(
        arguments={
            "A": "A file; a remote one is :PATH or names its server.",
            "B": "What to compare it with; at least one of them is remote.",
        },
        more=(
            "A file with a NUL byte counts as binary. One line says whether such files differ. No "
            "file is downloaded if the digests are equal.",
        ),
        examples=(
            ("ftp diff notes.txt :notes.txt", "Show what differs on the server."),
            ("DIFF='diff -y' ftp diff a :b", "Show both files side by side."),
        ),
        statuses={0: "No differences.", 1: "Differences.", 2: "The files cannot be compared."},
        see_also=("check", "cat"),
    ),
    # looking
    "ls": Page(
        arguments=_PATH,
        options={
            "Common options": (
                *("-l", "--all", "--human-readable", "-t", "-S", "--reverse"),
                *("--recursive", "--json", "--help"),
            ),
            "Sorting": ("--sort", "-U"),
            "Output": ("-1", "--classify", "--quote-name", "-0", "--color"),
            "Entries": ("--directory", "--digest"),
        },
        rare=("-U", "-0"),
        examples=(("ftp ls -lt /www", "List /www, the newest first."),),
        see_also=("stat", "tree", "find"),
    ),
    "cat": Page(arguments=_FILES, see_also=("get", "head", "tail", "less")),
    "head": Page(arguments=_FILES, more=(_HEADINGS,), see_also=("tail", "cat")),
    "tail": Page(
        arguments=_FILES,
        more=(_HEADINGS,),
        examples=(("ftp tail -f /log/app.log", "Follow a growing file."),),
        see_also=("head", "cat"),
    ),
    "less": Page(arguments=_FILES, see_also=("cat",)),
    "hash": Page(arguments=_FILES, see_also=("check", "ls")),
    "stat": Page(arguments=_PATH, see_also=("ls",)),
    "tree": Page(
        arguments={"PATH": "Remote directories (default: the current one)."},
        see_also=("ls", "du"),
    ),
    "du": Page(
        arguments={"PATH": "Remote files or directories (default: the current one)."},
        options={
            "Common options": (
                *("--summarize", "--human-readable", "--max-depth", "--sort", "--all"),
                *("--total", "--separate-dirs", "--json", "--help"),
            ),
            "Selection": _SELECTION,
        },
        examples=(("ftp du -h -d 1 --sort size", "Show the largest directories."),),
        see_also=("df", "ls"),
    ),
    "find": Page(
        arguments={"PATH": "Where to search (default: the current directory)."},
        options={
            "Tests": (
                *("-name", "-iname", "-path", "-type", "-empty", "-size"),
                *("-mtime", "-mmin", "-newer", "-maxdepth", "-mindepth"),
            ),
            "Actions": ("-ls", "-print0", "-delete", "-print"),
            "Other options": (*_SELECTION, "--json", "--help"),
        },
        examples=(
            ("ftp find /www -name '*.html' -mtime -7", "Find pages of the last week."),
            ("ftp find /tmp -type f -mtime +30 -delete", "Delete old files."),
        ),
        see_also=("ls", "rm", "undo"),
    ),
    "df": Page(see_also=("du", "kept", "trash")),
    # changing
    "cp": Page(
        arguments=_COPY,
        options={
            "Options": ("--recursive", "--no-clobber", "--links", "--dry-run", *_INTO),
        },
        examples=(("ftp cp -r /www /www.old", "Copy a directory."),),
        see_also=("mv", "put"),
    ),
    "mv": Page(
        arguments=_COPY,
        options={"Options": ("--no-clobber", "--dry-run", *_INTO)},
        see_also=("cp", "undo"),
    ),
    "rm": Page(
        arguments=_PATH,
        examples=(
            ("ftp rm '*.tmp'", "Remove files by a pattern."),
            ("ftp rm -r /www.old", "Remove a directory; undo restores it."),
        ),
        see_also=("undo", "trash", "rmdir"),
    ),
    "rmdir": Page(arguments={"DIR": "Empty remote directories."}, see_also=("rm",)),
    "mkdir": Page(arguments={"PATH": "Names of new remote directories."}),
    "ln": Page(
        arguments={"TARGET": "What the link points to.", "NAME": "The link, or a directory."},
        examples=(("ftp ln -s releases/2 /current", "Make /current point to releases/2."),),
    ),
    "chmod": Page(
        arguments={"MODE": "Octal, e.g. 644, or symbolic, e.g. u+x, go-w or a+rX.", **_PATH},
        examples=(("ftp chmod -R go-w /www", "Allow only yourself to write."),),
    ),
    "touch": Page(arguments={"PATH": "Remote files or directories."}),
    "edit": Page(arguments={"PATH": "A remote file."}, see_also=("get", "put")),
    # getting back
    "undo": Page(
        arguments={"ID": f"{_ID} Default: your last command."},
        statuses={12: "Something was in the way; the rest was undone."},
        see_also=("trash", "restore"),
    ),
    "restore": Page(
        arguments={"PATH": "The remote path to restore."},
        examples=(
            ("ftp restore report.txt", "Restore the latest earlier version."),
            ("ftp restore --at yesterday a.txt", "Restore the version of yesterday, 0:00."),
        ),
        see_also=("versions", "undo", "trash"),
    ),
    "versions": Page(
        arguments={"PATH": "A remote file."},
        examples=(("ftp cat --at 1 a.txt", "Print the newest earlier version."),),
        see_also=("restore", "get", "cat"),
    ),
    "kept": Page(
        arguments={"PATH": "Remote paths that were uploaded to."},
        see_also=("put", "df"),
    ),
    "trash": Page(see_also=("undo", "restore", "versions")),
    "trash ls": Page(arguments={"ID": _ID, "PATH": "A directory in it."}),
    "trash restore": Page(
        arguments={"ID": _ID, "PATH": "Paths or patterns, as `trash ls ID` lists them."},
        statuses={12: "Something was in the way; the rest was restored."},
    ),
    "trash get": Page(
        arguments={
            "ID": _ID,
            "PATH": "A path, as `trash ls ID` lists it.",
            "TARGET": "A local name or directory; - is standard output.",
        }
    ),
    "trash cat": Page(arguments={"ID": _ID, "PATH": "Files, as `trash ls ID` lists them."}),
    "trash empty": Page(arguments={"ID": "Operations to purge (default: all)."}),
    # servers and accounts
    "connect": Page(
        arguments={
            **_SERVER,
            "PATH": "The directory to start in.",
        },
        examples=(
            ("ftp connect alice@files.example.com", "Log in and start a shell."),
            ("ftp connect files:/www", "Start in /www of a saved server."),
        ),
        see_also=("login", "batch", "help"),
    ),
    "batch": Page(
        arguments={"FILE": "Lines as typed in the shell; - is standard input."},
        examples=(("ftp batch nightly.ftp", "Run a script."),),
        see_also=("connect",),
    ),
    "login": Page(
        arguments=_SERVER,
        examples=(("ftp login --name files alice@example.com", "Save it as files."),),
        see_also=("logout", "register", "servers"),
    ),
    "logout": Page(
        arguments={"SERVER": "A saved server (default: the default server)."},
        examples=(("ftp logout --forget files", "Delete all that is saved about a server."),),
        see_also=("login", "servers", "token"),
    ),
    "register": Page(
        arguments=_SERVER,
        examples=(("ftp register bob@example.com --invite CODE", "Use an invitation."),),
        see_also=("login",),
    ),
    "servers": Page(
        examples=(("ftp servers --new-key files", "Accept another key of a server you trust."),),
        see_also=("login", "logout", "discover", "bookmark"),
    ),
    "forget": Page(arguments=_SERVER, see_also=("servers",)),
    "discover": Page(see_also=("connect", "servers")),
    "token": Page(see_also=("login", "logout")),
    "token list": Page(see_also=("token revoke",)),
    "token revoke": Page(arguments={"ID": "A token, as `token list` shows it."}),
    "passwd": Page(see_also=("login", "token")),
    "whoami": Page(see_also=("status",)),
    "status": Page(see_also=("df", "servers")),
    # the shell
    "help": Page(arguments={"COMMAND": "A command, e.g. put or trash restore."}),
    "completion": Page(
        arguments={"SHELL": "bash, zsh or fish."},
        examples=(
            ('eval "$(ftp completion bash)"', "Add this to ~/.bashrc."),
            ('eval "$(ftp completion zsh)"', "Add this to ~/.zshrc."),
            ("ftp completion fish | source", "Add this to config.fish."),
        ),
    ),
    "cd": Page(arguments={"DIR": "A remote directory (default: /); - is the previous one."}),
    "lcd": Page(arguments={"DIR": "A local directory (default: your home)."}),
    "lls": Page(arguments={"PATH": "Local paths, and options of ls."}),
    "lmkdir": Page(arguments={"DIR": "Names of new local directories."}),
    "source": Page(
        arguments={"FILE": "A local file with lines as typed here."}, see_also=("batch",)
    ),
    "exit": Page(arguments={"STATUS": "The exit status of ftp (default: 0)."}),
    "jobs": Page(
        more=(
            "The states are queued, running, stopped, done and failed, the last with the exit "
            "status. At most four jobs run at once (`set jobs N`); the others are queued.",
            "Jobs can be: put, get, sync, check, cp, mv, rm, find, du, ls, hash, and cat with "
            "> FILE or | LOCAL. Each has a connection of its own, and never asks anything.",
        ),
        examples=(
            ("ftp put -r site /www &", "Upload in the background."),
            ("ftp jobs -o 1", "Show the output of job 1."),
        ),
        see_also=("wait", "kill", "fg"),
    ),
    "wait": Page(arguments={"N": "Numbers of jobs (default: all)."}, see_also=("jobs", "fg")),
    "kill": Page(arguments={"N": "Numbers of jobs."}, see_also=("jobs", "resume")),
    "fg": Page(arguments={"N": "The number of a job."}, see_also=("jobs", "wait")),
    "resume": Page(
        arguments={"N": "Numbers of unfinished transfers (default: list them)."},
        more=(
            "Each runs as a job, in the directories in which it was started. The list holds the "
            "last 100 transfers, for 30 days; `kept` lists the uploads that the server keeps.",
        ),
        see_also=("jobs", "kept"),
    ),
    "bg": Page(arguments={"N": "Numbers of jobs."}, see_also=("jobs", "fg")),
    "open": Page(
        arguments={
            "SERVER": _SERVER["SERVER"] + " Default: the one of the closed connection.",
            "PATH": "The directory to go to.",
        },
        see_also=("close", "bookmark", "servers"),
    ),
    "close": Page(see_also=("open", "exit")),
    "bookmark": Page(
        arguments={"NAME": "The name to save it under."}, see_also=("open", "servers")
    ),
    "alias": Page(
        arguments={"NAME": "The alias.", "COMMAND": "A command and its first arguments."},
        examples=(("ftp alias ll='ls -l'", "Make ll stand for ls -l."),),
        see_also=("unalias", "set"),
    ),
    "unalias": Page(arguments={"NAME": "An alias."}, see_also=("alias",)),
    "set": Page(
        arguments={"NAME": "A setting.", "VALUE": "Its new value."},
        examples=(("ftp set parallel 4", "Use 4 connections."),),
    ),
    "history": Page(arguments={"N": "How many lines (default: all)."}),
    "echo": Page(arguments={"WORD": "What to print."}),
}
