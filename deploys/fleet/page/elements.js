// Elements out of text, and text out of values: what all of the page is made with.

/** What stands beside a severity's name, so that colour is never the only sign; from the best to the worst. */
const SHAPES = new Map([["ok", "●"], ["attention", "▲"], ["wrong", "◆"], ["down", "■"]]);
const SEVERITIES = [...SHAPES.keys()];

/**
 * An element with attributes and children; those that are null, undefined or false are left out.
 * Text becomes text nodes and nothing else: no name in the document is ever read as markup.
 */
function element(name, attributes = {}, ...children) {
  const is = (value) => value !== null && value !== undefined && value !== false;
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (is(value)) made.setAttribute(key, value);
  made.append(...children.flat().filter(is));
  return made;
}

/** Text that only a screen reader gets, where the eye has a place or a colour. */
const spoken = (text) => element("span", { class: "spoken" }, text);

/** Text that says less than what it stands behind. */
const smallNote = (text) => element("small", {}, ` ${text}`);

/** Text with the shape and the colour of a severity. */
function marked(severity, text) {
  const shape = element("span", { class: "shape", "aria-hidden": "true" }, SHAPES.get(severity) ?? "?");
  return element("span", { class: `mark ${severity}` }, shape, " ", text);
}

/** A button that shows and hides what `build` makes, which is made when it is first asked for. */
function unfolding(label, build) {
  const button = element("button", { type: "button", class: "unfold", "aria-expanded": "false" }, label);
  const whole = element("div", { class: "folded" }, button);
  let content = null;
  button.addEventListener("click", () => {
    if (content === null) whole.append((content = build()));
    const open = button.getAttribute("aria-expanded") === "false";
    button.setAttribute("aria-expanded", String(open));
    content.hidden = !open;
  });
  return whole;
}

/** A table in a box of its own: what is too wide scrolls in there, also by keyboard, and never the page. */
function scrolling(label, table) {
  return element("div", { class: "box", role: "region", "aria-label": label, tabindex: "0" }, table);
}

/** `1 board`, `2 boards`. */
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** An amount of memory or disk in binary units: 1310000000 KiB are `1.2 TiB`. */
function size(kib) {
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  for (; kib >= 1024 && unit < units.length - 1; unit++) kib /= 1024;
  return `${kib >= 10 || unit === 0 ? Math.round(kib) : kib.toFixed(1)} ${units[unit]}`;
}

/** A moment in UTC, `2026-11-22 22:40 UTC`: readers of one fleet are in many zones. Null for what is no moment. */
function moment(milliseconds) {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? null : `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** A span of time in its largest unit: `2 h`, `12 d`. */
function span(milliseconds) {
  if (Number.isNaN(milliseconds)) return "?";
  const minutes = Math.max(0, Math.floor(milliseconds / 60_000));
  if (minutes < 60) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / (24 * 60))} d`;
}
