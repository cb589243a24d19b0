# SPDX-License-Identifier: Apache-2.0
"""The configuration: one TOML file, composed of the option models that each stage declares beside its code.

Promises: all faults are told at once, each with file, key path, value, reason and (where one is near) the mend; a `Config`
that exists is right in itself. Loading reads the file and touches nothing else; `examine` looks at what it points to.
What works, but hardly as it was meant, is no fault: `remarks` tells it.
Fails with: `ConfigError`.
Not here: what an option means (its stage), faults in words (`infra/optionfaults.py`), the reference page (`cli/docs.py`).
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gateway.delivery.options import DeliveryOptions, RouteOptions
from gateway.delivery.route import shadowed
from gateway.edge.options import LimitsOptions, ListenerOptions, SubmissionOptions, TlsOptions
from gateway.edge.place import overlap, parse_place
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RelayOptions
from gateway.infra import users
from gateway.infra.dns import DnsOptions
from gateway.infra.log import LogOptions
from gateway.infra.optionfaults import shown, told
from gateway.infra.options import (
    DomainName,
    Duration,
    LocalPath,
    Options,
    ValidationError,
    check,
    check_first,
    covers_everybody,
    option,
    section,
)
from gateway.infra.tls import file_faults
from gateway.mail.units import format_duration
from gateway.ops.options import AdminOptions
from gateway.ops.trace import TraceOptions
from gateway.queue.options import QueueOptions

DEFAULT_PATH = Path("/etc/gateway/gateway.toml")
VARIABLE = "GATEWAY_CONFIG"
# A claimed message may wait ten minutes for a connection before its attempt begins, and its outcome some for a slow disk.
SETTLE_MARGIN = 15 * 60.0  # seconds that queue.lease must be longer than delivery.attempt_timeout
WORKERS_MAX = 256
NO_LISTENER = 'there is none: add [[listener]] with address = "0.0.0.0:25"'


def _worker_count(value: object) -> object:
    """One fault for all that is neither; of a union each branch would tell its own."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= WORKERS_MAX):
        raise ValueError(f'must be 1 to {WORKERS_MAX}, or "auto"')
    return value


def _absolute(path: Path) -> Path:
    """A relative one would be another directory for each command that is called from elsewhere."""
    if not path.is_absolute():
        raise ValueError('is relative: write an absolute path, such as "/var/lib/gateway"')
    return path


class WorkersOptions(Options):
    """[workers]"""

    count: Annotated[int | Literal["auto"], check_first(_worker_count)] = option(
        1, doc='Worker processes; "auto" starts one for each core.'
    )
    drain: Duration = option(
        "30s", doc="How long running transactions and deliveries may take to finish when the daemon stops."
    )

    @property
    def number(self) -> int:
        """How many workers that makes on this machine (1–256)."""
        wanted = len(os.sched_getaffinity(0)) if self.count == "auto" else self.count
        return max(1, min(wanted, WORKERS_MAX))


class Config(Options):
    """The whole file. Sections that are left out have their defaults."""

    hostname: DomainName = option(
        doc="Our name: banner, EHLO, Received, Authentication-Results, bounces. It should resolve to us."
    )
    data_dir: Annotated[LocalPath, check(_absolute)] = option(
        "/var/lib/gateway", doc="Queue and state; one daemon at a time. An absolute path."
    )
    listener: list[ListenerOptions] = option([], doc="Where mail comes in; at least one is needed to serve.")
    tls: TlsOptions = section(TlsOptions)
    relay: RelayOptions = section(RelayOptions)
    limits: LimitsOptions = section(LimitsOptions)
    submission: SubmissionOptions = section(SubmissionOptions)
    route: list[RouteOptions] = option([], doc="Where mail goes: the first match wins; without one, MX lookup.")
    dns: DnsOptions = section(DnsOptions)
    delivery: DeliveryOptions = section(DeliveryOptions)
    queue: QueueOptions = section(QueueOptions)
    filters: FiltersOptions = section(FiltersOptions)
    admin: AdminOptions = section(AdminOptions)
    workers: WorkersOptions = section(WorkersOptions)
    log: LogOptions = section(LogOptions)
    trace: TraceOptions = section(TraceOptions)

    @property
    def takes_submissions(self) -> bool:
        """True if users log in here."""
        return any(listener.role == "submission" for listener in self.listener)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `value` is the text of what was given, empty if nothing was."""

    file: str
    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        given = f" = {self.value}" if self.value else ""
        return f"{self.file}: {self.key}{given}: {self.reason}" if self.key else f"{self.file}: {self.reason}"


class ConfigError(Exception):
    """The configuration cannot be used; `faults` has every reason."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


def find(path: Path | None) -> Path:
    """The file to read: the one given, else $GATEWAY_CONFIG, else /etc/gateway/gateway.toml."""
    if path is not None:
        return path
    named = os.environ.get(VARIABLE)
    return Path(named) if named else DEFAULT_PATH


def load(path: Path) -> Config:
    """Read and validate a file. Raises ConfigError with every fault of form."""
    return parse(read(path), str(path))


def read(path: Path) -> bytes:
    """The octets of a configuration file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise ConfigError([Fault(str(path), "", "", f"cannot be read: {err.strerror}")]) from err


def parse(text: bytes, file: str) -> Config:
    """Validate the octets of a file; `file` is the name used in faults. Raises ConfigError."""
    try:
        data = tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise ConfigError([Fault(file, "", "", f"is not TOML: {err}")]) from err
    except tomllib.TOMLDecodeError as err:
        raise ConfigError([Fault(file, "", "", f"is not TOML: {err}{_unquoted(text.decode(), str(err))}")]) from err
    return from_mapping(data, file)


def _unquoted(text: str, error: str) -> str:
    """The mend for what is wrong most often: text without quotes. Empty if it was something else."""
    at = re.search(r"\(at line (\d+),", error)
    key, _, value = text.split("\n")[int(at[1]) - 1].partition("=") if at else ("", "", "")
    value = value.partition("#")[0].strip()
    if not value or value[0] in "\"'[{" or '"' in value or "\\" in value:
        return ""
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return f'; text stands in quotes: {key.strip()} = "{value}"'
    return ""


def approve(path: Path) -> tuple[bytes, Config]:
    """Read a configuration and check all of it, certificates too. Raises ConfigError with every fault."""
    text = read(path)
    config = parse(text, str(path))
    if faults := examine(config, str(path)):
        raise ConfigError(faults)
    return text, config


def from_mapping(data: Mapping[str, Any], file: str) -> Config:
    """Validate what was read; `file` is the name used in faults."""
    try:
        config = Config.model_validate(data)
    except ValidationError as err:
        raise ConfigError([Fault(file, bad.key, bad.value, bad.reason) for bad in told(Config, data, err)]) from err
    if faults := list(_contradictions(config, file)):
        raise ConfigError(faults)
    return config


def examine(config: Config, file: str) -> list[Fault]:
    """Faults in what the configuration points to: files that are missing or do not fit. Reads, changes nothing."""
    faults = []
    tls = config.tls
    if tls.certificate and tls.key:
        faults += _tls_faults(file, "tls", tls.certificate, tls.key)
    for at, (certificate, key) in enumerate(tls.pairs):
        faults += _tls_faults(file, f"tls.sni[{at}]", certificate, key, named=True)
    parent = next((folder for folder in (config.data_dir, *config.data_dir.parents) if folder.exists()), None)
    if parent is None or not parent.is_dir():
        faults.append(Fault(file, "data_dir", f'"{config.data_dir}"', f"{parent} is not a directory"))
    elif not os.access(parent, os.W_OK):
        faults.append(Fault(file, "data_dir", f'"{config.data_dir}"', f"{parent} cannot be written by this user"))
    if config.takes_submissions and (why := users.readable(config.submission.users)):
        faults.append(Fault(file, "submission.users", f'"{config.submission.users}"', why))
    return faults


def examine_users(config: Config) -> list[Fault]:
    """Lines of the file of users that are left out. The daemon starts in spite of them: the others may log in."""
    if not config.takes_submissions:
        return []
    return [Fault(str(config.submission.users), "", "", fault) for fault in users.faults(config.submission.users)]


def remarks(config: Config, file: str) -> list[Fault]:
    """What works, but hardly as it was meant. The daemon starts in spite of it."""
    found = []
    if "." not in config.hostname:
        reason = "has one label: many servers refuse mail from a name that is not complete, such as mail.example.org"
        found.append(Fault(file, "hostname", shown(config.hostname), reason))
    for at, pattern, before, by in shadowed(config.route):
        reason = f"never comes to this: route[{before}] takes all mail for {shown(by)}; put this route before that one"
        found.append(Fault(file, f"route[{at}].domains", shown(pattern), reason))
    return found


def _tls_faults(file: str, section: str, certificate: Path, key: Path, *, named: bool = False) -> list[Fault]:
    """Why a certificate and its key cannot be used; `named` ones must have names to be asked for by."""
    paths = {"certificate": certificate, "key": key}
    faults = file_faults(certificate, key, named=named)
    return [Fault(file, f"{section}.{which}", shown(str(paths[which])), why) for which, why in faults]


def _contradictions(config: Config, file: str) -> Iterator[Fault]:
    yield from _addresses(config, file)
    for at, listener in enumerate(config.listener):
        if listener.tls != "none" and not (config.tls.certificate and config.tls.key):
            yield Fault(file, f"listener[{at}].tls", f'"{listener.tls}"', "needs tls.certificate and tls.key")
        if listener.role == "submission" and listener.tls == "none":
            reason = 'lets nobody log in: write tls = "implicit" (port 465) or "starttls" (port 587)'
            yield Fault(file, f"listener[{at}].tls", f'"{listener.tls}"', reason)
    needed = config.delivery.attempt_timeout + SETTLE_MARGIN
    if config.queue.lease < needed:
        reason = f'is too short for delivery.attempt_timeout; write lease = "{format_duration(needed)}" or longer'
        yield Fault(file, "queue.lease", f'"{format_duration(config.queue.lease)}"', f"{reason}, or mail is sent twice")
    if bool(config.tls.certificate) != bool(config.tls.key):
        yield Fault(file, "tls", "", "needs both certificate and key, or neither")
    elif config.tls.sni and not config.tls.certificate:
        yield Fault(file, "tls.sni", "", "needs tls.certificate and tls.key as well, for clients that ask for no name of these")
    yield from _open_doors(config, file)


def _addresses(config: Config, file: str) -> Iterator[Fault]:
    """Addresses that cannot be bound together. What a name stands for is found out when it is bound, and told then."""
    places = [(f"listener[{at}]", listener.address) for at, listener in enumerate(config.listener)]
    if why := _no_admin(config.admin.address):
        yield Fault(file, "admin.address", shown(config.admin.address), why)
    elif config.admin.address:
        places.append(("admin", config.admin.address))
    for at, (key, address) in enumerate(places):
        for other, taken in places[:at]:
            if overlap(parse_place(address), parse_place(taken)):
                reason = (
                    f"overlaps with another listener, {other} ({shown(taken)}): write another port, or leave one of them out"
                )
                yield Fault(file, f"{key}.address", shown(address), reason)
                break


def _no_admin(address: str) -> str:
    """Why nothing can be served at an admin address; empty if it can, or if there is none."""
    try:
        kind = parse_place(address).kind if address else ""
    except ValueError as err:
        return str(err)
    return 'is not passed by systemd: write "host:port" or "unix:/path"' if kind == "systemd" else ""


def _open_doors(config: Config, file: str) -> Iterator[Fault]:
    """Ways by which anyone could relay through us, beside those that [relay] itself refuses.

    A proxy says which address a client has. If anyone may be a proxy, anyone may have an address of relay.networks, or
    (by XCLIENT, on a listener for submission) be any user. With neither there is nothing to be gained but by liars.
    """
    if config.relay.open:
        return
    for at, listener in enumerate(config.listener):
        gains = bool(config.relay.networks)
        for key, networks, more in (
            ("proxy_protocol", listener.proxy_protocol, False),
            ("xclient", listener.xclient, listener.role == "submission"),
        ):
            if (gains or more) and covers_everybody(networks):
                reason = (
                    "covers the internet: anyone could say that he is one who may relay; relay.open = true if that is wanted"
                )
                yield Fault(file, f"listener[{at}].{key}", shown([str(each) for each in networks]), reason)
