"""The parts of `ftpd`'s help that aren't docstrings of its commands.

Lives here: arguments, the order of options, examples, exit statuses. Lives elsewhere: the layout
(ftpwire/command_help.py), the commands (the modules beside this one), the settings
(settings/table.py). It is only imported to show help.
"""

from __future__ import annotations

from ftpserver.settings.table import TABLE
from ftpwire.command_help import Page

STATUSES = {
    0: "Everything was done.",
    1: "It failed.",
    2: "The command line or the settings are wrong.",
    4: "No server runs on this root.",
    5: "An account or an entry does not exist.",
    6: "The answer of why is: refused.",
    8: "Damage was found (check, scrub), or modes are too open (config check).",
    12: "Something was in the way of trash restore.",
    130: "Ctrl-C interrupted it.",
    141: "The reader of the output has exited.",
}
"""The exit statuses of every command."""

_LISTENING = ("--root", "--host", "--port", "--unix", "--discoverable")
_SETTINGS = {
    "Listening": (
        *(*_LISTENING, "--no-tcp", "--unix-mode", "--discovery-port"),
        *("--name", "--trusted-networks", "--proxy-from"),
    ),
    "Security": (
        *("--certificate", "--key", "--plaintext", "--open-registration"),
        *("--ban-after", "--ban-time", "--isolation", "--session-user", "--allow-loose-modes"),
    ),
    "Limits": (
        *("--default-quota", "--limit-rate", "--max-sessions"),
        *("--max-user-sessions", "--max-user-transfers", "--max-address-sessions"),
        *("--max-startups", "--login-grace", "--stall", "--idle-timeout", "--grace"),
        *("--workers", "--threads"),
    ),
    "Storage": (
        *("--trash-days", "--trash-versions"),
        *("--trash-reserve", "--trash-items", "--trash-max", "--staging-days", "--durability"),
    ),
    "Log": ("--log-format", "--audit-size", "--audit-keep", "--audit-own-size"),
    "Other options": ("--config", "--verbose", "--json", "--help"),
}
"""The settings by topic, common ones first."""
_COMMON = {
    *(*_LISTENING, "--certificate", "--key", "--plaintext", "--open-registration"),
    *("--default-quota", "--limit-rate", "--max-sessions", "--trash-days"),
}
_CHECKED: dict[str, tuple[str, ...]] = {"Options": ("--root", "--config", "--json", "--help")}
_CHECKED |= {
    title: tuple(name for name in names if name not in (*_CHECKED["Options"], "--verbose"))
    for title, names in _SETTINGS.items()
}
"""The same settings for commands that only check or show them."""
_ALL = tuple(f"--{setting.name}" for setting in TABLE.values())
_ACCOUNT = {
    "Limits": ("--quota", "--max-sessions", "--limit-rate", "--trash-days"),
    "Access": ("--permit", "--network", "--expires"),
}
_RARE_OF_ACCOUNT = ("--peer-user", "--system-user", "--trash-max", "--max-files")
_NAME = {"NAME": "The name of an account."}
_USER = {"USER": "The name of an account."}
_SOME_USER = {"USER": "The name of an account (default: all)."}
_ID = {"ID": "An operation, as `ftpd trash list USER` shows it."}
_MORE_OF_SETTINGS = (
    "An option wins over its variable, and a variable over the file. A flag has an opposite, e.g. "
    "--no-plaintext, which wins over both."
)

PAGES: dict[str, Page] = {
    "": Page(
        commands={
            "Server": {
                "start config": "Start the server; check its settings.",
                "status sessions": "Show the server's state and sessions.",
                "reload drain stop": "Reload the settings; shut it down.",
                "service completion": "Print a systemd unit; set up the Tab key.",
                "fingerprint certificate": "Show the key; request a certificate.",
            },
            "Accounts": {
                "user": "Manage accounts and their access tokens.",
                "invite": "Create a code for registration.",
                "why": "Explain whether a user may do something.",
                "kick bans unban": "End sessions; list and lift bans.",
            },
            "Data": {
                "log": "Show the audit log.",
                "trash": "List, restore or purge what was removed.",
                "backup": "Copy accounts, keys and settings.",
                "check scrub recount": "Verify accounts and files.",
            },
        },
        more=(
            "Run every command as the server's user: files created by root would be unwritable "
            "for it.",
        ),
        see_also=("ftp(1)",),
    ),
    "start": Page(
        options=_SETTINGS,
        rare=(*(name for name in _ALL if name not in _COMMON), "--json"),
        more=(_MORE_OF_SETTINGS,),
    ),
    "config": Page(see_also=("start",)),
    "config check": Page(
        options=_CHECKED,
        rare=_ALL,
        more=(_MORE_OF_SETTINGS,),
        statuses={
            0: "The settings are valid.",
            2: "Something is wrong.",
            8: "Others can read or write files that must be private.",
        },
        see_also=("config show", "start"),
    ),
    "config show": Page(
        options=_CHECKED, rare=_ALL, more=(_MORE_OF_SETTINGS,), see_also=("config check", "start")
    ),
    "service": Page(
        statuses={1: "With --check: the unit does not match the settings."},
        see_also=("start", "config"),
    ),
    "fingerprint": Page(see_also=("certificate",)),
    "certificate": Page(see_also=("fingerprint", "start")),
    "certificate request": Page(
        arguments={"NAME": "A host name or address that clients connect to."},
        examples=(("ftpd certificate request files.example.com", "Print a request."),),
    ),
    "status": Page(statuses={4: "No server runs on this root."}, see_also=("sessions",)),
    "sessions": Page(see_also=("kick", "status")),
    "kick": Page(
        arguments={
            "ID": "A session, as `ftpd sessions` shows it.",
            "USER": "An account: all its sessions. If its name is a number: user:NAME.",
        },
        see_also=("sessions", "user disable"),
    ),
    "bans": Page(see_also=("unban",)),
    "unban": Page(
        arguments={
            "ADDRESS": "The banned address.",
            "ACCOUNT": "Lift only the ban from this account.",
        },
        see_also=("bans",),
    ),
    "reload": Page(see_also=("config check",)),
    "drain": Page(see_also=("stop",)),
    "stop": Page(see_also=("drain",)),
    "user": Page(see_also=("invite", "why")),
    "user add": Page(
        arguments=_NAME,
        options={
            "Password and home": ("--password-stdin", "--generate", "--weak", "--home"),
            **_ACCOUNT,
            "Advanced": _RARE_OF_ACCOUNT,
        },
        rare=_RARE_OF_ACCOUNT,
        examples=(
            ("ftpd user add alice --quota 10GiB", "Add alice; ask for a password."),
            ("ftpd user add bob --permit read-only", "Add bob, who may only read."),
        ),
        see_also=("user set", "user passwd", "invite"),
    ),
    "user set": Page(
        arguments=_NAME,
        options={**_ACCOUNT, "Advanced": (*_RARE_OF_ACCOUNT, "--take-home")},
        rare=(*_RARE_OF_ACCOUNT, "--take-home"),
        examples=(
            ("ftpd user set alice --quota none", "Lift the quota of alice."),
            ("ftpd user set bob --permit all --permit /pub=read-only", "Protect /pub."),
        ),
        see_also=("user show", "why"),
    ),
    "user show": Page(arguments=_NAME, see_also=("user list", "user set")),
    "user list": Page(see_also=("user show",)),
    "user passwd": Page(arguments=_NAME),
    "user disable": Page(arguments=_NAME, see_also=("user enable", "kick")),
    "user enable": Page(arguments=_NAME, see_also=("user disable",)),
    "user rename": Page(arguments={**_NAME, "NEW": "Its new name."}),
    "user remove": Page(arguments=_NAME, see_also=("user disable",)),
    "user export": Page(
        examples=(("ftpd user export > accounts.jsonl", "Save all accounts."),),
        see_also=("user import", "backup"),
    ),
    "user import": Page(
        arguments={"FILE": "An export (default: standard input)."}, see_also=("user export",)
    ),
    "user tokens": Page(
        arguments=_NAME,
        examples=(
            ("ftpd user tokens alice", "List the tokens of alice."),
            ("ftpd user tokens alice --revoke 2a34ae9b", "Revoke one of them."),
        ),
        see_also=("user disable",),
    ),
    "token": Page(see_also=("user tokens",)),
    "token list": Page(arguments=_USER, see_also=("token revoke",)),
    "token revoke": Page(
        arguments={"ID": "A token, as `ftpd token list USER` shows it."},
        see_also=("token list",),
    ),
    "invite": Page(
        examples=(("ftpd invite --quota 1GiB --uses 5", "Invite five users."),),
        see_also=("user add",),
    ),
    "why": Page(
        arguments={
            **_USER,
            "ACTION": "What the user wants to do.",
            "DETAILS": "The arguments of the action, as shown above.",
        },
        statuses={0: "Allowed.", 6: "Refused."},
        see_also=("user set", "bans"),
    ),
    "log": Page(
        examples=(
            ("ftpd log --user alice --since 2h", "Show the last two hours of alice."),
            ("ftpd log --failed -f", "Watch for failures."),
        ),
        see_also=("sessions",),
    ),
    "trash": Page(see_also=("user set",)),
    "trash list": Page(arguments=_SOME_USER, see_also=("trash restore",)),
    "trash restore": Page(
        arguments={**_USER, **_ID},
        statuses={12: "Something was in the way; the rest was restored."},
        see_also=("trash list",),
    ),
    "trash empty": Page(
        arguments={"USER": "The name of an account (or --all)."}, see_also=("trash list",)
    ),
    "backup": Page(
        arguments={"DIR": "A new or empty directory; with --keep, one for many copies."},
        examples=(
            ("ftpd backup /backup/today", "Make one copy."),
            ("ftpd backup --keep 14 /backup", "Add a copy; keep the last 14 (for cron)."),
        ),
        see_also=("check",),
    ),
    "check": Page(
        statuses={
            0: "No damage.",
            1: "Something could not be checked.",
            8: "Damage was found.",
        },
        see_also=("scrub", "recount"),
    ),
    "scrub": Page(
        arguments=_SOME_USER,
        statuses={8: "Damage was found."},
        see_also=("check",),
    ),
    "recount": Page(arguments=_SOME_USER, see_also=("check",)),
    "completion": Page(
        arguments={"SHELL": "bash, zsh or fish."},
        examples=(
            ('eval "$(ftpd completion bash)"', "Add this to ~/.bashrc."),
            ('eval "$(ftpd completion zsh)"', "Add this to ~/.zshrc."),
            ("ftpd completion fish | source", "Add this to config.fish."),
        ),
    ),
}
