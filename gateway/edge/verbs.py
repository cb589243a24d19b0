# SPDX-License-Identifier: Apache-2.0
"""The table of commands: where each may stand, and what its line may look like.

Promises: whether a command is known, in place and well formed in outline is decided here, before any handler runs.
RFCs: 5321 §4.1.1 and §4.1.4 (order), §4.5.3.1.4 (length), 2920 §3.1 (what ends a pipelined group), 3207 §4.
Not here: the grammar of arguments (`edge/commands.py`), what a command does (`edge/session.py`).
"""

from dataclasses import dataclass
from enum import Enum, auto

from gateway.edge.lines import LINE_MAX as AUTH_MAX
from gateway.edge.over import SessionOver
from gateway.mail import reply
from gateway.mail.reply import MailError

COMMAND_MAX = 512  # RFC 5321 §4.5.3.1.4, with CRLF
LINE_MAX = 2048  # and generous room for the parameters of MAIL and RCPT


class State(Enum):
    """Where a session stands. From IN_MAIL on there is a transaction."""

    CLOSED = auto()  # refused in the banner: only QUIT is left (RFC 5321 §3.1)
    START = auto()
    GREETED = auto()
    CHUNKS_REFUSED = auto()  # greeted; a chunk was refused, and the rest of its train may be on the way
    IN_MAIL = auto()
    NO_RCPT = auto()  # recipients were given, and all were refused
    HAS_RCPT = auto()
    IN_CHUNKS = auto()  # the first BDAT was taken, its LAST not yet (RFC 3030 §2)


# Tuples, because looking into a short one compares identities and costs next to nothing.
IDLE = (State.GREETED, State.CHUNKS_REFUSED)
IN_TRANSACTION = (State.IN_MAIL, State.NO_RCPT, State.HAS_RCPT)
GREETED = (*IDLE, *IN_TRANSACTION)
ANY = (State.START, *GREETED, State.IN_CHUNKS)
ALWAYS = (State.CLOSED, *ANY)


class Argument(Enum):
    """What must stand behind the verb."""

    NONE = auto()
    FREE = auto()
    NEEDED = auto()


@dataclass(frozen=True, slots=True)
class Verb:
    """`ends_group`: the replies so far are sent before more is read (RFC 2920 §3.1)."""

    name: str
    allowed: tuple[State, ...]
    argument: Argument
    ends_group: bool = False
    implemented: bool = True
    line_max: int = COMMAND_MAX
    counted: bool = True  # among the commands that bring no message
    octets: bool = False  # octets follow the line whatever we think of it: the handler reads them before it refuses


def _table(*verbs: Verb) -> dict[bytes, Verb]:
    return {verb.name.encode(): verb for verb in verbs}


VERBS = _table(
    Verb("EHLO", ANY, Argument.NEEDED, ends_group=True),
    Verb("HELO", ANY, Argument.NEEDED, ends_group=True),
    Verb("MAIL", IDLE, Argument.NEEDED, line_max=LINE_MAX),
    Verb("RCPT", IN_TRANSACTION, Argument.NEEDED, line_max=LINE_MAX, counted=False),
    Verb("DATA", (State.NO_RCPT, State.HAS_RCPT), Argument.NONE, ends_group=True),
    Verb("BDAT", (State.NO_RCPT, State.HAS_RCPT, State.IN_CHUNKS), Argument.FREE, counted=False, octets=True),
    Verb("RSET", ANY, Argument.NONE),
    Verb("NOOP", ANY, Argument.FREE, ends_group=True),
    Verb("QUIT", ALWAYS, Argument.NONE, ends_group=True),
    Verb("VRFY", ANY, Argument.NEEDED, ends_group=True),
    Verb("HELP", ANY, Argument.FREE, ends_group=True),
    Verb("STARTTLS", GREETED, Argument.NONE, ends_group=True),
    Verb("XCLIENT", (State.START, State.GREETED), Argument.NEEDED, ends_group=True),
    Verb("AUTH", ANY, Argument.FREE, ends_group=True, line_max=AUTH_MAX),  # 502 where it is not offered, whatever the state
    # Known, but not here (RFC 5321 §4.2.4: 502)
    Verb("EXPN", ANY, Argument.FREE, implemented=False),
    Verb("ETRN", ANY, Argument.FREE, implemented=False),
    Verb("TURN", ANY, Argument.FREE, implemented=False),
    Verb("SEND", ANY, Argument.FREE, implemented=False),
    Verb("SOML", ANY, Argument.FREE, implemented=False),
    Verb("SAML", ANY, Argument.FREE, implemented=False),
)

# Who says this does not speak SMTP and shall not get a second line in: HTTP clients and balancers.
ALIEN = frozenset(b"GET POST PUT HEAD DELETE OPTIONS PATCH TRACE CONNECT PRI PROXY".split())


def look_up(line: bytes, state: State, *, esmtp: bool) -> tuple[Verb, bytes]:
    """The verb of a command line and its argument without outer blanks.

    Raises MailError for a command that is unknown, too long, out of place, or has the wrong kind of argument.
    """
    word, _, argument = line.partition(b" ")
    argument = argument.strip(b" ")  # RFC 5321 §4.1.1: trailing white space is tolerated
    verb = VERBS.get(word.upper())
    if verb is None:
        raise MailError(reply.NOT_SMTP if word.upper() in ALIEN else reply.UNKNOWN_COMMAND)
    if len(line) + 2 > (verb.line_max if esmtp else COMMAND_MAX):
        raise SessionOver(reply.LINE_TOO_LONG, "unreadable") if verb.octets else MailError(reply.LINE_TOO_LONG)
    if state not in verb.allowed and not verb.octets:
        raise MailError(reply.BAD_SEQUENCE)
    if not verb.implemented:
        raise MailError(reply.NOT_IMPLEMENTED)
    if verb.argument is not Argument.FREE and bool(argument) is not (verb.argument is Argument.NEEDED):
        raise MailError(reply.SYNTAX)
    return verb, argument
