# SPDX-License-Identifier: Apache-2.0
"""Commands for `model.py`, right and wrong ones, as hypothesis draws them: what is wrong with each is known beforehand."""

from typing import Any

from hypothesis import strategies as st

from tests.fuzz import verbs as m
from tests.fuzz.model import Command, Unknown
from tests.fuzz.test_content_reader import stuff

# value behind the keyword → what it fills, or 501 / 555 for what is wrong
OF_MAIL: dict[str, tuple[str, Any] | int] = {
    "SIZE=100": ("size", 100),
    "size=0": ("size", 0),
    "SIZE=601": ("size", 601),
    "SIZE=99999999999999999999": ("size", 99999999999999999999),
    "SIZE": 501,
    "SIZE=-1": 501,
    "BODY=7BIT": ("body", "7BIT"),
    "BODY=8bitmime": ("body", "8BITMIME"),
    "BODY=BINARYMIME": ("body", "BINARYMIME"),
    "BODY=9BIT": 501,
    "SMTPUTF8": ("smtputf8", True),
    "SMTPUTF8=yes": 501,
    "RET=HDRS": ("ret", "HDRS"),
    "RET=NONE": 501,
    "ENVID=a+2Bb": ("envid", "a+2Bb"),
    "ENVID=a+0Ab": 501,
    "REQUIRETLS": ("require_tls", True),
    "AUTH=<>": ("login", "<>"),
    "FROB=1": 555,
    "==": 501,
}
OF_RCPT: dict[str, tuple[str, Any] | int] = {
    "NOTIFY=NEVER": ("notify", ("NEVER",)),
    "NOTIFY=SUCCESS,DELAY": ("notify", ("SUCCESS", "DELAY")),
    "NOTIFY=NEVER,DELAY": 501,
    "NOTIFY=": 501,
    "ORCPT=rfc822;a+2Bb@b.example": ("orcpt", "rfc822;a+2Bb@b.example"),
    "ORCPT=a@b.example": 501,
    "SIZE=1": 555,
}
SENDERS = (
    "ann@b.example",
    "",
    "b@b.example",
    "later@b.example",
    "no@b.example",
    "crash@b.example",
    '"q q"@b.example',
    "Ü@b.example",
)
BAD_SENDERS = (
    "a@b.example>",
    "<a@b.example",
    "<a@>",
    "<@b.example>",
    "<postmaster>",
    "<a@b..example>",
    "<a b@c.example>",
    "<a@b.example>x",
)
RECIPIENTS = (
    "c@dest.example",
    "D@Dest.example",
    "no@dest.example",
    "later@dest.example",
    "crash@dest.example",
    "ü@dest.example",
    "postmaster",
)
BAD_RECIPIENTS = (
    "c@dest.example",
    "<>",
    "<c@dest.example",
    "<c@[192.0.2.300]>",
    "<c@-dest.example>",
    "<c@dest.example>NOTIFY=NEVER",
)


def _taken(words: list[str], table: dict[str, tuple[str, Any] | int]) -> tuple[dict[str, Any], set[int]]:
    """What these parameters fill, and what is wrong with them."""
    found = [table[each] for each in words]
    keys = [each.partition("=")[0].upper() for each in words]
    bad = {each for each in found if isinstance(each, int)} | ({501} if len(set(keys)) < len(keys) else set())
    return dict(each for each in found if not isinstance(each, int)), bad


def _words(table: dict[str, tuple[str, Any] | int], most: int) -> st.SearchStrategy[list[str]]:
    """Parameters: mostly none or right ones, so that transactions come about."""
    right = [each for each, taken in table.items() if not isinstance(taken, int)]
    return st.one_of(
        st.just([]),
        st.just([]),
        st.lists(st.sampled_from(right), max_size=2),
        st.lists(st.sampled_from(list(table)), max_size=most),
    )


@st.composite
def mails(draw: st.DrawFn) -> Command:
    words = draw(_words(OF_MAIL, 3))
    fields, bad = _taken(words, OF_MAIL)
    sender, path = draw(st.sampled_from(SENDERS)), ""
    if draw(st.integers(0, 9)) == 9:
        path, sender = draw(st.sampled_from(BAD_SENDERS)), ""
        bad.add(501)
    line = f"MAIL FROM:{path or f'<{sender}>'} {' '.join(words)}".rstrip().encode()
    return m.MailFrom(
        line + b"\r\n", bad=frozenset(bad), sender=sender, fields=fields, parameters=bool(words), utf8=not sender.isascii()
    )


@st.composite
def rcpts(draw: st.DrawFn) -> Command:
    words = draw(_words(OF_RCPT, 2))
    fields, bad = _taken(words, OF_RCPT)
    address, path = draw(st.sampled_from(RECIPIENTS)), ""
    if draw(st.integers(0, 9)) == 9:
        path, address = draw(st.sampled_from(BAD_RECIPIENTS)), ""
        bad.add(501)
    route = draw(st.sampled_from(("", "", "", "@r.example,@s.example:"))) if "@" in address else ""
    line = f"RCPT TO:{path or f'<{route}{address}>'} {' '.join(words)}".rstrip().encode()
    return m.RcptTo(
        line + b"\r\n", bad=frozenset(bad), address=address, parameters=bool(words), utf8=not address.isascii(), **fields
    )


def _line(text: str, good: int, *bad: int, last: tuple[int, ...] = (), kind: type[Command] = Command) -> Command:
    return kind(text.encode("latin-1") + b"\r\n", good, frozenset(bad), frozenset(last))


HELLOS: list[Command] = [
    m.Hello(b"EHLO client.example\r\n", verb="EHLO"),
    m.Hello(b"ehlo [IPv6:2001:db8::1]\r\n", verb="EHLO"),
    m.Hello(b"EHLO a_b.example \r\n", verb="EHLO"),
    m.Hello(b"HELO client.example\r\n", verb="HELO"),
    *(
        m.Hello(line + b"\r\n", bad=frozenset((501,)))
        for line in (b"EHLO", b"EHLO a b", b"HELO -", b"EHLO [192.0.2.300]", b"HELO \xc3\xbc")
    ),
]
PLAIN: list[Command] = [
    _line("RSET", 250, kind=m.Rset),
    _line("rset x", 250, 501, kind=m.Rset),
    _line("NOOP", 250),
    _line("NOOP whatever it is", 250),
    _line("VRFY ann", 252),
    _line("VRFY", 252, 501),
    _line("VRFY \xc3\xbc", 252, 553),
    _line("EXPN list", 250, 502),
    _line("HELP", 214),
    _line("HELP MAIL", 214),
    _line("DATA x", 354, 501, kind=m.Data),
    _line("QUIT now", 221, 501, last=(221,)),
    _line("STARTTLS x", 220, 501, kind=m.StartTls),
]
JUNK: list[Command] = [
    _line("FROB", 250, 500, kind=Unknown),
    _line("MAILFROM:<a@b.example>", 250, 500, kind=Unknown),
    _line("NOOP\nRSET", 250, 500),
    _line("NOOP\rRSET", 250, 500),
    _line("NO\x00OP", 250, 501),
    _line("NOOP\tx", 250, 501),
    _line("NOOP " + "x" * 600, 250, 500),
    _line("x" * 13000, 250, 500),
    _line(".", 250, 500, kind=Unknown),
]
FATAL: list[Command] = [
    _line("QUIT", 221, last=(221,)),
    _line("GET / HTTP/1.1", 250, 554, last=(554,)),
    _line("BDAT 5 FIRST", 250, 501, last=(501,), kind=m.Chunk),
    _line("BDAT", 250, 501, last=(501,), kind=m.Chunk),
    _line("BDAT 5\nLAST", 250, 501, last=(501,), kind=m.Chunk),
    m.Chunk(b"BDAT 2401 LAST\r\n", last=frozenset((552,)), declared=2401, end=True),
]
AUTHS: list[Command] = [
    m.Auth(b"AUTH PLAIN " + m.plain("ann", "sesame") + b"\r\n", 235),
    m.Auth(b"auth plain " + m.plain("ann", "wrong") + b"\r\n", 235, frozenset((535,))),
    m.Auth(b"AUTH PLAIN " + m.plain("nobody", "sesame") + b"\r\n", 235, frozenset((535,))),
    m.Auth(b"AUTH PLAIN =\r\n", 235, frozenset((501,))),
    m.Auth(b"AUTH PLAIN !!!!\r\n", 235, frozenset((501,))),
    m.Auth(b"AUTH CRAM-MD5\r\n", 334, frozenset((504,))),
    m.Auth(b"AUTH\r\n", 334, frozenset((501,))),
]
_NAME = Command(m.word("ann") + b"\r\n", 334)
EXCHANGES: list[m.Auth] = [
    m.Auth(b"AUTH PLAIN\r\n", 334, responses=(m.Response(m.plain("ann", "sesame") + b"\r\n", 235),)),
    m.Auth(b"AUTH PLAIN\r\n", 334, responses=(m.Response(b"*\r\n", 235, frozenset((501,))),)),
    m.Auth(b"AUTH PLAIN\r\n", 334, responses=(m.Response(b"RSET\n\r\n", 235, frozenset((500,))),)),
    m.Auth(b"AUTH LOGIN\r\n", 334, responses=(_NAME, m.Response(m.word("sesame") + b"\r\n", 235))),
    m.Auth(b"AUTH LOGIN\r\n", 334, responses=(_NAME, m.Response(m.word("wrong") + b"\r\n", 235, frozenset((535,))))),
    m.Auth(b"AUTH LOGIN " + m.word("ann") + b"\r\n", 334, responses=(m.Response(m.word("sesame") + b"\r\n", 235),)),
    m.Auth(b"AUTH LOGIN\r\n", 334, responses=(Command(b"\r\n", 334), m.Response(b"MAIL FROM:<>\r\n", 235, frozenset((501,))))),
]
XCLIENTS: list[Command] = [
    m.Xclient(b"XCLIENT ADDR=192.0.2.7 NAME=h.example\r\n", 220, anew=True),
    m.Xclient(b"XCLIENT addr=IPV6:2001:db8::1 login=ann\r\n", 220, anew=True, login="ann"),
    m.Xclient(b"XCLIENT LOGIN=ann\r\n", 220, login="ann"),
    m.Xclient(b"XCLIENT PORT=7 LOGIN=[UNAVAILABLE]\r\n", 220, login=""),
    m.Xclient(b"XCLIENT NAME=h.example\r\n", 220),
    m.Xclient(b"XCLIENT\r\n", 220, frozenset((501,))),
    m.Xclient(b"XCLIENT ADDR=192.0.2.300\r\n", 220, frozenset((501,))),
    m.Xclient(b"XCLIENT NAME=a+0Db\r\n", 220, frozenset((501,))),
]

_PARTS = (
    b"a: b\r\n",
    b"\r\n",
    b"line\r\n",
    b".",
    b"..\r\n",
    b".\r\n",
    b"QUIT\r\n",
    b"\xff\x00",
    b"\r\n\r\n",
    b"x" * 88,
    b"y" * 200,
)
_ODD = (b"\r", b"\n", b"\n.\r\n", b"\r\n.\r")
contents = st.one_of(st.lists(st.sampled_from(_PARTS), max_size=8), st.lists(st.sampled_from(_PARTS + _ODD), max_size=8)).map(
    b"".join
)


def chunk(content: bytes, *, end: bool) -> Command:
    mark = b" LAST" if end else b""
    return m.Chunk(b"BDAT %d%s\r\n" % (len(content), mark) + content, content=content, end=end, declared=len(content))


@st.composite
def chunks(draw: st.DrawFn) -> Command:
    return chunk(draw(contents), end=draw(st.booleans()))


def end_of_data(content: bytes) -> m.EndOfData:
    """`content` behind DATA, which is whole lines."""
    whole = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    return m.EndOfData(stuff(whole) + b".\r\n", content=whole)


GOOD_HELLO, GOOD_RSET = HELLOS[0], PLAIN[0]
GOOD_MAIL = m.MailFrom(b"MAIL FROM:<ann@b.example>\r\n", sender="ann@b.example")
GOOD_RCPT = m.RcptTo(b"RCPT TO:<c@dest.example>\r\n", address="c@dest.example")
OTHER_RCPT = m.RcptTo(b"RCPT TO:<d@dest.example>\r\n", address="d@dest.example")
GOOD_LOGINS, CLAIMS = (AUTHS[0], EXCHANGES[0], EXCHANGES[3], EXCHANGES[5]), XCLIENTS[:5]

mixed: st.SearchStrategy[Command] = st.one_of(
    *(mails(), mails(), rcpts(), rcpts(), rcpts(), chunks(), st.sampled_from(HELLOS[:3]), st.sampled_from(HELLOS)),
    *map(st.sampled_from, (PLAIN, JUNK, AUTHS, XCLIENTS)),
)
groups = st.lists(mixed, min_size=1, max_size=5)
openings = st.tuples(
    st.sampled_from(([], [], [GOOD_RSET])), st.just(GOOD_MAIL) | mails(), st.just(GOOD_RCPT), st.lists(rcpts(), max_size=3)
).map(lambda each: [*each[0], each[1], each[2], *each[3]])
