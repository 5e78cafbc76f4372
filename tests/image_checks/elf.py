"""What the headers of an executable say."""

import platform
import struct
from pathlib import Path

from chart_checks.helm import Broken

AT_MOST = 30_000_000
SHT_SYMTAB = 2
ET_DYN, PT_DYNAMIC, PT_INTERP, PT_GNU_STACK, PF_X = 3, 2, 3, 0x6474E551, 1
MACHINES = {"x86_64": 62, "aarch64": 183}
DT_NEEDED, DT_FLAGS_1, DF_1_PIE = 1, 0x6FFFFFFB, 0x08000000


def check(binary: Path, machine: str = platform.machine()) -> None:
    data = binary.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise Broken(f"{binary} is no 64-bit little-endian ELF file")
    kind, built_for = struct.unpack_from("<HH", data, 16)
    if built_for != MACHINES[machine]:
        raise Broken(f"{binary} is for machine {built_for}, not for {machine}")
    offset = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    # type, flags, offset in the file, size in the file
    segments = {(found := struct.unpack_from("<IIQQQQ", data, offset + size * at))[0]: (found[1], found[2], found[5]) for at in range(count)}
    if PT_INTERP in segments:
        raise Broken(f"{binary} needs a dynamic linker")
    if kind != ET_DYN or PT_DYNAMIC not in segments:
        raise Broken(f"{binary} is not position-independent")
    _, start, length = segments[PT_DYNAMIC]
    dynamic = dict(struct.unpack_from("<QQ", data, at) for at in range(start, start + length, 16))
    if DT_NEEDED in dynamic:
        raise Broken(f"{binary} needs shared libraries")
    if not dynamic.get(DT_FLAGS_1, 0) & DF_1_PIE:
        raise Broken(f"{binary} is a library, not a position-independent executable")
    if PT_GNU_STACK not in segments or segments[PT_GNU_STACK][0] & PF_X:
        raise Broken(f"{binary} has an executable stack")
    sections, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    if any(struct.unpack_from("<I", data, sections + size * at + 4)[0] == SHT_SYMTAB for at in range(count)):
        raise Broken(f"{binary} has its symbols, which nothing there reads")
    if len(data) > AT_MOST:
        raise Broken(f"{binary} has {len(data)} bytes, more than {AT_MOST}")
