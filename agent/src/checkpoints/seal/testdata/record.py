"""Records how a library writes a checkpoint: every state of the directory between two calls that change it.

    record.py PYTHON CASE SUBJECT > CASE.json

PYTHON runs writers.py, CASE is a function there, SUBJECT the name below the checkpoint directory that the record is about. Every call
that changes a file waits 25 ms before it is made (strace does that), and meanwhile the directory is looked at.
Needs strace. Each state holds what differs from the one before: entries [path, kind, size, mtime in us, inode, written to by
somebody, content], and paths that went. `whole` are the states in which the writer says that all is written, and those around
them that do not differ.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

CALLS = "write,writev,pwrite64,pwritev,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,ftruncate,copy_file_range,sendfile"
WHOLE = (".json", ".metadata", ".txt", "_METADATA", "_sharding", ".safetensors")


def pids(root):
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    left += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return found


def written_to(root, place):
    paths = set()
    for pid in pids(root):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    path = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if path.startswith(place) and not path.endswith("/.whole"):
                        with open(f"/proc/{pid}/fdinfo/{fd}") as info:
                            flags = int(next(line for line in info if line.startswith("flags:")).split()[1], 8)
                        if flags & 3:
                            paths.add(os.path.relpath(path, place))
                except (OSError, StopIteration):
                    pass
        except OSError:
            pass
    return paths


def content(path, size, contents):
    with open(path, "rb") as file:
        if path.endswith(WHOLE) and size <= 65536:
            parts = [file.read()]
        else:
            parts = [file.read(16)]
            file.seek(max(0, size - 98))
            parts.append(file.read(98))
    encoded = [part.hex() for part in parts]
    key = hashlib.sha256(json.dumps(encoded).encode()).hexdigest()[:12]
    contents[key] = encoded
    return key


def look(place, writers, cache, contents):
    state = {}
    for folder, folders, files in os.walk(place):
        for name in folders + files:
            path = os.path.join(folder, name)
            short = os.path.relpath(path, place)
            try:
                stat = os.lstat(path)
                kind = "l" if os.path.islink(path) else "d" if os.path.isdir(path) else "f"
                mark = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
                key = None
                if kind == "f":
                    if cache.get(path, (None,))[0] != mark:
                        cache[path] = (mark, content(path, stat.st_size, contents))
                    key = cache[path][1]
            except OSError:
                continue
            size = stat.st_size if kind == "f" else 0
            state[short] = (kind, size, stat.st_mtime_ns // 1000, stat.st_ino, short in writers, key)
    return state


def bare(state, subject):
    """The subject without times, inodes and writers."""
    below = {path: entry for path, entry in state.items() if path.startswith(subject)}
    return {path: (entry[0], entry[1], entry[5]) for path, entry in below.items()}


def whole(states, subject):
    """The states that the writer says are whole, and those around them that do not differ."""
    found = set()
    for said, state in enumerate(states):
        for way in (-1, 1) if ".whole" in state else ():
            n = said
            while 0 <= n < len(states) and bare(states[n], subject) == bare(state, subject):
                found.add(n)
                n += way
    return [n for n in sorted(found) if bare(states[n], subject)]


def record(python, case, subject):
    here = os.path.dirname(os.path.abspath(__file__))
    writer = os.path.join(here, "writers.py")
    versions = subprocess.run([python, writer, case, "--versions"], capture_output=True, text=True, check=True).stdout.strip()
    states, cache, contents = [], {}, {}
    with tempfile.TemporaryDirectory() as place:
        place = os.path.realpath(place)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", f"inject={CALLS}:delay_enter=25000"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false"}
        log = tempfile.TemporaryFile()
        process = subprocess.Popen([*command, python, writer, case, place], stdout=log, stderr=log, env=environment)
        over = False
        while not over:
            over = process.poll() is not None
            state = look(place, written_to(process.pid, place), cache, contents)
            if not states or state != states[-1]:
                states.append(state)
        if process.returncode != 0:
            log.seek(0)
            sys.exit(log.read().decode()[-3000:])
    return versions, states, contents


def main():
    python, case, subject = sys.argv[1:]
    versions, states, contents = record(python, case, subject)
    whole_states = whole(states, subject)
    base = min((entry[2] for state in states for entry in state.values()), default=0)
    inodes, before, rows, used = {}, {}, [], set()
    for state in states:
        state = {
            path: [kind, size, mtime - base, inodes.setdefault(inode, len(inodes)), writer, key]
            for path, (kind, size, mtime, inode, writer, key) in state.items()
        }
        put = [[path, *entry] for path, entry in sorted(state.items()) if before.get(path) != entry]
        used.update(entry[-1] for entry in put if entry[-1])
        rows.append({"put": put, "gone": sorted(set(before) - set(state))})
        before = state
    print('{"written_by": ' + json.dumps(versions) + f', "case": "{case}", "subject": "{subject}", "whole": {whole_states},')
    print('"states": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n],")
    print('"contents": {\n' + ",\n".join(f'"{key}": {json.dumps(contents[key])}' for key in sorted(used)) + "\n}}")


main()
