"""What this machine offers to a conda solve: its platform and its virtual packages.

Source: conda's documentation, "Managing virtual packages". They are a part of an environment's
key, and py-rattler, which need not be there, tells the kernel's patch and the very processor.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from buildrun.store.memo import DependencyTracker

NAMES = ("cuda", "glibc", "linux", "osx", "archspec")
_MACHINES = {"x86_64": "64", "amd64": "64", "i386": "32", "i686": "32"}
# The features of each level of the x86-64 psABI, by the names of /proc/cpuinfo.
_X86_LEVELS = (
    ("x86_64_v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("x86_64_v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("x86_64_v4", "avx512bw avx512cd avx512dq avx512f avx512vl"),
)
# As in locks for pip's packages, and what Python's own macOS wheels ask for.
_ASSUMED = {"linux": {"linux": "4.18", "glibc": "2.28"}, "osx": {"osx": "11.0"}}
_LEVELS = {"64": "x86_64", "arm64": "m1"}
_CPU_BYTES = 1 << 14  # enough for the first processor


def platform(reader: DependencyTracker) -> str:
    """Return conda's name of the platform, such as ``linux-64``; CONDA_SUBDIR is respected."""
    machine = os.uname().machine
    system = "osx" if sys.platform == "darwin" else sys.platform
    return reader.variable("CONDA_SUBDIR") or f"{system}-{_MACHINES.get(machine, machine)}"


def detect(reader: DependencyTracker) -> tuple[str, ...]:
    """Return the virtual packages as ``name=version=build``; CONDA_OVERRIDE_* are respected.

    The kernel counts with its major and minor version only, the processor with its level: neither
    a patch of the kernel nor another processor of the same level makes a new environment.
    """
    found = _mac(reader) if sys.platform == "darwin" else _linux(reader)
    return listed(_overridden(found, reader))


def assumed(subdir: str, reader: DependencyTracker) -> dict[str, str]:
    """Return the versions that a lock for a platform counts on, whatever machine makes it."""
    system, _, machine = subdir.partition("-")
    found = {**_ASSUMED.get(system, {}), "archspec": _LEVELS.get(machine, machine)}
    return _overridden(found, reader)


def listed(versions: Mapping[str, str]) -> tuple[str, ...]:
    """Return versions as ``name=version=build``."""
    return tuple(
        f"__archspec=1={version}" if name == "archspec" else f"__{name}={version}=0"
        for name, version in sorted({**versions, "unix": "0"}.items())
        if version
    )


def _overridden(found: dict[str, str], reader: DependencyTracker) -> dict[str, str]:
    """Return versions with those that variables say; an empty one removes its package."""
    chosen = {name: reader.variable(f"CONDA_OVERRIDE_{name.upper()}") for name in NAMES}
    return {**found, **{name: text.strip() for name, text in chosen.items() if text is not None}}


def _mac(reader: DependencyTracker) -> dict[str, str]:
    from platform import mac_ver

    _text(reader, "/System/Library/CoreServices/SystemVersion.plist")
    machine = os.uname().machine
    return {"osx": _minor(mac_ver()[0]), "archspec": "m1" if machine == "arm64" else machine}


def _linux(reader: DependencyTracker) -> dict[str, str]:
    for path in (f"/lib/{os.uname().machine}-linux-gnu/libc.so.6", "/lib64/libc.so.6"):
        _text(reader, path)  # so that an upgrade is noticed
    try:
        library, _, glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        library = glibc = ""
    return {
        "linux": _minor(_text(reader, "/proc/sys/kernel/osrelease") or os.uname().release),
        "glibc": glibc if library == "glibc" else "",
        "archspec": _processor(),
        "cuda": _cuda(reader),
    }


def _processor() -> str:
    machine = os.uname().machine
    if machine != "x86_64":
        return machine
    try:
        # Not through the reader: the text differs at each look, for it has the clock's speed.
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^flags\s*:(.*)$", file.read(_CPU_BYTES), re.MULTILINE)
    except OSError:
        return machine
    features = set(match.group(1).split()) if match else set()
    level = machine
    for name, needed in _X86_LEVELS:
        if not features.issuperset(needed.split()):
            break
        level = name
    return level


def _cuda(reader: DependencyTracker) -> str:
    """Return the newest CUDA that the driver can run, or ""."""
    driver = _text(reader, "/proc/driver/nvidia/version")
    if not driver and not reader.exists("/dev/dxg"):
        return ""
    import ctypes

    try:
        number = ctypes.c_int()
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"{number.value // 1000}.{number.value % 1000 // 10}"


def _text(reader: DependencyTracker, path: str) -> str:
    try:
        return reader.read(path).decode(errors="replace").strip()
    except OSError:
        return ""


def _minor(version: str) -> str:
    match = re.match(r"[0-9]+(\.[0-9]+)?", version)
    return match.group() if match else "0"
