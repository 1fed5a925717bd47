"""`ftpd user`: accounts, whether the server runs or not.

Lives here: options, what is asked and printed. Lives elsewhere: accounts (accounts/accounts.py),
records of them (accounts/records.py), removing homes (accounts/removal.py). A running server
follows changes by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from ftpserver.cli.help import ACCOUNT_HINTS, PASSWORD_HINTS, HintingCommand
from ftpserver.cli.options import (
    act_as_owner,
    fail,
    json_option,
    limit,
    root_option,
    started,
)
from ftpserver.settings.table import state_of
from ftpwire import paths
from ftpwire.units import human, iso, parse_moment

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ftpserver.accounts.account import Account, Changes, Network
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.storage.ownership import Ownership
    from ftpserver.storage.permissions import Permissions

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NO_LIMIT = frozenset({"none", "unlimited"})
_SETTINGS = (
    *("quota", "max_files", "permissions", "networks"),
    *("expires", "max_sessions", "limit_rate", "peer_user", "system_user"),
)


_SET_HINTS = ACCOUNT_HINTS | {
    "--home": "a home stays where it is: export the account, remove it, and import it with another",
    "--password": "did you mean ftpd user passwd NAME?",
    "--name": "did you mean ftpd user rename NAME NEW?",
}


@click.group(short_help="Accounts: add, list, show, set, passwd, disable, remove, …")
def user() -> None:
    """Accounts: add, list, show, set, passwd, disable, enable, rename, remove, export, import."""


def open_accounts(
    root: Path, *, begin: bool = False, changing: bool = True, trying: bool = False
) -> tuple[Accounts, Engine]:
    """The accounts of a root, and what they are stored in.

    Args:
        begin: Make them where there are none yet.
        changing: Without, they are opened also where nothing can be written.
        trying: Changes are tried out then, and rolled back.
    """
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.database import open_state, open_to_look

    if not changing:
        engine = open_to_look(started(root), trying=trying)
        return Accounts(engine, root.absolute()), engine
    act_as_owner(root)
    engine = open_state(state_of(root.absolute()) if begin else started(root))
    return Accounts(engine, root.absolute()), engine


# reading options ---------------------------------------------------------------------------


def new_password(name: str, *, from_stdin: bool, weak: bool, generate: bool) -> str:
    """A new password: made, read or asked for. Raises BadAccount for one that is too short."""
    from ftpserver.accounts.passwords import check_new_password, random_password

    if generate:
        if from_stdin or weak:
            raise click.UsageError("--generate makes the password: nothing else goes with it")
        return random_password()
    password = read_password(from_stdin, name)
    if not weak:
        check_new_password(password)
    return password


def read_password(from_stdin: bool, name: str) -> str:
    """The password from where it was said to be, or asked for twice."""
    if from_stdin:
        return read_line().rstrip("\r\n")
    if "FTPD_PASSWORD" in os.environ:
        return os.environ["FTPD_PASSWORD"]
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: use --password-stdin")
    return str(click.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True))


def read_line() -> str:
    """Exactly one line of standard input, unbuffered: what follows is somebody else's."""
    line = bytearray()
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            break
    return line.decode("utf-8", "surrogateescape")


def _size(text: str) -> int | None:
    return None if text.lower() in _NO_LIMIT else limit(text)


def _rate(text: str) -> int | None:
    rate = _size(text)
    if rate == 0:
        raise click.BadParameter("0 would let nothing through: disable the account instead")
    return rate


def _count(text: str) -> int | None:
    if text.lower() in _NO_LIMIT:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise click.BadParameter(f"{text!r} is no number (or: none)")
    return int(text)


def _moment(text: str) -> int | None:
    if text.lower() == "never":
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _system_user(text: str) -> str | None:
    if text.lower() in _NO_LIMIT:
        return None
    import pwd

    try:
        pwd.getpwnam(text)
    except (KeyError, ValueError):
        raise click.BadParameter(f"{paths.printable(text)!r} is no user of this system") from None
    return text


def _peer_user(text: str) -> str | None:
    name = _system_user(text)
    if name is not None:
        from ftpserver.accounts.system_users import can_be_peer

        if not can_be_peer(name):
            told = f"{name} is whoever the system can't tell: it will have to give a password"
            click.echo(f"ftpd: {told}", err=True)
    return name


def _unprivileged_user(text: str) -> str | None:
    name = _system_user(text)
    if name is None:
        return None
    import pwd

    if pwd.getpwnam(name).pw_uid == 0:
        raise click.BadParameter(f"{name!r} may do everything: take another one")
    return name


def _networks(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[Network, ...]:
    if len(given) == 1 and given[0].lower() == "any":
        return ()
    try:
        return tuple(ip_network(text, strict=False) for text in given)
    except ValueError as error:
        raise click.BadParameter(paths.printable(str(error))) from None


def _permissions(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> Permissions:
    from ftpserver.storage.permissions import Permissions
    from ftpwire.errors import BadAccount

    try:
        return Permissions.of(given)
    except BadAccount as error:
        raise click.BadParameter(str(error)) from None


def limits_options(function: _Function) -> _Function:
    """What can be set of an account, the same for every command that does."""
    for option in reversed(
        (
            click.option("--quota", type=_size, metavar="SIZE", help="Total space: 10MiB, none."),
            click.option(
                "--max-files",
                type=_count,
                metavar="N",
                help="Most files, directories and links: a number, none. With a quota, none is "
                "one for each 4 KiB of it, at least 1000.",
            ),
            click.option(
                "--permit",
                "permissions",
                metavar="[PREFIX=]RIGHTS",
                multiple=True,
                callback=_permissions,
                help="all, read-only, upload-only, no-delete or none; for everything, or at and "
                "below PREFIX. Repeatable; all rules that there were are replaced.",
            ),
            click.option(
                "--network",
                "networks",
                metavar="CIDR",
                multiple=True,
                callback=_networks,
                help="Where log-ins may come from: 10.0.0.0/8, any. Repeatable.",
            ),
            click.option(
                "--expires",
                type=_moment,
                metavar="DATE",
                help="When its time is over (UTC): 2030-12-31, 30d, never.",
            ),
            click.option(
                "--max-sessions",
                type=_count,
                metavar="N",
                help="Sessions at the same time: a number, none.",
            ),
            click.option(
                "--limit-rate",
                type=_rate,
                metavar="SIZE",
                help="Bytes a second that all its sessions may move together: 1MiB, none.",
            ),
            click.option(
                "--peer-user",
                type=_peer_user,
                metavar="USER",
                help="The system user that needs no password over a Unix socket: a name, none.",
            ),
            click.option(
                "--system-user",
                type=_unprivileged_user,
                metavar="USER",
                help="The system user that its sessions run as under --isolation process: a "
                "name, none.",
            ),
        )
    ):
        function = option(function)
    return function


def _given(context: click.Context) -> Changes:
    """What of an account was named on the command line."""
    return cast(
        "Changes",
        {
            name: context.params[name]
            for name in _SETTINGS
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        },
    )


def password_options(function: _Function) -> _Function:
    """How a new password is given, the same for every command that sets one."""
    for option in (
        click.option("--generate", is_flag=True, help="Make a random password, and print it."),
        click.option("--weak", is_flag=True, help="Take a password of fewer than 8 characters."),
        click.option(
            "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
        ),
    ):
        function = option(function)
    return function


# one account -------------------------------------------------------------------------------


@user.command("add", cls=HintingCommand, hints=PASSWORD_HINTS | ACCOUNT_HINTS)
@click.argument("name")
@root_option
@password_options
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Another directory than ROOT/NAME; its contents become the user's.",
)
@limits_options
@json_option
@click.pass_context
def add_user(
    context: click.Context,
    /,
    name: str,
    root: Path,
    password_stdin: bool,
    weak: bool,
    generate: bool,
    home: Path | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Add the account NAME and its home."""
    from ftpserver.accounts.account import check_name

    check_name(name)
    accounts, engine = open_accounts(root, begin=True)
    password = new_password(name, from_stdin=password_stdin, weak=weak, generate=generate)
    shared = [] if home is None else accounts.sharing(home)
    accounts.add(name, password, home=home, **_given(context))
    if home is not None:
        _count_homes(accounts, engine, [name])
    if shared:
        click.echo(_warning_of(shared), err=True)
    _print_done(accounts.get(name), as_json, f"added {name}", password if generate else None)


def _warning_of(shared: list[str]) -> str:
    return (
        f"ftpd: warning: {', '.join(shared)} can see and change what is there, too: the quota of "
        "each counts what each does, and is exact only after a recount"
    )


def _count_homes(accounts: Accounts, engine: Engine, names: Iterable[str]) -> None:
    from ftpserver.storage.home import Home
    from ftpserver.storage.ledger import Ledger
    from ftpserver.storage.recount import recount

    ledger, ownership = Ledger(engine), _ownership(accounts, engine)
    for name in names:
        account = accounts.get(name)
        other = ownership.claim(account.home, use=False)
        if other is None:
            recount(ledger, account.id, Home(account.home), account.inner)
        else:
            told = f"{name}: the home belongs to {other}: log-ins are refused, and nothing is done"
            click.echo(f"ftpd: {told} there, before: ftpd user set {name} --take-home", err=True)


def _ownership(accounts: Accounts, engine: Engine) -> Ownership:
    from ftpserver.storage.ownership import Ownership, identity

    return Ownership(identity(engine), accounts.root)


@user.command("list")
@root_option
@json_option
def list_users(root: Path, as_json: bool) -> None:
    """List all accounts with their space."""
    accounts, _ = open_accounts(root, changing=False)
    if as_json:
        for account in accounts:
            _print_record(account)
    elif sys.stdout.isatty():
        _print_table(accounts)
    else:
        for account in accounts:
            click.echo(_line(account))


@user.command("show")
@click.argument("name")
@root_option
@json_option
def show_user(name: str, root: Path, as_json: bool) -> None:
    """Show one account."""
    from ftpserver.accounts.tokens import Tokens

    accounts, engine = open_accounts(root, changing=False)
    account = accounts.get(name)
    tokens = len(Tokens(engine, accounts).of(account))
    sessions = _sessions_of(name, root)
    if as_json:
        _print_record(account, tokens=tokens, sessions=sessions)
        return
    for title, text in _details(account, tokens, sessions):
        click.echo(f"{title:<12} {text}")


def _sessions_of(name: str, root: Path) -> int | None:
    """How many sessions the running server has of an account; None when there is no telling."""
    from ftpserver.daemon import control
    from ftpwire.errors import ConnectionLost, Forbidden

    try:
        answer = control.ask(state_of(root.absolute()), control.AskSessions())
    except (ConnectionLost, Forbidden):
        return None  # none runs there, or it is somebody else's
    assert isinstance(answer, control.Sessions)
    return sum(one.user == name for one in answer.sessions)


@user.command("set", cls=HintingCommand, hints=_SET_HINTS)
@click.argument("name")
@root_option
@limits_options
@click.option(
    "--take-home",
    is_flag=True,
    help="Take the home from the server that it belongs to, which must not use it any more.",
)
@json_option
@click.pass_context
def set_user(
    context: click.Context,
    /,
    name: str,
    root: Path,
    take_home: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Change the limits of NAME; what isn't named stays. Running sessions follow."""
    changes = _given(context)
    if not changes and not take_home:
        raise click.UsageError("nothing to set was named")
    accounts, engine = open_accounts(root)
    changed = accounts.change(name, **changes) if changes else accounts.get(name)
    if take_home:
        _take_home(accounts, engine, changed)
    _print_done(changed, as_json, f"changed {name}")


def _take_home(accounts: Accounts, engine: Engine, account: Account) -> None:
    ownership = _ownership(accounts, engine)
    if ownership.me is None:
        fail("this server was never started: its first start takes the homes that nobody has")
    try:
        ownership.take(account.home)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail(f"{account.name}: {paths.show(os.fsencode(account.home))}: {reason}")
    _count_homes(accounts, engine, [account.name])


@user.command("passwd", cls=HintingCommand, hints=PASSWORD_HINTS)
@click.argument("name")
@root_option
@password_options
@json_option
def change_password(
    name: str, root: Path, password_stdin: bool, weak: bool, generate: bool, as_json: bool
) -> None:
    """Set the password of NAME. Its sessions and tokens end."""
    accounts, _ = open_accounts(root)
    accounts.get(name)
    password = new_password(name, from_stdin=password_stdin, weak=weak, generate=generate)
    changed = accounts.set_password(name, password)
    told = f"password of {name} changed"
    _print_done(changed, as_json, told, password if generate else None)


@user.command("disable")
@click.argument("name")
@root_option
@json_option
def disable_user(name: str, root: Path, as_json: bool) -> None:
    """Refuse log-ins of NAME, and end its sessions."""
    accounts, _ = open_accounts(root)
    _print_done(accounts.change(name, disabled=True), as_json, f"disabled {name}")


@user.command("enable")
@click.argument("name")
@root_option
@json_option
def enable_user(name: str, root: Path, as_json: bool) -> None:
    """Let NAME log in again."""
    accounts, _ = open_accounts(root)
    account = accounts.change(name, disabled=False)
    over = f"; but it expired on {iso(account.expires or 0)}" if account.expired else ""
    _print_done(account, as_json, f"enabled {name}{over}")


@user.command("rename", short_help="Call an account another way; its home stays.")
@click.argument("name")
@click.argument("new")
@root_option
@json_option
def rename_user(name: str, new: str, root: Path, as_json: bool) -> None:
    """Call the account NAME another way. Its home stays where it is; its sessions end."""
    accounts, _ = open_accounts(root)
    _print_done(accounts.rename(name, new), as_json, f"renamed {name} to {new}")


@user.command("remove", short_help="Remove an account; its files stay, unless --delete-home.")
@click.argument("name")
@root_option
@click.option("--delete-home", is_flag=True, help="Remove its files too.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask whether the files are to go.")
@json_option
def remove_user(name: str, root: Path, delete_home: bool, yes: bool, as_json: bool) -> None:
    """Remove the account NAME, its tokens and sessions. Its files stay where they are."""
    accounts, engine = open_accounts(root)
    gone = accounts.get(name)
    if delete_home:
        if (other := _ownership(accounts, engine).other(gone.home)) is not None:
            fail(f"{name}: the home belongs to {other}: remove the account without --delete-home")
        _agree(gone, accounts, root.absolute(), yes)
    accounts.remove(name)
    home = paths.show(os.fsencode(gone.home))
    if delete_home:
        _remove_home(gone.home, home, name)
        _print_done(gone, as_json, f"removed {name} and {home}")
    else:
        _print_done(gone, as_json, f"removed {name}; its files stay in {home}")


def _agree(gone: Account, accounts: Accounts, root: Path, yes: bool) -> None:
    """Make sure that the home may be removed, and is meant to be."""
    from ftpserver.accounts.removal import check_removable, measure

    check_removable(gone, (other for other in accounts if other.id != gone.id), root)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask whether the files are to go: use --yes")
    found = measure(gone.home)
    home = paths.show(os.fsencode(gone.home))
    click.confirm(
        f"Remove {home} with {found.files} files ({human(found.size)}) for good?", abort=True
    )


def _remove_home(directory: Path, shown: str, name: str) -> None:
    from ftpserver.accounts.removal import remove_home

    try:
        remove_home(directory)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail(f"{name} was removed, but not all of {shown}: {reason}")


# many accounts -----------------------------------------------------------------------------


@user.command("export", short_help="Print all accounts, as JSON lines.")
@root_option
@click.option("--no-passwords", is_flag=True, help="Leave the password hashes out.")
def export_users(root: Path, no_passwords: bool) -> None:
    """Print all accounts, one JSON object a line, for `ftpd user import`.

    With the hashes of the passwords: keep it as safe as these.
    """
    from ftpserver.accounts.records import dumps, exported

    accounts, _ = open_accounts(root, changing=False)
    for account in accounts:
        hashed = None if no_passwords else accounts.password_hash(account.name)
        click.echo(dumps(exported(account, hashed, accounts.root)))


@user.command("import", short_help="Add the accounts of an export.")
@click.argument("file", type=click.File("rb"), default="-")
@root_option
@click.option("--update", is_flag=True, help="Change accounts that exist, in what a line names.")
@json_option
def import_users(file: Any, root: Path, update: bool, as_json: bool) -> None:
    """Add the accounts of an export: all of them, or none when a line is wrong.

    Accounts without a password hash can't log in until `ftpd user passwd` gives them one.
    """
    from ftpserver.accounts.records import dumps, import_lines

    accounts, engine = open_accounts(root, begin=True)
    done = import_lines(accounts, file, update=update)
    _count_homes(accounts, engine, (name for name in done.added if accounts.get(name).own_home))
    changed = f", {len(done.updated)} updated" if update else ""
    if as_json:
        click.echo(dumps({"added": done.added, "updated": done.updated}))
    else:
        click.echo(f"{len(done.added)} added{changed}")


# showing -----------------------------------------------------------------------------------


def _print_record(account: Account, **more: object) -> None:
    from ftpserver.accounts.records import dumps, shown

    click.echo(dumps(shown(account) | more))


def _print_done(account: Account, as_json: bool, done: str, generated: str | None = None) -> None:
    """Say what was done; print a password that was made, which is known nowhere else."""
    if as_json:
        _print_record(account, **({} if generated is None else {"password": generated}))
        return
    click.echo(done)
    if generated is not None:
        click.echo(f"password  {generated}")


def _space(account: Account) -> str:
    total = "unlimited" if account.quota is None else human(account.quota)
    return f"{human(account.used)} of {total}"


def _state(account: Account) -> str:
    if account.disabled:
        return "disabled"
    return "expired" if account.expired else "open"


def _notes(account: Account) -> str:
    """What is not as usual of an account."""
    notes = [] if account.permissions.unlimited else [str(account.permissions)]
    if _state(account) != "open":
        notes.append(_state(account))
    return ", ".join(notes)


def _line(account: Account) -> str:
    home = paths.show(os.fsencode(account.home))
    return "  ".join(
        part for part in (account.name, _space(account), home, _notes(account)) if part
    )


def _print_table(accounts: Accounts) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in ("NAME", "USED", "TOTAL", "EXPIRES", "STATE", "PERMISSIONS", "HOME"):
        right = head in ("USED", "TOTAL")
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for account in accounts:
        table.add_row(
            *map(
                Text,
                (
                    account.name,
                    human(account.used),
                    "unlimited" if account.quota is None else human(account.quota),
                    "never" if account.expires is None else iso(account.expires)[:10],
                    _state(account),
                    str(account.permissions),
                    paths.show(os.fsencode(account.home)),
                ),
            )
        )
    Console().print(table)


def _details(account: Account, tokens: int, sessions: int | None) -> list[tuple[str, str]]:
    now = "" if sessions is None else f"{sessions} now, "
    free = "" if account.free is None else f", {human(account.free)} free"
    held = f", {human(account.held)} held by uploads" if account.held else ""
    most = "unlimited" if account.most_files is None else str(account.most_files)
    limit = account.max_sessions
    most_sessions = "unlimited" if limit is None else f"at most {limit}"
    rate = "unlimited" if account.limit_rate is None else f"{human(account.limit_rate)}/s"
    return [
        ("name", account.name),
        ("state", _state(account)),
        ("home", paths.show(os.fsencode(account.home))),
        ("space", f"{_space(account)}{held}{free}"),
        ("files", f"{account.files} of {most}"),
        ("permissions", str(account.permissions)),
        ("networks", ", ".join(map(str, account.networks)) or "any"),
        ("expires", "never" if account.expires is None else iso(account.expires)),
        ("sessions", f"{now}{most_sessions}"),
        ("peer user", account.peer_user or "none"),
        ("system user", account.system_user or "none"),
        ("rate", rate),
        ("tokens", str(tokens)),
        ("created", iso(account.created)),
    ]
