// The list of events: the newest live, older ones on demand, searched by path and filtered by type.

import { counted, find, length, make, path, say, size, time, visible } from "/view.js";

const PAGE = 100;
// The list never has more rows than this, whatever the service keeps or sends.
const MOST_ROWS = 150;
// A mark helps the eye with a few new rows. With many it would only flicker.
const MARKED_ROWS = 10;
const DRAW_EVERY = 400;
// A flood, such as that of a first scan, is drawn more slowly and with fewer rows: nobody can read it anyway.
const FLOOD = 40;
const DRAW_FLOOD_EVERY = 1000;
const TYPING_PAUSE = 200;
const RECONNECT = 5000;
// A proxy may hold the live stream back. The list does not wait longer than this for it.
const OPENING = 1000;

export class Events {
  /** `ask` asks the service for JSON. */
  constructor(ask) {
    Object.assign(this, {
      ask, source: null, request: null, timer: null, retry: null, opening: null,
      shown: [],        // the events of the rows, newest first
      waiting: [],      // events that came but are not drawn yet, newest first, at most FLOOD of them
      missed: 0,        // how many came while the list was held
      newest: 0,        // the highest sequence that came
      detached: false,  // whether newer events than the first row were left out to make room for older ones
      paused: false, pointed: false, state: "connecting", pace: DRAW_EVERY,
      filter: { type: "", path: "" },  // what the rows are filtered by: a text that is being typed is not yet in it
    });
    this.scroll = find("events-scroll");
    this.rows = find("events-rows");
    this.listen();
  }

  listen() {
    const input = find("events-path");
    let typing = null;
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.load(), TYPING_PAUSE);
    });
    find("events-type").addEventListener("change", () => this.load());
    find("events-pause").addEventListener("click", () => this.pause(!this.paused));
    find("events-older").addEventListener("click", () => this.loadOlder());
    find("events-newer").addEventListener("click", () => this.toNewest());
    this.scroll.addEventListener("scroll", () => { if (!this.held()) this.drawSoon(); }, { passive: true });
    this.scroll.addEventListener("focusout", () => this.drawSoon());
    // A mouse that rests on the list reads it. A finger leaves no pointer behind, so touch is left out.
    this.scroll.addEventListener("pointerenter", (event) => { this.pointed = event.pointerType === "mouse"; });
    this.scroll.addEventListener("pointerleave", () => { this.pointed = false; this.drawSoon(); });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.disconnect();
      else this.restart();
    });
  }

  // ---- Loading ----

  address(before) {
    const query = new URLSearchParams({ limit: PAGE });
    if (before) query.set("before", before);
    for (const [name, value] of Object.entries(this.filter)) if (value) query.set(name, value);
    return `/api/events?${query}`;
  }

  /**
   * Starts again, as after a restart of the service: sequences may begin anew. The list is loaded when the stream is
   * open, so that no event falls between the two.
   */
  restart() {
    if (document.hidden) return;
    this.newest = 0;
    this.connect();
    this.opening = setTimeout(() => this.catchUp(), OPENING);
  }

  /** Loads what passed while the live view was away. Rows that are being read stay until the reader asks. */
  catchUp() {
    if (this.held() && this.shown.length) this.detached = true;
    else this.load();
  }

  /** One request at a time: the answer to an old search must not replace the one to a new search. */
  async fetchPage(before) {
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    try {
      return await this.ask(this.address(before), AbortSignal.any([request.signal, AbortSignal.timeout(10000)]));
    } catch (error) {
      if (!request.signal.aborted) this.end(`The events cannot be loaded: ${error.message}.`, false);
      return null;
    } finally {
      if (this.request === request) this.request = null;
      this.drawSoon();
    }
  }

  async load() {
    this.filter = { type: find("events-type").value, path: find("events-path").value };
    const page = await this.fetchPage();
    if (!page) return;
    // Events that arrived live during the request are newer than the answer, or part of it.
    const first = page.events[0]?.sequence ?? 0;
    this.waiting = this.waiting.filter((event) => event.sequence > first && this.matches(event));
    Object.assign(this, { missed: this.waiting.length, detached: false, shown: page.events });
    this.newest = Math.max(this.newest, first);
    this.rows.replaceChildren(...page.events.map(eventRow));
    this.scroll.scrollTop = 0;
    this.endOf(page);
    this.draw();
  }

  async loadOlder() {
    const page = await this.fetchPage(this.shown.at(-1)?.sequence);
    if (!page) return;
    this.shown.push(...page.events);
    this.rows.append(...page.events.map(eventRow));
    const extra = this.shown.length - MOST_ROWS;
    if (extra > 0) this.dropNewest(extra);
    this.endOf(page);
    this.tell();
  }

  /** Makes room for older rows. The rows that are being read stay where they are. */
  dropNewest(count) {
    const before = this.scroll.scrollHeight;
    this.shown.splice(0, count);
    for (let left = count; left > 0; left -= 1) this.rows.firstElementChild.remove();
    this.scroll.scrollTop -= before - this.scroll.scrollHeight;
    this.detached = true;
  }

  endOf({ has_more: hasMore }) {
    const { type, path: part } = this.filter;
    this.scroll.toggleAttribute("data-empty", !this.shown.length && !type && !part);
    if (hasMore) this.end("", true);
    else if (this.shown.length) this.end("No older events are kept.", false);
    else this.end(type || part ? "No event matches." : "No event yet. Events appear here as files change.", false);
  }

  end(text, hasMore) {
    say(find("events-end"), text);
    find("events-older").hidden = !hasMore;
  }

  // ---- Live ----

  connect() {
    this.disconnect();
    this.source = new EventSource("/api/events/live");
    this.source.addEventListener("change", (message) => this.take(JSON.parse(message.data)));
    // The browser also opens the stream again by itself. Events may have passed before each time.
    this.source.addEventListener("open", () => {
      clearTimeout(this.opening);
      this.state = "live";
      this.catchUp();
      this.tell();
    });
    this.source.addEventListener("error", () => {
      this.state = "lost";
      this.tell();
      // The browser tries again by itself unless the service answered with an error.
      if (this.source.readyState === EventSource.CLOSED) this.retry = setTimeout(() => this.restart(), RECONNECT);
    });
  }

  disconnect() {
    clearTimeout(this.retry);
    clearTimeout(this.opening);
    this.source?.close();
  }

  /** As the service does it: the text is looked for in the path before a move too. */
  matches({ type, path: name, old_path: oldName }) {
    const wanted = this.filter;
    const text = wanted.path.toLowerCase();
    return (!wanted.type || wanted.type === type)
      && (!text || [name, oldName].some((one) => one?.toLowerCase().includes(text)));
  }

  take(event) {
    if (event.sequence <= this.newest) return;
    this.newest = event.sequence;
    if (!this.matches(event)) return;
    this.waiting.unshift(event);
    this.missed += 1;
    if (this.waiting.length > FLOOD) this.waiting.pop();
    this.drawSoon();
  }

  /** Whether the rows must not move: somebody reads them. */
  held() {
    const selection = document.getSelection();
    return this.paused || this.detached || this.pointed || this.scroll.scrollTop > 2
      || this.scroll.contains(document.activeElement)
      || (!selection.isCollapsed && this.rows.contains(selection.anchorNode));
  }

  /** A scan can send thousands of events a second. They are drawn a few times a second, in one go. */
  drawSoon() {
    this.timer ??= setTimeout(() => { this.timer = null; this.draw(); }, this.pace);
  }

  draw() {
    // The answer to a request replaces the rows. What comes meanwhile waits for it, so that it is not lost.
    if (!this.held() && !this.request && this.waiting.length) this.drawWaiting();
    this.tell();
  }

  drawWaiting() {
    const came = this.waiting.splice(0);
    this.pace = came.length < FLOOD ? DRAW_EVERY : DRAW_FLOOD_EVERY;
    // More came than were kept: what is shown is no longer next to them, and "load older" brings the rest.
    if (this.missed > came.length) this.shown = [];
    this.missed = 0;
    const kept = this.shown.slice(0, MOST_ROWS - came.length);
    while (this.rows.children.length > kept.length) this.rows.lastElementChild.remove();
    if (kept.length < this.shown.length) this.end("", true);
    else if (!kept.length) this.end("", this.newest > came.length);
    this.scroll.removeAttribute("data-empty");
    this.shown = [...came, ...kept];
    const rows = came.map(eventRow);
    if (came.length <= MARKED_ROWS) for (const row of rows) row.classList.add("new");
    this.rows.prepend(...rows);
  }

  pause(paused) {
    this.paused = paused;
    find("events-pause").setAttribute("aria-pressed", String(paused));
    say(find("events-pause"), paused ? "Resume" : "Pause");
    if (!paused) this.scroll.scrollTop = 0;
    if (!paused && this.detached) this.load();
    else this.draw();
  }

  toNewest() {
    this.pointed = false;
    this.detached = true;
    this.pause(false);
    find("events-pause").focus({ preventScroll: true });
  }

  /** Says how live the list is, and whether newer events wait. */
  tell() {
    const held = this.held();
    const isLive = this.state === "live";
    const words = this.paused ? "paused" : held ? "held while you read" : "live";
    say(find("events-live"), isLive ? words : "not connected, tries again");
    find("events-live").dataset.state = isLive ? held ? "held" : "live" : "lost";
    const newer = find("events-newer");
    newer.hidden = !(held && (this.missed > 0 || this.detached));
    say(newer, this.missed ? `Show ${counted(this.missed, "newer event")}` : "Show the newest events");
  }
}

// ---- Rows ------------------------------------------------------------------------------------------------------

function eventRow(event) {
  const facts = [event.duration_seconds === null ? null : length(event.duration_seconds), event.details];
  return make("tr", { role: "row" },
    make("td", { role: "cell", class: "col-time" }, time(event.time)),
    make("td", { role: "cell", class: `col-type type-${event.type}` }, event.type),
    make("td", { role: "cell", class: "col-path" }, path(event.path),
      event.old_path ? make("span", { class: "old" }, "from ", path(event.old_path)) : null),
    make("td", { role: "cell", class: "col-details" }, ...visible(facts.filter(Boolean).join(" · "))),
    make("td", { role: "cell", class: "col-size" }, event.size === null ? "" : size(event.size)));
}
