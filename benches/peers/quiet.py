"""How busy the rest of the machine was while something was measured. Linux; elsewhere None."""

import os
import time


def _ticks():
    """CPU seconds that anything used since boot, idle time not counted."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, *_ = (int(x) for x in stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own(pids):
    """CPU seconds of this process, of its children that have ended, and of `pids` with theirs."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


class Watch:
    """Between its making and `foreign()`: the share of all CPUs that others used, 0 to 1."""

    def __init__(self, pids=()):
        self.pids = list(pids)
        self.start = self._look()

    def _look(self):
        try:
            return time.time(), _ticks() - _own(self.pids)
        except OSError:
            return None

    def foreign(self):
        end = self._look()
        if self.start is None or end is None or end[0] == self.start[0]:
            return None
        return max(0.0, end[1] - self.start[1]) / (end[0] - self.start[0]) / os.cpu_count()
