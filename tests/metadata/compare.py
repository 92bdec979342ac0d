#!/usr/bin/env python3
"""Compares what the program says of audio files with what mutagen, ffprobe and exiftool say: just metadata

    compare.py [--binary FILE] [--keep FOLDER] [--foreign] [FOLDER...]

Makes a corpus with real encoders and taggers (corpus.py), runs all four over it and over each FOLDER, and prints the share of
values that are equal, by format and by field, and every difference. rules.py has the rule. Exit 1 if fewer than 99.5 % of the
values are equal, or fewer than 98 % of those of one format.

--foreign adds the test files of other projects (foreign.py), which are downloaded to a cache.

Needs, and does not install: Debian's ffmpeg, lame, twolame, flac, vorbis-tools, opus-tools, speex, wavpack, musepack-tools,
libimage-exiftool-perl; mutagen from PyPI.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus
import foreign
import rules

ALL, EACH = 0.995, 0.98

EXTENSIONS = ("mp3 flac wav wave ogg oga aac opus m4a m4b m4p m4v m4r mp4 wma "
              "mp2 mp1 aif aiff aifc ape mpc wv spx asf mov 3gp").split()


def by_program(binary, folder):
    """The metadata of each file under `folder`."""
    with tempfile.TemporaryDirectory() as state:
        environment = dict(os.environ, AUDIO_EXTENSIONS=",".join(EXTENSIONS))
        run = subprocess.run([binary, "scan", "--sink", "stdout", "--settle-ms", "0", "--state-dir", state, folder],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=True)
    out = {}
    for line in run.stdout.splitlines():
        message = json.loads(line)
        metadata = message.get("metadata") or {}
        out[message["file_path"]] = {**{k: metadata.get(k) for k in ("format", *rules.NUMBERS, "error")},
                                     **metadata.get("tags", {})}
    return out


def family(path):
    extension = path.suffix.lower().lstrip(".")
    return {"wave": "wav", "oga": "ogg", "asf": "wma", "aif": "aiff", "aifc": "aiff", "mov": "mp4", "3gp": "mp4",
            "m4b": "m4a", "m4p": "m4a", "m4r": "m4a", "m4v": "mp4", "mp1": "mp2", "spx": "ogg"}.get(extension, extension)


def compare(binary, folder, written):
    found = by_program(binary, folder)
    paths = sorted(path for path in folder.rglob("*")
                   if path.is_file() and path.suffix.lower().lstrip(".") in EXTENSIONS)
    with ThreadPoolExecutor() as pool:
        ffprobe = dict(zip(paths, pool.map(rules.by_ffprobe, paths)))
    exiftool = rules.by_exiftool(paths)
    for path in paths:
        name = str(path.relative_to(folder))
        mine = found.get(str(path))
        if mine is None:
            print(f"{name}: no message")
            mine = {}
        readers = {"mutagen": rules.by_mutagen(path), "ffprobe": ffprobe[path], "exiftool": exiftool.get(str(path))}
        for field in rules.FIELDS:
            counts, right = rules.right_value(field, readers, written.get(name, {}))
            value = mine.get(field)
            yield family(path), field, name, counts, right, value, rules.is_equal(field, right, value), readers, mine


def table(title, cells):
    """cells: {row: [equal, counted]}"""
    print(f"\n{title:12} {'values':>8} {'equal':>8}")
    for row in sorted(cells):
        equal, counted = cells[row]
        print(f"{row:12} {counted:8} {equal / counted:8.2%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="the program; by default target/release/file-watcher")
    parser.add_argument("--keep", type=Path, help="where the corpus is made; by default it is removed afterwards")
    parser.add_argument("--foreign", action="store_true", help="the test files of other projects too")
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    binary = (arguments.binary or Path(target, "release", "file-watcher")).resolve()

    with tempfile.TemporaryDirectory() as temporary:
        made = (arguments.keep or Path(temporary, "corpus")).resolve()
        sources = [(made, corpus.make(made))]
        sources += [(folder.resolve(), {}) for folder in arguments.folders]
        if arguments.foreign:
            sources.append((foreign.fetch(), {}))
        by_format, by_field = (collections.defaultdict(lambda: [0, 0]) for _ in range(2))
        contradictory, differences, files = 0, [], set()
        for folder, written in sources:
            for kind, field, name, counts, right, value, equal, readers, mine in compare(binary, folder, written):
                files.add((folder, name))
                if not counts:
                    contradictory += 1
                    continue
                for cells in by_format[kind], by_field[field]:
                    cells[0] += equal
                    cells[1] += 1
                if not equal:
                    said = {who: reader.get(field) for who, reader in readers.items() if reader and field in reader}
                    differences.append((kind, f"{name}: {field}: {value!r}, and not {right!r}", said, mine.get("error")))

    print(rules.__doc__)
    print(f"{len(files)} files")
    table("format", by_format)
    table("field", by_field)
    equal, counted = (sum(cells[i] for cells in by_format.values()) for i in (0, 1))
    print(f"\n{'all':12} {counted:8} {equal / counted:8.2%}; {contradictory} values about which the readers differ")
    print(f"\n{len(differences)} differences")
    for kind, text, said, error in sorted(differences, key=lambda d: (d[0], d[1])):
        print(f"  {text}; {said or 'no reader has it'}{f'; error: {error}' if error else ''}")
    missed = [kind for kind, (equal, counted) in by_format.items() if equal / counted < EACH]
    if equal / counted < ALL or missed:
        sys.exit(f"\nmissed: {ALL:.1%} of all values, and {EACH:.0%} of those of each format {missed}")


if __name__ == "__main__":
    main()
