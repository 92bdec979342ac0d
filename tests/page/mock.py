#!/usr/bin/env python3
"""Serves the page with a believable service behind it, to look at the page and to check it.

    ./mock.py [--port 18099] [--scenario healthy]

Open http://127.0.0.1:18099/?scenario=wrong for another scenario. It is kept in a cookie, so that the page itself asks
for the same addresses as of the real service. The scenarios: healthy, scan, counting, wrong, warning, empty, many,
hostile, starting, unavailable.
"""

import argparse
import functools
import json
import math
import pathlib
import random
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = pathlib.Path(__file__).resolve().parents[2] / "src/http/page"
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/events.js": ("events.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
STARTED = time.time()
KEPT = 100_000
MINUTES = 60

ARTISTS = ["Nina Simone", "Boards of Canada", "Sigur Rós", "Fela Kuti", "Björk", "坂本龍一", "Аквариум", "Miles Davis",
           "Arvo Pärt", "Cesária Évora", "Godspeed You! Black Emperor", "The Necks"]
ALBUMS = ["1965 - Pastel Blues", "1998 - Music Has the Right to Children", "2002 - ( )", "1976 - Zombie",
          "1997 - Homogenic", "1983 - Merry Christmas, Mr. Lawrence", "1959 - Kind of Blue", "1978 - Tabula Rasa",
          "Live at the Village Vanguard (Deluxe Edition) [24-96]"]
TITLES = ["Sinnerman", "Roygbiv", "Vaka", "Zombie", "Jóga", "So What", "Fratres", "Sodade", "Storm", "Untitled", "夜想曲"]
TYPES = ["created"] * 10 + ["modified"] * 4 + ["deleted"] + ["moved"] * 2 + ["renamed"]
HOSTILE = [
    "<img src=x onerror=alert(1)>.mp3",
    "Album/<script>alert(2)</script>.flac",
    "invoice\u202e3pm.exe",
    "\u2066left\u2069 \u2067right\u2069/mixed \u200fmarks\u200e.ogg",
    "line\nbreak\ttab\x00nul\x1b[31mred\x07.mp3",
    "A" * 4000 + ".mp3",
    "deep/" * 780 + "end.flac",
    "\u0001" * 3000 + ".mp3",
    "עברית/אלבום/שיר.mp3",
    "العربية/ملف.flac",
    "  spaces  at  the  ends  .mp3  ",
    "Z" + "\u0351\u0363\u0306\u036a" * 60 + "algo.mp3",
    "\"><svg onload=alert(3)>.wav",
    "emoji 👩‍👩‍👧‍👦 family/🏴󠁧󠁢󠁥󠁮󠁧󠁿.mp3",
    "javascript:alert(4)//.m4a",
    "\ud800 lone surrogate.mp3",
    "zero\u200bwidth\ufeff.mp3",
    "\u2028line separator\u2029.mp3",
    "`backticks` & &amp; ${7*7}.mp3",
    ".mp3",
]


def at(seconds):
    """A time, RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Scenario:
    """All that is well: the other scenarios change parts of it."""

    per_second = 0.6
    before = 240
    files = 100_482
    bytes = 1_287_654_321_000
    hostile = False

    def newest(self):
        return self.before + int((time.time() - STARTED) * self.per_second)

    def event(self, sequence):
        """The event of a number. It depends on the number alone, so that nothing has to be stored."""
        return make_event(sequence, self.hostile, STARTED + (sequence - self.before) / self.per_second)

    def conditions(self):
        return []

    def scan(self):
        return {"running": False, "is_first": False, "files_seen": self.files, "files_total": self.files,
                "bytes_hashed": 0, "seconds_left": None, "last_finished": at(STARTED - 4000), "last_seconds": 48.2}

    def history(self):
        files = [round(30 + 25 * math.sin(i / 6) + noise(i, 12)) for i in range(MINUTES)]
        return self.history_of(files, lambda i: 9 + 3 * math.sin(i / 9) + noise(i, 3), lambda i: 60 + noise(i + 7, 70),
                               lambda i: max(0, round(noise(i, 5) - 1)))

    def history_of(self, files, p50, p99, outbox):
        return {"step_seconds": 60, "files": files, "bytes": [None if f is None else f * 31_000_000 for f in files],
                "latency_p50_ms": [p50(i) if f else None for i, f in enumerate(files)],
                "latency_p99_ms": [p99(i) if f else None for i, f in enumerate(files)],
                "outbox": [None if f is None else outbox(i) for i, f in enumerate(files)]}

    def status(self):
        count = self.newest()
        return {
            "version": "0.1.0", "instance_id": "ab12cd34", "library": "/data/music", "started": at(STARTED - 86_400),
            "now": at(time.time()), "ready": True, "conditions": self.conditions(), "scan": self.scan(),
            "events": {"created": round(count * 0.55), "modified": round(count * 0.22), "deleted": round(count * 0.06),
                       "moved": round(count * 0.11), "renamed": round(count * 0.06)},
            "history": self.history(), "outbox": {"messages": 0, "oldest_seconds": None, "limit": 100_000},
            "broker": {"state": "connected", "details": None, "confirmed": count, "rejected": 0, "returned": 0,
                       "connections": 1},
            "watch": {"coverage": "full", "watches": 10_512, "watches_allowed": 65_536},
            "index": {"files": self.files, "bytes": self.bytes}, "pending": 0, "failed": 0, "parked": 0,
        }

    def library(self):
        formats = shares(self, [("flac", 0.58, 2.0), ("mp3", 0.27, 0.3), ("m4a", 0.07, 0.4), ("opus", 0.04, 0.2),
                                ("ogg", 0.02, 0.3), ("wav", 0.01, 3), ("aiff", 0.006, 3), ("ape", 0.002, 2),
                                ("wv", 0.001, 2), ("dsf", 0.0006, 9), ("mka", 0.0004, 2), ("wma", 0.0003, 0.4),
                                ("alac", 0.0002, 2)])
        sizes = shares(self, [("under 1 MB", 0.02, 0.04), ("1 to 5 MB", 0.2, 0.3), ("5 to 20 MB", 0.34, 0.8),
                              ("20 to 50 MB", 0.31, 2.0), ("50 to 200 MB", 0.12, 6), ("over 200 MB", 0.01, 25)])
        years = [(str(1954 + i), 0.002 + 0.025 * abs(math.sin(i / 11)), 1) for i in range(71)] + [("unknown", 0.04, 1)]
        return {"formats": formats, "sizes": sizes, "years": shares(self, years)}

    def duplicates(self):
        groups = [{"size": 31_400_000 + i * 1_234_567, "files": [
            {"path": f"{ARTISTS[i % 12]}/{album}/0{i % 9 + 1} {TITLES[i % 11]}.flac", "modified": at(STARTED - 9e6)}
            for album in ALBUMS[: 2 + i % 3]]} for i in range(40)]
        return {"groups": groups, "total_groups": len(groups), "wasted_bytes": 2_412_000_000}

    def failed(self):
        return {"failed": [], "total": 0}


class Scan(Scenario):
    per_second = 40
    before = 42_000
    total = 100_482

    def seen(self):
        return min(self.total, self.newest())

    def scan(self):
        seen = self.seen()
        return {"running": True, "is_first": True, "files_seen": seen, "files_total": self.total,
                "bytes_hashed": seen * 12_800_000, "seconds_left": (self.total - seen) / self.per_second,
                "last_finished": None, "last_seconds": None}

    def history(self):
        files = [None] * 42 + [round(2400 + noise(i, 300)) for i in range(18)]
        return self.history_of(files, lambda i: 22 + noise(i, 8), lambda i: 180 + noise(i + 3, 90),
                               lambda i: round(250 + noise(i, 200)))

    def status(self):
        seen = self.seen()
        return super().status() | {
            "started": at(STARTED - 1080), "ready": False, "index": {"files": seen, "bytes": seen * 12_800_000},
            "events": {"created": seen, "modified": 0, "deleted": 0, "moved": 0, "renamed": 0},
            "outbox": {"messages": 312, "oldest_seconds": 1.4, "limit": 100_000}, "pending": 64}


class Counting(Scan):
    """The first scan does not know its total yet."""

    def scan(self):
        return super().scan() | {"files_total": None, "seconds_left": None}


class Wrong(Scenario):
    per_second = 0.2

    def conditions(self):
        now = STARTED
        return [
            condition("watch_partial", "warning", now - 7300, "some folders are not watched",
                      "4512 of 15024 folders have no watch: the limit of the kernel is reached",
                      "Raise the limit with `sysctl fs.inotify.max_user_watches=1048576`. "
                      "Until then a scan every 5 minutes finds their changes."),
            condition("deletes_held", "error", now - 1500, "deletes are held: the library is empty",
                      "1200 deletes at /data/music/usb (ext4, /dev/sdb1)",
                      "Mount the library again, or run `file-watcher approve` if the files are gone."),
            condition("broker_refused", "error", now - 340, "the broker refuses the connection",
                      "ACCESS_REFUSED for user music at broker.lan:5671",
                      "Check the user name and the password file. Events are kept in the outbox until then."),
            condition("files_failed", "warning", now - 90_000, "2,417 files cannot be read",
                      "permission denied, the first is Nina Simone/1965 - Pastel Blues/03.flac",
                      "Give the user of the service the right to read them. The list is under \"Files to check\"."),
            condition("clock", "info", now - 60, "the clock went back by 2 s", None, None),
        ]

    def history(self):
        files = [round(30 + noise(i, 30)) if i < 50 or i > 54 else None for i in range(MINUTES)]
        history = self.history_of(files, lambda i: 9 + noise(i, 3), lambda i: 90 + (i > 40) * (i - 40) ** 3,
                                  lambda i: 3 if i < 42 else (i - 42) ** 3 * 16)
        history["latency_p50_ms"][55:] = history["latency_p99_ms"][55:] = [None] * 5
        return history

    def status(self):
        return super().status() | {
            "outbox": {"messages": 84_213, "oldest_seconds": 342.7, "limit": 100_000},
            "broker": {"state": "refused", "details": "ACCESS_REFUSED", "confirmed": 91_234, "rejected": 4,
                       "returned": 12, "connections": 0},
            "watch": {"coverage": "partial", "watches": 10_512, "watches_allowed": 10_512},
            "pending": 1734, "failed": 2417, "parked": 12}

    def failed(self):
        return {"failed": [{"path": make_event(i, False, 0)["path"], "error": "permission denied (os error 13)",
                            "since": at(STARTED - 90_000 - i)} for i in range(100)], "total": 2417}

    def duplicates(self):
        raise Unavailable("the index is being rebuilt")


class Warning(Scenario):
    def conditions(self):
        return Wrong.conditions(self)[:1]


class Empty(Scenario):
    per_second = 1e-9
    before = 0
    files = bytes = 0

    def history(self):
        return self.history_of([None] * 57 + [0] * 3, None, None, lambda i: 0)

    def status(self):
        return super().status() | {"started": at(STARTED - 180)}

    def library(self):
        return {"formats": [], "sizes": [], "years": []}

    def duplicates(self):
        return {"groups": [], "total_groups": 0, "wasted_bytes": 0}


class Many(Scenario):
    per_second = 300
    before = 400_000

    def history(self):
        files = [round(18_000 + noise(i, 1500)) for i in range(MINUTES)]
        return self.history_of(files, lambda i: 14 + noise(i, 6), lambda i: 120 + noise(i, 40), lambda i: 900 + round(noise(i, 300)))


class Hostile(Scenario):
    per_second = 2
    hostile = True

    def conditions(self):
        return [condition("deletes_held", "error", STARTED - 60, "deletes are held at <b>\u202eevil</b>\n<img src=x onerror=alert(5)>",
                          HOSTILE[5], "Look at " + HOSTILE[0] + ", then run `rm <script>alert(6)</script>\u202e`.")]

    def status(self):
        return super().status() | {"library": "/data/<i>\u202emusic</i>/" + "x" * 900, "failed": len(HOSTILE)}

    def library(self):
        library = super().library()
        library["formats"][2]["name"] = "<img src=x onerror=alert(7)>" + "y" * 400
        library["formats"][3]["name"] = "\u202eflac\n"
        return library

    def failed(self):
        return {"failed": [{"path": name, "error": "<b>no\u202e</b>", "since": at(STARTED)} for name in HOSTILE],
                "total": len(HOSTILE)}

    def duplicates(self):
        return {"groups": [{"size": 1, "files": [{"path": name, "modified": at(STARTED)} for name in HOSTILE]}],
                "total_groups": 1, "wasted_bytes": 19}


class Starting(Empty):
    def status(self):
        return super().status() | {"ready": False, "history": self.history_of([None] * 60, None, None, None),
                                   "broker": {"state": "connecting", "details": None, "confirmed": 0, "rejected": 0,
                                              "returned": 0, "connections": 0},
                                   "watch": {"coverage": "none", "watches": None, "watches_allowed": None}}

    def library(self):
        raise Unavailable("the index is not open yet")


class Unknown(Scenario):
    """The service answers, but cannot tell its status."""

    def status(self):
        raise Unavailable("the index is locked by another process")


SCENARIOS = {"healthy": Scenario(), "scan": Scan(), "counting": Counting(), "wrong": Wrong(), "warning": Warning(),
             "empty": Empty(), "many": Many(), "hostile": Hostile(), "starting": Starting(),
             "unavailable": Unknown()}


class Unavailable(Exception):
    """Something that the service cannot answer now: status 503."""


def condition(kind, severity, since, summary, details, what_to_do):
    return {"kind": kind, "severity": severity, "since": at(since), "summary": summary, "details": details,
            "what_to_do": what_to_do}


@functools.lru_cache(maxsize=KEPT * 2)
def make_event(sequence, hostile, seconds):
    pick = random.Random(sequence)
    kind = pick.choice(TYPES)
    track = f"{pick.randint(1, 18):02} {pick.choice(TITLES)}"
    path = f"{pick.choice(ARTISTS)}/{pick.choice(ALBUMS)}/{track}.{pick.choice(['flac', 'flac', 'mp3', 'opus'])}"
    old_path = {"moved": f"Incoming/{track}.flac", "renamed": path.rsplit("/", 1)[0] + "/track.flac"}.get(kind)
    if hostile:
        path = HOSTILE[sequence % len(HOSTILE)]
        old_path = old_path and HOSTILE[(sequence + 5) % len(HOSTILE)]
    gone = kind == "deleted"
    return {"sequence": sequence, "type": kind, "path": path, "old_path": old_path, "time": at(seconds),
            "size": None if gone else pick.randint(2_000_000, 60_000_000),
            "duration_seconds": None if gone else pick.uniform(60, 900),
            "details": None if gone else pick.choice(["44.1 kHz, 16 bit", "96 kHz, 24 bit", "44.1 kHz, 320 kbit/s", None])}


def shares(scenario, parts):
    average = scenario.bytes / scenario.files if scenario.files else 0
    return [{"name": name, "files": round(share * scenario.files), "bytes": round(share * scenario.files * average * weight)}
            for name, share, weight in parts]


def noise(seed, width):
    return random.Random(seed).uniform(0, width)


def page_of(scenario, query):
    """One page of events, newest first."""
    limit = int(query.get("limit", "100"))
    newest = scenario.newest()
    sequence = min(newest, int(query.get("before", newest + 1)) - 1)
    oldest = max(1, newest - KEPT + 1)
    kind, part = query.get("type"), query.get("path", "").lower()
    found = []
    while sequence >= oldest and len(found) <= limit:
        event = scenario.event(sequence)
        paths = [event["path"], event["old_path"] or ""]
        if (not kind or event["type"] == kind) and any(part in path.lower() for path in paths):
            found.append(event)
        sequence -= 1
    return {"events": found[:limit], "has_more": len(found) > limit}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scenario_of_flag = "healthy"

    def do_GET(self):
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        cookie = dict(part.strip().split("=", 1) for part in self.headers.get("Cookie", "").split(";") if "=" in part)
        chosen = query.get("scenario") or cookie.get("scenario") or self.scenario_of_flag
        scenario = SCENARIOS.get(chosen, SCENARIOS["healthy"])
        answers = {"/status": lambda: scenario.status(), "/api/library": lambda: scenario.library(),
                   "/api/events": lambda: page_of(scenario, query), "/api/duplicates": lambda: scenario.duplicates(),
                   "/api/failed": lambda: scenario.failed()}
        if address.path in FILES:
            name, kind = FILES[address.path]
            self.answer(200, (PAGE / name).read_bytes(), kind, chosen if "scenario" in query else None)
        elif address.path == "/api/events/live":
            self.live(scenario)
        elif address.path in answers:
            try:
                code, value = 200, answers[address.path]()
            except Unavailable as error:
                code, value = 503, {"error": str(error)}
            self.answer(code, json.dumps(value).encode(), "application/json")
        else:
            self.answer(404, b'{"error":"no such address"}', "application/json")

    def answer(self, code, body, kind, scenario=None):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if scenario:
            self.send_header("Set-Cookie", f"scenario={scenario}; Path=/; SameSite=Strict")
        self.end_headers()
        self.wfile.write(body)

    def live(self, scenario):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = scenario.newest()
        try:
            self.wfile.write(b": hello\n\n")
            self.wfile.flush()
            while True:
                newest = scenario.newest()
                for sequence in range(sent + 1, newest + 1):
                    data = json.dumps(scenario.event(sequence))
                    self.wfile.write(f"event: change\nid: {sequence}\ndata: {data}\n\n".encode())
                sent = newest
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=18099)
    parser.add_argument("--scenario", choices=SCENARIOS, default="healthy")
    flags = parser.parse_args()
    Handler.scenario_of_flag = flags.scenario
    ThreadingHTTPServer.daemon_threads = True
    print(f"http://127.0.0.1:{flags.port}/?scenario={flags.scenario}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", flags.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
