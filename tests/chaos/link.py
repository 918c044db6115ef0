"""A TCP proxy between the system and its broker, which breaks connections in the ways that networks do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)  # Closing sends a reset.


class Link:
    """Passes on what comes to `port`, as long as nothing else is asked of it."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self._upstream = upstream
        self._delay = 0.0
        self._is_open = True
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()

    def reset(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._each, _Connection.reset)

    def half_open(self) -> None:
        """Never pass on anything again on the connections that there are; neither end is told. New ones work."""
        self._loop.call_soon_threadsafe(self._each, _Connection.mute)

    def black_hole(self) -> None:
        """The same, and what connects until `heal` meets silence, too."""
        self._is_open = False
        self.half_open()

    def delay(self, seconds: float) -> None:
        """Hold back whatever passes for so long."""
        self._delay = seconds

    def heal(self) -> None:
        """Pass on at once whatever comes on connections that are not broken."""
        self._is_open, self._delay = True, 0.0

    def _each(self, act: "Callable[[_Connection], None]") -> None:
        for connection in self._connections:
            act(connection)

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        with suppress(asyncio.CancelledError):
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        upstream: asyncio.StreamWriter | None = None
        try:
            if not self._is_open:
                connection.mute()
            else:
                back, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
                ways = [self._pass(reader, upstream, connection), self._pass(back, writer, connection)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if connection.is_mute:  # Until whoever connected gives it up.
                while await reader.read(65536):
                    pass
        except (OSError, asyncio.CancelledError):  # Whoever connected notices; or all is over.
            pass
        finally:
            self._connections.discard(connection)
            for one in (writer, upstream):
                if one is not None:
                    one.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: "_Connection") -> None:
        with suppress(OSError):
            while content := await source.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if connection.is_mute:
                    return
                sink.write(content)
                await sink.drain()

    def run(self, started: threading.Event) -> None:
        """Serve until `stop`."""
        self._task = self._loop.create_task(self._serve(started))
        self._loop.run_until_complete(self._task)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._task.cancel)


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_mute = False

    def mute(self) -> None:
        self.is_mute = True

    def reset(self) -> None:
        end: socket.socket = self._writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
        self._writer.transport.abort()


@contextmanager
def link_to(upstream: int) -> Iterator[Link]:
    """A link to a port of this machine, for as long as the block lasts."""
    link = Link(upstream)
    started = threading.Event()
    thread = threading.Thread(target=link.run, args=(started,), name="link")
    thread.start()
    started.wait()
    try:
        yield link
    finally:
        link.stop()
        thread.join()
