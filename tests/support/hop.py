# SPDX-License-Identifier: Apache-2.0
"""A next hop that says what a test puts into its mouth, octet for octet; its connections are threads.

    with Hop({b"RCPT": b"550 5.1.1 \\x1b[2Jno\\r\\n"}) as hop:
        … deliver to 127.0.0.1:hop.port …
    assert hop.heard[0][-1] == b"QUIT"

Not here: a server that behaves, or misbehaves by name (`sink.py`).
"""

import contextlib
import socket
import threading
from collections.abc import Mapping

BEHAVED = {
    b"": b"220 hop.example\r\n",  # the greeting
    b"EHLO": b"250 hop.example\r\n",
    b"DATA": b"354 go on\r\n",
    b".": b"250 2.0.0 taken\r\n",
    b"QUIT": b"221 2.0.0 bye\r\n",
}


class Hop:
    """Answers each verb with what `says` has for it. `heard` are the command lines of each connection."""

    def __init__(self, says: Mapping[bytes, bytes]) -> None:
        self.says = dict(says)  # may be changed while it runs
        self.heard: list[list[bytes]] = []
        self.messages: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="hop", daemon=True)

    def __enter__(self) -> "Hop":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), name="hop", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        lines: list[bytes] = []
        self.heard.append(lines)
        with connection, connection.makefile("rwb", buffering=0) as stream, contextlib.suppress(OSError):
            stream.write(self.says.get(b"", BEHAVED[b""]))
            while line := stream.readline():
                verb = line.strip().partition(b" ")[0].upper()
                lines.append(line.strip())
                answer = self.says.get(verb) or BEHAVED.get(verb, b"250 2.0.0 ok\r\n")
                stream.write(answer)
                if verb == b"QUIT":
                    return
                if verb == b"DATA" and answer.startswith(b"354"):
                    content = b""
                    while not content.endswith(b"\r\n.\r\n"):
                        content += stream.readline()
                    self.messages.append(content)
                    stream.write(self.says.get(b".", BEHAVED[b"."]))
