// How values become things to see: elements, text and charts. Nothing in this file asks the service for anything.

// ---- Elements --------------------------------------------------------------------------------------------------

/**
 * Makes an element. Strings become text nodes, so no name of a file can ever become markup.
 * `attributes` are set as they are; null and false leave an attribute out.
 */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

/** Sets a text only if it differs, so that a selection stays and a screen reader does not repeat itself. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replaces the children only if `key` differs from the last time. The values rarely change between two answers. */
export function refill(element, key, children) {
  const text = JSON.stringify(key);
  if (element.filledWith === text) return;
  element.filledWith = text;
  element.replaceChildren(...children());
}

// ---- Names of files --------------------------------------------------------------------------------------------

// Control, format (with the bidi overrides), lone surrogate and line separator characters. U+200C and U+200D stay:
// Persian, Indic scripts and emoji need them to look right. Of a stack of marks on one letter six stay: no language has
// more, and a higher one covers the lines around it.
const UNSEEN = /(?:(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}])+|(?<=\p{M}{6})\p{M}+/gu;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0" };
const LONGEST = 200;
const HEAD = 90;
const TAIL = 60;
const LONGEST_ESCAPE = 6;

const escaped = (character) =>
  SHORT[character] ?? `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** A name as nodes. Characters that cannot be seen, or that would reorder the text, are shown as marked escapes. */
export function visible(text) {
  const nodes = [];
  let from = 0;
  for (const run of text.matchAll(UNSEEN)) {
    if (run.index > from) nodes.push(text.slice(from, run.index));
    const characters = Array.from(run[0]);
    const more = characters.length - LONGEST_ESCAPE;
    const shown = characters.slice(0, more > 0 ? LONGEST_ESCAPE : undefined).map(escaped).join(" ");
    nodes.push(make("span", { class: "escape" }, more > 0 ? `${shown} and ${number(more)} more` : shown));
    from = run.index + run[0].length;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

/** The same as one string, for a place that takes only text, such as the title of the page. */
export const legible = (text) => visible(text).map((node) => node.textContent ?? node).join("");

/**
 * A path as an element: the folder quiet, the name of the file strong. The name is a bidi island, so that an Arabic or
 * Hebrew folder does not change where it stands. A very long path is cut in the middle and opens on demand.
 */
export function path(text) {
  return cut(make("span", { class: "path" }), text, pathParts,
    (tail) => [make("bdi", { class: "name" }, ...visible(tail))]);
}

/** Fills `element` with the parts of a text, or with its two ends and a button that opens it. */
export function cut(element, text, parts, tailParts = parts) {
  const characters = text.length > LONGEST ? Array.from(text) : [];
  if (characters.length <= LONGEST) return fill(element, {}, parts(text));
  const head = characters.slice(0, HEAD).join("");
  const tail = characters.slice(-TAIL).join("");
  const open = make("button", { type: "button", class: "cut" },
    `… ${number(characters.length - HEAD - TAIL)} more characters …`);
  open.addEventListener("click", () => {
    element.replaceChildren(...parts(text));
    // The button is gone: the focus stays at the text that it opened.
    element.setAttribute("tabindex", "-1");
    element.focus();
  });
  return fill(element, {}, [...parts(head), open, ...tailParts(tail)]);
}

function pathParts(text) {
  const slash = text.lastIndexOf("/") + 1;
  return [...visible(text.slice(0, slash)), make("bdi", { class: "name" }, ...visible(text.slice(slash)))];
}

// ---- Numbers, sizes and times ----------------------------------------------------------------------------------

// Some browsers name a language that Intl refuses. The page then uses the language of the browser's own texts.
const languages = (() => {
  try { return Intl.NumberFormat.supportedLocalesOf(navigator.languages); } catch { return undefined; }
})();
const whole = new Intl.NumberFormat(languages, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(languages, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(languages, { notation: "compact", maximumFractionDigits: 1 });
const percentage = new Intl.NumberFormat(languages, { style: "percent", maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(languages, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat(languages, { hour: "2-digit", minute: "2-digit" });
const dated = new Intl.DateTimeFormat(languages, { dateStyle: "medium", timeStyle: "short" });
const day = new Intl.DateTimeFormat(languages, { month: "short", day: "numeric" });

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const short = (value) => (value < 10 ? fine.format(value) : compact.format(value));
/** Never rounds up to 100 %: a scan that still runs is not done. 0.29 * 100 is a little less than 29. */
export const percent = (share) => percentage.format(Math.floor(share * 100 + 1e-9) / 100);
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

const SIZES = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** A size in decimal units, as disks are sold and as most file managers show them. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  if (bytes === 1) return "1 byte";
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < SIZES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${(unit > 0 && value < 99.95 ? fine : whole).format(value)} ${SIZES[unit]}`;
}

/** A duration in its largest unit, with the next one where it matters: `40 s`, `3 min`, `2 h 10 min`, `4 days`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${fine.format(Math.max(0, seconds))} s`;
  if (seconds < 59.5) return `${whole.format(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${whole.format(Math.round(minutes / 1440))} days`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1000 ? `${(value < 10 ? fine : whole).format(value)} ms` : duration(value / 1000);
}

/** The length of a track, as players show it: `3:04`. */
export function length(seconds) {
  const all = Math.round(seconds);
  const rest = [Math.floor(all / 60) % 60, all % 60].map((part) => String(part).padStart(2, "0"));
  const hours = Math.floor(all / 3600);
  return hours ? `${hours}:${rest.join(":")}` : `${Math.floor(all / 60)}:${rest[1]}`;
}

/** The clock of the service, which may differ from the one of this device. */
export const serviceClock = {
  ahead: 0,
  set(now) { this.ahead = Date.parse(now) - Date.now() || 0; },
  now() { return Date.now() + this.ahead; },
};

const secondsSince = (time) => Math.max(0, (serviceClock.now() - Date.parse(time)) / 1000);
export const ago = (time) => (secondsSince(time) < 5 ? "just now" : `${duration(Math.floor(secondsSince(time)))} ago`);
export const atMinute = (milliseconds) => minute.format(milliseconds);

/** A time of day, with the date if it was not today. The full time in UTC is in the tooltip. */
export function time(text, { full = false } = {}) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return make("span", {}, "–");
  const today = date.toDateString() === new Date(serviceClock.now()).toDateString();
  const shown = full ? dated.format(date) : today ? clock.format(date) : `${day.format(date)}, ${minute.format(date)}`;
  return make("time", { datetime: text, title: date.toISOString() }, shown);
}

// ---- Charts ----------------------------------------------------------------------------------------------------

const HEIGHT = 118;
const TOP = 8;
const BOTTOM = 18;
const LEFT = 46;

/** The end of the axis: the next of 1, 2, 4, 5 and 8 times a power of ten. Each can be halved into a short number. */
function axisEnd(highest, smallest) {
  const aim = Math.max(highest, smallest);
  const power = 10 ** Math.floor(Math.log10(aim));
  return power * [1, 2, 4, 5, 8, 10].find((step) => step * power >= aim * 0.999);
}

/**
 * A chart over the last hour. `series` are `{name, kind: "bars"|"area"|"line", tone}`, `format` words a value and
 * `words` words a point for the readout. The arrow keys move the readout, as the pointer does.
 */
export class Chart {
  constructor({ id, title, series, format, words, smallest = 4 }) {
    Object.assign(this, { series, format, words, smallest, title, values: [], step: 60, at: null });
    this.now = make("p", { class: "chart-now" });
    this.side = make("p", { class: "chart-side" });
    this.svg = drawn("svg", { height: HEIGHT, width: "100%", "aria-hidden": "true" });
    this.plot = make("div", {
      class: "plot", id, role: "slider", tabindex: "0", "aria-label": `${title}, minute by minute`,
      "aria-valuemin": "0", "aria-orientation": "horizontal", "aria-readonly": "true",
    }, this.svg);
    const keys = series.length < 2 ? [] : series.map(({ name, tone }) =>
      make("span", { class: `key ${tone}` }, name));
    this.element = make("figure", { class: "chart" },
      make("figcaption", {}, make("h3", {}, title), make("span", { class: "keys" }, ...keys)),
      make("div", { class: "chart-figures" }, this.now, this.side), this.plot);
    this.listen();
  }

  listen() {
    this.plot.addEventListener("pointermove", (event) => {
      const box = this.plot.getBoundingClientRect();
      this.point(Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT)) * this.count));
    });
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("focus", () => this.point(this.at ?? this.count - 1));
    this.plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
      const ends = { Home: 0, End: this.count - 1 };
      if (!(event.key in moves) && !(event.key in ends)) return;
      event.preventDefault();
      this.point(ends[event.key] ?? (this.at ?? this.count - 1) + moves[event.key]);
    });
    // The chart is drawn in real pixels, so that its text is never stretched.
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** `values` has one list for each series, oldest first; null is a minute without a value. */
  update(values, step, now, side) {
    Object.assign(this, { values, step });
    this.count = Math.max(1, ...values.map((list) => list.length));
    say(this.now, now);
    say(this.side, side);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    const key = JSON.stringify([width, this.values]);
    if (width === 0 || !this.count || key === this.drawnWith) return;
    this.drawnWith = key;
    const known = this.values.flat().filter((value) => value !== null);
    const end = axisEnd(Math.max(0, ...known), this.smallest);
    const x = (index) => LEFT + (index / this.count) * (width - LEFT);
    const y = (value) => HEIGHT - BOTTOM - (value / end) * (HEIGHT - BOTTOM - TOP);
    this.cursor = drawn("path", { class: "cursor", "vector-effect": "non-scaling-stroke" });
    this.svg.replaceChildren(
      ...this.axis(width, y, end),
      ...this.series.map((series, index) => this.shape(series, this.values[index], x, y)),
      ...(known.length ? [] : [drawn("text",
        { class: "empty", x: (width + LEFT) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No values yet")]),
      this.cursor,
    );
    this.x = x;
    this.point(this.at);
  }

  axis(width, y, end) {
    const lines = [0, end / 2, end].map((value) =>
      drawn("path", { class: value ? "grid" : "base", d: `M${LEFT} ${Math.round(y(value)) + 0.5}H${width}` }));
    const marks = [0, end / 2, end].map((value) => drawn("text",
      { class: "tick", x: LEFT - 7, y: Math.round(y(value)) + 4, "text-anchor": "end" },
      value ? this.format(value) : "0"));
    const span = (this.count * this.step) / 60;
    const times = [[LEFT, "start", `${number(span)} min ago`], [(width + LEFT) / 2, "middle", number(span / 2)],
      [width, "end", "now"]]
      .map(([at, anchor, text]) => drawn("text", { class: "tick", x: at, y: HEIGHT - 4, "text-anchor": anchor }, text));
    return [...lines, ...marks, ...times];
  }

  /** One path for a series, whatever its number of values: the DOM stays small. */
  shape({ kind, tone }, values, x, y) {
    const step = x(1) - x(0);
    const bar = Math.max(1, step - (step > 4 ? 1.5 : 0.5));
    const base = y(0);
    let path = "";
    let start = null;
    values.forEach((value, index) => {
      if (value === null) { start = null; return; }
      if (kind === "bars") {
        const top = Math.min(y(value), base - 1).toFixed(1);
        if (value > 0) path += `M${x(index).toFixed(1)} ${base}V${top}h${bar.toFixed(1)}V${base}z`;
        return;
      }
      const point = `${x(index + 0.5).toFixed(1)} ${y(value).toFixed(1)}`;
      path += start === null ? `M${point}h.1` : `L${point}`;
      start ??= x(index + 0.5);
      const last = index === values.length - 1 || values[index + 1] === null;
      if (kind === "area" && last) path += `V${base}H${start.toFixed(1)}z`;
    });
    return drawn("path", { class: `${kind} ${tone}`, d: path });
  }

  /** Moves the readout to a minute, or takes it away with null. */
  point(index) {
    if (!this.count) return;
    this.at = index === null ? null : Math.min(this.count - 1, Math.max(0, index));
    const at = this.at ?? this.count - 1;
    const words = this.wordsAt(at);
    this.plot.setAttribute("aria-valuemax", this.count - 1);
    this.plot.setAttribute("aria-valuenow", at);
    this.plot.setAttribute("aria-valuetext", words);
    this.plot.toggleAttribute("data-reads", this.at !== null);
    if (this.at === null) this.plot.removeAttribute("data-words");
    else this.plot.setAttribute("data-words", words);
    if (!this.x) return;
    const middle = this.x(at + 0.5).toFixed(1);
    this.cursor.setAttribute("d", this.at === null ? "" : `M${middle} ${TOP}V${HEIGHT - BOTTOM}`);
  }

  wordsAt(index) {
    const back = ((this.count - 1 - index) * this.step) / 60;
    const when = `${atMinute(serviceClock.now() - back * 60000)}`;
    const values = this.values.map((list) => list[index] ?? null);
    return values.every((value) => value === null) ? `${when}: no value` : `${when}: ${this.words(...values)}`;
  }
}

// ---- Bars ------------------------------------------------------------------------------------------------------

/** A table of shares: a name, a bar, the number of files and their size. */
export function shareTable(caption, rows) {
  const most = Math.max(1, ...rows.map((row) => row.files));
  return make("table", { class: "share" },
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...["Name", "Share", "Files", "Size"].map((name) =>
      make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, make("bdi", {}, ...visible(row.name))),
      make("td", { class: "share-bar" }, drawn("svg", { height: 10, width: "100%", "aria-hidden": "true" },
        drawn("rect", { height: 10, rx: 2, width: `${((row.files / most) * 100).toFixed(2)}%` }))),
      make("td", {}, number(row.files)),
      make("td", {}, size(row.bytes))))));
}
