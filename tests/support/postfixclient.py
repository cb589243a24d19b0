# SPDX-License-Identifier: Apache-2.0
"""A private Postfix that sends: mail given to its sendmail(1) goes by its smtp(8) to the gateway. Needs root.

The domain of a recipient chooses how it connects: `clear.dest.example`, `tls12.dest.example`, `tls13.dest.example`,
`implicit.dest.example`, `submission.dest.example`; under TLS it demands our certificate. smtp(8) logs each command and
each reply.

Not here: the instance itself (`tests/support/postfix.py`).
"""

import re
import subprocess
import time
from pathlib import Path

from tests.support.daemon import free_ports
from tests.support.postfix import Postfix

SETTINGS = """\
relayhost = [127.0.0.1]:{starttls}
transport_maps = inline:{{
  {{ clear.dest.example = clear:[127.0.0.1]:{clear} }},
  {{ tls12.dest.example = tls12:[127.0.0.1]:{starttls} }},
  {{ tls13.dest.example = tls13:[127.0.0.1]:{starttls} }},
  {{ implicit.dest.example = implicit:[127.0.0.1]:{implicit} }},
  {{ submission.dest.example = submission:[127.0.0.1]:{submission} }} }}
smtp_sasl_password_maps = inline:{{ {{ [127.0.0.1]:{submission} = {login} }} }}
smtp_sasl_security_options = noanonymous
smtp_sasl_tls_security_options = noanonymous
smtp_sasl_mechanism_filter = plain
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = {hostname}
smtp_tls_CAfile = {authority}
smtp_tls_loglevel = 1
smtp_tls_note_starttls_offer = yes
smtp_address_preference = ipv4
delay_warning_time = 0
"""

SERVICES = """\
clear     unix - - n - - smtp -v -o smtp_tls_security_level=none
tls12     unix - - n - - smtp -v -o smtp_tls_mandatory_protocols=TLSv1.2
tls13     unix - - n - - smtp -v -o smtp_tls_mandatory_protocols=TLSv1.3
implicit  unix - - n - - smtp -v -o smtp_tls_wrappermode=yes
submission unix - - n - - smtp -v -o smtp_sasl_auth_enable=yes
"""

_SENT = re.compile(r"status=(\S+) \((.*)\)$")


class PostfixClient(Postfix):
    """`ports` are the gateway's listeners; `authority` signed its certificate for `hostname`.

    `login` is a user and a password with a colon between them, told by PLAIN to the listener for submission.
    """

    def __init__(self, ports: dict[str, int], hostname: str, authority: Path, *, login: str) -> None:
        settings = SETTINGS.format(**ports, hostname=hostname, authority=authority, login=login)
        super().__init__(free_ports(1)[0], settings, services=SERVICES)

    def sendmail(self, content: bytes, sender: str, *recipients: str, options: tuple[str, ...] = ()) -> None:
        """Give it a message in wire octets."""
        command = ["sendmail", "-C", str(self.root / "etc"), "-i", "-f", sender, *options, "--", *recipients]
        subprocess.run(command, input=content.replace(b"\r\n", b"\n"), check=True, capture_output=True, timeout=60)

    def wait_gone(self, marker: str, patience: float = 60.0) -> str:
        """The log about the message with the Message-ID `<marker@origin.example>`, when it has left the queue.

        With it come the lines of the smtp(8) processes that worked on it: they do not carry the id.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            log = self.log()
            if (found := re.search(rf"cleanup\[\d+\]: (\w+): message-id=<{re.escape(marker)}@", log)) and (
                gone := re.search(rf"qmgr\[\d+\]: {found[1]}: removed", log)
            ):
                return log[found.start() : gone.end()]
            time.sleep(0.02)
        raise AssertionError(f"{marker} is still in the queue:\n{self.log()[-5000:]}")

    @staticmethod
    def said(log: str) -> list[str]:
        """What smtp(8) said, command by command."""
        return re.findall(r"(?m)smtp\[\d+\]: > \S+: (.*)$", log)

    @staticmethod
    def heard(log: str) -> list[str]:
        """The lines of the replies that smtp(8) got."""
        return re.findall(r"(?m)smtp\[\d+\]: < \S+: (.*)$", log)

    @staticmethod
    def outcomes(log: str) -> list[tuple[str, str]]:
        """(status, reply) for each recipient, in the order of the log."""
        return [(found[1], found[2]) for line in log.splitlines() if (found := _SENT.search(line))]
