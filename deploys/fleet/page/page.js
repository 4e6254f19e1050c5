// The fleet: a table with filter and order, which live in the URL's fragment with the hosts that are opened.

const fleet = JSON.parse(document.getElementById("document").textContent);
const hosts = fleet.hosts ?? [];
const asOf = Date.parse(fleet.generated);
const severities = [...new Set([...SEVERITIES, ...hosts.map((host) => host.severity)])];
const byText = new Intl.Collator("en", { numeric: true }).compare;

// What is looked at: filter, order and opened hosts.

const BY_SEVERITY = { sort: "severity", descending: true };

function fromFragment(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const sort = given.get("sort") ?? "";
  const key = sort.replace(/^-/, "");
  const order = COLUMNS.some((column) => column.key === key) ? { sort: key, descending: sort !== key } : BY_SEVERITY;
  return {
    ...order,
    query: given.get("filter") ?? "",
    severities: new Set(given.getAll("severity").filter((severity) => severities.includes(severity))),
    open: new Set(given.getAll("open")),
  };
}

/** The same as text. What is as it is without any fragment is left out. */
function toFragment({ query, severities: chosen, sort, descending, open }) {
  const given = new URLSearchParams();
  if (query) given.append("filter", query);
  for (const severity of chosen) given.append("severity", severity);
  if (sort !== BY_SEVERITY.sort || !descending) given.append("sort", `${descending ? "-" : ""}${sort}`);
  for (const name of open) given.append("open", name);
  return `#${given}`;
}

const searched = new Map();

/** All text of a host that the filter looks at. */
function searchable(host) {
  if (!searched.has(host)) {
    const boards = host.boards?.list ?? [];
    const functions = host.topology?.functions ?? [];
    const texts = [
      host.name,
      ...(host.reasons ?? []),
      ...boards.flatMap((board) => [board.name, board.model_name, board.address, board.path]),
      ...new Set(functions.map(nameOf)),
    ];
    searched.set(host, texts.filter(Boolean).join("\n").toLowerCase());
  }
  return searched.get(host);
}

/** The hosts that are to be shown, in order. */
function selected({ query, severities: chosen, sort, descending }) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const sorting = COLUMNS.find((each) => each.key === sort);
  const matching = hosts
    .filter(({ severity }) => chosen.size === 0 || chosen.has(severity))
    .filter((host) => words.every((word) => searchable(host).includes(word)));
  const orders = new Map(matching.map((host) => [host, cellOf(host, sorting, asOf)?.order ?? null]));
  return matching.sort((a, b) => compared(orders.get(a), orders.get(b), descending) || byText(a.name, b.name));
}

/** What is not known comes last in either direction. */
function compared(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number" ? a - b : byText(String(a), String(b));
  return descending ? -order : order;
}

// The table. Each row is made once, and what is below it when it is first opened.

let view = fromFragment(location.hash);
const rows = new Map(hosts.map((host, index) => [host, makeRow(host, index)]));
const headers = COLUMNS.map(makeHeader);
// Roles that tables have anyway: browsers forget them where styles lay the table out as cards.
const body = element("tbody", { role: "rowgroup" });
const chips = makeChips();
const query = document.getElementById("query");

function makeHeader(column) {
  const button = element("button", { type: "button" }, column.title, column.note && element("small", {}, column.note));
  button.addEventListener("click", () => {
    const again = view.sort === column.key;
    change({ sort: column.key, descending: again ? !view.descending : column.descends });
  });
  return element("th", { scope: "col", role: "columnheader" }, button);
}

function makeRow(host, index) {
  const id = `details-${index}`;
  const button = element("button", { type: "button", class: "open", "aria-controls": id }, host.name);
  button.addEventListener("click", () => toggle(host));
  const cells = COLUMNS.map((column) => makeCell(host, column, button));
  const row = element("tr", { role: "row", class: `host ${host.severity}` }, cells);
  row.addEventListener("click", (event) => {
    // A click anywhere in the row will do, but not one that ends the selection of text.
    if (!event.target.closest("button") && getSelection().isCollapsed) toggle(host);
  });
  return { row, button, id, details: null };
}

function makeCell(host, column, button) {
  const attributes = { "data-key": column.key, "data-label": column.title };
  if (column.key === "host") return element("th", { scope: "row", role: "rowheader", ...attributes }, button);
  const { text, severity, more } = cellOf(host, column, asOf) ?? { text: "–", severity: "ok" };
  const content = severity !== "ok" || column.key === "severity" ? marked(severity, text) : text;
  const others = more > 0 && smallNote(`+${more}`);
  return element("td", { role: "cell", class: severity === "ok" ? "quiet" : "bad", ...attributes }, content, others);
}

function makeChips() {
  return severities.toReversed().map((severity) => {
    const count = hosts.filter((host) => host.severity === severity).length;
    const chip = element("button", { type: "button", class: "chip" }, marked(severity, `${count} ${severity}`));
    chip.addEventListener("click", () => {
      const chosen = new Set(view.severities);
      if (!chosen.delete(severity)) chosen.add(severity);
      change({ severities: chosen });
    });
    return { severity, chip };
  });
}

/** A row of one cell. */
function wideRow(attributes, content) {
  const cell = element("td", { role: "cell", colspan: COLUMNS.length }, content);
  return element("tr", { role: "row", ...attributes }, cell);
}

function detailsOf(host) {
  const known = rows.get(host);
  known.details ??= wideRow({ class: "opened", id: known.id }, details(host));
  return known.details;
}

function toggle(host) {
  const open = new Set(view.open);
  if (!open.delete(host.name)) open.add(host.name);
  change({ open });
}

/** Look at something else, and let the URL say so. It takes no place in the history: going back leaves the page. */
function change(changes) {
  view = { ...view, ...changes };
  history.replaceState(null, "", toFragment(view));
  show();
}

function show() {
  const matching = selected(view);
  const shown = matching.flatMap((host) => {
    const { row, button } = rows.get(host);
    const open = view.open.has(host.name);
    button.setAttribute("aria-expanded", String(open));
    return open ? [row, detailsOf(host)] : [row];
  });
  const focused = document.activeElement;
  const nothing = hosts.length > 0 ? "No host is like that." : "There is no host in this fleet.";
  body.replaceChildren(...(shown.length > 0 ? shown : [wideRow({ class: "nothing" }, nothing)]));
  // What is taken out and put back loses the focus.
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  COLUMNS.forEach(({ key }, index) => {
    const order = view.descending ? "descending" : "ascending";
    headers[index].setAttribute("aria-sort", key === view.sort ? order : "none");
  });
  for (const { severity, chip } of chips) chip.setAttribute("aria-pressed", String(view.severities.has(severity)));
  if (query.value !== view.query) query.value = view.query;
  const filtered = Boolean(view.query) || view.severities.size > 0;
  document.getElementById("reset").hidden = !filtered;
  document.getElementById("shown").value = filtered ? `${matching.length} of ${counted(hosts.length, "host")}` : "";
}

function start() {
  const age = Date.now() - asOf;
  document.getElementById("made").append(
    counted(hosts.length, "host"),
    ", as of ",
    element("time", { datetime: fleet.generated }, moment(asOf) ?? "an unknown time"),
    age >= 3_600_000 ? ` (${span(age)} ago)` : "",
  );
  document.getElementById("severities").append(...chips.map(({ chip }) => chip));
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, headers));
  const table = element("table", { role: "table", class: "fleet" }, head, body);
  const box = scrolling("Fleet", table);
  document.getElementById("fleet").append(box);
  // The head stays in sight while the page scrolls, but only where the box has nothing to scroll itself.
  const watch = new ResizeObserver(() => box.classList.toggle("fits", table.offsetWidth <= box.clientWidth));
  watch.observe(box);
  watch.observe(table);

  const form = document.getElementById("filter");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    change({ query: "", severities: new Set() });
    // The button that had the focus is gone.
    query.focus();
  });
  query.addEventListener("input", () => change({ query: query.value }));
  addEventListener("hashchange", () => {
    view = fromFragment(location.hash);
    show();
  });
  show();
  // Whoever followed a link to a host wants to see that one.
  body.querySelector("tr.opened")?.previousElementSibling.scrollIntoView();
}

start();
