# SPDX-License-Identifier: Apache-2.0
"""A private Exim that sends: each message is given to one exim process, which delivers it to the gateway and ends.

Found by GATEWAY_EXIM, else as /usr/sbin/exim4; nothing of an installed configuration is read. It runs as the user of the
tests, and as nobody if that is root: with a configuration of ours it would give up root's privileges with a warning.
The domain of a recipient chooses how it connects: `clear.dest.example`, `tls12.dest.example`, `tls13.dest.example`,
`implicit.dest.example`, `submission.dest.example`, any other like `tls13`; under TLS (GnuTLS) it demands our certificate.
With a configuration of ours Exim writes all its logs to stderr, and to nowhere else.

Not here: how Exim comes onto the machine beside Postfix (`.ci/run`).
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

CONFIGURATION = """\
exim_path = {program}
exim_user = {uid}
exim_group = {gid}
primary_hostname = client.exim.test
spool_directory = {root}/spool
local_interfaces = 127.0.0.1
disable_ipv6
keep_environment =
never_users =
untrusted_set_sender = *
message_size_limit = 100M
acl_smtp_rcpt = accept
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
qualify_domain = client.exim.test
local_from_check = false
log_selector = +pipelining +tls_certificate_verified +smtp_confirmation +received_recipients +delivery_size

begin routers
{routers}

begin authenticators
log_in:
  driver = plaintext
  public_name = {mechanism}
  client_send = {secret}

begin transports
{transports}

begin retry
* * F,1h,1h
"""

ROUTER = """\
to_{way}:
  driver = manualroute
  domains = {domains}
  transport = {way}
  route_list = * 127.0.0.1
  self = send
  no_more
"""

TRANSPORT = """\
{way}:
  driver = smtp
  port = {port}
  hosts_try_fastopen =
  hosts_require_tls = {require}
  hosts_avoid_tls = {avoid}
  hosts_require_auth = {log_in}
  hosts_try_auth =
  protocol = {protocol}
  tls_verify_hosts = *
  tls_verify_certificates = {authority}
  tls_require_ciphers = {ciphers}
  hosts_try_prdr = *
  hosts_try_chunking = *
"""

AUTHENTICATORS = {"PLAIN": "^{user}^{password}", "LOGIN": ": {user} : {password}"}  # what Exim sends, "^" for NUL

CIPHERS = {  # GnuTLS priority strings
    "clear": "NORMAL",
    "tls12": "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    "tls13": "NORMAL:-VERS-ALL:+VERS-TLS1.3",
    "implicit": "NORMAL",
    "submission": "NORMAL",
}


def program() -> str:
    return os.environ.get("GATEWAY_EXIM", "/usr/sbin/exim4")


@lru_cache(maxsize=1)
def why_not() -> str:
    """What keeps Exim from running here; empty if nothing does."""
    if not os.access(program(), os.X_OK):
        return "needs exim4: apt-get install --no-install-recommends exim4-daemon-light, or GATEWAY_EXIM=/path/to/exim4"
    done = subprocess.run([program(), "-C", "/dev/null", "-bV"], capture_output=True, text=True, timeout=30)
    return f"needs an exim4 that runs: {done.stderr.strip()}" if done.returncode else ""


ALWAYS = "exim user lost privilege for using -C option"  # it had none; said by each process that Exim starts


class Exim:
    """Use with `with`. `ports` has the gateway's listeners; `authority` signed its certificate for 127.0.0.1.

    `login` is a user with a password, and `mechanism` how they are told to the listener for submission.
    """

    def __init__(self, ports: dict[str, int], authority: Path, *, login: tuple[str, str], mechanism: str = "PLAIN") -> None:
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.uid, self.gid = owner.pw_uid, owner.pw_gid
        # Not below pytest's own folder: Exim's own user could not reach it there.
        self.root = Path(tempfile.mkdtemp(prefix="gw-exim-"))
        self.root.chmod(0o755)
        spool = self.root / "spool"
        spool.mkdir(mode=0o750)
        os.chown(spool, self.uid, self.gid)
        self.configuration = self.root / "exim.conf"
        values = {"mechanism": mechanism, "secret": AUTHENTICATORS[mechanism].format(user=login[0], password=login[1])}
        self.configuration.write_text(self._configuration(ports, Path(shutil.copy(authority, self.root)), values))
        self.configuration.chmod(0o644)

    def _configuration(self, ports: dict[str, int], authority: Path, values: dict[str, str]) -> str:
        routers, transports = [], []
        for way, ciphers in CIPHERS.items():
            routers.append(ROUTER.format(way=way, domains=f"{way}.dest.example"))
            clear = way == "clear"
            transports.append(
                TRANSPORT.format(
                    way=way,
                    port=ports[way if way in ports else "starttls"],
                    require="" if clear else "*",
                    avoid="*" if clear else "",
                    log_in="*" if way == "submission" else "",
                    protocol="smtps" if way == "implicit" else "smtp",
                    authority=authority,
                    ciphers=ciphers,
                )
            )
        routers.append(ROUTER.format(way="rest", domains="*").replace("transport = rest", "transport = tls13"))
        values |= {"program": program(), "uid": str(self.uid), "gid": str(self.gid), "root": str(self.root)}
        return CONFIGURATION.format(routers="\n".join(routers), transports="\n".join(transports), **values)

    def __enter__(self) -> "Exim":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def send(self, content: bytes, sender: str, *recipients: str) -> list[str]:
        """Deliver a message, given in wire octets, at once; also the bounce that Exim may write. What it logged, by lines."""
        said, log = self._run(content.replace(b"\r\n", b"\n"), "-i", "-f", sender, "--", *recipients)
        assert not said, (said, log)
        return log

    def session(self, content: bytes, mail: str, rcpt: str) -> list[str]:
        """The same, the message given in an SMTP session on stdin: `mail` and `rcpt` are arguments with their parameters."""
        commands = f"EHLO localhost\r\nMAIL FROM:{mail}\r\nRCPT TO:{rcpt}\r\nDATA\r\n".encode()
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        said, log = self._run(commands + stuffed + b".\r\nQUIT\r\n", "-bs")
        assert re.findall(r"(?m)^(\d+) ", said) == ["220", "250", "250", "250", "354", "250", "221"], (said, log)
        return log

    def _run(self, given: bytes, *arguments: str) -> tuple[str, list[str]]:
        command = [program(), "-C", str(self.configuration), "-odi", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, timeout=120, env={}, **self._identity())
        said, log = (octets.decode(errors="replace") for octets in (done.stdout, done.stderr))
        assert done.returncode == 0, (said, log)
        return said, [line for line in log.splitlines() if not line.endswith(ALWAYS)]

    def _identity(self) -> dict[str, Any]:
        """Only root can, and must, become another user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}
