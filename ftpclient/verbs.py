"""The verbs that ask the server something: each is written once, for both clients.

Lives here: which requests a verb makes, what becomes of the answers, the entries of a page.
Lives elsewhere: what is around a verb (guard.py, aio/edge.py), verbs that move the bytes of files
(client.py, transfer/), what a path means (arguments.py).

A verb is a coroutine, and waits only for answers. An event loop awaits it. A `Client` has a
connection that waits by itself, so `run` takes the coroutine to its end in one step. What each of
them does and raises is told where it is public, by the method of its name in `Client`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

from msgspec import structs

from ftpclient.arguments import AnyPath, Replace, as_typed, replacing
from ftpclient.connection.advice import advised
from ftpclient.transfer.sources import NoTargetDirectory
from ftpwire import messages, paths
from ftpwire.errors import InvalidPath, IsADirectory, NotADirectory, NotFound, TooMany
from ftpwire.messages import (
    Copied,
    Entry,
    Hashed,
    InTrash,
    Page,
    Problem,
    R,
    Removed,
    RequestFor,
    Restored,
    Room,
    TokenInfo,
    TokenIssued,
)
from ftpwire.paths import RemotePath

T = TypeVar("T")
_Value = TypeVar("_Value")


class Ask(Protocol):
    """Asks the server, and gives its answer. Raises the typed error when it failed."""

    async def __call__(self, request: RequestFor[R], /) -> R: ...


def run(verb: Coroutine[Any, Any, T]) -> T:
    """What a verb returns, whose ``ask`` never waits for an event loop."""
    try:
        verb.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    verb.close()
    raise RuntimeError("a verb of a blocking client has waited for an event loop")


# looking -------------------------------------------------------------------------------------


async def whoami(ask: Ask) -> str:
    return (await ask(messages.WhoAmI())).user


async def space(ask: Ask) -> Room:
    return await ask(messages.Space())


async def stat(
    ask: Ask,
    path: RemotePath,
    *,
    follow: bool,
    digest: bool = False,
    in_trash: InTrash | None = None,
) -> Entry:
    return (await ask(messages.Stat(path, follow, digest, in_trash))).entry


async def find(ask: Ask, path: RemotePath, *, follow: bool) -> Entry | None:
    try:
        return await stat(ask, path, follow=follow)
    except (NotFound, NotADirectory):
        return None


async def exists(ask: Ask, path: RemotePath, *, follow: bool) -> bool:
    return await find(ask, path, follow=follow) is not None


async def is_dir(ask: Ask, path: RemotePath) -> bool:
    entry = await find(ask, path, follow=True)
    return entry is not None and entry.type == "dir"


async def directory(ask: Ask, path: RemotePath) -> RemotePath:
    """The path, which has to be a directory's."""
    if (await stat(ask, path, follow=True)).type != "dir":
        raise NotADirectory(f"{paths.show(path)}: not a directory")
    return path


async def hashed(ask: Ask, path: RemotePath, in_trash: InTrash | None = None) -> Hashed:
    return await ask(messages.Hash(path, in_trash))


# changing ------------------------------------------------------------------------------------


async def make_dir(ask: Ask, path: RemotePath, *, parents: bool, mode: int = 0o755) -> None:
    await ask(messages.MakeDir(path, mode, parents))


async def make_link(ask: Ask, path: RemotePath, target: AnyPath, overwrite: Replace | bool) -> None:
    text = as_typed(target)
    if not 0 < len(text) <= paths.MAX_PATH:
        raise InvalidPath(f"a link's target has 1 to {paths.MAX_PATH} bytes")
    await ask(messages.MakeLink(path, text, overwrite=replacing(overwrite)))


async def set_attributes(
    ask: Ask, path: RemotePath, mode: int | None, mtime_ns: int | None, setgid: bool | None
) -> None:
    await ask(messages.SetAttributes(path, mode, mtime_ns, True, setgid))


async def remove(ask: Ask, path: RemotePath, *, recursive: bool, final: bool) -> Removed:
    return await ask(messages.Remove(path, recursive, final=final))


async def move(ask: Ask, source: RemotePath, target: RemotePath, overwrite: Replace | bool) -> None:
    await ask(messages.Move(source, target, replacing(overwrite)))


async def copy(
    ask: Ask,
    source: RemotePath,
    target: RemotePath,
    overwrite: Replace | bool,
    *,
    recursive: bool,
    links: bool,
) -> Copied:
    how = replacing(overwrite)
    try:
        return await ask(messages.Copy(source, target, recursive, how, links))
    except IsADirectory as error:
        if recursive or error.path != source:
            raise
        raise advised(error, " (use -r)") from None


# the trash -----------------------------------------------------------------------------------

Conflict = Literal["skip", "replace", "beside"]
"""What to do where something else is in the way of what is restored."""
_MOST_PATHS = 100
_MOST_ITEMS = 1000
"""So many are restored by one request at most."""


async def restore(
    ask: Ask,
    operation: str,
    restored: Sequence[RemotePath] = (),
    *,
    items: Sequence[str] = (),
    target: RemotePath | None = None,
    conflict: Conflict,
    dry_run: bool,
) -> Restored:
    if conflict not in ("skip", "replace", "beside"):
        raise ValueError(f"conflict is 'skip', 'replace' or 'beside', not {conflict!r}")
    check_operation(operation)
    done: list[Restored] = []
    for some in _parts(restored, _MOST_PATHS):
        for names in _parts(items, _MOST_ITEMS):
            where: list[bytes] = list(some)
            request = messages.Restore(operation, list(names), where, target, conflict, dry_run)
            done.append(await ask(request))
    return together(done)


def together(done: Sequence[Restored]) -> Restored:
    """What several requests to restore have done, as one answer."""
    return Restored(
        sum(one.items for one in done),
        sum(one.already for one in done),
        sum(one.gone for one in done),
        [problem for one in done for problem in one.conflicts],
        sum(one.more_conflicts for one in done),
        next((one.operation for one in done if one.operation is not None), None),
        [path for one in done for path in one.paths],
    )


def check_operation(name: str) -> None:
    """Raise ValueError for what can't be the name of an operation, as a short ID."""
    from ftpwire import trash_names  # few commands need it

    if not trash_names.is_name(name):
        raise ValueError(f"{name!r} is no name of an operation: take the `name` that trash() tells")


def _parts(values: Sequence[_Value], most: int) -> list[Sequence[_Value]]:
    """As many at a time as a request takes; none: one empty part."""
    return [values[begin : begin + most] for begin in range(0, len(values), most)] or [()]


async def purge(
    ask: Ask, operation: str | None, items: Sequence[str], before: float | None
) -> Removed:
    if items and operation is None:
        raise ValueError("items are those of an operation: name it")
    if operation is not None:
        check_operation(operation)
    moment = None if before is None else max(0, int(before))
    return await ask(messages.Purge(operation, list(items), moment))


# targets, by the rules of cp -----------------------------------------------------------------


async def is_directory(ask: Ask, typed: bytes, path: RemotePath) -> bool:
    """Whether things go into a target, which was typed so and is at ``path``."""
    entry = await find(ask, path, follow=True)
    ends = typed.endswith(b"/")
    if entry is None:
        return ends
    if entry.type != "dir" and ends:
        raise NotADirectory(f"{paths.show(typed)}: not a directory")
    return entry.type == "dir"


async def make_target(
    ask: Ask,
    typed: bytes,
    path: RemotePath,
    *,
    several: bool,
    into: bool | None,
    make: bool = True,
) -> bool:
    """As ``is_directory``. See `Client.make_target`.

    Args:
        make: False: nothing is made.
    """
    if into:
        if not await is_dir(ask, path):
            raise NoTargetDirectory(f"{paths.show(typed)}: no directory on the server")
        return True
    if into is None:
        into = await is_directory(ask, typed, path)
    if into and make and typed.endswith(b"/"):
        await make_dir(ask, path, parents=True)
    if several and not into:
        raise NotADirectory(f"{paths.show(typed)}: not a directory (end it with / to make one)")
    return into


# the account's keys --------------------------------------------------------------------------


async def change_password(ask: Ask, old: str, new: str) -> None:
    await ask(messages.ChangePassword(old, new))


async def issue_token(ask: Ask, name: str, seconds: int | None) -> TokenIssued:
    try:
        return await ask(messages.IssueToken(name[: messages.MAX_TOKEN_NAME], seconds))
    except TooMany as error:
        raise advised(error, " (ftp token list)") from None


async def tokens(ask: Ask) -> Sequence[TokenInfo]:
    return (await ask(messages.ListTokens())).tokens


async def revoke_token(ask: Ask, token_id: str | None) -> None:
    if token_id is not None and len(token_id) > messages.MAX_TOKEN_NAME:
        raise NotFound(f"{token_id[:20]}…: no such token")
    await ask(messages.RevokeToken(token_id))


# listings ------------------------------------------------------------------------------------


def tell_problems(page: Page, on_problem: Callable[[Problem], None] | None) -> None:
    """What a page could not list; raises the first of it when nobody listens."""
    for problem in page.problems:
        where = b"/".join(part for part in (page.directory, problem.path) if part)
        if on_problem is None:
            text = f"{paths.show(where)}: {problem.message}"
            raise messages.Failed(problem.code, text).to_error()
        on_problem(Problem(where, problem.code, problem.message))


def from_the_top(directory: bytes, entries: Iterable[Entry]) -> Iterable[Entry]:
    """A directory's entries, with their paths from the directory that is listed on."""
    if not directory:
        return entries
    return (structs.replace(entry, path=directory + b"/" + entry.path) for entry in entries)
