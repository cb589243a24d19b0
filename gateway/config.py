# SPDX-License-Identifier: Apache-2.0
"""The configuration: one TOML file, composed of the option models that each stage declares beside its code.

Promises: all faults are told at once, each with file, key path, value, reason and (where one is near) the mend; a `Config`
that exists is right in itself. Loading reads the file and touches nothing else; `examine` looks at what it points to.
Fails with: `ConfigError`.
Not here: what an option means (its stage), the reference page (`cli/docs.py`).
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from gateway.delivery.options import DeliveryOptions, RouteOptions
from gateway.edge.options import LimitsOptions, ListenerOptions, TlsOptions
from gateway.filters.options import FiltersOptions
from gateway.filters.recipients import RelayOptions
from gateway.infra.dns import DnsOptions
from gateway.infra.log import LogOptions
from gateway.infra.options import DomainName, Duration, Options, option, section
from gateway.infra.tls import TlsFault, server_context
from gateway.mail.units import format_duration
from gateway.ops.options import AdminOptions
from gateway.ops.trace import TraceOptions
from gateway.queue.options import QueueOptions

DEFAULT_PATH = Path("/etc/gateway/gateway.toml")
VARIABLE = "GATEWAY_CONFIG"
# A claimed message may wait ten minutes for a connection before its attempt begins, and its outcome some for a slow disk.
SETTLE_MARGIN = 15 * 60.0  # seconds that queue.lease must be longer than delivery.attempt_timeout


class WorkersOptions(Options):
    """[workers]"""

    count: int | Literal["auto"] = option(1, doc='Worker processes; "auto" starts one for each core.')
    drain: Duration = option(
        "30s", doc="How long running transactions and deliveries may take to finish when the daemon stops."
    )

    @property
    def number(self) -> int:
        """How many workers that makes on this machine (1–256)."""
        wanted = len(os.sched_getaffinity(0)) if self.count == "auto" else self.count
        return max(1, min(wanted, 256))


class Config(Options):
    """The whole file. Sections that are left out have their defaults."""

    hostname: DomainName = option(
        doc="Our name: banner, EHLO, Received, Authentication-Results, bounces. It should resolve to us."
    )
    data_dir: Path = option("/var/lib/gateway", doc="Queue and state; one daemon at a time.")
    listener: list[ListenerOptions] = option([], doc="Where mail comes in; at least one is needed to serve.")
    tls: TlsOptions = section(TlsOptions)
    relay: RelayOptions = section(RelayOptions)
    limits: LimitsOptions = section(LimitsOptions)
    route: list[RouteOptions] = option([], doc="Where mail goes: the first match wins; without one, MX lookup.")
    dns: DnsOptions = section(DnsOptions)
    delivery: DeliveryOptions = section(DeliveryOptions)
    queue: QueueOptions = section(QueueOptions)
    filters: FiltersOptions = section(FiltersOptions)
    admin: AdminOptions = section(AdminOptions)
    workers: WorkersOptions = section(WorkersOptions)
    log: LogOptions = section(LogOptions)
    trace: TraceOptions = section(TraceOptions)


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError([Fault(file, "", "", f"is not TOML: {err}")]) from err
    return from_mapping(data, file)


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
        raise ConfigError([_fault(file, data, dict(error)) for error in err.errors(include_url=False)]) from err
    if faults := list(_contradictions(config, file)):
        raise ConfigError(faults)
    return config


def examine(config: Config, file: str) -> list[Fault]:
    """Faults in what the configuration points to: files that are missing or do not fit. Reads, changes nothing."""
    faults = []
    if config.tls.certificate and config.tls.key:
        try:
            server_context(config.tls.certificate, config.tls.key)
        except TlsFault as err:
            faults.append(Fault(file, "tls.certificate", f'"{config.tls.certificate}"', str(err)))
    parent = next((folder for folder in (config.data_dir, *config.data_dir.parents) if folder.exists()), None)
    if parent is None or not parent.is_dir():
        faults.append(Fault(file, "data_dir", f'"{config.data_dir}"', f"{parent} is not a directory"))
    elif not os.access(parent, os.W_OK):
        faults.append(Fault(file, "data_dir", f'"{config.data_dir}"', f"{parent} cannot be written by this user"))
    return faults


def _contradictions(config: Config, file: str) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, listener in enumerate(config.listener):
        if listener.address in seen:
            yield Fault(file, f"listener[{at}].address", f'"{listener.address}"', "is used by another listener already")
        seen.add(listener.address)
        if listener.tls != "none" and not (config.tls.certificate and config.tls.key):
            yield Fault(file, f"listener[{at}].tls", f'"{listener.tls}"', "needs tls.certificate and tls.key")
    needed = config.delivery.attempt_timeout + SETTLE_MARGIN
    if config.queue.lease < needed:
        reason = f'is too short for delivery.attempt_timeout; write lease = "{format_duration(needed)}" or longer'
        yield Fault(file, "queue.lease", f'"{format_duration(config.queue.lease)}"', f"{reason}, or mail is sent twice")
    if bool(config.tls.certificate) != bool(config.tls.key):
        yield Fault(file, "tls", "", "needs both certificate and key, or neither")
    if isinstance(config.workers.count, int) and not 1 <= config.workers.count <= 256:
        yield Fault(file, "workers.count", str(config.workers.count), 'must be 1 to 256, or "auto"')


def _fault(file: str, data: Mapping[str, Any], error: Mapping[str, Any]) -> Fault:
    """One pydantic error as an operator wants to read it."""
    location = [part for part in error["loc"] if not _is_branch(part)]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    reason = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        reason = "unknown key" + _nearest(location)
    elif error["type"] == "missing":
        reason, value = "is missing and has no default", None
    return Fault(file, key, "" if value is None else _shown(value), reason)


def _is_branch(part: int | str) -> bool:
    """True for the names of union branches that pydantic adds to a location."""
    return isinstance(part, str) and (
        part in {"int", "str", "float", "bool"} or part.startswith(("literal[", "function-", "list["))
    )


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _nearest(location: Sequence[int | str]) -> str:
    """The known key that an unknown one was probably meant to be."""
    model: type[BaseModel] | None = Config
    for part in location[:-1]:
        model = _model_of(model, part) if model else None
    known = list(model.model_fields) if model else []
    near = difflib.get_close_matches(str(location[-1]), known, 1)
    return f"; did you mean {near[0]!r}?" if near else (f"; known here: {', '.join(known)}" if known else "")


def _model_of(model: type[BaseModel], part: int | str) -> type[BaseModel] | None:
    """The option model behind one step of a key path."""
    if isinstance(part, int):
        return model
    annotation = model.model_fields[part].annotation if part in model.model_fields else None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
