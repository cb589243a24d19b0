# SPDX-License-Identifier: Apache-2.0
"""What every test may use, and the rule for system programs: a missing one skips its tests by name, with the mend.

With GATEWAY_TESTS_COMPLETE set nothing may be skipped: what would be skipped fails instead.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import exim

PACKAGES = {
    "postfix": "postfix",
    "smtp-source": "postfix",
    "smtp-sink": "postfix",
    "swaks": "swaks",
    "openssl": "openssl",
    "prlimit": "util-linux",
}


# Processes that tests start shall not compile the same modules again and again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", type=int, default=2000, help="messages that each seeded fuzzer makes (default 2000)")
    parser.addoption("--kills", type=int, default=10, help="cycles of the kill test (default 10)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if reason := _why_not(program):
                if os.environ.get("GATEWAY_TESTS_COMPLETE"):
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)


def _why_not(program: str) -> str:
    if program == "root":
        return "" if os.geteuid() == 0 else "needs root (a private Postfix instance can only be started by root)"
    if program == "exim4":
        return exim.why_not()
    if program == "sasl-plain":
        found = any(Path("/usr/lib").glob("*/sasl2/libplain.so*"))
        return "" if found else "needs Cyrus SASL's PLAIN: apt-get install --no-install-recommends libsasl2-modules"
    if program.startswith("perl:"):
        return _why_no_module(program.removeprefix("perl:"))
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if shutil.which(program, path=path):
        return ""
    return f"needs {program}: apt-get install --no-install-recommends {PACKAGES[program]}"


def _why_no_module(name: str) -> str:
    """Of Perl; packages of modules are named after them."""
    if (
        shutil.which("perl")
        and subprocess.run(["perl", f"-M{name}", "-e", "1"], capture_output=True, timeout=30).returncode == 0
    ):
        return ""
    package = f"lib{name.lower().replace('::', '-')}-perl"
    return f"needs Perl's {name}: apt-get install --no-install-recommends {package}"
