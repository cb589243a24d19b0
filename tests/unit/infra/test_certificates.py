# SPDX-License-Identifier: Apache-2.0
"""What certificates say of themselves, and when that is worth a word."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from gateway.infra.certificates import Certificate, read_certificate, survey
from tests.support import certificates

DAY = 86400.0


def test_names_and_times_are_those_of_the_certificate(tmp_path: Path):
    ends = datetime(2031, 5, 6, tzinfo=UTC)
    path = tmp_path / "c.pem"
    trustme.CA().issue_cert("MX.Example.test", "*.example.test", "192.0.2.1", not_after=ends).cert_chain_pems[0].write_to_path(
        str(path)
    )
    found = read_certificate(path)
    assert found.names == ("mx.example.test", "*.example.test")
    assert found.label == "mx.example.test"
    assert found.ends == ends.timestamp()
    assert found.begins < found.ends


def test_what_is_no_certificate_is_a_value_error(tmp_path: Path):
    made = certificates.make(tmp_path, "mx.example.test")
    with pytest.raises(ValueError):
        read_certificate(made.key)
    with pytest.raises(FileNotFoundError):
        read_certificate(tmp_path / "missing.pem")


def test_a_certificate_without_a_name_is_called_by_its_file(tmp_path: Path):
    path = tmp_path / "nameless.pem"
    trustme.CA().issue_cert(common_name="not.counted").cert_chain_pems[0].write_to_path(str(path))
    assert read_certificate(path).names == ()
    assert read_certificate(path).label == "nameless.pem"


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-DAY, 15 * DAY, ""),
        (-DAY, 13.5 * DAY, "ends in 13 days"),
        (-DAY, 0.5 * DAY, "ends in 0 days"),
        (-9 * DAY, -3.5 * DAY, "ended 3 days ago"),
        (DAY, 90 * DAY, "is not valid yet"),
    ],
)
def test_an_operator_is_told_in_time(begins: float, ends: float, said: str):
    now = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    found = Certificate(Path("/etc/c.pem"), ("mx.example.test",), now + begins, now + ends)
    assert found.complaint(now) == (f"certificate of mx.example.test (/etc/c.pem) {said}" if said else "")


def test_a_survey_tells_the_first_to_end_of_each_name_and_what_is_wrong(tmp_path: Path):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    paths = [tmp_path / f"{number}.pem" for number in range(4)]
    for path, names, days in zip(paths, (("a.test",), ("a.test", "b.test"), ("c.test",)), (90, 60, 3), strict=False):
        leaf = trustme.CA().issue_cert(*names, not_after=now + timedelta(days=days))
        leaf.cert_chain_pems[0].write_to_path(str(path))
    ends, complaints = survey(paths, now.timestamp())
    assert ends == {"a.test": now.timestamp() + 60 * DAY, "c.test": now.timestamp() + 3 * DAY}
    assert [complaint.split(" ", 1)[1][:20] for complaint in complaints] == [f"of c.test ({paths[2]}"[:20], f"{paths[3]}"[:20]]
