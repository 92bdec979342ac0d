"""A headless Chromium with the page in it, and the checks that both scripts make with it.

It needs Debian's chromium, chromium-driver and python3-selenium.
"""

import re
import shutil
import socket
import tempfile
import time

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en-US",
         "--force-color-profile=srgb", "--no-first-run", "--disable-background-networking"]
# What the browser logs by itself when the service has died.
LOST = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"

# Runs before the page does, so that nothing it does is missed.
WITNESS = """
window.witness = {alerts: 0, violations: [], errors: []};
window.alert = () => { window.witness.alerts += 1; };
document.addEventListener('securitypolicyviolation', (e) =>
  window.witness.violations.push(e.violatedDirective + ' ' + e.blockedURI));
window.addEventListener('error', (e) => window.witness.errors.push(String(e.message)));
window.addEventListener('unhandledrejection', (e) => window.witness.errors.push(String(e.reason)));
"""

OUTSIDE = """
return [...document.querySelectorAll('main *, header *, footer *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && e.checkVisibility() && box.right > document.documentElement.clientWidth + 1
    && !e.closest('.unseen, thead, .about, .share');
}).map((e) => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 20)).slice(0, 4);
"""
FROM_NAMES = "main img, main script, main iframe, main b, main i, [onerror], [onload]"


class Checks:
    """Prints every check and counts them."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def __call__(self, name, is_right, found=""):
        if is_right:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok' if is_right else 'FAILED'} {name}{f' ({found})' if found != '' else ''}", flush=True)

    def end(self):
        """Prints the sums and returns the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


class Browser:
    """`script` runs in every page before the page's own. With `log_requests`, every request is kept."""

    def __init__(self, script="", log_requests=False):
        self.folder = tempfile.mkdtemp(prefix="page-browser-")
        self.driver = self.service = None
        try:
            self.start(log_requests)
            self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WITNESS + script)
            self.look(1280, 900)
        except BaseException:
            self.close()
            raise

    def start(self, log_requests):
        options = Options()
        options.binary_location = path_of("chromium")
        for flag in [*FLAGS, f"--user-data-dir={self.folder}"]:
            options.add_argument(flag)
        logs = {"browser": "ALL"} | ({"performance": "ALL"} if log_requests else {})
        options.set_capability("goog:loggingPrefs", logs)
        self.service = Service(path_of("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=self.service)

    def close(self):
        """Ends the browser and its driver, and removes what they wrote."""
        try:
            if self.driver:
                self.driver.quit()
        finally:
            if self.service and getattr(self.service, "process", None):
                self.service.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def cdp(self, command, **values):
        return self.driver.execute_cdp_cmd(command, values)

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def from_view(self, call):
        """The value of a call of view.js."""
        return self.driver.execute_async_script(
            f"import('/view.js').then((view) => arguments[0](view.{call}), (e) => arguments[0](String(e)))")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def rows(self):
        return self.texts("#events-rows tr")

    def look(self, width, height, mode="light", motion="no-preference"):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode},
                                                         {"name": "prefers-reduced-motion", "value": motion}])

    def settle(self):
        """Waits until the page has drawn itself, charts included."""
        self.driver.execute_async_script(
            "const wait = (left) => requestAnimationFrame(() => left ? wait(left - 1) : arguments[0]()); wait(2);")

    def open_lists(self):
        self.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        return until(lambda: "Loading" not in self.text("#problems"), 20)

    def choose(self, kind):
        """The filter by type; an empty text for all types."""
        self.run("const s = document.querySelector('#events-type'); s.value = arguments[0]; "
                 "s.dispatchEvent(new Event('change'))", kind)

    def complaints(self, ignored=None):
        """What the console, the content security policy and uncaught errors say, less the pattern that is expected."""
        log = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        said = self.run("return [...window.witness.violations, ...window.witness.errors]")
        return [line for line in log + said if not (ignored and re.search(ignored, line))]


def path_of(command):
    path = shutil.which(command)
    if not path:
        raise SystemExit(f"{command} is missing: tests/run installs it")
    return path


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(is_so, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.1)
    return False


def check_overflow(page, check, name):
    widths = page.run("const root = document.documentElement; "
                      "return [root.scrollWidth, document.body.scrollWidth, root.clientWidth]")
    outside = page.run(OUTSIDE)
    check(f"{name}: no horizontal scrolling", max(widths[:2]) <= widths[2] and not outside, f"{widths} {outside or ''}")


def check_no_markup(page, check, name):
    """No name of a file has become a part of the page."""
    check(f"{name}: no alert", page.run("return window.witness.alerts") == 0)
    check(f"{name}: no image, script or frame from a name",
          page.run("return document.querySelectorAll(arguments[0]).length", FROM_NAMES) == 0)
