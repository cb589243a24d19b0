# SPDX-License-Identifier: Apache-2.0
"""Message octets to wire octets: dots stuffed, line ends proved, in chunks of any size.

Promises: no bare CR or LF ever leaves us, so no next hop can see an end of data that is not one; except for doubled dots
(and a CRLF after a last line without one) every octet is passed on as it is.
Fails with: `MailError` (5yz: the content will not get better) from the chunk in which the fault is.
RFCs: 5321 §4.5.2 (transparency), §2.3.8 (line ends). Pure: no I/O.
"""

from gateway.mail import reply
from gateway.mail.reply import MailError

END = b".\r\n"


def stuff(content: bytes) -> bytes:
    """A whole content as it goes after DATA, the final dot included."""
    if not _is_clean(content):
        raise MailError(reply.BARE_LINE_END, "content in the queue has a bare CR or LF")
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    return content + END


class Stuffer:
    """The same for content in chunks: `feed` each, then send `finish()`."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR at the end of a chunk, whose LF is to come

    def feed(self, chunk: bytes) -> bytes:
        """The wire octets of one more chunk, without a CR that ends it: that waits for its LF."""
        if not chunk:
            return b""
        chunk = self._held + chunk
        self._held = b""
        if chunk.endswith(b"\r"):
            chunk, self._held = chunk[:-1], b"\r"
        if not chunk:
            return b""
        if not _is_clean(chunk):
            raise MailError(reply.BARE_LINE_END, "content in the queue has a bare CR or LF")
        dot_first = self._at_line_start and chunk.startswith(b".")
        self._at_line_start = chunk.endswith(b"\r\n")
        if b"\r\n." in chunk:
            chunk = chunk.replace(b"\r\n.", b"\r\n..")
        return b"." + chunk if dot_first else chunk

    def finish(self) -> bytes:
        """What ends the content: a CRLF if the last line has none, and the final dot."""
        if self._held:
            raise MailError(reply.BARE_LINE_END, "content in the queue ends with a bare CR")
        return END if self._at_line_start else b"\r\n" + END


def _is_clean(content: bytes) -> bool:
    """True if each CR is followed by LF and each LF follows a CR: three counts that agree prove it."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") == pairs and content.count(b"\r") == pairs
