"""The documents say what the programs do: fields, codes, limits, commands, options, links."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import msgspec
import pytest
from msgspec import msgpack

from ftpclient.cli.group import MODULE_OF
from ftpclient.cli.main import remote
from ftpserver.cli.main import cli as ftpd
from ftpwire import SOFTWARE, errors, frames, messages
from ftpwire.frames import FrameReader, Kind
from tests.protocol_document import PROTOCOL, rows, section

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
]
README = (ROOT / "README.md").read_text()


# the protocol: messages --------------------------------------------------------------------

ARRAYS = {"entry": messages.Entry, "problem": messages.Problem, "token": messages.TokenInfo}
ARRAYS["kept-upload"] = messages.KeptUpload
ARRAYS["trashed-operation"] = messages.TrashedOperation
ARRAYS["trash-item"] = messages.TrashItem
OF_MANY_FILES: dict[str, type[msgspec.Struct]] = {
    "new-files": messages.NewFiles,
    "new-file": messages.NewFile,
    "finished": messages.Finished,
    "item-failure": messages.ItemFailure,
    "wanted-files": messages.WantedFiles,
    "wanted-file": messages.WantedFile,
    "sent-file": messages.SentFile,
}
ARRAYS |= OF_MANY_FILES
BASES = (
    *(messages.Message, messages.RequestBase),
    *(messages.RequestFor, messages.ChangeFor, messages.StreamFor),
)
TAGGED = {
    struct.__struct_config__.tag: struct
    for struct in vars(messages).values()
    if isinstance(struct, type) and issubclass(struct, messages.Message) and struct not in BASES
}
TYPES = {
    "integer": int,
    "int": messages.TimeNs,
    "int or nil": messages.TimeNs | None,
    "integer or nil": int | None,
    "uint": messages.Size,
    "uint or nil": messages.Size | None,
    "mode": messages.Mode,
    "mode or nil": messages.Mode | None,
    "path": messages.Path,
    "digest": messages.Digest,
    "digest or nil": messages.Digest | None,
    "bin": bytes,
    "bool": bool,
    "str": str,
    "array of str": list[str],
    "[entry](#entry)": messages.Entry,
    "array of [entry](#entry)": list[messages.Entry],
    "array of [problem](#problem)": list[messages.Problem],
    "array of [token](#token)": list[messages.TokenInfo],
    "array of [kept-upload](#kept-upload)": list[messages.KeptUpload],
    "path or nil": messages.Path | None,
    "array of bin": list[bytes],
    "operation name": messages.OperationName,
    "operation name or nil": messages.OperationName | None,
    "array of operation name and item name, or nil": messages.InTrash | None,
    "array of [trashed-operation](#trashed-operation)": list[messages.TrashedOperation],
    "array of [trash-item](#trash-item)": list[messages.TrashItem],
    "bin of 1 to 255 bytes": messages.Name,
    "bin of at most 255 bytes": messages.Prefix,
    "str or nil": str | None,
    "integer from 0 to 999": Annotated[int, msgspec.Meta(ge=0, le=messages.MAX_ITEMS - 1)],
}
for name, kind in OF_MANY_FILES.items():
    most = msgspec.Meta(max_length=messages.MAX_ITEMS)
    TYPES[f"array of at most 1,000 [{name}](#{name})"] = Annotated[list[kind], most]
    nothing = f"array of at most 1,000 [{name}](#{name}) or nil"
    TYPES[nothing] = Annotated[list[kind | None], most]

"""What the words of the tables mean. Others are told of in the text of the field."""
DEFAULTS = {"true": True, "false": False, "nil": None, "empty": (b"", "", [])}


REQUESTS = get_args(messages.Request)


def meaning(kind: Any) -> Any:
    """A type of a field, comparable; of a choice, only that it is text."""
    if get_origin(kind) is Literal:
        return str
    if get_origin(kind) in (Union, UnionType):
        return {meaning(one) for one in get_args(kind)}
    return kind


def plain(kind: Any) -> Any:
    """The same without bounds: what a server says is told of more narrowly than is checked."""
    found = meaning(kind)
    if isinstance(found, set):
        return {plain(one) for one in found}
    return get_args(found)[0] if get_origin(found) is Annotated else found


def told_default(cell: str):
    """What the column of defaults says."""
    if cell in DEFAULTS:
        return DEFAULTS[cell]
    if cell.startswith("`"):
        return cell.strip("`")
    return ast.literal_eval(cell.split()[0])


@pytest.mark.parametrize("tag", sorted(TAGGED))
def test_the_protocol_lists_every_field(tag):
    fields = msgspec.structs.fields(TAGGED[tag])
    text = section(tag)
    table = rows(text)
    assert [cells[0].strip("`") for cells in table] == [field.name for field in fields]
    assert table or "No fields" in " ".join(text.split())
    for field, cells in zip(fields, table, strict=True):
        kind, default = cells[1], cells[2]
        if kind in TYPES:
            view = meaning if TAGGED[tag] in REQUESTS else plain
            assert view(TYPES[kind]) == view(field.type), f"{field.name} is no {kind}"
        if field.required:
            assert default == "required", field.name
        elif field.name == "software":
            assert default == "not known"
        else:
            real = field.default
            if real is msgspec.NODEFAULT:
                real = field.default_factory()
            reported = told_default(default)
            assert real in reported if isinstance(reported, tuple) else real == reported, field.name


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_the_protocol_lists_every_element(name):
    elements = [cells[:2] for cells in rows(section(name))]
    fields = [field.name.removesuffix("_ns") for field in msgspec.structs.fields(ARRAYS[name])]
    assert elements == [[str(number), field] for number, field in enumerate(fields)]


@pytest.mark.parametrize("name", sorted(OF_MANY_FILES))
def test_the_protocol_says_what_each_element_of_many_files_is(name):
    fields = msgspec.structs.fields(OF_MANY_FILES[name])
    for field, cells in zip(fields, rows(section(name)), strict=True):
        view = plain if name == "sent-file" else meaning  # what a server tells
        assert view(TYPES[cells[2]]) == view(field.type), f"{field.name} is no {cells[2]}"


def test_the_protocol_has_no_message_that_is_not_spoken():
    reported = set(re.findall(r"^### (\S+)$", PROTOCOL, re.M))
    assert reported == TAGGED.keys() | ARRAYS.keys()


# the protocol: frames and codes ------------------------------------------------------------


def test_the_protocol_lists_every_kind_of_frame():
    reported = {int(cells[0]): cells[1] for cells in rows(section("Frames")) if cells[0].isdigit()}
    assert reported == {kind.value: kind.name for kind in Kind}


def every_code() -> dict[str, type[errors.FtpError]]:
    """All codes that either program knows, also those that never travel."""
    for module in (
        "ftpwire.channel",
        "ftpwire.tls",
        "ftpclient.cli.app",
        "ftpclient.connection.addresses",
    ):
        import_module(module)
    return errors._family(errors.FtpError)


def test_the_protocol_lists_every_code():
    text = section("Error codes")
    table = [(cells[0].strip("`"), int(cells[2])) for cells in rows(text)]
    local = text[text.index("`ftp` itself also uses") :]
    for codes, status in re.findall(r"([^()]*)\((\d+)\)", local):
        table += [(code, int(status)) for code in re.findall(r"`([a-z-]+)`", codes)]
    table = [(code, status) for code, status in table if code != "ftp"]
    codes = every_code()
    assert {code: codes[code].exit_code for code, _ in table} == dict(table)
    shared = {code for code, kind in codes.items() if kind.__module__.startswith("ftpwire.")}
    assert shared - {"protocol"} <= dict(table).keys(), "only a family of others has no entry"
    doubled = {code for code, status in table if table.count((code, status)) > 1}
    assert doubled <= {"internal"}, "with the id 0 it ends the connection"


def test_the_codes_of_the_messages_are_codes():
    reported = set()
    for tag in TAGGED:
        for sentence in re.findall(r"Errors?:(.*?)(?:\n\n|\Z)", section(tag), re.S):
            reported |= set(re.findall(r"`([a-z][a-z-]+)`", sentence))
    words = {
        "FTPW",
        "needed",
        "free",
        "commit",
        "copied",
        "problems",
        "list",
        "stat",
        "prefix",
        "progress",
        "recursive",
    }
    assert reported - words - TAGGED.keys() <= every_code().keys()


# the protocol: a worked session ------------------------------------------------------------


def worked_frames() -> list[tuple[str, bytes]]:
    """The frames of the worked session, each with who sends it."""
    found: list[tuple[str, bytes]] = []
    for line in section("A worked session").splitlines():
        if match := re.match(r"    ([CS]) (?:REQUEST|REPLY|DATA|END) +\d", line):
            found.append((match[1], b""))
        elif re.fullmatch(r"      (?:[0-9a-f]{2} ?)+", line):
            side, data = found[-1]
            found[-1] = (side, data + bytes.fromhex(line))
    return found


def decoded(data: bytes) -> tuple:
    """One frame as kind, id, and what is in it."""
    reader = FrameReader()
    reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
    reader.writable()[: len(data)] = data
    reader.received(len(data))
    header = reader.next_header()
    assert header is not None
    assert len(data) == frames.HEADER_SIZE + header.size
    payload = data[frames.HEADER_SIZE :]
    if header.kind == Kind.DATA:
        return header.kind, header.request_id, payload
    return header.kind, header.request_id, msgpack.decode(payload.removeprefix(messages.MAGIC))


def test_the_worked_session_works(start_server, dial):
    server = start_server()
    server.accounts.set_password("alice", "pw")
    peer = dial(server, logged_in=False)
    worked = worked_frames()
    assert len(worked) == 15
    for side, data in worked:
        expected = decoded(data)
        if side == "C":
            peer.send(data)
            continue
        found = tuple(peer.answer())
        if expected[0] != Kind.DATA:
            found = (*found[:2], msgpack.decode(found[2].removeprefix(messages.MAGIC)))
        if expected[1] == 0:
            expected[2]["software"] = SOFTWARE  # of whatever version
        assert found == expected
    assert peer.is_silent()


# commands and options ----------------------------------------------------------------------


def follow(command: click.Command, words: list[str]) -> None:
    """See that a command line can be meant: its commands exist, and each takes its options."""
    context = click.Context(command)
    above: list[click.Parameter] = []
    words = [word for word in words if word != "--all" or "--help" not in words]
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            long = word.startswith("--")
            names = [word.partition("=")[0]] if long else [f"-{letter}" for letter in word[1:]]
            for name in names:
                option = find_option([*command.params, *above], name)
                assert option is not None or name == "--help", f"{command.name} takes no {name}"
                if option is not None and not option.is_flag and "=" not in word:
                    words.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            assert found is not None, f"{command.name} has no command {word}"
            command = found


def find_option(params: list[click.Parameter], name: str) -> click.Option | None:
    for param in params:
        if isinstance(param, click.Option) and name in (*param.opts, *param.secondary_opts):
            return param
    return None


def shell_commands(text: str) -> list[tuple[click.Command, list[str]]]:
    """Every `ftp` and `ftpd` of the code in a document, and what is typed into the shell."""
    found = []
    for block in re.findall(r"^```\w+\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            if typed := re.match(r"\w+@\w+:\S*> (.+)", line):
                found.append((inside, shlex.split(typed[1])))
                continue
            for part in re.split(r"&&|[|;&]", line.removeprefix("$ ")):
                if match := re.search(r"(?:^|\s)(?:\S*/)?(ftpd?) (.+)", part):
                    program = ftpd if match[1] == "ftpd" else remote
                    found.append((program, shlex.split(match[2])))
    return found


class _Inside(click.Group):
    """All commands, those of the shell among them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULE_OF:
            return None
        module = import_module(f"ftpclient.cli.commands.{MODULE_OF[cmd_name]}")
        return getattr(module, f"{cmd_name}_command")


inside = _Inside("shell")


def test_the_commands_of_the_readme_exist():
    commands = shell_commands(README)
    assert len(commands) > 8
    for command, words in commands:
        follow(command, words)


def test_what_the_readme_says_of_commands_in_passing():
    for text in re.findall(r"`([^`\n]+)`", README):
        words = text.split()
        if words[0] in MODULE_OF:
            follow(inside, words)


def every_option() -> set[str]:
    """Every long option of both programs."""
    todo = [*commands_of(remote), *commands_of(ftpd), *commands_of(inside)]
    return {name for command in todo for param in command.params for name in param.opts}


def commands_of(command: click.Command) -> list[click.Command]:
    if command is inside:
        names = sorted(MODULE_OF)
    elif isinstance(command, click.Group):
        names = command.list_commands(click.Context(command))
    else:
        return [command]
    assert isinstance(command, click.Group)
    below = [command.get_command(click.Context(command), name) for name in names]
    return [command, *(found for one in below if one for found in commands_of(one))]


@pytest.mark.parametrize("document", ["README.md", "docs/protocol.md", "docs/architecture.md"])
def test_every_option_that_is_mentioned_exists(document):
    text = (ROOT / document).read_text()
    mentioned = set()
    for code in re.findall(r"`([^`\n]+)`", text):
        mentioned |= set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code))
    assert mentioned - {"--help"} <= every_option()


# messages ----------------------------------------------------------------------------------

NOT_IN_ONE_PIECE = {
    "others can write to it (mode",
    "unknown key",
    "address already in use",
    "Permission denied",
    "file is not a database",
    "database is locked",
}
"""Parts of messages that come from the system or SQLite, or are put together from shorter ones."""
VARIABLE = re.compile(r"…|\bN\b|\bDec\b|\balice\b|/state\.db|/\w+|\w+=[\w-]+|[\d.]+|: | must be ")
"""What differs each time, or where a message is put together from two."""
IN_PASSING = [
    ("admin.md", "recounting the home"),
    ("admin.md", "alice@192.0.2.7:51442: session ended after"),
    ("admin.md", "the client does not trust the server's certificate"),
    ("protocol.md", "put: mode must be an integer from 0 to 4095"),
    ("protocol.md", "the server is shutting down"),
]
"""Messages that documents quote within a sentence."""


def strings_of_the_programs() -> str:
    """All strings in the programs that are not docstrings."""
    found = []
    for space in ("ftpserver", "ftpclient", "ftpwire"):
        for path in (ROOT / space).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            found += [
                node.value
                for node in nodes
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in alone
            ]
    return "\0".join(found)


def quoted() -> Iterator[tuple[str, str]]:
    """The messages that documents quote, each with its document."""
    yield from IN_PASSING
    admin = (ROOT / "docs" / "admin.md").read_text()
    _, table = admin.split("## When it does not start")
    for cell in re.findall(r"^\| (`.+?) \|", table, re.M):
        yield from (("admin.md", text) for text in re.findall("`([^`]+)`", cell))
    for name in ("admin.md", "json.md"):
        text = (ROOT / "docs" / name).read_text()
        for message in re.findall(r'"(?:message|reason)": ?"([^"]+)"', text):
            yield name, message


def test_messages_that_are_quoted_exist():
    strings = strings_of_the_programs()
    messages = list(quoted())
    assert len(messages) > 18
    for document, message in messages:
        text = " ".join((ROOT / "docs" / document).read_text().split())
        assert message in text, f"{document} no longer has {message!r}: remove it from this list"
        for part in VARIABLE.split(message):
            part = part.strip(" :,()@")
            assert part in strings or part in NOT_IN_ONE_PIECE, f"{document}: {message!r}: {part!r}"


# links -------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What can be linked to in a document."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def links() -> list:
    found = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text()):
            if not re.match(r"[a-z]+:", target):
                found.append(pytest.param(document, target, id=f"{document}-{target}"))
    return found


@pytest.mark.parametrize(("document", "target"), links())
def test_links_lead_somewhere(document, target):
    name, _, anchor = target.partition("#")
    path = ROOT / document.parent / name if name else ROOT / document
    assert path.exists()
    assert not anchor or anchor in anchors(path.read_text())
