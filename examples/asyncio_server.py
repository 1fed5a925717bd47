"""A coroutine for each connection: as easy to read as threads, and as cheap as a selector."""

import asyncio
import sys

from conversation import Greeter

from ftpwire.errors import ProtocolError


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    greeter = Greeter()
    try:
        while received := await reader.read(4096):
            writer.write(greeter.answer(received))
            await writer.drain()  # waits while the client does not read its greetings
    except (OSError, ProtocolError) as error:
        print("closed:", error, file=sys.stderr)
    except asyncio.CancelledError:
        pass  # the program is ending, and the task has nothing left to do
    finally:
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", port)
    async with server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4321))
    except KeyboardInterrupt:
        pass
