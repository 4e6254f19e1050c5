// What is known of one host, in full.

function details(host) {
  const findings = [
    sentences("Reasons", host.severity, host.reasons),
    sentences("Reboot pending", "attention", host.reboot_pending),
    sentences("Drift", "attention", host.drift),
    sentences("Lint", null, host.lint),
  ].filter(Boolean);
  return element(
    "div",
    { class: "details", role: "group", "aria-label": host.name },
    findings.length > 0 && element("div", { class: "findings" }, findings),
    facts(host),
    boardSection(host.boards?.list ?? []),
    pciSection(host.topology?.functions ?? [], host.boards?.list ?? []),
  );
}

/** Sentences below a heading; null when there are none. */
function sentences(title, severity, list) {
  if (!list?.length) return null;
  const items = list.map((text) => element("li", {}, severity ? marked(severity, text) : text));
  return element("section", {}, element("h2", {}, title), element("ul", { class: "sentences" }, items));
}

const joined = (...words) => words.filter(Boolean).join(", ");
const code = (text) => text && element("code", {}, text);

/** A program's virtual machine in words. */
function programOf({ guest_cid: cid, boards, seconds }) {
  return joined(`guest CID ${cid ?? "unknown"}`, counted(boards, "board"), `for ${span(seconds * 1000)}`);
}

/** All that the document says of a host but its devices, as terms and values; what is not known is left out. */
function facts(host) {
  const { platform, iommu, kernel_arguments: kernel, database, node, activity, image, storage, key } = host;
  const remapping = iommu?.interrupt_remapping ? "interrupt remapping on" : "interrupt remapping off";
  const missing = database?.missing?.length > 0 && `missing: ${database.missing.join(" ")}`;
  const known = [
    ["Platform", platform && joined(platform.name, platform.kernel && `kernel ${platform.kernel}`)],
    ["Cores, memory", platform && joined(platform.cores, platform.memory_kib && size(platform.memory_kib))],
    ["IOMMU", iommu && joined(iommu.on ? "on" : "off", iommu.table, remapping)],
    ["Kernel arguments", kernel?.wanted?.length > 0 && code(kernel.wanted.join(" "))],
    ["Podman", host.podman],
    ["Database", database && joined(database.kind, database.release && `release ${database.release}`, missing)],
    ["Migration", host.migration],
    ["Node's unit", node && `${node.unit}${node.since ? ` since ${moment(node.since * 1000)}` : ""}`],
    ["Who may reach its ports", host.peers],
    ["Activity", activity && joined(activityOf(activity), host.health && `health check ${host.health}`)],
    ["Programs", activity?.programs?.map(programOf).join("; ")],
    ["Image", image && [image.reference, " ", code(image.digest)]],
    ["Storage", storage && `${storage.path}: ${size(storage.free_kib)} free of ${size(storage.size_kib)}`],
    ["Key", key && [key.state, " ", code(key.public)]],
    ["Last verified", host.verified && moment(Date.parse(host.verified))],
  ].filter(([, value]) => value);
  if (known.length === 0) return null;
  const terms = known.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)));
  return element("section", {}, element("h2", {}, "Host"), element("dl", { class: "facts" }, terms));
}

/** The node's boards as a table. */
function boardSection(boards) {
  if (boards.length === 0) return null;
  const detailed = boards.some((board) => board.detail);
  const titles = ["Board", "State", "Model", "Address", "Place", "IOMMU group", ...(detailed ? ["Detail"] : [])];
  const rows = boards.map((board) => {
    const groups = board.groups?.join(", ") || "–";
    const cells = [
      boardState(board),
      [productOf(board.model_name ?? ""), " ", code(board.model)],
      code(board.address ?? "–"),
      code(board.path ?? "–"),
      board.viable === false ? [groups, " ", marked("wrong", "not viable")] : groups,
    ];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, board.name ?? "–"),
      cells.map((content) => element("td", {}, content)),
      detailed && element("td", { class: "long" }, board.detail),
    );
  });
  const head = element("tr", {}, titles.map((title) => element("th", { scope: "col" }, title)));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, rows));
  const title = "Boards of the node";
  return element("section", {}, element("h2", {}, title), scrolling(title, table));
}

/** The drawing of the PCI tree, with what its signs mean. */
function pciSection(functions, boards) {
  if (functions.length === 0) return null;
  const sign = (kind, text) => element("span", { class: kind }, text);
  const legend = [
    [sign("group", "12"), " IOMMU group: what has one number and colour is passed through together"],
    [sign("link narrow", "▼"), " link below its maximum; in grey only its speed, as while a device saves power"],
  ];
  return element(
    "section",
    {},
    element("h2", {}, "PCI devices", smallNote(counted(functions.length, "function"))),
    drawPci(functions, boards),
    element("p", { class: "legend" }, legend.map((each) => element("span", {}, each))),
  );
}
