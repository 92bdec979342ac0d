"""Makes a corpus of audio files with real encoders and taggers: every extension, and every kind of oddity that libraries have.

All sound is generated, and all tags are made up. `make` returns, by the name of a file, the values that are right by
construction where no reader reads them.
"""

import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

import oddities
from mutagen.aiff import AIFF
from mutagen.apev2 import APEv2
from mutagen.asf import ASF
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, COMM, ID3, TALB, TCON, TDRC, TIT2, TPE1, TRCK
from mutagen.mp4 import MP4
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

KEYS = ("title", "artist", "album", "date", "genre", "track")
TEXTS = [dict(zip(KEYS, values)) for values in (
    ("Plain Tone", "Test Orchestra", "Sines and Noise", "2004", "Rock", "1/9"),
    ("Café del Mär", "Zoë Ångström", "Été à Reykjavík", "2021-03-04", "Électronique", "3/12"),
    ("夜の海", "山田 花子", "東京タワー", "1998", "Jazz", "7"))]

# sample rate, channels, seconds
SOUNDS = [(44100, 2, 2.0), (48000, 2, 1.5), (22050, 1, 2.5), (8000, 1, 3.0), (48000, 6, 1.2), (96000, 2, 1.1)]


def run(*arguments):
    subprocess.run([str(a) for a in arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


class Maker:
    def __init__(self, out, work):
        self.out, self.work, self.written, self.number = out, work, {}, itertools.count()

    def wav(self, rate=44100, channels=2, seconds=2.0):
        path = self.work / f"{rate}-{channels}-{seconds}.wav"
        if not path.exists():
            run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i",
                f"aevalsrc=0.3*sin(2*PI*(330+60*sin(t))*t)+0.02*(random(0)-0.5):s={rate}:d={seconds}",
                "-ac", channels, "-fflags", "+bitexact", path)
        return path

    def path(self, name):
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name, data, **written):
        """A file by its bytes; `written` are values that are right by construction, None for one that must be absent."""
        self.path(name).write_bytes(data)
        if written:
            self.written[name] = written

    def encode(self, name, sound, *command):
        """A file by a command in which {i} is the sound and {o} the file."""
        target = self.path(name)
        run(*[str(part).format(i=self.wav(*sound), o=target) for part in command])
        return target

    def ffmpeg(self, name, sound, *options, tags=None):
        target = self.path(name)
        metadata = [part for key, value in (tags or {}).items() for part in ("-metadata", f"{key}={value}")]
        run("ffmpeg", "-v", "error", "-y", "-i", self.wav(*sound), *options, *metadata, target)
        return target

    def bytes(self, extension, sound, *command):
        """The bytes of a file that is not in the corpus itself."""
        target = self.work / f"{next(self.number)}{extension}"
        run(*[str(part).format(i=self.wav(*sound), o=target) for part in command])
        return target.read_bytes()


def id3_frames(tags, encoding):
    return [TIT2(encoding, tags["title"]), TPE1(encoding, tags["artist"]), TALB(encoding, tags["album"]),
            TDRC(encoding, tags["date"]), TCON(encoding, tags["genre"]), TRCK(encoding, tags["track"])]


def comment_arguments(option, tags):
    names = dict(zip(KEYS, "TITLE ARTIST ALBUM DATE GENRE TRACKNUMBER".split()))
    return [part for key, value in tags.items() for part in (option, f"{names[key]}={value}")]


def picture(size=300_000):
    return b"\xff\xd8\xff\xe0" + bytes(i * 7 % 251 for i in range(size))


def make(out):
    """Makes the corpus in the folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        maker = Maker(out, Path(work))
        for part in (mpeg, flac, ogg, aac, mp4, wav, wma, others, oddities.make):
            part(maker)
    return maker.written


def mpeg(m):
    for number, (sound, tags) in enumerate(itertools.product(SOUNDS[:4], TEXTS)):
        for mode in (["-b", "64"], ["-V", "6"], ["--abr", "56"], ["-b", "48", "-t"]):
            name = "mp3/lame-%d%s.mp3" % (number, "".join(mode))
            target = m.encode(name, sound, "lame", "--quiet", *mode, "{i}", "{o}")
            id3 = ID3()
            for frame in id3_frames(tags, number % 2 * 2 + 1):
                id3.add(frame)
            if number % 3 == 0:
                id3.add(APIC(encoding=0, mime="image/jpeg", type=3, desc="", data=picture()))
                id3.add(COMM(encoding=3, lang="eng", desc="", text="ö"))
            id3.save(target, v1=number % 3, v2_version=3 + number % 2)
        m.ffmpeg(f"mp3/ffmpeg-{number}.mp3", sound, "-b:a", "64k", "-id3v2_version", 3 + number % 2, tags=tags)
    latin = TEXTS[1]
    for option in ("--id3v1-only", "--id3v2-only", "--add-id3v2"):
        m.encode(f"mp3/lame{option}.mp3", SOUNDS[0], "lame", "--quiet", option, "--id3v2-latin1" if "2" in option else "-h",
                 "--tt", latin["title"], "--ta", latin["artist"], "--tl", latin["album"], "--ty", "2021",
                 "--tg", "Rock", "--tn", "3", "{i}", "{o}")
    target = m.encode("mp3/ape.mp3", SOUNDS[0], "lame", "--quiet", "-b", "64", "{i}", "{o}")
    ape = APEv2()
    ape["Title"] = "not read by mutagen.File"
    ape.save(target)
    m.written["mp3/ape.mp3"] = {"title": "not read by mutagen.File"}
    for number, sound in enumerate(SOUNDS[:3]):
        m.encode(f"mp2/twolame-{number}.mp2", sound, "twolame", "--quiet", "{i}", "{o}")
        m.ffmpeg(f"mp2/ffmpeg-{number}.mp2", sound, "-c:a", "mp2", "-b:a", "64k")


def flac(m):
    for number, (sound, tags) in enumerate(itertools.product(SOUNDS, TEXTS)):
        target = m.encode(f"flac/flac-{number}.flac", sound, "flac", "-s", "-f", f"-{number % 9}",
                          *comment_arguments("-T", tags), "-o", "{o}", "{i}")
        if number % 2:
            file = FLAC(target)
            cover = Picture()
            cover.data, cover.type, cover.mime = picture(), 3, "image/jpeg"
            file.add_picture(cover)
            file.save()
        m.ffmpeg(f"flac/ffmpeg-{number}.flac", sound, tags=tags)
    m.encode("flac/24bit.flac", SOUNDS[1], "ffmpeg", "-v", "error", "-y", "-i", "{i}", "-sample_fmt", "s32", "{o}")


def ogg(m):
    for number, (sound, tags) in enumerate(itertools.product(SOUNDS[:4], TEXTS)):
        extension = ("ogg", "oga")[number % 2]
        target = m.encode(f"ogg/oggenc-{number}.{extension}", sound, "oggenc", "-Q", "-q", number % 8,
                          *comment_arguments("-c", tags), "-o", "{o}", "{i}")
        if number % 3 == 0:
            file = OggVorbis(target)
            file["tracktotal"], file["artist"] = "12", [tags["artist"], "Second"]
            file.save()
        run("vorbiscomment", "-a", "-t", "COMMENT=x", target)
        m.ffmpeg(f"ogg/ffmpeg-{number}.{extension}", sound, "-c:a", "libvorbis", "-q:a", 1, "-f", "ogg", tags=tags)
        m.encode(f"ogg/flac-{number}.{extension}", sound, "flac", "-s", "-f", "--ogg", *comment_arguments("-T", tags),
                 "-o", "{o}", "{i}")
        target = m.encode(f"opus/opusenc-{number}.opus", sound, "opusenc", "--quiet", "--bitrate", 32 + 8 * number,
                          *comment_arguments("--comment", tags), "{i}", "{o}")
        if number % 2:
            file = OggOpus(target)
            file["genre"] = ["First", "Second"]
            file.save()
        m.ffmpeg(f"opus/ffmpeg-{number}.opus", sound, "-c:a", "libopus", "-b:a", "48k", tags=tags)
    for number, tags in enumerate(TEXTS):
        m.encode(f"ogg/speex-{number}.ogg", SOUNDS[3], "speexenc", *comment_arguments("--comment", tags), "{i}", "{o}")
    m.encode("opus/surround.opus", SOUNDS[4], "opusenc", "--quiet", "{i}", "{o}")
    m.encode("ogg/managed.ogg", SOUNDS[0], "oggenc", "-Q", "--managed", "-b", 96, "-o", "{o}", "{i}")
    m.ffmpeg("ogg/opus.ogg", SOUNDS[1], "-c:a", "libopus", tags=TEXTS[0])


def aac(m):
    for number, (sound, tags) in enumerate(itertools.product(SOUNDS[:4], TEXTS)):
        target = m.ffmpeg(f"aac/adts-{number}.aac", sound, "-c:a", "aac", "-b:a", "48k", "-f", "adts")
        data = target.read_bytes()
        m.written[f"aac/adts-{number}.aac"] = oddities.adts(data)
        if number % 2:
            id3 = ID3()
            for frame in id3_frames(tags, 3):
                id3.add(frame)
            tag = m.work / "tag"
            tag.unlink(missing_ok=True)
            id3.save(tag)
            target.write_bytes(tag.read_bytes() + data)
        elif number % 3:
            ape = APEv2()
            for key, name in zip(KEYS, ("Title", "Artist", "Album", "Year", "Genre", "Track")):
                ape[name] = tags[key]
            ape.save(target)
            m.written[f"aac/adts-{number}.aac"].update(tags)


def mp4(m):
    codecs = [("aac", ["-c:a", "aac", "-b:a", "64k"]), ("alac", ["-c:a", "alac"]), ("ac3", ["-c:a", "ac3"]),
              ("eac3", ["-c:a", "eac3"]), ("mp3", ["-c:a", "libmp3lame", "-b:a", "64k"]),
              ("opus", ["-c:a", "libopus"]), ("flac", ["-c:a", "flac", "-strict", "-2"])]
    layouts = {"plain": [], "start": ["-movflags", "+faststart"],
               "fragments": ["-movflags", "+frag_keyframe+delay_moov+default_base_moof", "-frag_duration", "500000"]}
    extensions = itertools.cycle("m4a m4b m4p m4r mp4 m4v".split())
    for number, ((codec, options), (layout, flags), tags) in enumerate(itertools.product(codecs, layouts.items(), TEXTS)):
        sound = SOUNDS[0] if codec in ("mp3", "flac") else SOUNDS[number % 2]
        name = f"mp4/{codec}-{layout}-{number}.{next(extensions)}"
        target = m.ffmpeg(name, sound, *options, *flags, "-f", "mp4", tags=tags)
        if layout == "fragments":
            # by mutagen without a duration
            m.written[name] = {"duration": sound[2] + oddities.added(codec, sound[0], sound[2])}
        elif codec in ("aac", "alac"):
            file = MP4(target)
            file["trkn"], file["covr"] = [(3, 12)], [picture()]
            file.save()
    for number, sound in enumerate(SOUNDS):
        m.ffmpeg(f"mp4/sound-{number}.m4a", sound, "-c:a", "aac", tags=TEXTS[1])
        m.ffmpeg(f"mp4/alac-{number}.m4a", sound, "-c:a", "alac", tags=TEXTS[1])
    for codec in "libx264", "mpeg4":
        run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=2", "-i", m.wav(),
            "-c:v", codec, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k", "-metadata", "title=Video",
            m.path(f"mp4/{codec}.mp4"))
    m.ffmpeg("mp4/quicktime.mov", SOUNDS[0], "-c:a", "aac", tags=TEXTS[0])
    m.ffmpeg("mp4/pcm.mov", SOUNDS[5], "-c:a", "pcm_s24le", tags=TEXTS[0])
    m.ffmpeg("mp4/mobile.3gp", SOUNDS[0], "-c:a", "aac")
    m.ffmpeg("mp4/cut.m4a", SOUNDS[0], "-ss", "0.2", "-c:a", "aac")


def wav(m):
    codecs = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_mulaw", "pcm_alaw", "adpcm_ima_wav",
              "adpcm_ms", "libmp3lame")
    for number, (codec, tags) in enumerate(itertools.product(codecs, TEXTS)):
        name = f"wav/{codec}-{number % 3}." + ("wav", "wave")[number % 2]
        target = m.ffmpeg(name, SOUNDS[number % 4], "-c:a", codec, "-f", "wav", tags=tags)
        # ffprobe and exiftool read the list of information; mutagen does not
        m.written[name] = dict(tags)
        if number % 3 == 0:
            file = WAVE(target)
            file.add_tags()
            for frame in id3_frames(TEXTS[1], 3):
                file.tags.add(frame)
            file.save()
            m.written[name] = dict(TEXTS[1])
    m.ffmpeg("wav/rf64.wav", SOUNDS[0], "-rf64", "always", tags=TEXTS[0])
    m.written["wav/rf64.wav"] = {**TEXTS[0], "duration": 2.0, "bitrate": 1411200, "sample_rate": 44100, "channels": 2}
    m.ffmpeg("wav/surround.wav", SOUNDS[4])


def wma(m):
    for number, (sound, tags) in enumerate(itertools.product(SOUNDS[:4], TEXTS)):
        target = m.ffmpeg(f"wma/ffmpeg-{number}.wma", sound, "-c:a", f"wmav{number % 2 + 1}", "-b:a", "64k", "-f", "asf",
                          tags={"WM/Year" if key == "date" else key: value for key, value in tags.items()})
        if number % 2:
            file = ASF(target)
            file["WM/Genre"] = ["Long" * 10_000]
            file["WM/Composer"], file["WM/AlbumTitle"] = ["x" * 70_000], [tags["album"], "Second"]
            file.save()


def others(m):
    for number, tags in enumerate(TEXTS):
        target = m.ffmpeg(f"aiff/aiff-{number}.aiff", SOUNDS[number], "-write_id3v2", number % 2, tags=tags)
        if number == 0:
            file = AIFF(target)
            file.add_tags()
            for frame in id3_frames(tags, 3):
                file.tags.add(frame)
            file.save()
        ape = APEv2()
        for key, name in zip(KEYS, ("Title", "Artist", "Album", "Year", "Genre", "Track")):
            ape[name] = tags[key]
        ape.save(m.encode(f"wv/wavpack-{number}.wv", SOUNDS[number], "wavpack", "-q", "-y", "{i}", "-o", "{o}"))
        ape.save(m.encode(f"mpc/mpcenc-{number}.mpc", SOUNDS[number % 2], "mpcenc", "--silent", "--overwrite", "{i}", "{o}"))
