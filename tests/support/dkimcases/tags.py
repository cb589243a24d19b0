# SPDX-License-Identifier: Apache-2.0
"""Cases about the tags of the signature, and which fields it covers."""

from collections.abc import Iterator

from tests.support.dkimcases import BODY, CONTENT, NO_BODY_MATCH, NO_MATCH, NOW, Case, line, one, records, rsa, signed, tagged
from tests.support.sign import NAMES, canonical_body, sign

SYNTAX = "RFC 6376 §6.1.1: signature syntax error"
OVERSIGNED = (*NAMES, "From", "Subject")


def cases() -> Iterator[Case]:
    yield from required()
    yield from values()
    yield from identity()
    yield from times()
    yield from lengths()
    yield from coverage()
    yield from layout()


def required() -> Iterator[Case]:
    for tag in ("v", "a", "b", "bh", "d", "h", "s"):
        content = signed(tags={tag: None})
        want = f"permerror {'-' if tag == 'd' else 'example.test'} {'-' if tag == 's' else rsa.name} | missing tag {tag}="
        yield Case(f"without-{tag}", "RFC 6376 §6.1.1: signature missing required tag", content, records(rsa), [want])
    content = b"DKIM-Signature:\r\n" + CONTENT
    yield Case("no-tags", SYNTAX, content, {}, ["permerror - - | missing tag v="])
    yield Case("no-signature", "RFC 8601 §2.7.1: none", CONTENT, records(rsa), [])


def values() -> Iterator[Case]:
    yield tagged("v-2", "RFC 6376 §6.1.1: incompatible version", ("permerror", "incompatible version"), v="2")
    yield tagged("a-unknown", "RFC 6376 §3.3.4", ("permerror", "unknown algorithm in a="), a="rsa-md5")
    content = signed(tags={"a": "rsa-sha1"}, sha1=True)
    yield one("rsa-sha1", "RFC 8301 §3.1", content, ("permerror", "rsa-sha1 is not secure"))
    yield tagged("c-unknown", SYNTAX, ("permerror", "unknown canonicalisation in c="), c="nowsp/relaxed")
    yield tagged("c-three-words", SYNTAX, ("permerror", "unknown canonicalisation in c="), c="relaxed/relaxed/simple")
    yield tagged("q-dns-txt", "RFC 6376 §3.5, q=", q="dns/txt")
    yield tagged("q-with-unknown", "RFC 6376 §3.5, q=: unknown ones are ignored", q="http : dns/txt")
    yield tagged("q-unknown-only", "RFC 6376 §3.5, q=", ("permerror", "unknown query method in q="), q="http")
    yield tagged("d-upper-case", "RFC 6376 §3.5, d=", d="EXAMPLE.Test")
    for name, domain in {"com": "com", "dots": "example..test", "blank": "exam ple.test", "dash": "-example.test"}.items():
        reason = "d= is not a domain that signs" if name == "com" else "malformed d="
        want = f"permerror {'com' if name == 'com' else '-'} {rsa.name} | {reason}"
        yield Case(f"d-{name}", "RFC 6376 §3.5, d=", signed(tags={"d": domain}), records(rsa), [want])
    dns = {"a_b.c._domainkey.example.test": rsa.record}
    yield Case("s-dots", "RFC 6376 §3.1", signed(tags={"s": "a_b.c"}), dns, ["pass example.test a_b.c |"])
    yield Case("s-malformed", SYNTAX, signed(tags={"s": "a b"}), dns, ["permerror example.test - | malformed s="])
    want = f"permerror example.test {'x' * 63}.{'x' * 63}.{'x' * 63}.{'x' * 40} | name of the key is too long"
    long = ".".join(("x" * 63, "x" * 63, "x" * 63, "x" * 40))
    yield Case("s-too-long", "RFC 1035 §2.3.4", signed(tags={"s": long}), dns, [want])
    dns = {f"{rsa.name}._domainkey.xn--bcher-kva.test": rsa.record}
    u_label = signed(tags={"d": "bücher.test", "i": "ä@bücher.test"})
    yield Case("d-u-label", "RFC 8616 §5", u_label, dns, [f"pass xn--bcher-kva.test {rsa.name} |"])
    a_label = signed(tags={"d": "xn--bcher-kva.test", "i": "@mail.bücher.test"})
    yield Case("d-a-label-i-u-label", "RFC 8616 §5", a_label, dns, [f"pass xn--bcher-kva.test {rsa.name} |"])
    content = signed().replace(b"d=example.test", b"d=example\xe9.test")
    yield Case("d-latin-1", SYNTAX, content, records(rsa), [f"permerror - {rsa.name} | malformed d="])
    for tag in ("b", "bh"):
        yield tagged(f"{tag}-no-base64", SYNTAX, ("permerror", f"malformed base64 in {tag}="), **{tag: "ab!d"})
        yield tagged(f"{tag}-bad-padding", SYNTAX, ("permerror", f"malformed base64 in {tag}="), **{tag: "abcde="})
    yield tagged("bh-short", "RFC 6376 §6.1.3", ("fail", NO_BODY_MATCH), bh="abcd")
    yield tagged("b-short", "RFC 8017 §8.2.2", ("fail", NO_MATCH), b="abcd")


def identity() -> Iterator[Case]:
    yield tagged("i-same", "RFC 6376 §3.5, i=", i="ann@Example.test")
    yield tagged("i-below", "RFC 6376 §3.5, i=: a subdomain", i="@mail.example.test")
    yield tagged("i-quoted-printable", "RFC 6376 §2.11", i="ann=3D=40home@example.test")
    outside = ("permerror", "i= is not within d=")
    yield tagged("i-outside", "RFC 6376 §6.1.1: domain mismatch", outside, i="ann@other.test")
    yield tagged("i-suffix-only", "RFC 6376 §6.1.1: domain mismatch", outside, i="ann@badexample.test")
    content = signed(tags={"d": "mail.example.test", "i": "@example.test"})
    want = f"permerror mail.example.test {rsa.name} | i= is not within d="
    yield Case("i-above", "RFC 6376 §6.1.1: domain mismatch", content, {}, [want])
    yield tagged("i-without-at", SYNTAX, ("permerror", "malformed i="), i="example.test")


def times() -> Iterator[Case]:
    yield tagged("t-and-x", "RFC 6376 §3.5", t=str(NOW - 60), x=str(NOW + 60))
    yield tagged("x-just-past", "a clock may be 5 minutes slow", x=str(NOW - 299))
    yield tagged("x-past", "RFC 6376 §6.1.1: signature expired", ("permerror", "signature expired"), x=str(NOW - 301))
    yield tagged("x-before-t", "RFC 6376 §3.5, x=", ("permerror", "x= is not after t="), t=str(NOW), x=str(NOW))
    yield tagged("t-little-ahead", "a clock may be in a wrong time zone", t=str(NOW + 35_000))
    yield tagged("t-far-ahead", "RFC 6376 §3.5, t=: MAY ignore", ("policy", "signed in the future"), t=str(NOW + 90_000))
    yield tagged("t-malformed", SYNTAX, ("permerror", "malformed t="), t="yesterday")
    yield tagged("x-13-digits", "RFC 6376 §3.5: 1*12DIGIT", ("permerror", "malformed x="), x="1700000000000")


def lengths() -> Iterator[Case]:
    size = len(canonical_body(BODY, "relaxed"))
    beyond = ("permerror", "l= is more than the body has")
    yield one("l-exact", "RFC 6376 §3.5, l=", signed(length=size))
    for name, length in (("short", 5), ("zero", 0), ("one-less", size - 1)):
        want = ("policy", f"{size - length} octets of the body are not signed")
        yield one(f"l-{name}", "RFC 6376 §8.2", signed(length=length), want)
    yield one(
        "l-text-appended", "RFC 6376 §8.2", signed(length=size) + b"spam\r\n", ("policy", "6 octets of the body are not signed")
    )
    yield one("l-lines-appended", "RFC 6376 §3.4.4: they do not count", signed(length=size) + b"\r\n\r\n")
    yield one("l-changed-within", "RFC 6376 §6.1.3", signed(length=5).replace(b"Hello", b"Hullo"), ("fail", NO_BODY_MATCH))
    yield one("l-beyond", "RFC 6376 §3.5, l=", signed(tags={"l": str(size + 1)}), beyond)
    yield one("l-76-digits", "RFC 6376 §3.5, l=", signed(tags={"l": "9" * 76}), beyond)
    yield tagged("l-malformed", SYNTAX, ("permerror", "malformed l="), l="-1")
    short = signed(length=5).replace(b"To: Bob", b"To: Rob")
    yield one("l-short-and-wrong", "a wrong signature is worse", short, ("fail", NO_MATCH))


def coverage() -> Iterator[Case]:
    unsigned = ("permerror", "From field not signed")
    yield one("h-without-from", "RFC 6376 §6.1.1: From field not signed", signed(names=("To", "Subject")), unsigned)
    yield tagged("h-empty-name", "RFC 6376 §3.5, h=", ("permerror", "malformed h="), h="From::To")
    yield one("h-names-lower-case", "RFC 6376 §3.5, h=", signed(names=("from", "tO", "SUBJECT")))
    evil = b"From: Eve <eve@evil.test>\r\n"
    two = ("fail", "a From field is not signed")
    yield one("from-added-above", "RFC 6376 §8.15", evil + signed(), two)
    yield one("from-added-below", "RFC 6376 §8.15", signed().replace(b"Date:", evil + b"Date:"), two)
    yield one("two-froms-one-signed", "RFC 6376 §8.15", signed(evil + CONTENT), two)
    yield one("two-froms-both-signed", "RFC 6376 §5.4.2; DMARC refuses them", signed(evil + CONTENT, names=("From", "From")))
    yield one("from-oversigned", "RFC 6376 §5.4.2: a name beyond the last field", signed(names=OVERSIGNED))
    yield one("from-oversigned-and-added", "RFC 6376 §5.4.2", evil + signed(names=OVERSIGNED), ("fail", NO_MATCH))
    yield one(
        "subject-oversigned-and-added", "RFC 6376 §5.4.2", b"Subject: x\r\n" + signed(names=OVERSIGNED), ("fail", NO_MATCH)
    )
    no_from = CONTENT.replace(b"From: Ann <ann@example.test>\r\n", b"")
    yield one("no-from-field", "RFC 8601 §2.7.1: permerror", signed(no_from), ("permerror", "message has no From field"))
    yield one("h-absent-field", "RFC 6376 §3.5, h=: a null string", signed(names=(*NAMES, "X-None")))
    content = b"X-None: now\r\n" + signed(names=(*NAMES, "X-None"))
    yield one("h-absent-field-added", "RFC 6376 §3.5, h=", content, ("fail", NO_MATCH))
    both = signed(names=("From", "Received", "Received"))
    yield one("repeated-fields", "RFC 6376 §5.4.2: from the bottom", both)
    yield one("repeated-field-added-on-top", "RFC 6376 §5.4.2", b"Received: from e.example\r\n" + both)
    content = both.replace(b"c.example ([192", b"x.example ([192")
    yield one("repeated-field-changed", "RFC 6376 §5.4.2", content, ("fail", NO_MATCH))
    first = sign(CONTENT, rsa) + CONTENT
    second = signed(first, names=(*NAMES, "DKIM-Signature"))
    yield Case("signs-a-signature", "RFC 6376 §3.5, h=: another one", second, records(rsa), [line("pass"), line("pass")])
    content = second.replace(b"c=relaxed", b"c=simple", 2).replace(b"c=simple", b"c=relaxed", 1)
    want = [line("fail", NO_MATCH), line("fail", NO_MATCH)]
    yield Case("signed-signature-changed", "RFC 6376 §3.5, h=", content, records(rsa), want)
    yield one("signs-itself", "RFC 6376 §3.5, h=: never", signed(names=(*NAMES, "DKIM-Signature")))


def layout() -> Iterator[Case]:
    h = ":".join(NAMES)
    start = "DKIM-Signature: v=1; a=rsa-sha256; d=example.test; s=rsa1024; "
    forms = {
        "folded-everywhere": "DKIM-Signature:\r\n\tv\r\n =\r\n 1\r\n ;\r\n a = rsa-sha256 ;\r\n\td=\r\n\t example.test; s"
        " =rsa1024;\r\n c=\r\n %s; h=From\r\n\t:\r\n\tTo : Subject:\r\n Date; bh=\r\n {bh};\r\n b\r\n\t=\r\n {p}\r\n\t {q}\r\n",
        "signature-in-parts": start + "c=%s; h=" + h + "; bh={bh}; b= {p} \r\n\t{q} ;\r\n",
        "b-in-the-middle": start + "b={p}\r\n {q}; c=%s; h=" + h + ";\r\n bh={bh}\r\n",
        "b-first": "DKIM-Signature:b={b};v=1;a=rsa-sha256;d=example.test;s=rsa1024;c=%s;h=" + h + ";bh={bh}\r\n",
        "semicolon-at-the-end": start + "c=%s; h=" + h + "; bh={bh}; b={b};\r\n",
        "blank-at-the-end": start + "c=%s; h=" + h + "; b={b}; bh={bh}; \t\r\n",
        "b-in-another-value": start + "c=%s; h=" + h + "; n=a b=c; bh={bh}; b={b}; z= b=d\r\n",
        "name-in-capitals": start.replace("DKIM-Signature:", "dkim-SIGNATURE \t:") + "c=%s; h=" + h + "; bh={bh}; b={b}\r\n",
        "unknown-tags": start + "c=%s; h=" + h + "; xyz=; r_1=y; bh={bh}; b={b}\r\n",
    }
    for name, form in forms.items():
        for canon in ("relaxed", "simple"):
            content = signed(canon=f"{canon}/relaxed", form=form % f"{canon}/relaxed")
            yield one(f"layout-{name}-{canon}", "RFC 6376 §3.2, §3.7", content)
    rest = "c=relaxed/relaxed; h=" + h + "; bh={bh}; b={b}"
    broken = {
        "tag-twice": ("n=a; n=a; " + rest, "a tag is given twice"),
        "empty-tag": ("; " + rest, "malformed tag list"),
        "no-equals": ("flag; " + rest, "malformed tag list"),
        "tag-name": ("a-b=c; " + rest, "malformed tag name"),
        "nul": ("n=\x00; " + rest, "control character in a tag list"),
        "bare-cr": ("n=a\rb; " + rest, "control character in a tag list"),
    }
    for name, (text, reason) in broken.items():
        content = signed(form=start + text + "\r\n")
        yield Case(f"malformed-{name}", SYNTAX, content, records(rsa), [f"permerror - - | {reason}"])
