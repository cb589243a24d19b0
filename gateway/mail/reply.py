# SPDX-License-Identifier: Apache-2.0
"""Every reply that this server ever sends, and the error that carries one.

Promises: the class digit of the enhanced status is derived from the code, so the two cannot disagree;
no other file contains a reply literal (a test looks for them).
RFCs: 5321 §4.2, 2034 (enhanced codes on every line), 3463 and 5248 (their meaning), 7372 (authentication).
Not here: which reply is given when; that is the business of the stage that raises it.
"""

import re

from gateway.mail.value import value

LINE_MAX = 512  # octets of a reply line with code and CRLF (RFC 5321 §4.5.3.1.5)

_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![^ \n])")


@value(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `status` is (subject, detail) of RFC 3463; None where RFC 2034 §4 wants no enhanced code."""

    code: int
    text: str
    status: tuple[int, int] | None = None

    @property
    def enhanced(self) -> str:
        """The enhanced status code, such as "5.7.1"; empty if the reply has none."""
        return f"{self.code // 100}.{self.status[0]}.{self.status[1]}" if self.status else ""

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def wire(self) -> bytes:
        """The octets of the reply, one line for each line of `text`, the codes on every line (RFC 2034 §4)."""
        status = f"{self.enhanced} " if self.status else ""
        if "\n" not in self.text:
            return _line(f"{self.code} {status}{self.text}")
        lines = self.text.split("\n")
        last = len(lines) - 1
        return b"".join(_line(f"{self.code}{' ' if at == last else '-'}{status}{line}") for at, line in enumerate(lines))

    def but(self, text: str) -> "Reply":
        """The same reply with another text. Control characters become "?" so that one reply stays one line."""
        return Reply(self.code, clean(text), self.status)

    def __str__(self) -> str:
        code = f"{self.code} {self.enhanced}" if self.status else str(self.code)
        return f"{code} {self.text}".replace("\n", " ") if self.text else code


def clean(text: str, limit: int = 900) -> str:
    """`text` without control characters and not longer than `limit` characters."""
    text = text[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def from_remote(code: int, text: str) -> Reply:
    """A reply that another server gave. An enhanced code of another class than `code` is left in the text.

    RFC 5321 §4.3.2: only the first digit of the code decides what we do.
    """
    if not (text.isprintable() and len(text) <= LINE_MAX):  # most are one short line
        text = "\n".join(clean(line) for line in text.splitlines()[:20])
    found = _ENHANCED.match(text)
    if not found or int(found[1]) != code // 100:
        return Reply(code, text)
    lines = (_without(line, found[0]) for line in text.split("\n"))
    return Reply(code, "\n".join(lines), (int(found[2]), int(found[3])))


def _without(line: str, status: str) -> str:
    """RFC 2034 §4: the enhanced code stands on every line; some servers have it on the first one only."""
    rest = line.removeprefix(status)
    return rest.lstrip(" ") if rest != line and rest[:1] in ("", " ") else line


def _line(text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    if len(octets) > LINE_MAX - 2:  # cut between characters
        octets = octets[: LINE_MAX - 2].decode("utf-8", "ignore").encode("utf-8")
    return octets + b"\r\n"


class MailError(Exception):
    """Something that ends a command: the peer sees `reply`, the log `detail`."""

    def __init__(self, reply: Reply, detail: str = "") -> None:
        super().__init__(f"{reply}{f' ({detail})' if detail else ''}")
        self.reply = reply
        self.detail = detail


# --- 2yz and 3yz
BANNER = Reply(220, "ESMTP")  # our name goes before the text
GREETING = Reply(250, "")  # our name and, for EHLO, a line for each extension
OK = Reply(250, "Ok", (0, 0))
QUEUED = Reply(250, "Ok: queued as", (0, 0))
CHUNK_TAKEN = Reply(250, "octets received", (0, 0))  # RFC 3030 §2; their number goes before the text
SENDER_OK = Reply(250, "Sender ok", (1, 0))
RECIPIENT_OK = Reply(250, "Recipient ok", (1, 5))
BYE = Reply(221, "Bye", (0, 0))
HELP = Reply(214, "Commands:", (0, 0))  # the verbs go behind it
HELP_MORE = "RFC 5321 tells what they do; people answer at postmaster@"  # our name goes behind it
NOT_VERIFIED = Reply(252, "Cannot verify, but will take a message", (5, 2))
START_TLS = Reply(220, "Ready to start TLS", (0, 0))
START_CONTENT = Reply(354, "End data with <CR><LF>.<CR><LF>")
AUTH_CHALLENGE = Reply(334, "")  # in base64
AUTH_OK = Reply(235, "Authentication succeeded", (7, 0))

# --- the session is over
SHUTTING_DOWN = Reply(421, "Service shutting down, try again later", (3, 2))
TOO_MANY_CONNECTIONS = Reply(421, "Too many connections, try again later", (7, 0))
TOO_BUSY = Reply(421, "Too busy, try again later", (3, 2))
IDLE = Reply(421, "Idle for too long", (4, 2))
TOO_SLOW = Reply(421, "The transaction takes too long", (4, 2))
TOO_MANY_ERRORS = Reply(421, "Too many errors", (7, 0))
TOO_MANY_COMMANDS = Reply(421, "Too many commands", (7, 0))
TOO_MANY_UNKNOWN = Reply(421, "Too many unknown commands", (7, 0))
TOO_MANY_MESSAGES = Reply(421, "Too many messages in one connection", (7, 0))
TOO_MANY_LOGINS = Reply(421, "Too many failed logins", (7, 0))
SPOKE_TOO_EARLY = Reply(554, "Speak when you are spoken to", (5, 0))
NOT_SMTP = Reply(554, "This is an SMTP server", (5, 0))

# --- form of commands
UNKNOWN_COMMAND = Reply(500, "Command not recognised", (5, 2))
LINE_TOO_LONG = Reply(500, "Line too long", (5, 2))
BARE_NEWLINE = Reply(500, "Lines end with CR LF", (5, 2))
NOT_IMPLEMENTED = Reply(502, "Command not implemented", (5, 1))
SYNTAX = Reply(501, "Syntax error in arguments", (5, 4))
BAD_HELO = Reply(501, "Invalid name", (5, 4))
BAD_SENDER = Reply(501, "Bad sender address", (1, 7))
BAD_RECIPIENT = Reply(501, "Bad recipient address", (1, 3))
NEEDS_SMTPUTF8 = Reply(553, "Address needs SMTPUTF8", (6, 7))
BAD_PARAMETER = Reply(501, "Bad parameter", (5, 4))
UNKNOWN_PARAMETER = Reply(555, "Parameter not recognised", (5, 4))
BAD_SEQUENCE = Reply(503, "Bad sequence of commands", (5, 1))
XCLIENT_DENIED = Reply(550, "XCLIENT is not for you", (7, 0))
NO_RECIPIENTS = Reply(554, "No valid recipients", (5, 1))
TLS_NOT_OFFERED = Reply(502, "STARTTLS not available", (5, 1))

# --- submission (RFC 4954 §4 and §6, RFC 6409 §6)
STARTTLS_REQUIRED = Reply(530, "Must issue a STARTTLS command first", (7, 0))  # RFC 3207 §4
AUTH_REQUIRED = Reply(530, "Authentication required", (7, 0))
AUTH_NEEDS_TLS = Reply(538, "Encryption required for requested authentication mechanism", (7, 11))
AUTH_FAILED = Reply(535, "Authentication credentials invalid", (7, 8))
AUTH_UNAVAILABLE = Reply(454, "Temporary authentication failure", (7, 0))
AUTH_LOCKED = Reply(454, "Too many failed logins, try again later", (7, 0))
AUTH_MECHANISM = Reply(504, "Unrecognised authentication type", (5, 4))
AUTH_CANCELLED = Reply(501, "Authentication cancelled", (7, 0))
AUTH_MALFORMED = Reply(501, "Cannot decode the response", (5, 2))
AUTH_LINE_TOO_LONG = Reply(500, "Authentication exchange line is too long", (5, 6))
ALREADY_AUTHENTICATED = Reply(503, "Already authenticated", (5, 1))
NOT_YOUR_SENDER = Reply(553, "Sender address does not belong to the user who logged in", (7, 1))
NOT_YOUR_FROM = Reply(550, "From address does not belong to the user who logged in", (7, 1))

# --- limits
TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", (5, 3))
TOO_BIG = Reply(552, "Message exceeds the maximum size", (3, 4))
HEADER_TOO_BIG = Reply(552, "Message header exceeds the maximum size", (3, 4))
CONTENT_LINE_TOO_LONG = Reply(500, "Message has a line that is too long", (6, 0))
BARE_LINE_END = Reply(554, "Message has a bare CR or LF", (6, 0))
LOOP = Reply(554, "Too many hops", (4, 6))

# --- our own trouble: always temporary (RULES 5)
INTERNAL = Reply(451, "Local error, try again later", (3, 0))
QUEUE_WRITE = Reply(451, "Cannot store the message now", (3, 0))
NO_SPACE = Reply(452, "Insufficient storage, try again later", (3, 1))
QUEUE_CLOSED = Reply(451, "This queue takes no mail now", (3, 2))
CONTENT_LOST = Reply(451, "Message content cannot be read", (3, 0))
FILTER_FAULT = Reply(451, "Cannot judge the message now, try again later", (3, 0))

# --- policy
RELAY_DENIED = Reply(550, "Relaying denied", (7, 1))
NO_SUCH_USER = Reply(550, "No such user here", (1, 1))
SPF_FAIL = Reply(550, "SPF check failed", (7, 23))  # RFC 7372 §3.2
SPF_TEMPERROR = Reply(451, "SPF check could not be done", (7, 24))  # RFC 7372 §3.2
DKIM_TEMPERROR = Reply(451, "DKIM check could not be done", (7, 20))
DKIM_FAIL = Reply(550, "No valid DKIM signature", (7, 20))  # RFC 7372 §3.1
SPAM = Reply(554, "Message refused as spam", (7, 1))
BAD_HEADERS = Reply(550, "Message header is malformed", (6, 0))
POLICY = Reply(550, "Message refused by policy", (7, 1))

# --- delivery: said to the sender in a bounce, or kept as the reason of a deferral
NO_SUCH_DOMAIN = Reply(550, "Domain does not exist", (1, 2))
NULL_MX = Reply(556, "Domain accepts no mail", (1, 10))  # RFC 7505 §4
MX_LOOP = Reply(554, "Mail for this domain loops back to us", (4, 6))
NO_USABLE_MX = Reply(550, "No usable mail host for this domain", (4, 4))
FORBIDDEN_HOST = Reply(550, "Mail host has a forbidden address", (4, 4))
DNS_FAILED = Reply(451, "Lookup of the next hop failed", (4, 3))
HOST_UNREACHABLE = Reply(451, "Cannot connect to the next hop", (4, 1))
HOST_RESTING = Reply(451, "Next hop failed lately and is given a rest", (4, 1))
CONNECTION_LOST = Reply(451, "Connection to the next hop was lost", (4, 2))
HOST_TIMEOUT = Reply(451, "Next hop did not answer in time", (4, 2))
PROTOCOL_ERROR = Reply(451, "Next hop does not speak SMTP properly", (5, 0))
TLS_FAILED = Reply(451, "TLS with the next hop failed", (7, 5))
TLS_NEEDED = Reply(550, "Message needs TLS with a certificate that can be verified", (7, 10))  # RFC 8689 §4.2.1
REQUIRETLS_NEEDED = Reply(550, "Next hop does not support REQUIRETLS", (7, 30))  # RFC 8689 §4.2.1
NEXT_HOP_NO_BINARY = Reply(554, "Next hop cannot take binary content", (6, 3))  # RFC 3030 §3
NEXT_HOP_NO_8BIT = Reply(554, "Next hop cannot take 8-bit content", (6, 3))
NEXT_HOP_NO_SMTPUTF8 = Reply(550, "Next hop cannot take internationalised mail", (6, 7))
NEXT_HOP_SIZE = Reply(552, "Message is larger than the next hop takes", (3, 4))
MAILDIR_FAULT = Reply(451, "Cannot write to the maildir now", (3, 0))
EXPIRED = Reply(450, "Delivery time expired", (4, 7))
DELIVERED_LOCALLY = Reply(250, "Delivered", (0, 0))
DISCARDED = Reply(250, "Discarded", (0, 0))
BOUNCED_BY_OPERATOR = Reply(550, "Returned by the operator", (7, 1))
