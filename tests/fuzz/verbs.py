# SPDX-License-Identifier: Apache-2.0
"""The commands of `model.py`: when each may be refused, and what it changes.

RFCs: 5321 §4.1.1; 3030 §2 (BDAT); 3207 §4 (STARTTLS); 4954 §4 (AUTH); Postfix's XCLIENT_README.
"""

from base64 import b64encode
from dataclasses import dataclass, field

from tests.fuzz.model import CONTENT, FAULTS, HOPELESS, LOGINS, MESSAGES, RECIPIENTS, Command, Mail, Model
from tests.fuzz.test_content_reader import expected


class Rset(Command):
    def done(self, model: Model) -> None:
        model.forget()


@dataclass
class Hello(Command):
    """RFC 5321 §4.1.4: it clears all, if it is accepted."""

    verb: str = "EHLO"

    def done(self, model: Model) -> None:
        model.forget()
        model.hello = self.verb


@dataclass
class MailFrom(Command):
    """`utf8`: its address needs SMTPUTF8; `parameters`: it has some, right or wrong."""

    sender: str = ""
    fields: dict[str, object] = field(default_factory=dict)
    parameters: bool = False
    utf8: bool = False

    def objections(self, model: Model) -> set[int]:
        codes = set(self.bad)
        if not model.hello or model.mail is not None:
            codes.add(503)
        if self.parameters and model.hello != "EHLO":
            codes.add(555)
        if self.fields.get("require_tls") and not model.tls:
            codes.add(555)
        if self.fields.get("login") and not (model.tls and model.submission):
            codes.add(555)
        if self.fields.get("body") == "BINARYMIME" and not model.binary:
            codes.add(501)
        if self.utf8 and not self.fields.get("smtputf8"):
            codes.add(553)
        if (size := self.fields.get("size")) and int(str(size)) > CONTENT.size:
            codes.add(552)
        if model.full:
            codes.add(452)
        if model.submission:
            codes |= {530} if not model.user else {553} if self.sender and not self.sender.startswith("ann@") else set()
        codes |= {"crash": {451}, "later": {450}, "no": {550}}.get(self.sender.partition("@")[0], set())
        if model.messages >= MESSAGES:
            codes.add(421)
        return codes

    def done(self, model: Model) -> None:
        model.forget()
        model.mail = Mail(self.sender, self.fields)

    def refused(self, model: Model, code: int) -> None:
        if code == 451:
            model.troubles += 1
            model.forget()


@dataclass
class RcptTo(Command):
    address: str = ""
    notify: tuple[str, ...] = ()
    orcpt: str = ""
    parameters: bool = False
    utf8: bool = False

    def objections(self, model: Model) -> set[int]:
        codes, mail = set(self.bad), model.mail
        if mail is None or mail.chunks is not None:
            return codes | {503}
        if self.parameters and model.hello != "EHLO":
            codes.add(555)
        if self.utf8 and not mail.fields.get("smtputf8"):
            codes.add(553)
        if len(mail.recipients) >= RECIPIENTS:
            codes.add(452)
        return codes | {"crash": {451}, "later": {450}, "no": {550}}.get(self.address.partition("@")[0], set())

    def done(self, model: Model) -> None:
        assert model.mail is not None
        model.mail.recipients.append((self.address, self.notify, self.orcpt))

    def refused(self, model: Model, code: int) -> None:
        if code == 451:  # a fault of ours costs the transaction
            model.troubles += 1
            model.forget()


class Data(Command):
    """The line alone; `EndOfData` is answered next if it was accepted."""

    def objections(self, model: Model) -> set[int]:
        codes, mail = set(self.bad), model.mail
        if mail is None or mail.chunks is not None or mail.binary:
            codes.add(503)
        if mail is not None and mail.chunks is None and not mail.recipients:
            codes |= {503, 554}
        return codes


@dataclass
class EndOfData(Command):
    content: bytes = b""

    def objections(self, model: Model) -> set[int]:
        return model.finish(self.content) - {250}

    def done(self, model: Model) -> None:
        model.store(self.content)

    def refused(self, model: Model, code: int) -> None:
        model.forget()
        model.troubles += code == 451 and model.crashes


@dataclass
class Chunk(Command):
    """BDAT. With `bad` nobody knows where it ends, so the session does."""

    content: bytes = b""
    end: bool = False
    declared: int = 0

    def objections(self, model: Model) -> set[int]:
        if self.bad:
            return set(self.bad)
        if self.declared > HOPELESS:
            return {552}
        mail = model.mail
        if mail is None or model.hello != "EHLO":
            return {503}
        if not mail.recipients:
            return {503, 554}
        if self.end:
            return model.finish((mail.chunks or b"") + self.content) - {250}
        fault, _, _ = expected((mail.chunks or b"") + self.content, CONTENT, binary=mail.binary)
        return {250, *FAULTS} if fault else set()  # it may be told later

    def spared(self, model: Model) -> bool:
        return model.train and not self.bad

    def done(self, model: Model) -> None:
        assert model.mail is not None
        content = (model.mail.chunks or b"") + self.content
        if self.end:
            model.store(content)
        else:
            model.mail.chunks = content

    def refused(self, model: Model, code: int) -> None:
        if code == 451 and self.end:
            model.troubles += model.crashes
        if model.hello:
            model.mail, model.train = None, not self.end


class StartTls(Command):
    def objections(self, model: Model) -> set[int]:
        codes = set(self.bad)
        if model.hello != "EHLO" or model.tls or (model.mail and model.mail.chunks is not None):
            codes.add(503)
        return codes

    def done(self, model: Model) -> None:
        """RFC 3207 §4.2: nothing is left of what was said before."""
        model.forget()
        model.hello, model.tls = "", True
        if model.proxied:
            model.user = ""


@dataclass
class Auth(Command):
    """`responses` answer the challenges, if there are any (`good` is 334 then)."""

    responses: tuple[Command, ...] = ()

    def objections(self, model: Model) -> set[int]:
        if not model.submission:
            return {502}
        codes = set[int]()
        if model.hello != "EHLO" or model.mail is not None or model.user:
            codes.add(503)
        if not model.tls:
            codes.add(538)
        return codes | ({421} if model.logins >= LOGINS else set(self.bad))

    def done(self, model: Model) -> None:
        if not self.responses:
            model.user = "ann"

    def refused(self, model: Model, code: int) -> None:
        model.logins += code == 535


@dataclass
class Response(Command):
    """The last response of an exchange."""

    def done(self, model: Model) -> None:
        model.user = "ann"

    def refused(self, model: Model, code: int) -> None:
        model.logins += code == 535


@dataclass
class Xclient(Command):
    anew: bool = False
    login: str | None = None

    def objections(self, model: Model) -> set[int]:
        codes = set(self.bad)
        if not model.proxy:
            codes.add(550)
        if model.mail is not None or model.train:
            codes.add(503)
        return codes

    def done(self, model: Model) -> None:
        model.forget()
        model.hello = ""
        own = "" if self.anew or not model.proxied else model.user
        model.user = self.login if self.login is not None and model.submission else own
        model.proxied = True


def plain(name: str, password: str) -> bytes:
    return b64encode(f"\0{name}\0{password}".encode())


def word(text: str) -> bytes:
    return b64encode(text.encode())
