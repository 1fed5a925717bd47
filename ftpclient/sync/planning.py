"""Making the plan of a sync from its two roots.

Lives here: looking up the roots, one of which may be missing.
Lives elsewhere: comparing what is below them (diff.py), what is done about differences (policy.py),
renamed files (renames.py), carrying out the plan (job.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, closing

from ftpclient.connection.connection import Connection
from ftpclient.sync.diff import Comparison
from ftpclient.sync.local_reader import local_root
from ftpclient.sync.plan import AnyBytes, Options, Route
from ftpclient.sync.policy import MakePolicy, OnResult, Policy, policy_for
from ftpclient.sync.renames import Renames
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.path_list import Look, PathList, looking_here, looking_there
from ftpclient.transfer.selection import Filter
from ftpwire import paths
from ftpwire.errors import ConnectionLost, Interrupted, NotADirectory, NotFound, from_oserror
from ftpwire.messages import Entry, Stat


def compare(
    connection: Connection,
    route: Route,
    options: Options,
    rules: Filter,
    report: OnResult,
    only: PathList | None = None,
    make: MakePolicy = policy_for,
) -> Policy:
    """Compare the trees, and make a plan.

    Args:
        rules: The filter of the options.
        report: Called with what cannot be mirrored or is skipped.
        only: A list of paths to which the sync is limited, if any.
        make: Makes the policy that decides about each difference.

    Returns:
        The policy, with the plan. Close that after use.

    Raises:
        CommandError: A root is missing, is not a directory or cannot be read.
        ConnectionLost, Interrupted
    """
    remote = _remote_root(connection, route)
    try:
        with ExitStack() as stack:
            tree = _local_root(route)
            local = None
            if tree is not None:
                stack.enter_context(closing(tree))
                local = local_root(tree)
            source, target = (local, remote) if route.upload else (remote, local)
            assert source is not None
            policy = make(connection, route, tree, options, report)
            if only is not None:
                for path, error in only.choose(_looking(connection, route, options)):
                    policy.troubles.report(path, error)
            _fill(policy, connection, route, rules, source, target, options.directories)
            return policy
    except OSError as error:
        raise from_oserror(error, paths.show(route.local)) from None


def _looking(connection: Connection, route: Route, options: Options) -> Look:
    """Return a function that looks up paths in the source."""
    if route.upload:
        return looking_here(route.local, follow=options.copy_links)
    return looking_there(connection, route.remote, follow=options.copy_links)


def _fill(
    policy: Policy,
    connection: Connection,
    route: Route,
    rules: Filter,
    source: Entry,
    target: Entry | None,
    directories: Iterable[AnyBytes] | None,
) -> None:
    try:
        if directories is None:
            Comparison(policy, rules).run(source, target)
        else:
            from ftpclient.sync.partial import PartialComparison

            partial = PartialComparison(policy, rules, connection, route)
            partial.run_within(source, target, map(os.fsencode, directories))
        policy.deletions.forget_what_stays()
        if policy.deletions.missing:
            Renames(connection, route, policy).find()
    except BaseException as error:
        policy.plan.close()
        if not isinstance(error, (ConnectionLost, Interrupted)):  # these are cleaned up elsewhere
            connection.cancel_all()
        raise


def _remote_root(connection: Connection, route: Route) -> Entry | None:
    path = route.remote
    try:
        reply = connection.ask(Stat(path, follow=True))
    except NotFound:
        if route.upload:
            return None
        raise
    if reply.entry.type != "dir":
        raise NotADirectory(f"{paths.show(path)}: not a directory (use put or get for files)")
    return reply.entry


def _local_root(route: Route) -> LocalTree | None:
    path = route.local
    try:
        return LocalTree(path)
    except FileNotFoundError:
        if not route.upload and not os.path.lexists(path):
            return None
        raise
    except NotADirectoryError:
        shown = paths.show(path)
        raise NotADirectory(f"{shown}: not a directory (use put or get for files)") from None
