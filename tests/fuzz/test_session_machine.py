# SPDX-License-Identifier: Apache-2.0
"""Sessions that do anything in any order, beside a model of SMTP (`model.py`). At every step:

each command has exactly one reply, in order, with a code that the model allows; nothing is 5yz for a fault of ours, and no
trouble is told but those that the test makes; what failed in one transaction is not in the next; the intake was handed the
model's messages and no others, octet for octet, with their envelopes, users and protocols; and when all clients are gone no
session, count, task or file is left.

The transport is one of `memwire.py`, and so is the time: it stands still unless a rule lets it pass.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from gateway.edge.incoming import Incoming
from gateway.edge.options import ListenerOptions, SubmissionOptions
from gateway.mail import reply
from gateway.mail.events import Connected, Disconnected
from gateway.mail.reply import MailError
from gateway.mail.verdict import Phase
from tests.fuzz import commands as c
from tests.fuzz import model as m
from tests.fuzz import verbs as v
from tests.fuzz.houses import Trust
from tests.fuzz.test_content_reader import stuff
from tests.support import memwire
from tests.support.clock import FakeClock
from tests.support.fakes import FakePolicy
from tests.support.memhouse import House, StandingLoop, users

INTAKES = {
    250: None,
    451: MailError(reply.QUEUE_WRITE, "the disk says no"),
    452: MailError(reply.NO_SPACE, "the disk is full"),
    0: RuntimeError("the queue has a fault"),
}
fates = st.sampled_from((250, 250, 250, 250, *INTAKES))
sizes = st.lists(st.integers(1, 60), max_size=12)
QUIET = 6  # steps of the loop in which an answer too many would come
PATIENCE, TRANSACTION = 1.0, 1800.0  # seconds


class Machine(RuleBasedStateMachine):
    """`trust` and `folder` are set by the test."""

    trust: Trust
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = StandingLoop()
        self.unhandled: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.given: list[m.Given] = []
        self.troubles = self.calls = 0
        self.history: list[str] = []

    # --- the client's life

    @initialize(submission=st.booleans(), binary=st.booleans(), proxy=st.booleans())
    def open(self, submission: bool, binary: bool, proxy: bool) -> None:
        spool = Path(tempfile.mkdtemp(dir=self.folder))
        people = users(spool / "users", "ann sesame ann@b.example")
        listener = {"address": "127.0.0.1:0", "tls": "starttls", "role": "submission" if submission else "mx"}
        self.house = House(
            self.loop,
            spool,
            limits=m.LIMITS,
            listener=ListenerOptions.model_validate(listener | {"xclient": ["127.0.0.0/8"] if proxy else []}),
            policy=FakePolicy({Phase.MAIL: m.judge, Phase.RCPT: m.judge}),
            clock=FakeClock(),
            tls_context=self.trust.server,
            users=people,
            binary=binary,
            submission=SubmissionOptions.model_validate({"failure_delay": "0s", "lockout_failures": 0}),
        )
        self.loop.run_until_complete(people.refresh())
        self.facts = {"submission": submission, "binary": binary, "proxy": proxy}
        self.connect()

    def connect(self) -> None:
        self.model = m.Model(**self.facts, given=self.given)
        self.peer = self.house.call()
        self.calls += 1
        self.answered = self.age = 0
        self.expect({220}, "the banner")
        self.take_intake(250)
        self.fill_disk(False)

    @precondition(lambda self: self.model.over)
    @rule()
    def come_again(self) -> None:
        self.connect()

    @precondition(lambda self: not self.model.over)
    @rule(group=c.groups, sizes=sizes)
    def say(self, group: list[m.Command], sizes: list[int]) -> None:
        self.exchange(group, sizes)

    @precondition(lambda self: not self.model.hello and not self.model.over)
    @rule(full=st.sampled_from((True, True, False)), login=st.sampled_from(c.GOOD_LOGINS))
    def get_ready(self, full: bool, login: v.Auth) -> None:
        """EHLO; for users TLS and a login, too."""
        self.exchange([c.GOOD_HELLO])
        if full and not self.model.over and self.facts["submission"]:
            if not self.model.tls:
                self.secure(b"", True)
                self.exchange([c.GOOD_HELLO])
            if not self.model.over:
                self.log_in(login)

    @precondition(lambda self: self.model.hello and self.model.may_send and not self.model.over)
    @rule(opening=c.openings, content=c.contents, behind=c.groups, sizes=sizes, fate=fates)
    def send_by_data(
        self, opening: list[m.Command], content: bytes, behind: list[m.Command], sizes: list[int], fate: int
    ) -> None:
        """The envelope in one group, as RFC 2920 has it; the next commands with the end of data."""
        self.take_intake(fate)
        data = v.Data(b"DATA\r\n", 354)
        if self.exchange([*opening, data], sizes) == 354:
            self.exchange([c.end_of_data(content), *behind[:2]], sizes)

    @precondition(lambda self: self.model.hello == "EHLO" and self.model.may_send and not self.model.over)
    @rule(
        opening=c.openings, chunks=st.lists(c.chunks(), min_size=1, max_size=4), sizes=st.lists(st.integers(1, 60), max_size=12)
    )
    def send_by_chunks(self, opening: list[m.Command], chunks: list[m.Command], sizes: list[int]) -> None:
        """All of it in one group (RFC 3030 §4.2)."""
        self.exchange([*opening, *chunks], sizes)

    @precondition(lambda self: (self.model.tls or self.age % 4 == 0) and not self.model.over)
    @rule(exchange=st.sampled_from(c.EXCHANGES))
    def log_in(self, exchange: v.Auth) -> None:
        code = self.exchange([exchange])
        for response in exchange.responses:
            if code == 334:
                code = self.exchange([response])

    @precondition(lambda self: self.model.hello == "EHLO" and not self.model.over)
    @rule(
        stuffed=st.sampled_from((b"", b"NOOP\r\n", b"MAIL FROM:<>\r\nRSET\r\n")),
        hands=st.sampled_from((True, True, True, False)),
    )
    def secure(self, stuffed: bytes, hands: bool) -> None:
        """RFC 3207 §4.2: what stands behind STARTTLS in its packet was said in clear, and is not heard."""
        command = v.StartTls(b"STARTTLS\r\n", 220)
        if 220 not in self.model.allowed(command):
            self.exchange([command])
            return
        self.send([b"STARTTLS\r\n" + stuffed])
        self.expect({220}, "STARTTLS")
        self.model.answered(command, 220)
        if hands:
            assert self.loop.run_until_complete(self.peer.secure(self.trust.client)), "no handshake"
        else:
            self.peer.say(b"EHLO client.example\r\n")
            self.over()

    @precondition(lambda self: self.model.hello == "EHLO" and self.model.may_send and not self.model.over)
    @rule(begun=c.contents, leave=st.sampled_from((c.GOOD_HELLO, c.GOOD_RSET)), content=c.contents, fate=fates)
    def leave_one_and_send_another(self, begun: bytes, leave: m.Command, content: bytes, fate: int) -> None:
        """Nothing of the first is in the second."""
        self.take_intake(fate)
        first = [c.GOOD_RSET, c.GOOD_MAIL, c.GOOD_RCPT, c.chunk(begun, end=False)]
        self.exchange([*first, leave, c.GOOD_MAIL, c.OTHER_RCPT, c.chunk(content, end=True)])

    @precondition(lambda self: self.facts["proxy"] and self.model.mail is None and not self.model.over)
    @rule(claims=st.lists(st.sampled_from(c.CLAIMS), min_size=1, max_size=3), opening=c.openings)
    def speak_for_another(self, claims: list[m.Command], opening: list[m.Command]) -> None:
        self.exchange([*claims, c.GOOD_HELLO, *opening])

    @precondition(lambda self: self.model.mail is not None and not self.model.over)
    @rule(first=st.sampled_from((c.GOOD_HELLO, c.GOOD_RSET)), group=c.groups)
    def begin_anew(self, first: m.Command, group: list[m.Command]) -> None:
        self.exchange([first, *group])

    # --- what happens to it, when it has done something

    @precondition(lambda self: self.age > 4 and not self.model.over)
    @rule(what=st.sampled_from(("half_close", "vanish", "fall_silent", *c.FATAL)))
    def end(self, what: "str | m.Command") -> None:
        if isinstance(what, m.Command):
            self.exchange([what])
        else:
            self.leave(what)

    def leave(self, how: str) -> None:
        if how == "half_close":
            self.peer.half_close()
        elif how == "vanish":
            self.peer.pipe.reset()
        else:
            self.steps(QUIET)
            self.loop.passed += TRANSACTION + 1
            self.expect({421}, "time is up")
        self.over()

    @precondition(lambda self: self.age > 2 and self.model.mail is not None and not self.model.over)
    @rule(content=c.contents, cut=st.integers(0, 30), chunk=st.booleans(), vanish=st.booleans())
    def break_off(self, content: bytes, cut: int, chunk: bool, vanish: bool) -> None:
        """In the middle of content: it is no message, whatever it looks like."""
        if chunk:
            self.send([b"BDAT %d LAST\r\n" % (len(content) + 1) + content[:cut]])
        else:
            code = self.exchange([v.Data(b"DATA\r\n", 354)])
            if self.model.over:
                return
            vanish = vanish or code != 354
            self.send([stuff(content)[:cut]])
        self.steps(QUIET)
        self.peer.pipe.reset() if vanish else self.peer.half_close()
        self.over(silent=not vanish)

    @precondition(lambda self: self.age > 1 and not self.model.over)
    @rule(verb=st.sampled_from((b"NOOP", b"RSET", b"QUIT")))
    def end_a_line_with_lf(self, verb: bytes) -> None:
        """The client waits for an answer, and gets it."""
        self.send([verb + b"\n"])
        self.steps(QUIET)
        assert self.peer.hear() == self.answered, "a bare LF ended a line"
        self.loop.passed += PATIENCE
        self.exchange([m.Command(b"", 250, frozenset((500,)))])

    @precondition(lambda self: self.age > 1 and not self.model.over)
    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:
        self.house.intake.full = self.model.full = full

    def take_intake(self, fate: int) -> None:
        """What the queue will do with the next message."""
        self.house.intake.fault = INTAKES[fate]
        self.model.intake, self.model.crashes = fate or 451, fate == 0

    # --- what must be so

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        if not self.calls:
            return
        assert not self.unhandled, self.unhandled
        told = [trouble.detail for trouble in self.house.troubles()]
        assert len(told) == self.troubles + self.model.troubles, self.why(f"troubles: {told}")
        assert len(self.house.intake.stored) == len(self.given), self.why("more or less was stored")
        for stored, given in zip(self.house.intake.stored, self.given, strict=True):
            m.compare(stored, given)

    def teardown(self) -> None:
        try:
            if self.calls and not self.model.over:
                self.leave("half_close")
            if self.calls:
                assert not self.house.leftovers(), self.why(f"left behind: {self.house.leftovers()}")
                assert len(self.house.events.of(Connected)) == self.calls
                assert len(self.house.events.of(Disconnected)) == self.calls
        finally:
            self.loop.close()

    # --- inside

    def steps(self, count: int) -> None:
        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def send(self, pieces: list[bytes]) -> None:
        self.history += [f"C {piece[:120]!r}" for piece in pieces]
        self.peer.say(*pieces)

    def exchange(self, group: list[m.Command], sizes: list[int] | None = None) -> int:
        """Say all of it, and hear a reply to each as long as there is a session; the last code."""
        self.send(memwire.cut(b"".join(command.octets for command in group), sizes or [1 << 20]))
        code = 0
        self.age += 1
        for command in group:
            code = self.expect(self.model.allowed(command), repr(command.octets[:80]))
            self.model.answered(command, code)
            if self.model.over:
                self.over()
                return code
        self.steps(QUIET)
        assert self.peer.hear() == self.answered, self.why(f"more replies than commands: {self.peer.replies[self.answered :]}")
        return code

    def expect(self, allowed: set[int], what: str) -> int:
        """The next reply has one of these codes; which."""
        assert self.loop.run_until_complete(self.peer.until(lambda: self.peer.hear() > self.answered)), self.why(
            f"no reply to {what}"
        )
        text = self.peer.replies[self.answered]
        self.answered += 1
        self.history.append(f"S {text.splitlines()[-1]}")
        code = int(text[:3])
        assert code in allowed, self.why(f"{text!r} to {what}, not one of {sorted(allowed)}")
        return code

    def over(self, *, silent: bool = True) -> None:
        """The session ends, and says no more."""
        self.model.over = True
        self.troubles, self.model.troubles = self.troubles + self.model.troubles, 0
        pipe = self.peer.pipe
        if not pipe.lost:
            self.loop.run_until_complete(self.peer.until(lambda: self.peer.over or pipe.lost))
            pipe.bring(None)
        if not self.loop.run_until_complete(self.peer.until(lambda: pipe.gone and not self.house.busy)):
            raise AssertionError(self.why("the session does not end"))
        if silent:
            assert self.peer.hear() == self.answered, self.why(f"said at the end: {self.peer.replies[self.answered :]}")

    def why(self, what: str) -> str:
        return "\n".join([what, str(self.facts), *(each.detail for each in self.house.troubles()), *self.history[-40:]])


@pytest.fixture
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content goes to a file early, so that this is tried too."""
    monkeypatch.setattr(Incoming, "STORE_FROM", 30)
    Machine.trust, Machine.folder = Trust.made(tmp_path), tmp_path


def hold(examples: int, steps: int, *, chance: bool) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    many = settings(max_examples=examples, stateful_step_count=steps, derandomize=not chance)
    run_state_machine_as_test(Machine, settings=settings(many, deadline=None, suppress_health_check=checks))


@pytest.mark.usefixtures("_world")
def test_sessions_do_what_the_model_does(request: pytest.FixtureRequest) -> None:
    """The same ones each time, unless more than usual are asked for."""
    examples = request.config.getoption("--fuzz-examples")
    hold(examples // 25, 20, chance=examples > 2000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_world")
def test_many_long_sessions_do_what_the_model_does() -> None:
    hold(600, 50, chance=True)
