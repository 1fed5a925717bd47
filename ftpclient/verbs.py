"""The verbs that only send requests: each is written once, for both clients.

Lives here: the requests of each verb, what is made of the replies, the entries of a page.
Lives elsewhere: what is done around a verb (guard.py, aio/edge.py), verbs that transfer files
(client.py, transfer/), how paths are interpreted (arguments.py).

A verb is a coroutine that awaits only replies. AsyncClient awaits it in its event loop. The
connection of a `Client` blocks, so `run` completes the coroutine in one step. The public methods of
`Client` with the same names document what each verb does and raises.
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
    SpaceInfo,
    TokenInfo,
    TokenIssued,
)
from ftpwire.paths import RemotePath

T = TypeVar("T")
_Value = TypeVar("_Value")


class Ask(Protocol):
    """Sends a request and returns the reply. Raises the typed error if the request failed."""

    async def __call__(self, request: RequestFor[R], /) -> R: ...


def run(verb: Coroutine[Any, Any, T]) -> T:
    """Run a verb whose ``ask`` blocks and never suspends. Return its result."""
    try:
        verb.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    verb.close()
    raise RuntimeError("a verb of a blocking client awaited an event loop")


# reading -------------------------------------------------------------------------------------


async def whoami(ask: Ask) -> str:
    return (await ask(messages.WhoAmI())).user


async def space(ask: Ask) -> SpaceInfo:
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
    """Return the path if it is a directory. Raises NotADirectory."""
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
        raise InvalidPath(f"a link's target must have 1 to {paths.MAX_PATH} bytes")
    await ask(messages.MakeLink(path, text, overwrite=replacing(overwrite)))


async def set_attributes(
    ask: Ask, path: RemotePath, mode: int | None, mtime_ns: int | None, setgid: bool | None
) -> None:
    await ask(messages.SetAttributes(path, mode, mtime_ns, True, setgid))


async def remove(
    ask: Ask, path: RemotePath, *, recursive: bool, final: bool, file_only: bool
) -> Removed:
    return await ask(messages.Remove(path, recursive, final=final, file_only=file_only))


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
"""The choices if something else is at the path that is to be restored."""
_MOST_PATHS = 100
_MOST_ITEMS = 1000
"""Most paths, and most items, in one request to restore."""


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
    """Return the combined reply of several requests to restore."""
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
    """Raise ValueError unless a text is the full name of an operation; a short ID is not."""
    from ftpwire import trash_names  # here, because few commands need it

    if not trash_names.is_name(name):
        raise ValueError(f"{name!r} is not the name of an operation: use a `name` from trash()")


def _parts(values: Sequence[_Value], most: int) -> list[Sequence[_Value]]:
    """Return the values in parts that fit into one request; one empty part if there are none."""
    return [values[begin : begin + most] for begin in range(0, len(values), most)] or [()]


async def purge(
    ask: Ask, operation: str | None, items: Sequence[str], before: float | None
) -> Removed:
    if items and operation is None:
        raise ValueError("items need the name of their operation")
    if operation is not None:
        check_operation(operation)
    moment = None if before is None else max(0, int(before))
    return await ask(messages.Purge(operation, list(items), moment))


# targets, by the rules of cp -----------------------------------------------------------------


async def is_directory(ask: Ask, typed: bytes, path: RemotePath) -> bool:
    """Return True if files go into a target, which was typed as ``typed`` and is at ``path``."""
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
    """Return the same as ``is_directory``. See `Client.make_target`.

    Args:
        make: False to create nothing.
    """
    if into:
        if not await is_dir(ask, path):
            raise NoTargetDirectory(f"{paths.show(typed)}: no such directory on the server")
        return True
    if into is None:
        into = await is_directory(ask, typed, path)
    if into and make and typed.endswith(b"/"):
        await make_dir(ask, path, parents=True)
    if several and not into:
        raise NotADirectory(
            f"{paths.show(typed)}: not a directory, so several files cannot go there "
            "(add / to create it)"
        )
    return into


# passwords and tokens ------------------------------------------------------------------------


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


def beginning(page: Page, prefix: bytes) -> Page:
    """Return what a page has of a listing of the names that begin with ``prefix``.

    This is the whole page, except from a server without the feature `messages.LIST_PREFIX`.
    """
    if not prefix:
        return page
    if page.directory:
        # with ``recursive``, everything below a name that matches is listed
        return (
            page
            if page.directory.startswith(prefix)
            else structs.replace(page, entries=[], problems=[])
        )
    # an empty path is that of the listed path itself
    return structs.replace(
        page,
        entries=[one for one in page.entries if not one.path or one.path.startswith(prefix)],
        problems=[one for one in page.problems if not one.path or one.path.startswith(prefix)],
    )


def report_problems(page: Page, on_problem: Callable[[Problem], None] | None) -> None:
    """Report what a page could not list. Without ``on_problem``, raise the first problem."""
    for problem in page.problems:
        where = b"/".join(part for part in (page.directory, problem.path) if part)
        if on_problem is None:
            text = f"{paths.show(where)}: {problem.message}"
            raise messages.Failed(problem.code, text).to_error()
        on_problem(Problem(where, problem.code, problem.message))


def from_the_top(directory: bytes, entries: Iterable[Entry]) -> Iterable[Entry]:
    """Return a directory's entries with paths relative to the listed directory."""
    if not directory:
        return entries
    return (structs.replace(entry, path=directory + b"/" + entry.path) for entry in entries)
