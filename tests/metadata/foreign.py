"""The test files of other projects, downloaded to a cache outside of the tree. They are never committed."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

# Source packages of PyPI and of Debian that contain small audio files of many encoders and taggers, odd and damaged ones too.
PYPI = ("mutagen",)
DEBIAN = ("taglib", "quodlibet", "libimage-exiftool-perl")

AUDIO = (".mp3 .flac .wav .ogg .oga .aac .opus .m4a .m4b .m4p .m4v .m4r .mp4 .wma .mp2 .aif .aiff .ape .mpc .wv .spx "
         ".asf .3gp").split()

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "file-watcher-metadata"


def fetch():
    """The folder with the audio files, downloaded unless it is there."""
    files = cache() / "files"
    if files.is_dir():
        return files
    archives = cache() / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    for name in PYPI:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", name],
                       cwd=archives, check=True)
    from_debian(archives)
    part = cache() / "files.part"
    shutil.rmtree(part, ignore_errors=True)
    for archive in sorted(archives.glob("*.tar.*")):
        unpack(archive, part / archive.name.split(".tar")[0])
    part.rename(files)
    return files


def from_debian(archives):
    """By apt, with lists of its own, so that nothing of the machine changes."""
    lists = cache() / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    release = subprocess.run(["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"], stdout=subprocess.PIPE, text=True,
                             check=True).stdout.strip()
    sources = cache() / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] http://deb.debian.org/debian {release} main\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-",
           "-o", f"Dir::State::lists={lists}"]
    subprocess.run([*apt, "update"], check=True)
    for name in DEBIAN:
        subprocess.run([*apt, "source", "--download-only", name], cwd=archives, check=True)


def unpack(archive, folder):
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name)
            if member.isfile() and name.suffix.lower() in AUDIO:
                target = folder.joinpath(*[part for part in name.parts[1:] if part not in ("..", "/")])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
