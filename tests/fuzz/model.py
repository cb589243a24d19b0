# SPDX-License-Identifier: Apache-2.0
"""SMTP as the RFCs have it, once more and in short: which replies may be given to a command, and what it leads to.

A `Command` knows its octets, what a wholly willing server answers (`good`), and `objections`: the codes with which it may,
and then must, be refused in the present state, in whatever order a server looks for reasons. `Model.answered` is told the
code that came and moves on. Nothing here looks at the edge's own tables or patterns.

RFCs: 5321 §4.1.4 (order), §4.3.2 (codes); 3030 §2 (chunks); 3207 §4 (TLS); 4954 §4 and §6 (AUTH); 6409 §6.1; 9422.
"""

import re
from dataclasses import dataclass, field

from gateway.edge.content import ContentLimits
from gateway.edge.options import LimitsOptions
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.verdict import ACCEPT, Action, Verdict
from tests.fuzz.test_content_reader import expected
from tests.support.fakes import Stored

ERRORS, UNKNOWN, RECIPIENTS, MESSAGES, LOGINS = 8, 3, 3, 3, 3
CONTENT = ContentLimits(size=600, line=90, header=1024, fields=4)
HOPELESS = 4 * CONTENT.size  # octets of a chunk that is not worth reading
_ADDED = re.compile(rb"(Date: [^\r\n]+\r\n)?(Message-ID: <[^\r\n]+>\r\n)?")  # RFC 6409 §8
FAULTS = frozenset((552, 554, 500))  # of content


LIMITS = LimitsOptions.model_validate(
    {"errors": ERRORS, "unknown_commands": UNKNOWN, "recipients": RECIPIENTS, "messages_per_connection": MESSAGES}
    | {"commands": 0, "connections": 1, "message_size": CONTENT.size, "line_length": CONTENT.line}
    | {
        "header_size": CONTENT.header,
        "header_fields": CONTENT.fields,
        "transaction_timeout": "30m",
        "command_timeout": "5m",
    }
)


def judge(tx: Transaction) -> Verdict:
    """What the policy makes of a sender or recipient: its local part says it."""
    subject = tx.candidate.address if tx.candidate else tx.sender
    match subject.local if subject else "":
        case "no":
            return Verdict(Action.REJECT, reply.NO_SUCH_USER, rule="test.says")
        case "later":
            return Verdict(Action.DEFER, reply.EXPIRED, rule="test.says")
        case "crash":
            raise RuntimeError("a filter has a fault")
    return ACCEPT


@dataclass(frozen=True)
class Given:
    """An envelope and content that must have been stored; `user` is who sent it, `how` the protocol of the trace."""

    sender: str
    recipients: tuple[tuple[str, tuple[str, ...], str], ...]
    content: bytes
    fields: tuple[object, ...]
    user: str
    how: str


@dataclass
class Mail:
    """A transaction."""

    sender: str
    fields: dict[str, object]
    recipients: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)
    chunks: bytes | None = None

    @property
    def binary(self) -> bool:
        return self.fields.get("body") == "BINARYMIME"


class Model:
    """One session. `intake` (a code), `crashes` and `full` are what the queue will do, set by the test."""

    def __init__(self, *, submission: bool, binary: bool, proxy: bool, given: list[Given]) -> None:
        self.submission, self.binary, self.proxy = submission, binary, proxy
        self.given = given
        self.hello = ""  # "HELO" or "EHLO"
        self.tls = self.proxied = self.over = False
        self.user = ""
        self.mail: Mail | None = None
        self.train = False  # a chunk was refused, and others may be behind it
        self.errors = self.unknown = self.messages = self.logins = 0
        self.intake, self.full, self.crashes = 250, False, False
        self.troubles = 0  # faults of ours that must have been told

    @property
    def may_send(self) -> bool:
        return bool(self.user) or not self.submission

    def allowed(self, command: "Command") -> set[int]:
        """The codes that may come now."""
        codes = command.objections(self) or {command.good}
        if self.unknown >= UNKNOWN and isinstance(command, Unknown):
            return {421}
        if self.errors < ERRORS or command.spared(self):
            return codes
        return {421 if code >= 500 and code not in command.last else code for code in codes}

    def answered(self, command: "Command", code: int) -> None:
        if code == 421 or code in command.last:
            self.over = True
        elif code >= 500 and not command.spared(self):
            self.errors += 1
        self.unknown += isinstance(command, Unknown)
        if self.over:
            self.mail = None
        elif code < 400:
            command.done(self)
        else:
            command.refused(self, code)

    def forget(self) -> None:
        self.mail, self.train = None, False

    def finish(self, content: bytes) -> set[int]:
        """The codes that the end of this content may be answered with."""
        assert self.mail is not None
        fault, _, _ = expected(content, CONTENT, binary=self.mail.binary)
        return {fault.value.code} if fault else {self.intake}

    def store(self, content: bytes) -> None:
        mail, self.mail = self.mail, None
        assert mail is not None
        self.messages += 1
        whole = expected(content, CONTENT, binary=mail.binary)[2]
        names = ("body", "smtputf8", "ret", "envid", "require_tls", "size")
        fields = tuple(mail.fields.get(name) for name in names)
        how = ("S" if self.tls else "") + ("A" if self.user else "")
        esmtp = "ESMTP" if self.hello == "EHLO" or how else "SMTP"
        self.given.append(
            Given(mail.sender, tuple(mail.recipients), whole, fields, self.user,
                  f"{'UTF8SMTP' if mail.fields.get('smtputf8') else esmtp}{how}")
        )  # fmt: skip


# --- what is said; `verbs.py` has more


@dataclass
class Command:
    """A line, or a line and what follows it whatever the reply is."""

    octets: bytes
    good: int = 250
    bad: frozenset[int] = frozenset()  # why its form is refused, whatever the state
    last: frozenset[int] = frozenset()  # codes behind which the session is over

    def objections(self, model: Model) -> set[int]:
        return set(self.bad)

    def spared(self, model: Model) -> bool:
        """True if a refusal is none of the client's errors."""
        return False

    def done(self, model: Model) -> None:
        """It was accepted."""

    def refused(self, model: Model, code: int) -> None:
        """It was not."""


class Unknown(Command):
    """A verb that nobody knows."""


# --- and what came of it


def compare(stored: Stored, given: Given) -> None:
    """What the intake got is what was given, below our own fields."""
    tx = stored.tx
    assert str(tx.sender) == given.sender
    assert [(str(each.address), each.notify, each.orcpt) for each in tx.recipients] == list(given.recipients)
    assert (tx.body.value, tx.smtputf8 or None, tx.ret or None, tx.envid or None, tx.require_tls or None, tx.declared_size) == (
        given.fields[0] or "7BIT",
        *given.fields[1:],
    )
    assert tx.client.user == given.user
    assert f" with {given.how} id ".encode() in stored.message.trace
    below = stored.content[len(stored.message.trace) :]
    added = below[: len(below) - len(given.content)]
    assert below[len(added) :] == given.content
    assert _ADDED.fullmatch(added), added
    assert not added or tx.client.role == "submission"
