// The page of file-watcher: asks the service for its status and shows it. The events have their own file.

import { Chart, ago, atMinute, counted, cut, duration, find, legible, make, milliseconds, number, path, percent,
  refill, say, serviceClock, shareTable, short, size, time, visible } from "/view.js";
import { Events } from "/events.js";

// ---- Asking the service ----------------------------------------------------------------------------------------

const POLL_VISIBLE = 2000;
const POLL_HIDDEN = 30000;
const TIMEOUT = 8000;

/** Asks for JSON. An error has the words of the service where it gave any. */
async function ask(address, signal = AbortSignal.timeout(TIMEOUT)) {
  const response = await fetch(address, { signal, cache: "no-store", headers: { Accept: "application/json" } });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `the service answered with status ${response.status}`);
  if (body === null) throw new Error("the answer is not JSON");
  return body;
}

/** Asks for the status for ever. `onDown` is called once a second while the service does not answer. */
class Poll {
  constructor({ onStatus, onDown }) {
    Object.assign(this, { onStatus, onDown, timer: null, asking: false });
    Object.assign(this, { status: null, answered: null, downSince: null });
    document.addEventListener("visibilitychange", () => this.next(document.hidden ? POLL_HIDDEN : 0));
    window.addEventListener("online", () => this.next(0));
    setInterval(() => { if (this.downSince) this.onDown(this); }, 1000);
  }

  next(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.once(), wait);
  }

  async once() {
    if (this.asking) return;
    this.asking = true;
    try {
      const status = await ask("/status");
      const wasDown = this.downSince !== null;
      const isNew = this.status?.started !== status.started;
      Object.assign(this, { status, answered: Date.now(), downSince: null });
      this.onStatus(status, { isNew, wasDown });
    } catch (error) {
      this.downSince ??= Date.now();
      this.reason = error.name === "TypeError" || error.name === "TimeoutError" ? null : error.message;
      this.onDown(this);
    } finally {
      this.asking = false;
      this.next(document.hidden ? POLL_HIDDEN : POLL_VISIBLE);
    }
  }
}

// ---- Is everything all right? ----------------------------------------------------------------------------------

const SEVERITIES = ["error", "warning", "info"];
const LONGEST_CLAUSE = 160;
const sentenceCase = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The summary of a condition as a part of a sentence. */
function clause({ summary }) {
  const text = legible(summary).replace(/\.$/, "");
  return text.length > LONGEST_CLAUSE ? `${text.slice(0, LONGEST_CLAUSE)} …` : text;
}

/** The answer to "is everything all right?": a level for the colour and one sentence. */
function verdict(status) {
  const warnings = status.conditions.filter((condition) => condition.severity === "warning");
  // A severity that this page does not know counts as an error: better a needless look than a missed one.
  const errors = status.conditions.filter((condition) => !["warning", "info"].includes(condition.severity));
  if (errors.length === 1 && !warnings.length) return ["error", `Something is wrong: ${clause(errors[0])}.`];
  if (errors.length) {
    const also = warnings.length ? ` and ${counted(warnings.length, "warning")}` : "";
    return ["error", `Something is wrong: ${counted(errors.length, "error")}${also}.`];
  }
  if (warnings.length === 1) return ["warning", `One thing needs a look: ${clause(warnings[0])}.`];
  if (warnings.length) return ["warning", `${sentenceCase(number(warnings.length))} things need a look.`];
  if (!status.ready && !status.scan.running) return ["busy", "The service is starting."];
  if (status.scan.running && status.scan.is_first) return ["busy", "All is well: the first scan is running."];
  return ["ok", "Everything is all right."];
}

/** What stands under the sentence. It changes often, so it is not read aloud. */
function moreWords({ ready, scan, index, outbox, conditions }) {
  const isToDo = (condition) => condition.severity !== "info" && condition.what_to_do;
  if (conditions.some(isToDo)) return "What to do is below.";
  if (!ready && !scan.running) return "The values follow when it is ready.";
  if (!index.files && !scan.running) return "The library is empty. Files appear here as soon as they are on the disk.";
  const waiting = outbox.messages ? `${counted(outbox.messages, "message waits", "messages wait")} in the outbox`
    : "the outbox is empty";
  return `${counted(index.files, "file")} in the index, ${waiting}.`;
}

function showStatus(status) {
  const [level, sentence] = verdict(status);
  document.documentElement.dataset.link = "up";
  find("status").dataset.level = level;
  say(find("sentence"), sentence);
  say(find("more"), moreWords(status));
  const sign = { ok: "✓", busy: "…", warning: "!", error: "✕" }[level];
  document.title = `${sign} file-watcher: ${sentence}`;
  showConditions(status.conditions);
}

function showDown({ answered, downSince, status, reason }) {
  // Before the first answer there is nothing to keep: an empty page with charts would look like an empty library.
  document.documentElement.dataset.link = status ? "down" : "waiting";
  find("status").dataset.level = "down";
  document.title = "✕ file-watcher: no answer";
  say(find("sentence"), reason ? `The service cannot tell its status: ${reason}.` : "The service does not answer.");
  const since = `No ${reason ? "status" : "answer"} since ${atMinute(downSince)}. The page tries again by itself.`;
  const age = duration(Math.floor((Date.now() - answered) / 1000));
  say(find("more"), status ? `${since} The values below are ${age} old.` : since);
}

function showConditions(conditions) {
  const sorted = [...conditions].sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity));
  const list = find("conditions");
  // The key leaves the times out: they change every second and are set below.
  refill(list, sorted, () => sorted.map(conditionCard));
  sorted.forEach((condition, index) => say(list.children[index].querySelector(".since-ago"), ago(condition.since)));
}

function conditionCard({ severity, summary, details, since, what_to_do: whatToDo }) {
  return make("li", { class: "condition", "data-severity": severity },
    make("div", {},
      make("p", { class: "condition-head" },
        make("span", { class: "severity" }, sentenceCase(severity)),
        make("span", { class: "since" }, "since ", time(since), " (", make("span", { class: "since-ago" }), ")")),
      make("h2", {}, ...visible(sentenceCase(summary))),
      details ? prose("condition-details", details) : null),
    whatToDo ? make("div", { class: "todo" }, make("h3", {}, "What to do"), prose("", whatToDo)) : null);
}

/** Text of the service, which may hold names of files. Only `commands` in backticks look different. */
function prose(className, text) {
  return cut(make("p", { class: className }), text, (part) => part.split("`").flatMap((piece, index) =>
    (index % 2 ? make("code", {}, ...visible(piece)) : visible(piece))));
}

// ---- The scan --------------------------------------------------------------------------------------------------

/** The rate of the scan over the last half minute: the service gives only totals. */
class Rate {
  samples = [];

  add(at, files, bytes) {
    if (this.samples.at(-1)?.files > files) this.samples = [];
    this.samples.push({ at, files, bytes });
    while (this.samples.length > 2 && at - this.samples[0].at > 30000) this.samples.shift();
  }

  get() {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    const seconds = (last.at - first.at) / 1000;
    if (!(seconds > 0)) return null;
    return { files: (last.files - first.files) / seconds, bytes: (last.bytes - first.bytes) / seconds };
  }
}

let rate = new Rate();

function showScan({ scan, now }) {
  const bar = find("scan-bar");
  find("scan").dataset.running = scan.running;
  bar.hidden = !scan.running;
  say(find("scan-heading"), scan.running && scan.is_first ? "First scan" : "Scan");
  if (!scan.running) {
    rate = new Rate();
    say(find("scan-share"), "");
    const took = scan.last_seconds === null ? "" : ` It took ${duration(scan.last_seconds)}.`;
    const last = scan.last_finished && `The last one finished ${ago(scan.last_finished)}.${took}`;
    say(find("scan-text"), last ? `No scan is running. ${last}` : "No scan has finished yet.");
    return;
  }
  rate.add(Date.parse(now), scan.files_seen, scan.bytes_hashed);
  showScanBar(bar, scan);
}

function showScanBar(bar, { files_seen: seen, files_total: total, bytes_hashed: bytes, seconds_left: left }) {
  const known = total > 0;
  if (known) bar.value = Math.min(1, seen / total);
  else bar.removeAttribute("value");
  say(find("scan-share"), known ? percent(Math.min(1, seen / total)) : "");
  const speed = rate.get();
  const files = speed && (speed.files < 10 ? short(speed.files) : number(speed.files));
  say(find("scan-text"), [
    known ? `${number(seen)} of ${counted(total, "file")}` : `${counted(seen, "file")} so far`,
    `${size(bytes)} hashed`,
    speed ? `${files} files/s, ${size(Math.round(speed.bytes))}/s` : null,
    left === null ? "the time left is not known yet" : `${duration(left)} left`,
  ].filter(Boolean).join(" · "));
}

// ---- Key figures -----------------------------------------------------------------------------------------------

const BROKER = {
  connected: "Connected", connecting: "Connecting", refused: "Refused", blocked: "Blocked", none: "No broker",
};
const WATCH = { full: "Full", partial: "Partial", none: "None", polled: "Polled", off: "Off" };
const WATCH_NOTES = { polled: "changes are found by scans", off: "only scans find changes", none: "no change is seen" };

/** The key figures: what it is, the figure, what explains it, and whether it is as it should be. */
function facts({ ready, index, events, outbox, broker, watch, pending, failed, parked }) {
  const published = Object.values(events).reduce((sum, count) => sum + count, 0);
  const kinds = Object.entries(events).filter(([, count]) => count).map(([kind, count]) => `${number(count)} ${kind}`);
  const refused = broker.rejected + broker.returned;
  const toCheck = [failed && `${number(failed)} failed`, parked && `${number(parked)} parked`].filter(Boolean);
  const refusals = `${number(broker.rejected)} rejected, ${number(broker.returned)} returned`;
  const watches = watch.watches === null ? ""
    : watch.watches_allowed === null ? counted(watch.watches, "watch", "watches")
    : `${number(watch.watches)} of ${number(watch.watches_allowed)} watches`;
  return [
    ["Index", counted(index.files, "file"), size(index.bytes)],
    ["Events since the start", number(published), kinds.join(", ") || "none yet"],
    ["Outbox", counted(outbox.messages, "message"),
      outbox.oldest_seconds === null ? "nothing waits" : `oldest ${duration(outbox.oldest_seconds)}`,
      outbox.messages > outbox.limit * 0.8 && "error"],
    ["Broker", BROKER[broker.state] ?? broker.state,
      [broker.node, broker.details, `${number(broker.confirmed)} confirmed`, refused ? refusals : null].filter(Boolean).join(", "),
      { refused: "error", blocked: "error", connecting: ready && "warning" }[broker.state]],
    ["Watch", WATCH[watch.coverage] ?? watch.coverage,
      [WATCH_NOTES[watch.coverage], watches].filter(Boolean).join(", "),
      ready && { none: "error", partial: "warning" }[watch.coverage]],
    ["To check", toCheck.join(", ") || "Nothing",
      pending ? `${counted(pending, "path")} pending` : "no path is pending", failed + parked > 0 && "warning"],
  ];
}

function showFacts(status) {
  const rows = facts(status);
  refill(find("facts"), rows, () => rows.map(([name, figure, note, level]) =>
    make("div", { class: "fact", "data-level": level || "ok" },
      make("dt", {}, name), make("dd", { class: "figure" }, figure),
      make("dd", { class: "fact-note" }, ...visible(note)))));
  say(find("failed-count"), number(status.failed));
}

function showAbout({ library, version, instance_id: instance, started }) {
  refill(find("about"), library, () => visible(library));
  refill(find("foot"), [version, instance, started, library], () =>
    [`file-watcher ${version} · instance ${instance} · started `, time(started, { full: true }), " · library ",
      path(library), " · times are those of this device"]);
}

// ---- The last hour ---------------------------------------------------------------------------------------------

function makeCharts() {
  const charts = {
    files: new Chart({ id: "chart-files", title: "Files per minute", format: short,
      series: [{ name: "files", kind: "bars", tone: "tone-a" }],
      words: (files) => counted(Math.round(files ?? 0), "file") }),
    latency: new Chart({ id: "chart-latency", title: "Event to confirm", format: milliseconds, smallest: 10,
      series: [{ name: "p99", kind: "line", tone: "tone-b" }, { name: "p50", kind: "line", tone: "tone-a" }],
      words: (p99, p50) => `p50 ${milliseconds(p50)}, p99 ${milliseconds(p99)}` }),
    outbox: new Chart({ id: "chart-outbox", title: "Outbox", format: short,
      series: [{ name: "messages", kind: "area", tone: "tone-a" }],
      words: (messages) => counted(messages ?? 0, "message") }),
  };
  find("charts").append(...Object.values(charts).map((chart) => chart.element));
  return charts;
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

/** An old latency must not look like the one of now: without a confirm there is none. */
function latencyWords(p50, p99, step) {
  const last = p50.findLastIndex((value) => value !== null);
  if (last < 0) return ["–", "no event was confirmed"];
  const words = [`p50 ${milliseconds(p50[last])}`, `p99 ${milliseconds(p99[last])}`];
  const minutes = Math.round(((p50.length - 1 - last) * step) / 60);
  return minutes < 2 ? words : ["–", `${minutes} min ago: ${words.join(", ")}`];
}

function showCharts(charts, { history, outbox }) {
  const { step_seconds: step, files, bytes, latency_p50_ms: p50, latency_p99_ms: p99, outbox: queue } = history;
  charts.files.update([files], step, number(files.at(-1)),
    `${counted(sum(files), "file")}, ${size(sum(bytes))} in the hour`);
  charts.latency.update([p99, p50], step, ...latencyWords(p50, p99, step));
  charts.outbox.update([queue], step, counted(outbox.messages, "message"), [
    outbox.oldest_seconds === null ? "nothing waits" : `oldest ${duration(outbox.oldest_seconds)}`,
    `limit ${number(outbox.limit)}`].join(" · "));
}

// ---- The library -----------------------------------------------------------------------------------------------

const LIBRARY_EVERY = 30000;
const ROWS_SHORT = 10;

class Library {
  constructor() { Object.assign(this, { asked: 0, files: null, open: new Set() }); }

  /** Asks again when the index has changed, but not at every change: the service has to count for it. */
  async refresh(files, now = false) {
    if (!now && (files === this.files || Date.now() - this.asked < LIBRARY_EVERY)) return;
    Object.assign(this, { asked: Date.now(), files });
    try {
      this.show(await ask("/api/library"));
      find("library-note").hidden = true;
    } catch (error) {
      this.files = null;
      say(find("library-note"), `The shares cannot be shown: ${error.message}.`);
      find("library-note").hidden = false;
    }
  }

  show(library) {
    // Whoever stands on a button in the tables keeps it.
    if (find("shares").contains(document.activeElement)) return;
    const tables = [["By format", library.formats], ["By size", library.sizes], ["By year", byYear(library.years)]];
    const shown = library.formats.length ? tables.map(([caption, rows]) => this.table(caption, rows))
      : [make("p", { class: "note" }, "No file is in the index.")];
    find("shares").replaceChildren(...shown);
  }

  table(caption, rows) {
    const isLong = rows.length > ROWS_SHORT + 1;
    const isOpen = this.open.has(caption);
    const table = shareTable(caption, isLong && !isOpen ? rows.slice(0, ROWS_SHORT) : rows);
    const box = make("div", { class: "share-box" }, table);
    if (!isLong) return box;
    const all = make("button", { type: "button", class: "plain", "aria-expanded": String(isOpen) },
      isOpen ? "Show fewer" : `Show all ${number(rows.length)}`);
    all.addEventListener("click", () => {
      if (isOpen) this.open.delete(caption);
      else this.open.add(caption);
      const after = this.table(caption, rows);
      box.replaceWith(after);
      after.querySelector("button").focus();
    });
    box.append(all);
    return box;
  }
}

/** Years newest first. Many years become decades, as sixty rows answer no question at a glance. */
function byYear(years) {
  const known = years.filter((year) => /^\d{4}$/.test(year.name)).sort((a, b) => b.name - a.name);
  const others = years.filter((year) => !/^\d{4}$/.test(year.name));
  if (known.length <= ROWS_SHORT) return [...known, ...others];
  const decades = new Map();
  for (const year of known) {
    const name = `${year.name.slice(0, 3)}0s`;
    const decade = decades.get(name) ?? { name, files: 0, bytes: 0 };
    decades.set(name, { name, files: decade.files + year.files, bytes: decade.bytes + year.bytes });
  }
  return [...decades.values(), ...others];
}

// ---- Lists that are loaded when opened --------------------------------------------------------------------------

const LIST_LIMIT = 100;
const GROUP_FILES = 6;

/** Fills a list when it is opened and empties it when it is closed, so that it costs nothing while nobody reads it. */
function loadWhenOpened(id, address, show) {
  const details = find(id);
  const body = details.querySelector(".list-body");
  details.addEventListener("toggle", async () => {
    body.replaceChildren();
    if (!details.open) return;
    body.append(make("p", { class: "note" }, "Loading …"));
    const shown = await ask(`${address}?limit=${LIST_LIMIT}`).then(show, (error) =>
      [make("p", { class: "note" }, `The list cannot be shown: ${error.message}. Close and open it to try again.`)]);
    body.replaceChildren(...shown);
  });
}

function showFailed({ failed, total }) {
  if (!failed.length) return [make("p", { class: "note" }, "No file has failed.")];
  return [...listNote(failed.length, total, "file"), make("table", { class: "list failed-list" },
    make("caption", { class: "unseen" }, "Failed files"),
    make("thead", {}, make("tr", {}, ...["Path", "Error", "Since"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...failed.map((file) => make("tr", {},
      make("td", {}, path(file.path)), make("td", {}, ...visible(file.error)),
      make("td", { class: "when" }, time(file.since))))))];
}

function showDuplicates({ groups, total_groups: total, wasted_bytes: wasted }) {
  say(find("duplicates-count"), number(total));
  if (!groups.length) return [make("p", { class: "note" }, "No two files have the same content.")];
  return [make("p", { class: "note" }, `The extra copies use ${size(wasted)}. The service deletes nothing.`),
    ...listNote(groups.length, total, "group"), make("table", { class: "list" },
      make("caption", { class: "unseen" }, "Groups of files with the same content"),
      make("thead", {}, make("tr", {}, ...["Paths with the same content", "Copies", "Size"].map((name) =>
        make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...groups.map(duplicateRow)))];
}

function duplicateRow({ size: bytes, files }) {
  const hidden = files.length - GROUP_FILES;
  return make("tr", {},
    make("td", {}, ...files.slice(0, GROUP_FILES).map((file) => path(file.path)),
      hidden > 0 ? make("span", { class: "note" }, `and ${number(hidden)} more`) : null),
    make("td", { class: "when" }, counted(files.length, "copy", "copies")),
    make("td", { class: "when" }, `${size(bytes)} each`));
}

const listNote = (shown, total, word) => (shown < total
  ? [make("p", { class: "note" }, `The first ${number(shown)} of ${counted(total, word)}.`)] : []);

// ---- All together ----------------------------------------------------------------------------------------------

/** Shows every part by itself: an answer that one part cannot show must not take the others away. */
function showAll(parts, status) {
  for (const part of parts) {
    try { part(status); } catch (error) { console.error(error); }
  }
}

function start() {
  const charts = makeCharts();
  const library = new Library();
  const events = new Events(ask);
  const parts = [showStatus, showAbout, showScan, showFacts, (status) => showCharts(charts, status)];
  loadWhenOpened("failed", "/api/failed", showFailed);
  loadWhenOpened("duplicates", "/api/duplicates", showDuplicates);
  const poll = new Poll({
    onDown: showDown,
    onStatus(status, { isNew, wasDown }) {
      serviceClock.set(status.now);
      showAll(parts, status);
      library.refresh(status.index.files, isNew || wasDown);
      if (isNew || wasDown) events.restart();
    },
  });
  poll.next(0);
}

start();
