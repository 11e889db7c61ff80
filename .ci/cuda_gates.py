#!/usr/bin/env python3
"""Holds the machine code of the CUDA kernels against kernels/cuda/gates.tsv.

    cuda_gates.py FOLDER_OF_FATBINS [--write]

For every kernel and every architecture: nothing on the stack, nothing spilled, registers and shared memory within the
table's budget, and the instructions there that the kernel is written for. --write makes the table's figures anew (not its
instructions); look at what changed before committing it. Needs cuobjdump on PATH.
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

TABLE = pathlib.Path(__file__).parent.parent / "kernels/cuda/gates.tsv"
HEADER = "kernel\tregisters\tshared bytes\tinstructions"
# A word of the table: what it looks like in machine code.
INSTRUCTIONS = {
    "load128": r"\bLDG\.E\.128",
    "copy128": r"\bLDGSTS\.E\.BYPASS\S*128",
    "tensor": r"\bHMMA\.16816\.F32\.BF16",
    "matrices": r"\bLDSM\.16\.M88\.4",
    "transposed": r"\bLDSM\.16\.MT88\.4",
    "shuffle": r"\bSHFL\.BFLY",
    "barrier": r"\bBAR\.SYNC",
    "fma": r"\bFFMA",
    "engine": r"\bUBLKCP",
}
# Kernels of the copy engine are written for architectures from this one on, and empty before.
ENGINE_SINCE = 90
LOCAL = re.compile(r"\b(LDL|STL)\b")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(fatbin):
    """(arch, kernel) -> (registers, stack, shared, local)"""
    found, arch, kernel = {}, None, None
    for line in run("cuobjdump", "--dump-resource-usage", str(fatbin)).splitlines():
        if match := re.search(r"arch = (sm_\d+a?)", line):
            arch = match[1]
        elif match := re.search(r"Function (\w+):", line):
            kernel = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            found[arch, kernel] = tuple(map(int, match.groups()))
    return found


def machine_code(fatbin):
    """(arch, kernel) -> its lines"""
    found, arch, kernel = {}, None, None
    for line in run("cuobjdump", "--dump-sass", str(fatbin)).splitlines():
        if match := re.search(r"arch = (sm_\d+a?)", line):
            arch = match[1]
        elif match := re.search(r"Function : (\w+)", line):
            kernel = match[1]
        elif kernel:
            found.setdefault((arch, kernel), []).append(line)
    return {key: "\n".join(lines) for key, lines in found.items()}


def main():
    folder, write = pathlib.Path(sys.argv[1]), "--write" in sys.argv
    use, code = {}, {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        fatbins = sorted(folder.glob("*.fatbin"))
        for found in side_by_side.map(resources, fatbins):
            use |= found
        for found in side_by_side.map(machine_code, fatbins):
            code |= found
    kernels, archs = sorted({k for _, k in use}), sorted({a for a, _ in use})
    if not kernels:
        sys.exit(f"{folder} holds no fatbin with kernels")
    table = {}
    if TABLE.exists():
        for line in TABLE.read_text().splitlines()[1:]:
            kernel, registers, shared, words = line.split("\t")
            table[kernel] = (int(registers), int(shared), words.split())
    if write:
        lines = [HEADER]
        for kernel in kernels:
            of = [use[arch, kernel] for arch in archs]
            words = " ".join(table.get(kernel, (0, 0, []))[2])
            # Shared memory of the system's own (1 KiB from sm_90 on) is not the kernel's.
            lines.append(f"{kernel}\t{max(r for r, *_ in of)}\t{max(s for _, _, s, _ in of)}\t{words}")
        TABLE.write_text("\n".join(lines) + "\n")
        return
    wrong = [f"{kernel} is not in {TABLE.name}" for kernel in kernels if kernel not in table]
    wrong += [f"{kernel} of {TABLE.name} was not compiled" for kernel in table if kernel not in kernels]
    for (arch, kernel), (registers, stack, shared, local) in sorted(use.items()):
        most, room, words = table.get(kernel, (255, 1 << 20, []))
        text = code[arch, kernel]
        complaints = [
            (stack or local, f"{stack} bytes of stack, {local} of local memory"),
            (LOCAL.search(text), "spills: loads or stores of local memory"),
            (registers > most, f"{registers} registers, {most} allowed"),
            (shared > room, f"{shared} bytes of shared memory, {room} allowed"),
        ]
        if "engine" not in words or int(re.sub(r"\D", "", arch)) >= ENGINE_SINCE:
            complaints += [(not re.search(INSTRUCTIONS[word], text), f"no {word} instruction") for word in words]
        wrong += [f"{kernel} on {arch}: {what}" for bad, what in complaints if bad]
    if wrong:
        sys.exit("cuda gates:\n" + "\n".join(wrong))
    print(f"cuda gates: {len(kernels)} kernels on {', '.join(archs)} as {TABLE.name} has them")


main()
