#!/usr/bin/env python3
"""Checks the page with a real browser against mock.py, and makes screenshots in shots/.

    apt-get install chromium chromium-driver python3-selenium
    ./check.py [--axe axe.min.js] [--only PART]

--axe also runs the accessibility rules of axe-core. It exits with 1 if a check fails.
"""

import argparse
import base64
import pathlib
import re
import socket
import subprocess
import sys
import time

from browser import LOST, Browser, Checks, check_no_markup, check_overflow, free_port, until
from mock import PAGE

HERE = pathlib.Path(__file__).resolve().parent
SHOTS = HERE / "shots"
SCENARIOS = ["healthy", "scan", "counting", "wrong", "warning", "empty", "many", "hostile", "starting"]
LEAST_CONTRAST = 4.5
MOST_NODES = 3000
MOST_SCRIPT_MS = 100
# Here the mock answers 503 or is dead on purpose. The browser logs that by itself.
EXPECTED = {"wrong": "/api/duplicates.* 503 ", "starting": "/api/library.* 503 ", "sentences": "/status.* 503 ",
            "death": LOST}

# The contrast of every visible text with the colour behind it. The page has no images behind text.
CONTRAST = """
const rgba = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const ground = (element) => { const layers = []; for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
const faint = (element) => { let o = 1; for (let e = element; e; e = e.parentElement) o *= Number(getComputedStyle(e).opacity); return o; };
const results = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const e = node.parentElement;
  if (!node.textContent.trim() || !e.checkVisibility({visibilityProperty: true}) || e.closest('.unseen, .skip, script, style, noscript, option')) continue;
  const style = getComputedStyle(e);
  const colour = rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
  colour[3] *= faint(e);
  const back = ground(e);
  results.push([ratio(over(colour, back), back), e.tagName + '.' + (e.getAttribute('class') ?? ''), node.textContent.trim().slice(0, 40)]);
}
for (const e of document.querySelectorAll('input, select')) {
  results.push([ratio(rgba(getComputedStyle(e).color), ground(e)), e.tagName, 'value']);
  if (e.placeholder) results.push([ratio(rgba(getComputedStyle(e, '::placeholder').color), ground(e)), e.tagName, 'placeholder']);
}
return results.sort((a, b) => a[0] - b[0]);
"""

FOCUSABLE = """
return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.disabled).map(window.nameOf);
"""
NAME_OF = """
window.nameOf = (e) => e.tagName + '#' + (e.id || e.getAttribute('href') || e.textContent.trim().slice(0, 30) || e.parentElement.id);
"""


class Mock:
    def __init__(self):
        self.port = free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, HERE / "mock.py", "--port", str(self.port)],
                                        stdout=subprocess.DEVNULL)
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", self.port)), 10)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Page(Browser):
    def __init__(self, port):
        self.port = port
        super().__init__(script=NAME_OF)
        # The time of the processor, so that other work on the machine does not count.
        self.cdp("Performance.enable", timeDomain="threadTicks")

    def open(self, scenario):
        self.driver.get(f"http://127.0.0.1:{self.port}/?scenario={scenario}")
        until(lambda: self.run("return document.documentElement.dataset.link") == "up", 20)
        until(lambda: self.run("return document.querySelector('#events-end').textContent !== '' "
                               "|| document.querySelectorAll('#events-rows tr').length > 0"), 20)
        time.sleep(0.7)

    def switch(self, scenario):
        """Another scenario without loading the page again, as when the state of the service changes."""
        self.driver.add_cookie({"name": "scenario", "value": scenario, "path": "/"})

    def press(self, key, text=""):
        for kind in ["keyDown", "keyUp"]:
            self.cdp("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "",
                     windowsVirtualKeyCode={"Tab": 9, "ArrowLeft": 37, "Home": 36, "Enter": 13}.get(key, 0))

    def script_seconds(self):
        metrics = self.cdp("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ScriptDuration")

    def shot(self, name, full=False):
        clip = {}
        if full:
            size = self.run("return [innerWidth, document.documentElement.scrollHeight]")
            clip = {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}}
        image = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=full, **clip)["data"]
        (SHOTS / f"{name}.png").write_bytes(base64.b64decode(image))


# ---- Every scenario ------------------------------------------------------------------------------------------------

def check_scenario(page, check, scenario, axe):
    page.look(1280, 900)
    page.open(scenario)
    page.open_lists()
    for width, height in [(1280, 900), (390, 844)]:
        for mode in ["light", "dark"]:
            page.look(width, height, mode)
            time.sleep(0.4)
            page.run("scrollTo(0, 0)")
            name = f"{scenario}-{width}-{mode}"
            page.shot(name)
            page.shot(f"{name}-full", full=True)
            worst = page.run(CONTRAST)[0]
            check(f"{name}: contrast of text at least {LEAST_CONTRAST}", worst[0] >= LEAST_CONTRAST,
                  f"{worst[0]:.2f} at {worst[1]} {worst[2]!r}")
            check_overflow(page, check, name)
    check_nodes(page, check, scenario)
    page.look(320, 640)
    time.sleep(0.4)
    check_overflow(page, check, f"{scenario}-320")
    page.look(1280, 900)
    if axe:
        check_axe(page, check, scenario, axe)


def check_nodes(page, check, name):
    elements, nodes = page.run("""
      const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL); let all = 0; while (walker.nextNode()) all += 1;
      return [document.querySelectorAll('*').length, all]""")
    check(f"{name}: fewer than {MOST_NODES} elements", elements < MOST_NODES, f"{elements}, {nodes} nodes with texts")


def check_axe(page, check, scenario, axe):
    page.run(axe)
    found = page.driver.execute_async_script("""
      const done = arguments[0];
      axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations.map((v) =>
        v.id + ' ' + v.nodes.slice(0, 2).map((n) => n.target).join(' '))), (e) => done([String(e)]))""")
    check(f"{scenario}: no violation of the rules of axe", not found, "; ".join(found))


# ---- What the page says --------------------------------------------------------------------------------------------

def check_sentences(page, check):
    page.open("healthy")
    check("healthy: the sentence", page.text("#sentence") == "Everything is all right.", page.text("#sentence"))
    check("healthy: the colour", page.run("return document.querySelector('#status').dataset.level") == "ok")
    check("only the sentence is a live region",
          page.run("return [...document.querySelectorAll('[aria-live], [role=status], [role=alert], [role=log]')].map((e) => e.id)") == ["sentence"])
    page.run("""window.said = []; new MutationObserver(() => window.said.push(document.querySelector('#sentence').textContent))
      .observe(document.querySelector('#sentence'), {childList: true, characterData: true, subtree: true})""")
    time.sleep(5)
    check("healthy: the live region does not repeat itself", page.run("return window.said.length") == 0)
    page.switch("wrong")
    wrong = "Something is wrong: 2 errors and 2 warnings."
    check("wrong: the sentence comes without a reload", until(lambda: page.text("#sentence") == wrong, 6), page.text("#sentence"))
    conditions = page.run("""return [...document.querySelectorAll('.condition')].map((c) =>
      [c.dataset.severity, c.querySelector('h2').textContent, c.querySelector('.since').textContent, c.querySelector('.todo p')?.textContent ?? ''])""")
    check("wrong: every condition stands there, the worst first",
          [condition[0] for condition in conditions] == ["error", "error", "warning", "warning", "info"], len(conditions))
    check("wrong: with since when", all("since" in condition[2] and "ago" in condition[2] for condition in conditions))
    check("wrong: with what to do", "file-watcher approve" in conditions[0][3], conditions[0][3])
    check("wrong: a command is marked", page.text(".condition code") == "file-watcher approve")
    check("wrong: the title tells it", "Something is wrong" in page.driver.title, page.driver.title)
    page.switch("warning")
    check("warning: the sentence", until(lambda: page.text("#sentence").startswith("One thing needs a look"), 6), page.text("#sentence"))
    page.driver.get(f"http://127.0.0.1:{page.port}/?scenario=unavailable")
    says = "The service cannot tell its status: the index is locked by another process."
    check("unavailable: the sentence", until(lambda: page.text("#sentence") == says, 10), page.text("#sentence"))
    check("unavailable: no empty charts", not page.run("return document.querySelector('#charts').checkVisibility({visibilityProperty: true})"))
    page.shot("unavailable-1280-light")
    page.switch("healthy")
    check("unavailable: the page fills as soon as there is a status", until(lambda: page.text("#sentence") == "Everything is all right.", 6)
          and until(lambda: page.rows(), 6))
    page.open("scan")
    time.sleep(4.5)
    words = page.text("#scan-text")
    check("scan: files of total, bytes, rate and time left",
          re.fullmatch(r"[\d,]+ of 100,482 files · \d+ GB hashed · [\d,]+ files/s, \d+ MB/s · \d+ min left", words), words)
    check("scan: the bar has a value", 0 < page.run("return document.querySelector('progress').value") < 1)
    page.open("counting")
    check("counting: the bar has no value", page.run("return document.querySelector('progress').position") == -1, page.text("#scan-text"))


# How values are worded, in English.
WORDS = [
    ("duration(0)", "0 s"), ("duration(3.46)", "3.5 s"), ("duration(59.4)", "59 s"), ("duration(59.7)", "1 min"),
    ("duration(180)", "3 min"), ("duration(3599)", "1 h"), ("duration(7800)", "2 h 10 min"), ("duration(345600)", "4 days"),
    ("duration(null)", "–"), ("size(0)", "0 bytes"), ("size(1)", "1 byte"), ("size(999)", "999 bytes"),
    ("size(1000)", "1 kB"), ("size(999999)", "1 MB"), ("size(1234567890)", "1.2 GB"), ("size(5e17)", "500 PB"),
    ("size(null)", "–"), ("percent(0.29)", "29%"), ("percent(0.9999)", "99%"), ("percent(1)", "100%"),
    ("number(1234567)", "1,234,567"), ("number(null)", "–"), ("milliseconds(4.26)", "4.3 ms"),
    ("milliseconds(1500)", "1.5 s"), ("length(184.2)", "3:04"), ("length(3661)", "1:01:01"),
    ("counted(1, 'file')", "1 file"), ("counted(0, 'copy', 'copies')", "0 copies"),
    ("legible('a\\u202eb\\n')", "aU+202Eb\\n"), ("legible('क्\\u200dष')", "क्\u200dष"),
]


def check_words(page, check):
    page.open("healthy")
    for call, wanted in WORDS:
        found = page.from_view(call)
        check(f"words: {call}", found == wanted, found)


# ---- Hostile names -------------------------------------------------------------------------------------------------

def check_hostile(page, check):
    page.open("hostile")
    page.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    time.sleep(4)
    check_no_markup(page, check, "hostile")
    check("hostile: the name is shown as text", "<img src=x onerror=alert(1)>.mp3" in page.text("#failed"))
    shown = page.run("return document.body.textContent + document.title + [...document.querySelectorAll('[title], [aria-valuetext]')].map((e) => e.title).join()")
    unseen = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]", shown)
    check("hostile: no control or bidi override character is left", not unseen, sorted(set(unseen)) or "")
    check("hostile: it is shown as a marked escape", "U+202E" in page.run("return [...document.querySelectorAll('.escape')].map((e) => e.textContent)"))
    height = page.run("return Math.max(...[...document.querySelectorAll('#events-rows tr')].map((r) => r.offsetHeight))")
    check("hostile: 4,000 characters keep a row low", height < 140, f"{height} px")
    cut = page.find("#failed .cut")
    page.run("arguments[0].click()", cut)
    check("hostile: a long name opens", "A" * 4000 in page.text("#failed"))
    check_overflow(page, check, "hostile, a long name open")


# ---- 100,000 events ------------------------------------------------------------------------------------------------

def check_many(page, check):
    page.look(1280, 900)
    page.open("many")
    check_nodes(page, check, "many: at first")
    before = page.script_seconds()
    time.sleep(4)
    share = (page.script_seconds() - before) / 4
    check("many: 300 live events a second take less than a tenth of the time", share < 0.1, f"{share:.1%} scripting")
    page.find("#events-pause").click()
    for _ in range(8):
        older = page.find("#events-older")
        last = page.rows()[-1]
        page.run("arguments[0].scrollIntoView(); arguments[0].click()", older)
        until(lambda: page.rows()[-1] != last, 10)
    check("many: load older goes on", page.rows()[-1] != last)
    check_nodes(page, check, "many: after loading older 8 times")
    page.find("#events-newer").click()
    until(lambda: page.run("return document.querySelector('#events-newer').hidden"), 10)
    check("many: back to the newest", page.run("return document.querySelector('#events-newer').hidden"))

    page.find("#events-path").click()
    time.sleep(1)
    start, worst = page.script_seconds(), 0
    for letter in "sinnerman":
        before = page.script_seconds()
        page.cdp("Input.insertText", text=letter)
        time.sleep(0.05)
        worst = max(worst, page.script_seconds() - before)
    check(f"many: a key in the search takes less than {MOST_SCRIPT_MS} ms of scripting", worst * 1000 < MOST_SCRIPT_MS, f"{worst * 1000:.1f} ms")
    time.sleep(3)
    spent = (page.script_seconds() - start) * 1000
    check("many: the search shows what matches", len(page.rows()) > 50 and all("sinnerman" in row.lower() for row in page.rows()), len(page.rows()))
    check(f"many: typing 9 keys and the results take less than {MOST_SCRIPT_MS} ms of scripting, live events included",
          spent < MOST_SCRIPT_MS, f"{spent:.0f} ms")
    page.choose("moved")
    both = lambda: page.rows() and all("sinnerman" in row.lower() and "moved" in row for row in page.rows())
    check("many: with the filter by type", until(both, 60), len(page.rows()))
    time.sleep(2)
    check("many: live events keep to the filter", both())


def check_old_paths(page, check):
    """The search finds a path before a move: in what is kept, as the service does it, and in what comes live."""
    page.open("many")
    page.find("#events-path").send_keys("Incoming/")
    are_right = lambda: len(page.rows()) > 50 and all("from Incoming/" in row for row in page.rows())
    check("old paths: the search finds them", until(are_right, 20), len(page.rows()))
    first = page.rows()[0]
    check("old paths: live events too", until(lambda: page.rows()[0] != first, 10) and "from Incoming/" in page.rows()[0])


def check_reading(page, check):
    """The rows stay while somebody reads."""
    page.look(1280, 900)
    page.open("hostile")
    first = page.rows()[0]
    check("live: new events come by themselves", until(lambda: page.rows()[0] != first, 8))
    page.run("document.querySelector('#events-scroll').scrollTop = 200")
    time.sleep(0.6)
    first, top = page.rows()[0], page.run("return document.querySelector('#events-scroll').scrollTop")
    time.sleep(3)
    check("reading: the rows stay", page.rows()[0] == first and page.run("return document.querySelector('#events-scroll').scrollTop") == top)
    check("reading: the page tells how many are newer", re.fullmatch(r"Show \d+ newer events?", page.text("#events-newer")), page.text("#events-newer"))
    check("reading: the page tells why", page.text("#events-live") == "held while you read")
    page.shot("reading-1280-light")
    page.run("document.querySelector('#events-newer').click()")
    check("reading: a press shows them", until(lambda: page.rows()[0] != first, 5))
    page.run("document.querySelector('#events-pause').click()")
    time.sleep(0.6)
    first = page.rows()[0]
    time.sleep(2)
    check("pause: the rows stay", page.rows()[0] == first and page.text("#events-pause") == "Resume")
    page.run("document.querySelector('#events-pause').click()")
    check("resume: the rows go on", until(lambda: page.rows()[0] != first, 5))
    before = page.rows()
    numbers = page.run("return [...document.querySelectorAll('#events-rows time')].map((t) => t.dateTime)")
    check("live: the rows are in order and none is there twice", numbers == sorted(numbers, reverse=True) and len(set(numbers)) == len(numbers), len(before))


# ---- Keyboard and motion -------------------------------------------------------------------------------------------

def check_keyboard(page, check):
    page.look(1280, 900)
    page.open("healthy")
    page.find("#events-pause").click()
    page.run("document.activeElement.blur(); document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    time.sleep(1)
    wanted = page.run(FOCUSABLE)
    page.run("document.querySelector('.skip').focus(); document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    reached, blind = [], []
    page.run("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    for _ in range(len(wanted) + 5):
        page.press("Tab")
        name, outline, visible = page.run("""
          const e = document.activeElement; const s = getComputedStyle(e); const b = e.getBoundingClientRect();
          return [e === document.body ? null : nameOf(e), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2,
                  b.bottom > 0 && b.top < innerHeight && b.width > 0]""")
        if name is None or name in reached:
            break
        reached.append(name)
        if not (outline and visible):
            blind.append(name)
    check("keyboard: Tab reaches every control", set(reached) >= set(wanted), f"{len(reached)} of {len(wanted)} {sorted(set(wanted) - set(reached)) or ''}")
    check("keyboard: in the order of the page", [name for name in reached if name in wanted] == wanted)
    check("keyboard: the focus is always visible", not blind, blind or "")
    check("keyboard: the skip link comes first", reached[0] == "A##main", reached[0])
    page.run("document.querySelector('#chart-latency').focus()")
    newest = page.run("return document.activeElement.getAttribute('aria-valuetext')")
    page.press("Home")
    oldest = page.run("return document.activeElement.getAttribute('aria-valuetext')")
    check("keyboard: the arrow keys read a chart", newest != oldest and "p50" in oldest, oldest)
    page.shot("keyboard-1280-light")
    page.run("document.querySelector('.skip').focus()")
    page.press("Enter", "\r")
    check("keyboard: the skip link leads to the status", page.run("return document.activeElement.id") == "main")


def check_motion(page, check):
    page.look(1280, 900, motion="reduce")
    page.open("counting")
    check("reduced motion: nothing moves", page.run("return document.getAnimations().length") == 0)
    page.look(1280, 900)


# ---- Death and return of the service -------------------------------------------------------------------------------

def check_death(page, check, mock):
    page.look(1280, 900)
    page.open("hostile")
    files = page.text("#facts .figure")
    mock.stop()
    check("death: the page says so", until(lambda: page.text("#sentence") == "The service does not answer.", 12), page.text("#sentence"))
    check("death: the title says so", "no answer" in page.driver.title)
    time.sleep(3)
    check("death: it says how old the values are", re.search(r"The values below are [\d.]+ s old", page.text("#more")), page.text("#more"))
    check("death: the last values stay, greyed", page.text("#facts .figure") == files
          and page.run("return getComputedStyle(document.querySelector('#values')).filter") == "grayscale(1)")
    check("death: the live view says so", page.text("#events-live") == "not connected, tries again")
    for mode in ["light", "dark"]:
        page.look(1280, 900, mode)
        time.sleep(0.3)
        page.shot(f"down-1280-{mode}")
        worst = page.run(CONTRAST)[0]
        check(f"death: contrast in {mode} mode", worst[0] >= LEAST_CONTRAST, f"{worst[0]:.2f} at {worst[1]} {worst[2]!r}")
    page.look(1280, 900)
    mock.start()
    check("return: the page is back by itself", until(lambda: page.run("return document.documentElement.dataset.link") == "up", 20))
    check("return: the live view is back", until(lambda: page.text("#events-live") == "live", 20), page.text("#events-live"))
    first = page.rows()[0]
    check("return: new events come", until(lambda: page.rows()[0] != first, 15))


def check_files(check):
    page = (PAGE / "index.html").read_text()
    check("files: no inline script or style", not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", page))
    for name in ["index.html", "style.css", "app.js", "view.js", "events.js"]:
        text = (PAGE / name).read_text().replace("http://www.w3.org/2000/svg", "")
        check(f"files: {name} asks for nothing elsewhere", not re.search(r"https?://|@import|url\(", text))
    for name in ["app.js", "view.js", "events.js"]:
        text = (PAGE / name).read_text()
        check(f"files: {name} makes no markup from text", not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axe", type=pathlib.Path)
    parser.add_argument("--only", help="a scenario, or one of: files, sentences, words, hostile-names, many-events, old-paths, reading, keyboard, motion, death")
    flags = parser.parse_args()
    SHOTS.mkdir(exist_ok=True)
    axe = flags.axe and flags.axe.read_text()
    check, mock = Checks(), Mock()
    page = Page(mock.port)
    parts = {name: (lambda name=name: check_scenario(page, check, name, axe)) for name in SCENARIOS} | {
        "files": lambda: check_files(check), "sentences": lambda: check_sentences(page, check),
        "words": lambda: check_words(page, check),
        "hostile-names": lambda: check_hostile(page, check), "many-events": lambda: check_many(page, check),
        "old-paths": lambda: check_old_paths(page, check),
        "reading": lambda: check_reading(page, check), "keyboard": lambda: check_keyboard(page, check),
        "motion": lambda: check_motion(page, check), "death": lambda: check_death(page, check, mock)}
    try:
        for name, part in parts.items():
            if flags.only in (None, name):
                part()
                complaints = page.complaints(EXPECTED.get(name))
                check(f"{name}: no console error and no CSP violation", not complaints, "; ".join(complaints))
    finally:
        page.close()
        mock.stop()
    sys.exit(check.end())


if __name__ == "__main__":
    main()
