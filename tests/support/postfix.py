# SPDX-License-Identifier: Apache-2.0
"""A private Postfix instance on loopback: own configuration, queue and maildirs. Needs root, as Postfix does."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
local     unix - n n - - local
virtual   unix - n n - - virtual
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
maillog_file = {root}/log/mail.log
maillog_file_prefixes = {root}
message_size_limit = 100000000
mailbox_size_limit = 0
virtual_mailbox_limit = 0
header_size_limit = 10000000
message_drop_headers =
local_header_rewrite_clients =
disable_mime_input_processing = yes
smtpd_peername_lookup = no
smtputf8_enable = yes
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
"""

RECEIVING = """\
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_transport = virtual
"""


COMPLAINT = re.compile(r"postfix\S*\[\d+\]: (warning|error|fatal|panic): ")


class Postfix:
    """Start with `with Postfix(port, settings) as postfix:`. `domains` are received into one maildir.

    `settings` are lines of main.cf and `services` lines of master.cf; those given here win over the base.
    """

    def __init__(self, port: int, settings: str = "", *, domains: str = "", services: str = "") -> None:
        self.port = port
        # Not below pytest's own folder: Postfix's unprivileged daemons could not reach it there.
        self.root = Path(tempfile.mkdtemp(prefix="gw-postfix-"))
        self.root.chmod(0o755)
        owner = pwd.getpwnam("postfix")
        for name in ("etc", "queue", "data", "mail", "log"):
            (self.root / name).mkdir(mode=0o755)
        os.chown(self.root / "data", owner.pw_uid, owner.pw_gid)
        os.chown(self.root / "mail", owner.pw_uid, owner.pw_gid)
        receiving = RECEIVING.format(domains=domains, root=self.root, uid=owner.pw_uid, gid=owner.pw_gid) if domains else ""
        (self.root / "etc/main.cf").write_text(MAIN.format(root=self.root) + receiving + settings)
        (self.root / "etc/master.cf").write_text(MASTER.format(port=port) + services)

    def command(self, *arguments: str) -> None:
        subprocess.run(["postfix", "-c", str(self.root / "etc"), *arguments], check=True, capture_output=True, timeout=60)

    def __enter__(self) -> Self:
        self.command("start")  # with its own check of what would keep it from running
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.command("abort" if kind else "stop")
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The master's process id."""
        return int((self.root / "queue/pid/master.pid").read_text())

    def log(self) -> str:
        return (self.root / "log/mail.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """The log's lines of warnings, errors and worse."""
        return [line for line in self.log().splitlines() if COMPLAINT.search(line)]

    def received(self) -> list[bytes]:
        """Every stored message, as it is in the maildir (LF line ends)."""
        return [path.read_bytes() for path in sorted((self.root / "mail/all/new").glob("*"))]

    def wait_received(self, count: int, patience: float = 90.0) -> list[bytes]:
        """Until `count` messages are there; `patience` bounds a failing test."""
        deadline = time.monotonic() + patience
        while len(found := self.received()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {count} messages came:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        return found
