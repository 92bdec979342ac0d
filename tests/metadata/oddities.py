"""Files as libraries of many years have them: written by odd or broken programs, put together, cut, wrongly named."""

import base64
import itertools
import struct
import zlib

from mutagen.flac import FLAC, Picture
from mutagen.mp4 import MP4
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis

GOOD = [("TIT2", "Title"), ("TPE1", "Artist"), ("TALB", "Album"), ("TRCK", "3/12")]
TAGS = {"title": "Title", "artist": "Artist", "album": "Album", "track": "3/12"}

MP3 = {"format": "audio/mp3", "bitrate": 128000, "sample_rate": 44100, "channels": 2, "error": None}


def make(m):
    for part in (id3, dates, genres, junk, ends, ogg, mp4, wav, aac, asf, flac, pictures, names):
        part(m)


def sound(m):
    return m.bytes(".mp3", (44100, 2, 2.0), "lame", "--quiet", "-b", 128, "-t", "{i}", "{o}")


# ---------------------------------------------------------------- ID3

def synchsafe(number):
    return bytes([number >> 21 & 127, number >> 14 & 127, number >> 7 & 127, number & 127])


SHORT = {"TIT2": "TT2", "TPE1": "TP1", "TALB": "TAL", "TRCK": "TRK", "TCON": "TCO", "TYER": "TYE", "TDAT": "TDA", "TIME": "TIM"}


def frame(version, name, body, flags=b"\0\0", size=None):
    size = len(body) if size is None else size
    if version == 2:
        return SHORT.get(name, name[:3]).encode() + struct.pack(">I", size)[1:] + body
    return name.encode() + (synchsafe(size) if version == 4 else struct.pack(">I", size)) + flags + body


def text(version, name, value, encoding=0):
    codec = ("latin-1", "utf-16", "utf-16-be", "utf-8")[encoding]
    return frame(version, name, bytes([encoding]) + value.encode(codec))


def tag(version, frames, extended=b"", flags=0, footer=False):
    body = extended + b"".join(frames)
    flags |= (0x40 if extended else 0) | (0x10 if footer else 0)
    header = bytes([version, 0, flags]) + synchsafe(len(body))
    return b"ID3" + header + body + (b"3DI" + header if footer else b"")


def good(version, *names):
    return [text(version, name, value) for name, value in GOOD if not names or name in names]


def without(*fields):
    return {key: value for key, value in TAGS.items() if key not in fields}


def unsynchronised(data):
    out = bytearray()
    for byte, following in itertools.zip_longest(data, data[1:]):
        out.append(byte)
        if byte == 0xFF and (following is None or following == 0 or following >= 0xE0):
            out.append(0)
    return bytes(out)


def id3(m):
    mp3 = sound(m)

    def put(name, version, frames, want, **options):
        m.put(f"mp3/id3-{name}-v2{version}.mp3", tag(version, frames, **options) + mp3, **MP3 | want)

    for version in (2, 3, 4):
        rest = good(version, "TPE1", "TALB", "TRCK")
        damaged = {**without("title"), **{key: value for key, value in MP3.items() if key != "error"}}
        for name, body in {"utf16-no-bom": b"\1" + "Title".encode("utf-16-le"), "utf16-odd": b"\1\xff\xfeT\0i",
                           "surrogate": b"\1\xff\xfe\0\xd8T\0", "encoding-9": b"\x09Title", "empty": b"",
                           "utf8-bad": b"\3\xff\xfe\xff"}.items():
            data = tag(version, [frame(version, "TIT2", body)] + rest) + mp3
            m.put(f"mp3/id3-{name}-v2{version}.mp3", data, **damaged)
        m.put(f"mp3/id3-comment-short-v2{version}.mp3",
              tag(version, [frame(version, "COMM" if version > 2 else "COM", b"\0e")] + good(version)) + mp3,
              **{key: value for key, value in MP3.items() if key != "error"}, **TAGS)
        put("utf8", version, [text(version, "TIT2", "Größe", 3)] + rest, {**TAGS, "title": "Größe"})
        put("two-artists", version, [text(version, "TPE1", "First"), text(version, "TPE1", "Second")], {"artist": "First"})
        put("bom-inside", version, [frame(version, "TIT2", b"\1" + "\ufeff\ufeffTi\ufefftle".encode("utf-16-le"))] + rest, TAGS)
        put("padding", version, good(version) + [bytes(2000)], TAGS)
        put("big-picture", version,
            [frame(version, "APIC" if version > 2 else "PIC", b"\0image/jpeg\0\3\0" + b"\xff\xd8" * 500_000)] + good(version), TAGS)
        body = b"".join([frame(version, "APIC" if version > 2 else "PIC", b"\0image/jpeg\0\3\0" + b"\xff\xe0\xff\0" * 99)]
                        + good(version))
        if version < 4:
            data = b"ID3" + bytes([version, 0, 0x80]) + synchsafe(len(unsynchronised(body))) + unsynchronised(body)
            m.put(f"mp3/id3-unsynchronised-v2{version}.mp3", data + mp3, **MP3, **TAGS)
    for extended, version in ((struct.pack(">IHI", 6, 0, 0), 3), (struct.pack(">IHII", 10, 0x8000, 0, 7), 3),
                              (synchsafe(6) + b"\1\0", 4), (synchsafe(12) + b"\1\x20\5\0\0\0\0\0", 4)):
        put(f"extended-{len(extended)}", version, good(version), TAGS, extended=extended)
    put("extended-missing", 3, good(3), TAGS, flags=0x40)
    put("footer", 4, good(4), TAGS, footer=True)
    put("frame-unsynchronised", 4, [frame(4, "TIT2", b"\1" + unsynchronised("Größe".encode("utf-16")), b"\0\2")]
        + good(4, "TPE1", "TALB", "TRCK"), {**TAGS, "title": "Größe"})
    put("frame-length", 4, [frame(4, "TIT2", synchsafe(6) + b"\0Title", b"\0\1")] + good(4, "TPE1", "TALB", "TRCK"), TAGS)
    packed = zlib.compress(b"\0Title")
    put("compressed", 4, [frame(4, "TIT2", synchsafe(6) + packed, b"\0\x09")] + good(4, "TPE1", "TALB", "TRCK"), TAGS)
    put("compressed", 3, [frame(3, "TIT2", struct.pack(">I", 6) + packed, b"\0\x80")] + good(3, "TPE1", "TALB", "TRCK"), TAGS)
    put("itunes-sizes", 4, [b"TIT2" + struct.pack(">I", 301) + b"\0\0\0" + b"x" * 300] + good(4, "TPE1", "TALB", "TRCK"),
        {**TAGS, "title": "x" * 300})
    m.put("mp3/id3-two-tags.mp3", tag(3, good(3)) + tag(4, [text(4, "TIT2", "Second")]) + mp3, **MP3, **TAGS)
    m.put("mp3/id3-huge-size.mp3", b"ID3\3\0\0\x7f\x7f\x7f\x7f" + b"".join(good(3)) + mp3, **TAGS)
    put("frame-too-long", 3, good(3) + [frame(3, "TIT2", b"\0x", size=1 << 30)], {**TAGS, "error": "ID3v2 TIT2 ends too early"})


def dates(m):
    mp3 = sound(m)
    for number, (version, name, value) in enumerate(itertools.product(
            (2, 3, 4), ("TYER", "TDRC"), ("1999", "1999-12-31", "1999/12/31", "1999 (remaster)", "1999-1-2", "1999-12-31T10:20:30"))):
        if (version, name) != (2, "TDRC"):
            m.put(f"mp3/date-{number}.mp3", tag(version, [text(version, name, value)]) + mp3, **MP3, date=value)
    for version in 2, 3, 4:
        m.put(f"mp3/date-parts-{version}.mp3",
              tag(version, [text(version, name, value) for name, value in (("TYER", "1999"), ("TDAT", "3112"), ("TIME", "0930"))])
              + mp3, **MP3, date="1999-12-31 09:30:00")
    m.put("mp3/date-two.mp3", tag(4, [text(4, "TYER", "1998"), text(4, "TDRC", "1999")]) + mp3, **MP3, date="1999")
    for zero in "0", "0000":
        m.put(f"mp3/date-{zero}.mp3", tag(3, [text(3, "TYER", zero)]) + mp3, **{k: v for k, v in MP3.items() if k != "error"},
              date=None)


def genres(m):
    mp3 = sound(m)
    for number, (value, want) in enumerate({
            "17": "Rock", "(17)": "Rock", "(17)Rock": "Rock", "(17)(18)": "Rock", "((Foo)": "(Foo)", "(RX)": "Remix",
            "CR": "Cover", "133": "Afro-Punk", "191": "Psybient", "148": "Abstract", "Rock/Pop": "Rock/Pop",
            "(4)Eurodisco": "Disco"}.items()):
        for version in 3, 4:
            m.put(f"mp3/genre-{number}-{version}.mp3", tag(version, [text(version, "TCON", value)]) + mp3, **MP3, genre=want)
    m.put("mp3/genre-several.mp3", tag(4, [text(4, "TCON", "Jazz\0Rock")]) + mp3, **MP3, genre="Jazz")
    for genre, want in (17, "Rock"), (133, "Afro-Punk"), (191, "Psybient"), (255, None):
        m.put(f"mp3/genre-v1-{genre}.mp3", mp3 + id3v1(genre=genre), **MP3, title="Title", genre=want)


def id3v1(title=b"Title", genre=255, number=7):
    body = b"TAG" + title.ljust(30, b"\0") + b"Artist".ljust(30, b"\0") + b"Album".ljust(30) + b"1999" + bytes(28)
    return body + bytes([0, number, genre])


# ---------------------------------------------------------------- around the sound

def ape(*items, count=None, flags=0, header=False):
    body = b"".join(struct.pack("<II", len(value), 0) + key + b"\0" + value for key, value in items)
    ends = struct.pack("<IIII", 2000, len(body) + 32, count or len(items), flags) + bytes(8)
    return (b"APETAGEX" + ends if header else b"") + body + b"APETAGEX" + ends


def junk(m):
    mp3 = sound(m)
    for size in 1, 417, 3000, 20_000, 64_000:
        for name, byte in ("zeros", b"\0"), ("ones", b"\xff"), ("text", b"x"):
            m.put(f"mp3/{name}-{size}.mp3", byte * size + mp3, **MP3)
            m.put(f"mp3/{name}-{size}-tag.mp3", tag(3, good(3)) + byte * size + mp3, **MP3, **TAGS)
    m.put("mp3/no-sound.mp3", tag(3, good(3)) + bytes(5000), **TAGS, format="audio/mp3",
          error="it is of no audio format that is known")


def ends(m):
    mp3 = sound(m)
    items = [(b"Title", "Björk".encode()), (b"Artist", b"A\0B"), (b"Year", b"1999"), (b"Track", b"3/12"), (b"Genre", b"Rock")]
    want = {"title": "Björk", "artist": "A", "date": "1999", "track": "3/12", "genre": "Rock"}
    m.put("mp3/ape-only.mp3", mp3 + ape(*items), **MP3, **want)
    m.put("mp3/ape-v1.mp3", mp3 + ape(*items) + id3v1(), **MP3, **want, album="Album")
    m.put("mp3/ape-first.mp3", ape(*items, flags=0xA0000000, header=True) + mp3, **MP3, **want)
    lyrics = b"LYRICSBEGIN" + b"x" * 100 + b"000111LYRICS200"
    m.put("mp3/lyrics3.mp3", mp3 + ape(*items) + lyrics + id3v1(), **MP3, **want)
    broken = ape((b"Title", b"x"), count=1)
    broken = struct.pack("<I", 0x7FFFFFF0) + broken[4:]
    rest = {key: value for key, value in MP3.items() if key != "error"}
    m.put("mp3/ape-broken.mp3", tag(3, good(3)) + mp3 + broken, **rest, **TAGS)
    m.put("mp3/ape-huge.mp3", tag(3, good(3)) + mp3 + b"APETAGEX" + struct.pack("<IIII", 2000, 1 << 31, 9, 0) + bytes(8),
          **rest, **TAGS)
    m.put("mp3/v1-latin.mp3", mp3 + id3v1("Größe".encode("latin-1")), **MP3, title="Größe", track="7")
    m.put("mp3/v1-no-track.mp3", mp3 + id3v1(number=0), **MP3, title="Title", track=None)


# ---------------------------------------------------------------- other formats

def ogg_pages(data):
    at = 0
    while at < len(data):
        count = data[at + 26]
        end = at + 27 + count + sum(data[at + 27:at + 27 + count])
        yield data[at:end]
        at = end


def position(page):
    return struct.unpack("<q", page[6:14])[0]


def with_position(page, value):
    return page[:6] + struct.pack("<q", value) + page[14:]


def page(serial, flags, packet):
    return b"OggS\0" + bytes([flags]) + bytes(8) + struct.pack("<I", serial) + bytes(8) + bytes([1, len(packet)]) + packet


def ogg(m):
    for kind, extension, command, rate, skipped in (
            ("vorbis", "ogg", ["oggenc", "-Q", "-s", "{s}", "-t", "Title", "-o", "{o}", "{i}"], 44100, 0),
            ("opus", "opus", ["opusenc", "--quiet", "--serial", "{s}", "--title", "Title", "{i}", "{o}"], 48000, 312),
            ("flac", "oga", ["flac", "-s", "--ogg", "--serial-number", "{s}", "-T", "TITLE=Title", "-o", "{o}", "{i}"], 44100, 0)):
        one, two = (m.bytes("." + extension, (44100, 2, seconds), *[part.replace("{s}", serial) for part in command])
                    for serial, seconds in (("1", 5.0), ("2", 3.0)))
        pages = list(ogg_pages(one))
        before = next(position(page) for page in reversed(pages[:-1]) if position(page) != -1)
        duration = 5.0 if kind == "flac" else (before - skipped) / rate
        want = {"title": "Title", "duration": duration, "error": None}
        m.put(f"{extension}/unset.{extension}", b"".join(pages[:-1]) + with_position(pages[-1], -1), **want)
        m.put(f"{extension}/cut.{extension}", one[:-20], **want)
        m.put(f"{extension}/skeleton.{extension}", page(9, 2, b"fishead\0" + bytes(56)) + one, title="Title", duration=5.0)
        m.put(f"{extension}/theora.{extension}", page(9, 2, b"\x80theora" + bytes(35)) + one, title="Title", duration=5.0,
              channels=2)
        m.put(f"{extension}/chain.{extension}", one + two, title="Title", duration=8.0)
        m.put(f"{extension}/id3.{extension}", tag(3, good(3, "TPE1")) + one, title="Title", artist="Artist", duration=5.0)
        if kind != "flac":
            m.put(f"{extension}/absurd.{extension}", b"".join(pages[:-1]) + with_position(pages[-1], 1 << 60), title="Title",
                  duration=None)
    vorbis = m.bytes(".ogg", (44100, 2, 2.0), "oggenc", "-Q", "-t", "Bjork", "-o", "{o}", "{i}")
    m.put("ogg/latin.ogg", vorbis.replace(b"Bjork", b"Bj\xf6rk"[:5]), title="Bj\ufffdrk", duration=2.0)


def config(*fields):
    bits = "".join(format(value, f"0{width}b") for value, width in fields)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def grow(data, path, by):
    """Adds to the sizes of boxes."""
    data = bytearray(data)
    for kind in path:
        at = data.find(kind, data.find(b"stsd") if kind == b"mp4a" else 0) - 4
        data[at:at + 4] = struct.pack(">I", struct.unpack(">I", data[at:at + 4])[0] + by)
    return data


def with_config(data, new, rate=None):
    """An m4a with another configuration of its decoder."""
    data = bytearray(data)
    esds = data.find(b"esds")
    at = data.find(b"\x05\x80\x80\x80", esds)
    old = data[at + 4]
    data[at + 4:at + 5 + old] = bytes([len(new)]) + new
    for descriptor in b"\x03\x80\x80\x80", b"\x04\x80\x80\x80":
        data[data.find(descriptor, esds) + 4] += len(new) - old
    data = grow(data, (b"esds", b"mp4a", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"), len(new) - old)
    if rate:
        entry = data.find(b"mp4a", data.find(b"stsd"))
        data[entry + 28:entry + 32] = struct.pack(">I", rate << 16)
    return bytes(data)


def mp4(m):
    # the description behind the sound, so that its size matters to nothing
    plain = m.bytes(".m4a", (22050, 2, 2.0), "ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "aac", "-b:a", "48k",
                    "-metadata", "title=Title", "{o}")
    mono = m.bytes(".m4a", (22050, 1, 2.0), "ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "aac", "-b:a", "32k", "{o}")
    lc, sbr, ps = 2, 5, 29
    for name, data, fields, rate, channels in (
            ("he-implicit-announced", plain, ((lc, 5), (7, 4), (2, 4), (0, 3), (0x2B7, 11), (sbr, 5), (1, 1), (4, 4)), 44100, 2),
            ("he-explicit", plain, ((sbr, 5), (7, 4), (2, 4), (4, 4), (lc, 5), (0, 3)), 44100, 2),
            ("he-v2-announced", mono, ((lc, 5), (7, 4), (1, 4), (0, 3), (0x2B7, 11), (sbr, 5), (1, 1), (4, 4), (0x548, 11), (1, 1)),
             44100, 2),
            ("he-v2-explicit", mono, ((ps, 5), (7, 4), (1, 4), (4, 4), (lc, 5), (0, 3)), 44100, 2),
            ("explicit-rate", plain, ((lc, 5), (15, 4), (37800, 24), (2, 4), (0, 3)), 37800, 2),
            ("xhe", plain, ((31, 5), (10, 6), (3, 4), (2, 4), (3, 5), (3, 3), (2, 5), (0, 16)), 48000, 2),
            ("pce", plain, ((lc, 5), (4, 4), (0, 4), (0, 3), (0, 4), (1, 2), (4, 4), (1, 4), (0, 4), (0, 4), (0, 2), (0, 3), (0, 4),
                            (0, 3), (1, 1), (0, 4), (0, 6), (0, 8)), 44100, 2)):
        m.put(f"mp4/{name}.m4a", with_config(data, config(*fields), rate if rate != 37800 else None),
              sample_rate=rate, channels=channels, format="audio/mp4", error=None)
    m.put("mp4/id3.m4a", tag(3, good(3, "TPE1")) + plain, title="Title", artist="Artist", sample_rate=22050,
          format="audio/mp4")
    at = plain.find(b"\xa9nam")
    m.put("mp4/type-0.m4a", plain[:at + 12] + bytes(4) + plain[at + 16:], title="Title")
    m.put("mp4/latin.m4a", plain.replace(b"Title", b"T\xefsle"), title="Tïsle")


def chunk(kind, data, size=None, order="<"):
    return kind + struct.pack(order + "I", len(data) if size is None else size) + data + b"\0" * (len(data) & 1)


def wav(m):
    rate, pcm = 8000, bytes(16000)
    props = {"duration": 1.0, "bitrate": 128000, "sample_rate": rate, "channels": 1, "format": "audio/wav"}
    clean = {**props, "error": None}
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)

    def riff(*chunks, magic=b"RIFF", size=None):
        body = b"WAVE" + b"".join(chunks)
        return magic + struct.pack("<I", len(body) if size is None else size) + body

    def info(*texts):
        return chunk(b"LIST", b"INFO" + b"".join(chunk(kind, value) for kind, value in texts))

    latin = info((b"INAM", "Größe\0".encode("cp1252")), (b"IART", "Björk – x\0".encode("cp1252")), (b"ICRD", b"1999\0"))
    tags = {"title": "Größe", "artist": "Björk – x", "date": "1999"}
    for number, order in enumerate(itertools.permutations((chunk(b"fmt ", fmt), latin, chunk(b"data", pcm)))):
        if order.index(chunk(b"fmt ", fmt)) < order.index(chunk(b"data", pcm)):
            m.put(f"wav/info-{number}.wav", riff(*order), **clean, **tags)
    for name, size in ("zero", 0), ("unknown", 0xFFFFFFFF), ("too-long", 0x7FFFFFF0):
        m.put(f"wav/{name}.wav", riff(chunk(b"fmt ", fmt), latin, chunk(b"data", pcm, size)), **clean, **tags)
        m.put(f"wav/{name}-both.wav", riff(chunk(b"fmt ", fmt), chunk(b"data", pcm, size), size=size), **clean)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(pcm), len(pcm) // 2, 0))
    for magic in b"RF64", b"BW64":
        m.put(f"wav/{magic.decode()}.wav",
              riff(ds64, chunk(b"fmt ", fmt), chunk(b"data", pcm, 0xFFFFFFFF), latin, magic=magic, size=0xFFFFFFFF), **clean, **tags)
    big = struct.pack(">HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    body = b"WAVE" + chunk(b"fmt ", big, order=">") + chunk(b"data", pcm, order=">")
    m.put("wav/rifx.wav", b"RIFX" + struct.pack(">I", len(body)) + body, **clean)
    plain = riff(chunk(b"fmt ", fmt), chunk(b"data", pcm))
    m.put("wav/id3-in-front.wav", tag(3, good(3)) + plain, **clean, **TAGS)
    m.put("wav/id3-chunk.wav", riff(chunk(b"fmt ", fmt), chunk(b"data", pcm), chunk(b"id3 ", tag(4, good(4)))), **clean, **TAGS)
    for name, fields in ("rate", (1, 1, 0xFFFFFFFF, rate * 2, 2, 16)), ("channels", (1, 0xFFFF, rate, rate * 2, 2, 16)):
        data = riff(chunk(b"fmt ", struct.pack("<HHIIHH", *fields)), chunk(b"data", pcm))
        m.put(f"wav/absurd-{name}.wav", data, bitrate=128000, **{"sample_rate" if name == "rate" else "channels": None})


def adts(data):
    """The right values of raw AAC, by its frames; mutagen and ffprobe estimate."""
    rates = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
    at, frames, size = 0, 0, 0
    while at + 7 <= len(data):
        rate = rates[data[at + 2] >> 2 & 15]
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        frames, size, at = frames + 1, size + length - 7, at + length
    duration = frames * 1024 / rate
    return {"duration": duration, "bitrate": int(size * 8 / duration)}


def added(codec, rate, seconds):
    """The seconds that an encoder adds at both ends."""
    frame = {"aac": 1024, "ac3": 1536, "eac3": 1536, "mp3": 1152}.get(codec)
    return 0 if not frame or codec == "mp3" else -(-(seconds * rate + frame) // frame) * frame / rate - seconds


def aac(m):
    raw = m.bytes(".aac", (44100, 2, 2.0), "ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "aac", "-b:a", "64k", "-f", "adts", "{o}")
    right = {**adts(raw), "format": "audio/x-aac", "sample_rate": 44100, "channels": 2, "error": None}
    tail = ape((b"Artist", b"Artist"))
    m.put("aac/id3-v24.aac", tag(4, good(4)) + raw, **right, **TAGS)
    m.put("aac/ape.aac", raw + tail, **right, artist="Artist")
    m.put("aac/ape-v1.aac", raw + tail + id3v1(), **right, artist="Artist", title="Title")
    m.put("aac/zeros.aac", bytes(3000) + raw, **right)
    m.put("aac/cut.aac", raw[:-50], **{key: right[key] for key in ("format", "sample_rate", "channels", "error")})
    # a header for the whole file, of 64 kbit/s
    program = ((0, 4), (1, 2), (4, 4), (1, 4), (0, 4), (0, 4), (0, 2), (0, 3), (0, 4), (0, 3), (1, 1), (0, 4))
    head = b"ADIF" + config((0, 1), (0, 2), (1, 1), (64000, 23), (0, 4), *program) + b"\0"
    m.put("aac/adif.aac", head + bytes(i % 255 for i in range(16000)), duration=2.0, bitrate=64000, sample_rate=44100, channels=2,
          format="audio/x-aac", error=None)


def guid(text):
    a, b, c, d, e = text.split("-")
    return struct.pack("<IHH", int(a, 16), int(b, 16), int(c, 16)) + bytes.fromhex(d + e)


def asf(m):
    plain = m.bytes(".wma", (44100, 2, 2.0), "ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "wmav2", "-b:a", "64k", "-f", "asf",
                    "-metadata", "title=Title", "{o}")

    def item(name, kind, value):
        name = (name + "\0").encode("utf-16-le")
        return struct.pack("<HHHHI", 0, 0, len(name), kind, len(value)) + name + value

    items = [item("WM/AlbumTitle", 0, "Album\0".encode("utf-16-le")), item("WM/Picture", 1, bytes(100_000)),
             item("WM/TrackNumber", 3, struct.pack("<I", 7))]
    for name, kind in (("library", "44231C94-9498-49D1-A141-1D134E457054"), ("metadata", "C5F8CBEA-5BAF-4877-8467-AA8C44FA4CCA")):
        content = struct.pack("<H", len(items)) + b"".join(items)
        inner = guid(kind) + struct.pack("<Q", len(content) + 24) + content
        extension = guid("5FBF03B5-A92E-11CF-8EE3-00C00C205365") + struct.pack("<Q", len(inner) + 46) \
            + guid("ABD3D211-A9BA-11CF-8EE6-00C00C205365") + struct.pack("<HI", 6, len(inner)) + inner
        size, count = struct.unpack("<QI", plain[16:28])
        data = plain[:16] + struct.pack("<QI", size + len(extension), count + 1) + plain[28:30] + extension + plain[30:]
        m.put(f"wma/{name}.wma", data, title="Title", album="Album", track="7", sample_rate=44100, channels=2)
    m.put("wma/id3.wma", tag(3, good(3, "TPE1")) + plain, title="Title", artist="Artist", format="audio/x-ms-wma")


def flac(m):
    plain = m.bytes(".flac", (44100, 2, 2.0), "flac", "-s", "--no-padding", "-T", "TITLE=Title", "-T", "DATE=1999", "-o", "{o}", "{i}")
    m.put("flac/id3.flac", tag(3, good(3)) + plain, title="Title", date="1999", artist="Artist", duration=2.0, error=None)
    m.put("flac/ends.flac", plain + ape((b"Album", b"Album")) + id3v1(), title="Title", album="Album", duration=2.0)
    m.put("flac/latin.flac", plain.replace(b"TITLE=Title", b"TITLE=T\xeftle"), title="T\ufffdtle")
    absurd = bytearray(plain)
    absurd[8 + 13] |= 0x0F
    absurd[8 + 14:8 + 18] = b"\xff" * 4
    m.put("flac/absurd.flac", bytes(absurd), title="Title", duration=None, bitrate=None, sample_rate=44100)
    m.put("flac/cut.flac", plain[:-1000], title="Title", duration=2.0, sample_rate=44100)


def pictures(m):
    """Covers of 20 MB, which are passed over."""
    size = 20 << 20
    cover = Picture()
    cover.type, cover.mime, cover.data = 3, "image/jpeg", bytes(size)
    for kind, name, command in (
            (OggVorbis, "ogg/cover.ogg", ["oggenc", "-Q", "-t", "Title", "-o", "{o}", "{i}"]),
            (OggOpus, "opus/cover.opus", ["opusenc", "--quiet", "--title", "Title", "{i}", "{o}"])):
        file = kind(m.encode(name, (44100, 2, 2.0), *command))
        file["metadata_block_picture"] = [base64.b64encode(cover.write()).decode()]
        file.save()
        m.written[name] = {"title": "Title", "duration": 2.0, "error": None}
    file = MP4(m.ffmpeg("mp4/cover.m4a", (44100, 2, 2.0), "-c:a", "aac", tags={"title": "Title"}))
    file["covr"] = [bytes(size)]
    file.save()
    m.written["mp4/cover.m4a"] = {"title": "Title", "error": None}
    file = FLAC(m.encode("flac/cover.flac", (44100, 2, 2.0), "flac", "-s", "-T", "TITLE=Title", "-o", "{o}", "{i}"))
    cover.data = bytes(15 << 20)
    file.add_picture(cover)
    file.save()
    m.written["flac/cover.flac"] = {"title": "Title", "duration": 2.0, "error": None}
    m.put("mp3/cover.mp3", tag(3, [frame(3, "APIC", b"\0image/jpeg\0\3\0" + bytes(size))] + good(3)) + sound(m), **MP3, **TAGS)


def names(m):
    """Every format under the names of others."""
    files = {"audio/mp3": sound(m)}
    for kind, extension, command in (
            ("audio/flac", ".flac", ["flac", "-s", "-o", "{o}", "{i}"]), ("audio/vorbis", ".ogg", ["oggenc", "-Q", "-o", "{o}", "{i}"]),
            ("audio/ogg", ".opus", ["opusenc", "--quiet", "{i}", "{o}"]),
            ("audio/mp4", ".m4a", ["ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "aac", "{o}"]),
            ("audio/x-aac", ".aac", ["ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "aac", "-f", "adts", "{o}"]),
            ("audio/x-ms-wma", ".wma", ["ffmpeg", "-v", "error", "-i", "{i}", "-c:a", "wmav2", "{o}"]),
            ("audio/wav", ".wav", ["ffmpeg", "-v", "error", "-i", "{i}", "-bitexact", "{o}"])):
        files[kind] = m.bytes(extension, (44100, 2, 2.0), *command)
    for (kind, data), extension in itertools.product(files.items(), "mp3 flac ogg opus m4a aac wma wav".split()):
        rate = {"sample_rate": 44100} if kind != "audio/ogg" else {}
        m.put(f"names/{kind.split('/')[1]}.{extension}", data, format=kind, channels=2, error=None, **rate)
