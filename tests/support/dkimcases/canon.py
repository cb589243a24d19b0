# SPDX-License-Identifier: Apache-2.0
"""Cases about canonicalisation, and about what a change to the message does."""

from collections.abc import Iterator

from tests.support.dkimcases import BODY, CONTENT, HEADER, NO_BODY_MATCH, NO_MATCH, Case, ed25519, one, other, rsa, signed
from tests.support.sign import load, sign

BODIES = {
    "empty": b"",
    "one-empty-line": b"\r\n",
    "blank-lines-only": b" \r\n\t\r\n\r\n",
    "no-final-newline": b"text without an end",
    "blank-before-the-end": b"text \t",
    "many-final-newlines": b"text\r\n\r\n\r\n\r\n",
    "blank-last-lines": b"text\r\n \r\n\t \r\n",
    "dots-and-8-bit": b".\r\n..\r\n\xe9\xff\x80 \xc3\xa9\r\n",
    "nul-and-bare-line-ends": b"a\x00b\rc\nd \r e\r\n",
    "last-line-is-bare-cr": b"text\r\n\r",
}


def cases() -> Iterator[Case]:
    yield from algorithms()
    yield from bodies()
    yield from changes()
    yield from header_forms()


def algorithms() -> Iterator[Case]:
    for canon in ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"):
        yield one(f"rsa-{canon.replace('/', '-')}", "RFC 6376 §3.4", signed(canon=canon))
    for canon in ("relaxed/relaxed", "simple/simple"):
        yield one(f"ed25519-{canon.replace('/', '-')}", "RFC 8463 §3", signed(key=ed25519, canon=canon), key=ed25519)
    yield one("c-absent", "RFC 6376 §3.5, c=: simple/simple", signed(canon="simple/simple", tags={"c": None}))
    yield one("c-one-word", "RFC 6376 §3.5, c=: the body is simple", signed(canon="relaxed/simple", tags={"c": "relaxed"}))
    for name in ("rsa2048", "rsa4096"):
        yield one(name, "RFC 8301 §3.2: must be able to", signed(key=load(name)), key=load(name))


def bodies() -> Iterator[Case]:
    for name, body in BODIES.items():
        for canon in ("simple", "relaxed"):
            content = HEADER + b"\r\n" + body
            yield one(f"body-{name}-{canon}", "RFC 6376 §3.4.3, §3.4.4", signed(content, canon=f"relaxed/{canon}"))
    yield one("no-empty-line", "RFC 6376 §3.4.4: no body is an empty body", signed(HEADER, canon="simple/relaxed"))
    yield one("lines-added-at-the-end", "RFC 6376 §3.4.3", signed(canon="simple/simple") + b"\r\n\r\n")


def changes() -> Iterator[Case]:
    for canon in ("relaxed", "simple"):
        same = canon == "relaxed"
        content = signed(canon=f"{canon}/relaxed").replace(b"Subject: A  folded\r\n subject", b"SUBJECT :\t A folded  subject ")
        yield one(f"blanks-changed-header-{canon}", "RFC 6376 §3.4.1, §3.4.2", content, "pass" if same else ("fail", NO_MATCH))
        content = signed(canon=f"relaxed/{canon}").replace(b"two  blanks,\ta tab \r\n", b"two blanks, a tab\r\n")
        yield one(
            f"blanks-changed-body-{canon}", "RFC 6376 §3.4.3, §3.4.4", content, "pass" if same else ("fail", NO_BODY_MATCH)
        )
        content = signed(canon=f"relaxed/{canon}").replace(b"Hello", b"Hullo")
        yield one(f"body-changed-{canon}", "RFC 6376 §6.1.3", content, ("fail", NO_BODY_MATCH))
        content = signed(canon=f"{canon}/relaxed").replace(b"To: Bob", b"To: Rob")
        yield one(f"header-changed-{canon}", "RFC 6376 §6.1.3", content, ("fail", NO_MATCH))
    content = signed().replace(b"  two", b"two")
    yield one("blanks-removed-at-line-start", "RFC 6376 §3.4.4: one of them is kept", content, ("fail", NO_BODY_MATCH))
    content = signed(key=ed25519).replace(b"To: Bob", b"To: Rob")
    yield one("ed25519-header-changed", "RFC 8463 §3", content, ("fail", NO_MATCH), ed25519)
    content = signed(key=other, tags={"s": rsa.name})
    yield one("signed-with-another-key", "RFC 6376 §6.1.3", content, ("fail", NO_MATCH))
    yield one("unsigned-field-added", "RFC 6376 §5.4: only what h= names is signed", b"X-Seen: yes\r\n" + signed())
    yield one("body-without-its-first-line", "RFC 6376 §6.1.3", signed().replace(BODY, BODY[12:]), ("fail", NO_BODY_MATCH))


def header_forms() -> Iterator[Case]:
    field = sign(CONTENT, rsa)
    yield one("signature-refolded-relaxed", "RFC 6376 §3.4.2", field.replace(b";\r\n\ts=", b"; \r\n  \ts=") + CONTENT)
    content = field.replace(b"d=example.test", b"d= example.test") + CONTENT
    yield one("blank-added-in-signature", "RFC 6376 §3.4.2: one where none was", content, ("fail", NO_MATCH))
    yield one("signature-below-from", "RFC 6376 §5.6: the place does not count", CONTENT.replace(b"To:", field + b"To:", 1))
    yield one("no-blank-after-colon", "RFC 5322 §2.2", signed(CONTENT.replace(b"Date: ", b"Date:"), canon="simple/simple"))
    for canon in ("relaxed", "simple"):
        content = CONTENT.replace(b"Date:", b"Date \t:")
        yield one(f"blank-before-colon-{canon}", "RFC 6376 §3.4.2, RFC 5322 §4.5", signed(content, canon=f"{canon}/simple"))
    content = CONTENT.replace(b"Subject: ", b"X-Junk\r\nSubject: ")
    yield one("line-without-colon", "RFC 5322 §2.2: no field, so not signed", signed(content))
    content = CONTENT.replace(b"Subject: ", b"Subject: \xe9\xff\xc3\xa9 ")
    yield one("8-bit-in-header", "RFC 6532 §3.2", signed(content, canon="simple/relaxed"))
    content = CONTENT.replace(b"Subject: A", b"Subject:\r\n \r\n\t\r\n A")
    for canon in ("relaxed", "simple"):
        yield one(f"blank-folds-{canon}", "RFC 5322 §4.2: obsolete, and seen", signed(content, canon=f"{canon}/simple"))
    content = CONTENT.replace(b"Subject: A", b"Subject:\x0b A").replace(b" subject\r\n", b" subject\x0c\r\n")
    yield one("form-feeds-are-no-blanks", "RFC 6376 §2.8: WSP is space and tab", signed(content))
    content = CONTENT.replace(b"Subject: A  folded\r\n subject\r\n", b"Subject:\r\n")
    yield one("empty-field", "RFC 6376 §3.4.2", signed(content))
