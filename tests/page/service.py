#!/usr/bin/env python3
"""Checks the page of the real service in a real browser, as its user sees it.

    ./service.py target/debug/file-watcher

It makes a library of its own in a temporary folder. It exits with 1 if a check fails.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import wave

from selenium.webdriver.common.keys import Keys

from browser import LOST, Browser, Checks, check_no_markup, check_overflow, free_port, until

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
HOSTILE = "<img src=x onerror=alert(1)>.mp3"
# Path in the library, and the fixture that lies there. The last two have the same content.
LIBRARY = {
    "Anna/Blau/01 Anfang.mp3": "mp3/tagged-id3v24.mp3",
    "Anna/Blau/02 Mitte.mp3": "mp3/tagged-lame-vbr.mp3",
    "Anna/Grün/01 Weg.flac": "flac/tagged-flac.flac",
    "Bert/01 Haus.ogg": "ogg/tagged-oggenc.ogg",
    "Bert/02 Hof.ogg": "ogg/untagged-vorbis.ogg",
    "Bert/03 Garten.m4a": "m4a/tagged-aac.m4a",
    f"Bert/{'a name as long as a line ' * 8}.flac": "flac/untagged.flac",
    "Copies/Original.mp3": "mp3/tagged-id3v23.mp3",
    f"Copies/{HOSTILE}": "mp3/tagged-id3v23.mp3",
}
# The page names the format of the content, not the extension.
FORMATS = {"m4a": "mp4"}
WELL = "Everything is all right."
ASKED = {"/", "/app.js", "/events.js", "/view.js", "/style.css", "/status", "/api/library", "/api/events",
         "/api/events/live", "/api/duplicates", "/api/failed"}
# A change is on the page after the debounce, a round of the engine and the page's next drawing.
SOON = 15
# The page asks every two seconds, and the browser connects the stream again after a few.
RETURN = 25


class Service:
    """The running service, with everything it needs in one temporary folder."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="page-service-"))
        self.library, self.state = self.folder / "library", self.folder / "state"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None
        for path, fixture in LIBRARY.items():
            self.copy(FIXTURES / fixture, path)
        self.state.mkdir()

    def copy(self, source, path):
        (self.library / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.library / path)

    def start(self):
        settings = {"SINK": "stdout", "DATA_DIR": self.library, "STATE_DIR": self.state,
                    "HTTP_ADDR": f"127.0.0.1:{self.port}"}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "watch"], cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env={"PATH": os.environ["PATH"]} | {name: str(value) for name, value in settings.items()})
        return until(lambda: self.process.poll() is not None or self.is_ready(), 30) and self.is_ready()

    def is_ready(self):
        try:
            return self.get("/readyz")[0] == 200
        except (http.client.HTTPException, OSError):
            return False

    def reasons(self):
        """What the service says about its readiness."""
        try:
            return self.get("/readyz")[1]
        except (http.client.HTTPException, OSError) as error:
            return str(error)

    def get(self, path):
        """The status, the body and the headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def files(self):
        """The size of every file in the library."""
        return {path: path.stat().st_size for path in self.library.rglob("*") if path.is_file()}

    def close(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def silence(path, seconds):
    """A WAV file of a length that no fixture has."""
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 1, 8000, 0, "NONE", ""))
        sound.writeframes(b"\x80" * (8000 * seconds))


# ---- What the page shows -------------------------------------------------------------------------------------------

def cells(page):
    """The cells of every row of events, newest first: time, type, path, details and size."""
    return page.run("return [...document.querySelectorAll('#events-rows tr')].map((row) => "
                    "[...row.children].map((cell) => cell.textContent))")


def types(page):
    return [row[1] for row in cells(page)]


def event_of(page, path):
    """The newest event of a path, as soon as it is there. The path before a move follows the path in its cell."""
    row = lambda: next((row for row in cells(page) if row[2] == path or row[2].startswith(f"{path}from ")), None)
    until(row, SOON)
    return row() or [""] * 5


def becomes(check, name, value, wanted, seconds=SOON):
    check(name, until(lambda: value() == wanted, seconds), value())


def empty(search):
    """As a user does it: the driver's own way to empty a field tells the page nothing."""
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.BACKSPACE)


# ---- The checks ----------------------------------------------------------------------------------------------------

def check_headers(service, check):
    headers = service.get("/")[2]
    policy = headers.get("Content-Security-Policy", "")
    check("the page has a content security policy", "default-src 'none'" in policy and "unsafe" not in policy, policy)
    check("the page has the other headers", headers.get("X-Content-Type-Options") == "nosniff"
          and headers.get("Referrer-Policy") == "no-referrer")


def check_first(page, check, service):
    page.driver.get(service.address)
    page.run("window.isSame = true")
    becomes(check, "the headline", lambda: page.text("#sentence"), WELL)
    check("the title", WELL.rstrip(".") in page.driver.title, page.driver.title)
    files = service.files()
    becomes(check, "the index has the files of the disk", lambda: page.text("#facts .figure"), f"{len(files)} files")
    becomes(check, "the index has their size", lambda: page.text("#facts .fact-note"),
            page.from_view(f"size({sum(files.values())})"))
    check("the library", page.text("#about") == str(service.library), page.text("#about"))
    becomes(check, "every file is an event, as created", lambda: types(page), ["created"] * len(files))
    becomes(check, "the view is live", lambda: page.text("#events-live"), "live")


def check_library(page, check, service):
    sizes = {}
    for path, size in service.files().items():
        name = path.suffix[1:]
        sizes.setdefault(FORMATS.get(name, name), []).append(size)
    wanted = [[name, str(len(of_name)), page.from_view(f"size({sum(of_name)})")] for name, of_name in sizes.items()]
    shown = lambda: sorted([row[0], row[2], row[3]] for row in page.run("""
      const table = [...document.querySelectorAll('.share')].find((t) => t.caption.textContent === 'By format');
      return [...(table?.tBodies[0].rows ?? [])].map((row) => [...row.cells].map((cell) => cell.textContent))"""))
    becomes(check, "the library by format is that of the disk", shown, sorted(wanted))


def check_hostile(page, check):
    event = event_of(page, f"Copies/{HOSTILE}")
    check("the hostile name is text in the events",
          event[1] == "created" and re.fullmatch(r"0:0\d · .+", event[3]), event)
    check("the lists open", page.open_lists())
    paths, copies = page.texts("#duplicates tbody .path"), page.texts("#duplicates tbody .when")
    check("the duplicates have their group",
          sorted(paths) == [f"Copies/{HOSTILE}", "Copies/Original.mp3"] and copies[0] == "2 copies", paths + copies)
    check("the duplicates are counted", page.text("#duplicates-count") == "1", page.text("#duplicates-count"))
    check("no file has failed", "No file has failed." in page.text("#failed"), page.text("#failed .list-body"))
    check_no_markup(page, check, "the hostile name")


def check_live(page, check, service):
    silence(service.folder / "silence.wav", 184)
    service.copy(service.folder / "silence.wav", "Anna/Neu.wav")
    event = event_of(page, "Anna/Neu.wav")
    check("a new file comes live, as created", event[1] == "created", event)
    check("with its length", event[3].startswith("3:04 · "), event[3])
    bytes_ = (service.library / "Anna/Neu.wav").stat().st_size
    check("with its size", event[4] == page.from_view(f"size({bytes_})"), event[4])
    check("as the newest", cells(page)[0] == event)
    wanted = f"{len(service.files())} files"
    becomes(check, "the index counts it", lambda: page.text("#facts .figure"), wanted)

    (service.library / "Anna/Neu.wav").rename(service.library / "Anna/Stille.wav")
    event = event_of(page, "Anna/Stille.wav")
    check("a new name comes live, as renamed", event[1:3] == ["renamed", "Anna/Stille.wavfrom Anna/Neu.wav"], event)

    (service.library / "Anna/Stille.wav").rename(service.library / "Bert/Stille.wav")
    event = event_of(page, "Bert/Stille.wav")
    check("another folder comes live, as moved", event[1:3] == ["moved", "Bert/Stille.wavfrom Anna/Stille.wav"], event)


def check_filters(page, check, service):
    all_ = types(page)
    search = page.find("#events-path")
    search.send_keys("GARTEN")
    becomes(check, "the search by path", lambda: [row[2] for row in cells(page)], ["Bert/03 Garten.m4a"])
    empty(search)
    becomes(check, "without a text all events are back", lambda: types(page), all_)
    page.choose("renamed")
    becomes(check, "the filter by type", lambda: types(page), ["renamed"])
    search.send_keys("no such name")
    becomes(check, "both without a match say so", lambda: page.text("#events-end"), "No event matches.")
    empty(search)
    page.choose("")
    becomes(check, "without both all events are back", lambda: types(page), all_)

    search.send_keys("02 Hof")
    becomes(check, "the search before a new name", lambda: types(page), ["created"])
    (service.library / "Bert/02 Hof.ogg").rename(service.library / "Bert/02 Platz.ogg")
    becomes(check, "what is searched comes live under its new name too", lambda: types(page), ["renamed", "created"])
    empty(search)
    becomes(check, "after the search all events are back", lambda: types(page), ["renamed", *all_])
    check("the page was never loaded again", page.run("return window.isSame === true"))


def check_looks(page, check):
    ground = lambda: page.run("return getComputedStyle(document.body).backgroundColor")
    page.look(1280, 900, "light")
    light = ground()
    page.look(1280, 900, "dark")
    dark = ground()
    is_dark = max(map(int, re.findall(r"\d+", dark))) < 60
    check("dark mode has a dark ground", is_dark and dark != light, f"{light}, {dark}")
    for width, height in [(390, 844), (1280, 900)]:
        page.look(width, height)
        page.settle()
        check_overflow(page, check, f"{width} px")


def check_requests(page, check, service):
    messages = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    requests = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    # The browser's own first tab has requests too.
    urls = [request["request"]["url"] for request in requests if request["documentURL"].startswith(service.address)]
    paths = {url.removeprefix(service.address).split("?")[0] for url in urls}
    check("the page asks for its files and lists", paths >= ASKED, sorted(paths))
    elsewhere = [url for url in urls if not url.startswith((f"{service.address}/", "data:"))]
    check("no request goes elsewhere", urls and not elsewhere, elsewhere or f"{len(urls)} requests")
    complaints = page.complaints()
    check("no console error and no CSP violation", not complaints, "; ".join(complaints))


def check_death(page, check, service):
    figure = page.text("#facts .figure")
    service.kill()
    becomes(check, "after its death the page says so", lambda: page.text("#sentence"), "The service does not answer.")
    check("the title says so", "no answer" in page.driver.title, page.driver.title)
    becomes(check, "the live view says so", lambda: page.text("#events-live"), "not connected, tries again")
    check("the last values stay", page.text("#facts .figure") == figure, page.text("#facts .figure"))
    check("with their age", re.search(r"The values below are \d+ s old", page.text("#more")), page.text("#more"))

    service.copy(FIXTURES / "mp3/untagged-cbr.mp3", "Bert/Inzwischen.mp3")
    is_ready = service.start()
    check("the service starts again", is_ready, "" if is_ready else service.reasons())
    becomes(check, "the page is back by itself", lambda: page.text("#sentence"), WELL, RETURN)
    becomes(check, "the live view is back", lambda: page.text("#events-live"), "live", RETURN)
    event = event_of(page, "Bert/Inzwischen.mp3")
    check("what happened meanwhile is there", event[1] == "created", event)
    service.copy(FIXTURES / "mp3/untagged-vbr.mp3", "Bert/Danach.mp3")
    event = event_of(page, "Bert/Danach.mp3")
    check("what happens now comes live", event[1] == "created", event)
    check("the page was still never loaded again", page.run("return window.isSame === true"))
    complaints = page.complaints(LOST)
    check("no console error but that of the lost connection", not complaints, "; ".join(complaints))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    binary = parser.parse_args().binary.resolve()
    # Whoever ends this script with a signal ends the service and the browser too.
    for number in [signal.SIGTERM, signal.SIGHUP]:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    check, service, page = Checks(), Service(binary), None
    try:
        is_ready = service.start()
        check("the service is ready", is_ready, "" if is_ready else service.reasons())
        if is_ready:
            page = Browser(log_requests=True)
            check_headers(service, check)
            check_first(page, check, service)
            check_library(page, check, service)
            check_hostile(page, check)
            check_live(page, check, service)
            check_filters(page, check, service)
            check_looks(page, check)
            check_requests(page, check, service)
            check_death(page, check, service)
        if check.failed:
            print(f"The log of the service:\n{service.log()}", flush=True)
    finally:
        try:
            if page:
                page.close()
        finally:
            service.close()
    sys.exit(check.end())


if __name__ == "__main__":
    main()
