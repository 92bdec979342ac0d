"""The rule by which values are compared, and what mutagen, ffprobe and exiftool say of a file.

Fields: format, duration, bitrate, sample_rate, channels, and the six tags. A value that a reader does not know is absent.

A value of the program is equal if it is

- a number within 0.1 % or 1 of the right one, a duration within 50 ms, a text that is the same.

The right value is

- the one that the maker of the file wrote down, where no reader can read it (corpus.py says where);
- else the one on which all readers agree that have one, if mutagen has one, or both of the others;
- absent, if it is a tag and no reader has one and mutagen can read the file.

Any other value does not count: the readers contradict each other. Dates and genres are compared between readers by what they
mean, since exiftool and mutagen write dates anew (1999:12:31, 1999-12-31) and exiftool has its own names of genres.
"""

import json
import re
import subprocess

import mutagen
from mutagen import MutagenError
from mutagen.aac import AAC
from mutagen.apev2 import APEv2
from mutagen.asf import ASF
from mutagen.id3 import ID3
from mutagen.mp4 import MP4
from mutagen.musepack import Musepack

NUMBERS = ("duration", "bitrate", "sample_rate", "channels")
TAGS = ("title", "artist", "album", "date", "genre", "track")
FIELDS = ("format", *NUMBERS, *TAGS)

ID3_KEYS = ("TIT2", "TPE1", "TALB", "TDRC", "TCON", "TRCK")
VORBIS_KEYS = ("title", "artist", "album", "date", "genre", "tracknumber")
APE_KEYS = ("title", "artist", "album", "year", "genre", "track")
MP4_KEYS = ("\xa9nam", "\xa9ART", "\xa9alb", "\xa9day", "\xa9gen", "trkn")
ASF_KEYS = ("Title", "Author", "WM/AlbumTitle", "WM/Year", "WM/Genre", "WM/TrackNumber")


def is_equal(field, right, found):
    """Whether the program's value is the right one."""
    if right is None or found is None:
        return right is found
    if field in NUMBERS:
        return abs(right - found) <= (0.05 if field == "duration" else max(1, right * 0.001))
    return right == found


def agree(field, one, other):
    """Whether two readers mean the same."""
    if field == "date":
        # 1999:12:31, 1999/12/31 and 1999-12-31; a reader may give the year alone
        one, other = (re.sub(r"\D+", "", str(value)) for value in (one, other))
        return one.startswith(other) or other.startswith(one)
    if field == "track":
        one, other = (re.findall(r"\d+", str(value))[:1] or [str(value)] for value in (one, other))
        return [value.lstrip("0") for value in one] == [value.lstrip("0") for value in other]
    if field in TAGS:
        return str(one).strip().casefold() == str(other).strip().casefold()
    return is_equal(field, one, other)


def right_value(field, readers, written):
    """(whether the value counts, the right value)."""
    if field in written:
        return True, written[field]
    said = {name: reader.get(field) for name, reader in readers.items() if reader}
    known = {name: value for name, value in said.items() if value not in (None, "")}
    if not known:
        return field in TAGS and "mutagen" in said, None
    if "mutagen" not in known and len(known) < 2:
        return False, None
    values = list(known.values())
    if not all(agree(field, values[0], value) for value in values):
        return False, None
    return True, known.get("mutagen", values[0])


def first(value):
    while isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return str(value).strip() if value is not None and str(value).strip() else None


def by_mutagen(path):
    try:
        # tags of other formats around raw AAC make it think of those
        is_aac = path.suffix.lower() == ".aac" and path.parent.name != "names"
        file = AAC(path) if is_aac else mutagen.File(path)
    except Exception:
        return None
    if file is None:
        return None
    # it has no type for AAC
    out = {"format": "audio/x-aac" if isinstance(file, AAC) else file.mime[0]}
    for field, name in zip(NUMBERS, ("length", "bitrate", "sample_rate", "channels")):
        out[field] = getattr(file.info, name, None) or None
    if isinstance(file, Musepack):
        # that of the whole file, with its tags
        del out["bitrate"]
    tags = file.tags
    if not tags and isinstance(file, AAC):
        for kind in ID3, APEv2:
            try:
                tags = tags or kind(path)
            except MutagenError:
                pass
    if not tags:
        return out
    if isinstance(tags, ID3):
        for field, key in zip(TAGS, ID3_KEYS):
            if key in tags:
                out[field] = first(tags[key].genres if key == "TCON" else tags[key].text)
    elif isinstance(file, MP4):
        for field, key in zip(TAGS, MP4_KEYS):
            if tags.get(key):
                value = tags[key][0]
                if key == "trkn":
                    value = ("%d/%d" % value if value[1] else str(value[0])) if value[0] else None
                out[field] = first(value)
    else:
        keys = ASF_KEYS if isinstance(file, ASF) else VORBIS_KEYS if hasattr(tags, "vendor") else APE_KEYS
        for field, key in zip(TAGS, keys):
            if key in tags:
                value = tags[key]
                out[field] = first(str(value).split("\0")[0] if keys is APE_KEYS else value)
        if keys is VORBIS_KEYS and out.get("track") and "/" not in out["track"]:
            total = first(tags.get("tracktotal") or tags.get("totaltracks"))
            if total and total.strip("0"):
                out["track"] += "/" + total
    return {field: value for field, value in out.items() if value is not None}


def number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def by_ffprobe(path):
    run = subprocess.run(["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_format", str(path)],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        found = json.loads(run.stdout)
        stream = next(s for s in found["streams"] if s["codec_type"] == "audio")
    except (ValueError, KeyError, StopIteration):
        return None
    out = {"duration": number(stream.get("duration")) or number(found["format"].get("duration")),
           "bitrate": number(stream.get("bit_rate")),
           "sample_rate": number(stream.get("sample_rate")), "channels": stream.get("channels")}
    tags = {}
    for source in found["format"].get("tags", {}), stream.get("tags", {}):
        for key, value in source.items():
            tags.setdefault(key.lower(), value)
    for field in TAGS:
        out[field] = first(tags.get(field))
    return {field: value for field, value in out.items() if value}


# exiftool's durations and bit rates of these are of the container, and exact; of the others it says "approximately"
EXIFTOOL_DURATION = ("MP4", "M4A", "M4B", "M4P", "M4V", "WAV", "FLAC", "WMA", "AIFF")


def by_exiftool(paths):
    run = subprocess.run(["exiftool", "-json", "-n", "-charset", "UTF8", "-charset", "ID3=Latin", "-charset", "RIFF=Latin",
                          "-FileType", "-Duration", "-SampleRate", "-AudioSampleRate", "-NumChannels", "-AudioChannels",
                          "-Channels", "-Title", "-Artist", "-Author", "-Album", "-Year", "-DateTimeOriginal",
                          "-DateCreated", "-ContentCreateDate", "-Date", "-Track", "-TrackNumber", "-@", "-"],
                         input="\n".join(map(str, paths)).encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = {}
    for found in json.loads(run.stdout or b"[]"):
        def one(*names):
            return next((found[name] for name in names if found.get(name) not in (None, "")), None)
        values = {"sample_rate": number(one("AudioSampleRate", "SampleRate")),
                  "channels": number(one("AudioChannels", "NumChannels", "Channels")),
                  "title": first(one("Title")), "artist": first(one("Artist", "Author")), "album": first(one("Album")),
                  "date": first(one("Date", "Year", "DateTimeOriginal", "DateCreated", "ContentCreateDate")),
                  "track": first(one("TrackNumber", "Track"))}
        if found.get("FileType") in EXIFTOOL_DURATION:
            values["duration"] = number(one("Duration"))
        out[found["SourceFile"]] = {field: value for field, value in values.items() if value}
    return out
