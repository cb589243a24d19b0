# SPDX-License-Identifier: Apache-2.0
"""What a supervisor and a worker say to each other, over one socket pair.

    down   frames of 4 octets of length and a configuration as TOML: the one to start with, then each that is approved later
    up     one octet each: STARTING, then READY once, then ALIVE while the worker's loop turns

Promises: a worker uses only a configuration that the supervisor has approved, never what happens to be on disk when it starts;
the end of the connection is the end of the other side.
"""

import asyncio
import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "GATEWAY_WORKER"  # of the environment: the assignment
STARTING, READY, ALIVE = b"S", b"R", b"A"
HEARTBEAT = 2.0  # seconds between two signs of life
FRAME_MAX = 16 << 20  # octets; a configuration is some kilobytes


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is told at its start and what no reload changes.

    `listeners` are (descriptor, number of its options in `options`).
    """

    index: int
    count: int
    config: str  # path of the configuration, for messages
    data_dir: str
    link: int  # descriptor of the socket pair
    tally: int  # descriptor of the memory that the workers count connections in
    listeners: list[tuple[int, int]]
    options: list[dict[str, Any]]  # of each [[listener]]

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Assignment":
        data = json.loads(text)
        data["listeners"] = [(descriptor, number) for descriptor, number in data["listeners"]]
        return cls(**data)


async def send_frame(link: socket.socket, text: bytes) -> None:
    """Say a configuration. Raises OSError if the worker is gone."""
    await asyncio.get_running_loop().sock_sendall(link, len(text).to_bytes(4, "big") + text)


async def receive_frame(link: socket.socket) -> bytes | None:
    """The next configuration; None when the supervisor is gone."""
    size = await _receive(link, 4)
    if size is None or int.from_bytes(size, "big") > FRAME_MAX:
        return None
    return await _receive(link, int.from_bytes(size, "big"))


async def _receive(link: socket.socket, size: int) -> bytes | None:
    data = b""
    loop = asyncio.get_running_loop()
    while len(data) < size:
        try:
            more = await loop.sock_recv(link, size - len(data))
        except OSError:  # a reset is an end too
            return None
        if not more:
            return None
        data += more
    return data
