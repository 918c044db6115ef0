"""How much a process may grow by, so that no image takes the machine down with it."""

import ctypes
import resource
import sys

# What glibc calls M_MMAP_THRESHOLD: from that size on, memory is given back as soon as it is free. By itself it grows
# with what was freed last; then one huge image stays in memory, and the next ones find the limit used up. Pillow keeps
# huge ones in blocks of 16 MB, which are above it, and those of three megapixels, which are below.
_MMAP_THRESHOLD, _THRESHOLD_BYTES = -3, 12 * 2**20
# M_TRIM_THRESHOLD: what may stay of smaller ones. Fetched from the system anew for each image, they took 7 % longer.
_TRIM_THRESHOLD, _KEPT_BYTES = -1, 24 * 2**20


def limit_memory(growth_bytes: int) -> None:
    """Make an image that needs too much memory fail by itself, instead of the machine choosing whom to kill."""
    if sys.platform != "linux":  # Elsewhere there is no telling how much is mapped, or no such limit.
        return
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + growth_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
