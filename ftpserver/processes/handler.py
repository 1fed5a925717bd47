"""What the server answers to its workers: what they may not decide alone.

Lives here: turns, counts and allowances that workers ask for, and what they report for all.
Lives elsewhere: the messages (messages.py), the counters (accounts/tallies.py), the workers
themselves (supervisor.py), their side (worker.py).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ftpserver.accounts.turns import Turn
from ftpserver.processes.messages import (
    AskTurn,
    BeginningTransfer,
    ChangingPassword,
    Entered,
    Entering,
    FoundBanned,
    Leaving,
    Lines,
    MayTell,
    PasswordChanged,
    Penalized,
    Probed,
    Probing,
    Registering,
    TellFailure,
    TransferEnded,
    TransferIdle,
    TurnGiven,
    TurnOver,
)

if TYPE_CHECKING:
    from ftpserver.accounts.tallies import Tallies
    from ftpserver.serving.service import Service


class Answers:
    """Answers all workers of a server. For the threads that read what they say.

    Args:
        service: Whose limits, audit log and invitations hold.
        tallies: What is counted for the sessions of all processes.
    """

    def __init__(self, service: Service, tallies: Tallies) -> None:
        self._service = service
        self._tallies = tallies

    def answer(self, worker: int, said: Any, give_way: Callable[[str], None]) -> Any:
        """Answer a worker, or take what it reports.

        Args:
            give_way: Has a transfer of that worker end, of whose token.
        """
        service, tallies = self._service, self._tallies
        match said:
            case Penalized(host, offence):
                service.limits.penalize(host, offence)
            case Lines(lines, count, share):
                service.audit.append(lines, count, share)
            case FoundBanned(place, until):
                service.limits.heard_of_ban(place, until)
            case Entering(account_id, name, capped):
                return Entered(
                    tallies.sessions.enter(account_id, name, capped=capped, worker=worker)
                )
            case Leaving(token):
                tallies.sessions.leave(token)
            case BeginningTransfer(account_id, name):
                return Entered(tallies.transfers.begin(account_id, name, give_way, worker=worker))
            case TransferIdle(token, idle):
                tallies.transfers.tell_idle(token, idle)
            case TransferEnded(token):
                tallies.transfers.leave(token)
            case Registering(host):
                service.registration.throttle.take(host)
            case Probing(invitation_id):
                service.registration.probes.take(invitation_id)
            case Probed(invitation_id):
                service.registration.probes.give_back(invitation_id)
            case AskTurn(host):
                spared = service.limits.is_spared(host)
                return _given(tallies.queue.enter(host, spared=spared, worker=worker))
            case TurnOver(token):
                tallies.queue.leave(token)
            case ChangingPassword(account_id, name):
                tallies.changes.begin(account_id, name, worker)
            case PasswordChanged(account_id):
                tallies.changes.end(account_id)
            case TellFailure(account_id, guess, size):
                return MayTell(service.audit.failures.take(account_id, guess, size))
            case _:
                raise TypeError(f"{type(said).__name__} is not answered here")
        return None


def _given(turn: Turn) -> Future[TurnGiven]:
    """The answer to who asked for a turn, when it is there."""
    answer: Future[TurnGiven] = Future()
    turn.began.add_done_callback(lambda _: answer.set_result(TurnGiven(turn.token)))
    return answer
