# SPDX-License-Identifier: Apache-2.0
"""Cases about keys and about several signatures; the examples of the RFCs."""

from collections.abc import Iterator

from tests.support.dkimcases import CONTENT, FAIL, NO_MATCH, Case, ed25519, line, one, other, records, rsa, signed
from tests.support.sign import load, sign

FLAWED = "RFC 6376 §6.1.2"


def cases() -> Iterator[Case]:
    yield from lookups()
    yield from usable()
    yield from unusable()
    yield from sizes()
    yield from several()
    yield from examples()


def keyed(name: str, why: str, record: str | list[str], want: tuple[str, str] | str = "pass", i: str | None = None) -> Case:
    """A sound signature by `rsa`, and another key record."""
    result = (want,) if isinstance(want, str) else want
    return Case(name, why, signed(tags={"i": i}), {rsa.where(): record}, [line(*result)])


def lookups() -> Iterator[Case]:
    yield Case("no-key", f"{FLAWED}: no key for signature", signed(), {}, [line("permerror", "no key for signature")])
    why = f"{FLAWED}: key unavailable"
    yield Case("lookup-fails", why, signed(), {rsa.where(): FAIL}, [line("temperror", "key could not be fetched")])
    yield keyed("two-records-first-no-key", FLAWED, ["v=spf1 -all", rsa.record])
    yield keyed("two-records-first-other-key", FLAWED, [other.record, rsa.record])
    yield keyed("two-records-both-other", FLAWED, [other.record, load("rsa2048").record], ("fail", NO_MATCH))
    yield keyed("two-records-no-key", FLAWED, ["junk", "v=spf1 -all"], ("permerror", "malformed tag list"))


def usable() -> Iterator[Case]:
    p = rsa.public
    yield keyed("key-p-only", "RFC 6376 §3.6.1", f"p={p}")
    yield keyed(
        "key-all-tags", "RFC 6376 §3.6.1", f"v=DKIM1; g=*; h=sha1 : SHA256; k=rsa; n=a note; s=tlsrpt:email; t=; x=y; p={p};"
    )
    yield keyed("key-s-star", "RFC 6376 §3.6.1, s=", f"v=DKIM1; s=*; p={p}")
    yield keyed("key-blanks-in-p", "RFC 6376 §3.6.1, p=", f"v=DKIM1; p= {p[:70]} {p[70:140]}\t{p[140:]} ")
    yield keyed("key-bare-rsa", "RFC 6376 §3.6.1, p=", f"v=DKIM1; p={rsa.bare_public}")
    yield keyed("key-testing", "RFC 6376 §3.6.1, t=y", f"v=DKIM1; t=y; p={p}", ("pass", "testing key"))
    yield keyed("key-strict-same", "RFC 6376 §3.6.1, t=s", f"v=DKIM1; t=y:s; p={p}", ("pass", "testing key"), "a@example.test")
    yield keyed("key-strict-default", "RFC 6376 §3.6.1, t=s", f"v=DKIM1; t=s; p={p}")
    yield keyed("key-flag-unknown", "RFC 6376 §3.6.1, t=", f"v=DKIM1; t=q; p={p}", "pass", "@m.example.test")


def unusable() -> Iterator[Case]:
    p = rsa.public
    strict = ("permerror", "key is for i= in d= itself only")
    yield keyed("key-strict-below", "RFC 6376 §3.6.1, t=s", f"v=DKIM1; t = y : s; p={p}", strict, "a@m.example.test")
    records_ = {
        "revoked": ("v=DKIM1; p=", "key revoked"),
        "without-p": ("v=DKIM1; k=rsa", "key record without p="),
        "empty-record": ("", "key record without p="),
        "spf-record": ("v=spf1 -all", "key record has another version"),
        "version": (f"v=DKIM2; p={p}", "key record has another version"),
        "version-not-first": (f"k=rsa; v=DKIM1; p={p}", "key record has another version"),
        "type-ed25519": (ed25519.record, "key is of another type than the signature"),
        "type-unknown": (f"v=DKIM1; k=dsa; p={p}", "key is of another type than the signature"),
        "sha1-only": (f"v=DKIM1; h=sha1; p={p}", "key does not allow sha256"),
        "not-for-email": (f"v=DKIM1; s=tlsrpt; p={p}", "key is not for email"),
        "no-base64": ("v=DKIM1; p=a*b", "malformed base64 in key"),
        "cut": (f"v=DKIM1; p={p[:100]}", "key cannot be read"),
        "ed25519-octets": (f"v=DKIM1; k=rsa; p={ed25519.public}", "key cannot be read"),
        "tag-twice": (f"v=DKIM1; p={p}; p={p}", "a tag is given twice"),
    }
    for name, (record, reason) in records_.items():
        yield keyed(f"key-{name}", FLAWED, record, ("permerror", reason))
    for name, record in (("long", f"v=DKIM1; k=ed25519; p={p}"), ("rsa", rsa.record)):
        reason = "key cannot be read" if name == "long" else "key is of another type than the signature"
        dns = {ed25519.where(): record}
        want = [line("permerror", reason, ed25519)]
        yield Case(f"ed25519-key-{name}", "RFC 8463 §4", signed(key=ed25519), dns, want)
    content = signed(key=load("rsa2048"), tags={"s": rsa.name})
    yield one("signature-longer-than-key", "RFC 8017 §8.2.2", content, ("fail", NO_MATCH))


def sizes() -> Iterator[Case]:
    small, large = load("rsa512"), load("rsa8192")
    yield one("rsa512", "RFC 8301 §3.2: MUST NOT", signed(key=small), ("permerror", "key of 512 bits is too small"), small)
    yield one("rsa8192", "RFC 8301 §3.2: need not", signed(key=large), ("policy", "key of 8192 bits is too large"), large)


def several() -> Iterator[Case]:
    both = sign(CONTENT, ed25519) + signed()
    keys = records(rsa, ed25519)
    yield Case("two-signatures", "RFC 6376 §6.1", both, keys, [line("pass", key=ed25519), line("pass")])
    yield Case(
        "two-canonicalisations", "RFC 6376 §6.1", sign(CONTENT, rsa, canon="simple/simple") + signed(), keys, [line("pass")] * 2
    )
    dns = {**keys, rsa.where(): FAIL}
    want = [line("pass", key=ed25519), line("temperror", "key could not be fetched")]
    yield Case("two-signatures-one-lookup-fails", "RFC 6376 §6.1", both, dns, want)
    broken = sign(CONTENT.replace(b"Hello", b"Hullo"), rsa) + signed(key=ed25519)
    want = [line("fail", "body hash did not verify"), line("pass", key=ed25519)]
    yield Case("two-signatures-first-broken", "RFC 6376 §6.1: one good one will do", broken, keys, want)
    nine = sign(CONTENT, ed25519) * 8 + signed()
    left_out = line("neutral", "not evaluated: there are more than 8 signatures")
    yield Case("nine-signatures", "a bound of ours: the newest eight", nine, keys, [line("pass", key=ed25519)] * 8 + [left_out])


def examples() -> Iterator[Case]:
    lines = _EXAMPLE_8463.replace("\n", "\r\n").encode()
    domain = "football.example.com"
    dns = {f"brisbane._domainkey.{domain}": _KEY_8463_ED25519, f"test._domainkey.{domain}": _KEY_8463_RSA}
    want = [f"pass {domain} brisbane |", f"pass {domain} test |"]
    yield Case("rfc8463-example", "RFC 8463 Appendix A", lines, dns, want)
    lines = _EXAMPLE_6376.replace("\n", "\r\n").encode()
    dns = {"brisbane._domainkey.example.com": _KEY_6376}
    yield Case("rfc6376-example", "RFC 6376 Appendix A", lines, dns, ["pass example.com brisbane |"])


_KEY_8463_ED25519 = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
_KEY_8463_RSA = (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byY"
    "zCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
_KEY_6376 = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijS"
    "sq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)
_MAIL = """From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""
_EXAMPLE_8463 = (
    """DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
"""
    + _MAIL
)
_EXAMPLE_6376 = """DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
""" + _MAIL.replace("game.  Are", "game. Are")
