# SPDX-License-Identifier: Apache-2.0
"""What memory there is, on a machine, in a control group, and where nobody tells."""

from pathlib import Path

from gateway.infra import memory

GIB = 1 << 30


def made(folder: Path, **files: str) -> tuple[Path, Path]:
    proc, groups = folder / "proc", folder / "groups"
    (proc / "self").mkdir(parents=True)
    (groups / "a/b").mkdir(parents=True)
    places = {
        "meminfo": proc / "meminfo",
        "group": proc / "self/cgroup",
        "b": groups / "a/b/memory.max",
        "a": groups / "a/memory.max",
    }
    for name, text in files.items():
        places[name].write_text(text)
    return proc, groups


def test_this_process_is_in_memory():
    before = memory.resident()
    ballast = bytearray(b"x") * (64 << 20)
    assert memory.resident() - before > 48 << 20
    del ballast
    memory.trim()
    assert 10 << 20 < memory.resident() < 4 * GIB


def test_the_machine_and_each_group_above_us_bound_what_there_is(tmp_path: Path):
    machine = f"MemTotal: {8 * GIB >> 10} kB\nMemFree: 1 kB\n"
    assert memory.available(*made(tmp_path / "1", meminfo=machine)) == 8 * GIB
    limited = made(tmp_path / "2", meminfo=machine, group="0::/a/b\n", b="max\n", a=f"{GIB}\n")
    assert memory.available(*limited) == GIB
    generous = made(tmp_path / "3", meminfo=machine, group="0::/a/b\n", b=f"{99 * GIB}\n", a="max\n")
    assert memory.available(*generous) == 8 * GIB
    old = made(tmp_path / "4", meminfo=machine, group="5:memory:/a/b\n", b="1000\n")
    assert memory.available(*old) == 8 * GIB


def test_where_the_system_does_not_tell_nothing_is_known(tmp_path: Path):
    assert memory.available(tmp_path, tmp_path) == 0


def test_a_worker_has_its_share_and_never_too_little(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10 * GIB)
    assert memory.share(1) == 6 * GIB
    assert memory.share(4) == int(1.5 * GIB)
    assert memory.share(256) == memory.LEAST
    monkeypatch.setattr(memory, "available", lambda: 0)
    assert memory.share(1) == 0
