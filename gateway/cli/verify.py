# SPDX-License-Identifier: Apache-2.0
"""`gateway verify`: one authentication check from the shell, or many as lines of JSON.

Promises: works without a configuration; in `batch` each line in gets exactly one line of JSON out, in order, flushed at
once, whatever the line holds, and each check asks the DNS afresh; the single forms print the same object.
Exit status of the single forms: 0 if the check passed, 1 if not, 2 for arguments that make no sense.
Not here: the checks (`auth/`, `mail/address.py`).
"""

import asyncio
import contextlib
import ipaddress
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from gateway.cli.output import print_json
from gateway.mail.address import AddressError, parse_path
from gateway.mail.reply import clean

if TYPE_CHECKING:
    from gateway.infra.dns import DnsResolver

Answer = dict[str, Any]

LINE_MAX = 1 << 20  # octets of one line of a batch
FILE_MAX = 256 << 20  # octets of a message file
TIMEOUT = 4.0  # seconds for one DNS question: somebody waits for the answer, and a batch waits line by line
NOT_YET = frozenset({"dmarc", "arc"})
NOT_SO = 1


class BadRequest(ValueError):
    """The text says what is wrong with the question; no check was run."""


@dataclass(frozen=True, slots=True)
class Checker:
    """The checks, each from the object of a question to the object of its answer."""

    resolver: "DnsResolver"
    now: float | None  # None: the time of the check

    async def answer(self, question: Mapping[str, Any]) -> Answer:
        """Raises BadRequest."""
        check = _text(question, "check")
        if check in NOT_YET:
            raise BadRequest(f"check {check!r} is not supported")
        if check not in CHECKS:
            raise BadRequest(f"unknown check {check[:40]!r}")
        return await CHECKS[check](self, question)

    async def spf(self, question: Mapping[str, Any]) -> Answer:
        from gateway.auth.spf import check_host  # only what is used is loaded

        text = _text(question, "ip")
        try:
            ip = ipaddress.ip_address(text)
        except ValueError as err:
            raise BadRequest(f"ip: {err}") from err
        if question.get("helo") is None and question.get("sender") is None:
            raise BadRequest("neither helo nor sender is given")
        result = await check_host(self.resolver, ip, _text(question, "helo", ""), _text(question, "sender", ""))
        return {"result": result.result, "explanation": result.explanation, "lookups": result.lookups}

    async def dkim(self, question: Mapping[str, Any]) -> Answer:
        from gateway.auth.dkim import verify

        content = await asyncio.to_thread(_read, _text(question, "file"))
        results = await verify(self.resolver, content, time.time() if self.now is None else self.now)
        return {
            "signatures": [
                {"domain": each.domain, "selector": each.selector, "result": each.result, "reason": each.reason}
                for each in results
            ]
        }

    async def address(self, question: Mapping[str, Any]) -> Answer:
        try:
            address, rest = parse_path(_text(question, "path").encode("utf-8"), utf8=True)
            if rest:
                raise AddressError("something follows the path")
        except (AddressError, UnicodeEncodeError) as err:  # the latter: lone surrogates, which no octets stand for
            return {"result": "bad", "address": "", "reason": str(err)}
        return {"result": "ok", "address": str(address)}


CHECKS: Mapping[str, Callable[[Checker, Mapping[str, Any]], Awaitable[Answer]]] = {
    "spf": Checker.spf,
    "dkim": Checker.dkim,
    "address": Checker.address,
}


def _text(question: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A value of the question; null is as good as no value."""
    value = question.get(key)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise BadRequest(f"{key} is missing" if value is None else f"{key} must be a text")
    return value


def _read(name: str) -> bytes:
    """The octets of a regular file."""
    try:
        path = Path(name)
        if not path.is_file():
            raise BadRequest(f"{name!r} is not a file")
        if path.stat().st_size > FILE_MAX:
            raise BadRequest(f"{name!r} is larger than {FILE_MAX} octets")
        return path.read_bytes()
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        raise BadRequest(str(err)) from err


@contextlib.asynccontextmanager
async def _checker(dns: str | None, now: float | None, timeout: float = TIMEOUT) -> AsyncIterator[Checker]:
    from gateway.infra.dns import ROUNDS, DnsOptions, DnsResolver

    try:
        options = DnsOptions(nameservers=[dns] if dns else [], timeout=timeout / ROUNDS, lifetime=timeout)
    except ValueError as err:
        raise click.UsageError(f"--dns {dns or ''} is not HOST:PORT, or --timeout {timeout} is no time") from err
    resolver = DnsResolver(options)
    try:
        yield Checker(resolver, now)
    finally:
        await resolver.close()


# --- many


async def _batch(checked: AbstractAsyncContextManager[Checker], source: BinaryIO, target: BinaryIO) -> None:
    async with checked as checker:
        while line := await asyncio.to_thread(source.readline, LINE_MAX + 1):
            if len(line) > LINE_MAX:
                await asyncio.to_thread(_skip_line, source, line)
                answer: Answer = {"error": f"the line is longer than {LINE_MAX} octets"}
            else:
                answer = await _answer_line(checker, line)
            target.write(_to_json(answer) + b"\n")
            target.flush()


def _skip_line(source: BinaryIO, part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = source.readline(LINE_MAX)


async def _answer_line(checker: Checker, line: bytes) -> Answer:
    """The answer to one line, whatever it holds."""
    try:
        question = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        return {"error": f"not JSON: {type(err).__name__}"}
    if not isinstance(question, dict):
        return {"error": "not a JSON object"}
    identity = {"id": question["id"]} if "id" in question else {}
    checker.resolver.flush()  # between two lines whoever tests may have changed the zone
    try:
        return identity | await checker.answer(question)
    except BadRequest as err:
        return identity | {"error": str(err)}
    except Exception as err:  # noqa: BLE001 - the border of a line: a check that breaks must not end the batch
        return identity | {"error": f"{type(err).__name__}: {err}"}


def _refuse(constant: str) -> None:
    """NaN and Infinity are words of JavaScript, not of JSON."""
    raise ValueError(f"{constant} is not JSON")


def _to_json(answer: Answer) -> bytes:
    """One line. An id that can be read but not written (1e999, or nested to the brim) is left out."""
    try:
        return json.dumps(answer, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return json.dumps({"error": "the id cannot be written as JSON"}).encode()


# --- the commands


def _dns_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--dns", metavar="HOST:PORT", help="The name server to ask; default the system's.")(function)


def _json_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)


def _timeout_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--timeout",
        type=click.FloatRange(0.01, 3600),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="How long one DNS question may take.",
    )(function)


def _now_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--now", type=float, metavar="UNIXTIME", help="Check as if it were this time.")(function)


@click.group()
def verify() -> None:
    """Run one authentication check, or a batch of them; needs no configuration."""


@verify.command()
@_dns_option
@_timeout_option
@_now_option
def batch(dns: str | None, timeout: float, now: float | None) -> None:
    """One JSON object a line on stdin, one a line on stdout, in the same order."""
    with contextlib.suppress(BrokenPipeError):  # whoever reads us has seen enough
        asyncio.run(_batch(_checker(dns, now, timeout), sys.stdin.buffer, sys.stdout.buffer))


@verify.command()
@_dns_option
@_json_option
@click.option("--ip", required=True, help="The client's address.")
@click.option("--helo", default="", help="What it said in HELO or EHLO.")
@click.option("--sender", default="", help="The envelope's sender; empty for the null sender.")
def spf(dns: str | None, *, as_json: bool, **question: str) -> None:
    """May this client send for this domain? (RFC 7208)"""
    answer = _single({"check": "spf", **question}, dns)
    _print(answer, f"{answer['result']}  {answer['explanation']}  ({answer['lookups']} lookups)", as_json=as_json)
    _exit(good=answer["result"] == "pass")


@verify.command()
@_dns_option
@_now_option
@_json_option
@click.option("--file", "option", metavar="FILE", help="The message, raw octets with CRLF; may stand without --file.")
@click.argument("file", required=False, default="")
def dkim(dns: str | None, now: float | None, *, as_json: bool, option: str | None, file: str) -> None:
    """Which signatures of a message are good? (RFC 6376)"""
    answer = _single({"check": "dkim", "file": _one("--file", option, file)}, dns, now)
    found = answer["signatures"]
    lines = [f"{each['result']:<10} d={each['domain']} s={each['selector']}  {each['reason']}" for each in found]
    _print(answer, "\n".join(lines) or "no signature", as_json=as_json)
    _exit(good=any(each["result"] == "pass" for each in found))


@verify.command()
@_json_option
@click.option("--path", "option", metavar="PATH", help="Such as <a@b.example>; may stand without --path.")
@click.argument("path", required=False, default="")
def address(*, as_json: bool, option: str | None, path: str) -> None:
    """Is this what may stand after MAIL FROM: or RCPT TO: ? (RFC 5321, 6531)"""
    answer = _single({"check": "address", "path": _one("--path", option, path)}, None)
    _print(answer, f"{answer['result']}  {answer['address'] or answer.get('reason', '')}", as_json=as_json)
    _exit(good=answer["result"] == "ok")


def _single(question: Mapping[str, Any], dns: str | None, now: float | None = None) -> Answer:
    async def work() -> Answer:
        async with _checker(dns, now) as checker:
            return await checker.answer(question)

    try:
        return asyncio.run(work())
    except BadRequest as err:
        raise click.UsageError(str(err)) from err


def _one(name: str, option: str | None, argument: str) -> str:
    if option is not None and argument:
        raise click.UsageError(f"{name} is given twice")
    if option is None and not argument:
        raise click.UsageError(f"{name} is missing")
    return argument if option is None else option


def _print(answer: Answer, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    for line in text.split("\n"):
        click.echo(clean(line).rstrip())


def _exit(*, good: bool) -> None:
    if not good:
        raise click.exceptions.Exit(NOT_SO)
