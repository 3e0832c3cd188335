"""What a process holds in memory, as Linux counts it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident bytes of a process."""

    anonymous: int
    """Its own: what it would need swap for."""
    file: int
    """Pages of files (libraries, the mapped index) that the system may drop and read again."""

    @classmethod
    def now(cls) -> "Memory":
        fields = {}
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            fields[name] = int(value.split()[0]) * 1024
        return cls(anonymous=fields["Anonymous"], file=fields["Rss"] - fields["Anonymous"])

    @property
    def total(self) -> int:
        return self.anonymous + self.file

    def more_than(self, before: "Memory") -> str:
        return f"{(self.anonymous - before.anonymous) / 1e6:.1f}, {(self.file - before.file) / 1e6:.1f}"


def forget_peak() -> None:
    """Let the system count the peak of this process anew: that of its imports is no part of what is measured."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes, its own and of files together, that were resident since `forget_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
