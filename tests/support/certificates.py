# SPDX-License-Identifier: Apache-2.0
"""Certificates of a throw-away authority."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files: the certificate with its chain, its key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


def make(folder: Path, *names: str) -> Certificate:
    """A certificate for `names`, written into `folder`."""
    authority = trustme.CA()
    leaf = authority.issue_cert(*names)
    made = Certificate(folder / "certificate.pem", folder / "key.pem", folder / "authority.pem")
    for path in (made.certificate, made.key, made.authority):
        path.unlink(missing_ok=True)
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(str(made.certificate), append=True)
    leaf.private_key_pem.write_to_path(str(made.key))
    authority.cert_pem.write_to_path(str(made.authority))
    return made
