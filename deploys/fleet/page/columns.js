// The columns of the fleet's table: what each says of a host, and how bad that is.

/** What a cell says, what it is sorted by, and, where it is wrong, how bad that is. */
const cell = (text, order = text, severity = "ok") => ({ text: String(text), order, severity });

/** From the best to the worst; a severity that this page does not know is worst of all. */
function rank({ severity }) {
  const index = SEVERITIES.indexOf(severity);
  return index < 0 ? SEVERITIES.length : index;
}

const badIf = (condition, severity = "wrong") => (condition ? severity : "ok");
const yesOrNo = (value) => (value === null || value === undefined ? "?" : value ? "yes" : "no");

/**
 * A column: its key in the fragment, its title, and what a host's cell in it is, null where nothing is known.
 * `note` stands below the title; `descends` is for columns whose first order is from the highest value down.
 */
const column = (key, title, of, { note = null, descends = false } = {}) => ({ key, title, of, note, descends });

const COLUMNS = [
  column("host", "Host", (host) => cell(host.name)),
  column("severity", "Severity", (host) => cell(host.severity, rank(host), host.severity), { descends: true }),
  column("boards", "Boards", ({ boards }) => {
    const lacking = boards && boards.wanted - boards.bound;
    return boards && cell(`${boards.bound}/${boards.wanted}`, -lacking, badIf(lacking > 0));
  }),
  column("iommu", "IOMMU", ({ iommu, boards }) => {
    return iommu && cell(iommu.on ? "on" : "off", String(iommu.on), badIf(!iommu.on && boards?.wanted > 0));
  }),
  column("arguments", "Arguments", argumentsCell, { note: "live / configured" }),
  column("reboot", "Reboot", ({ reboot_pending: why }) => {
    return why && cell(why.length > 0 ? "pending" : "no", -why.length, badIf(why.length > 0, "attention"));
  }),
  column("podman", "Podman", ({ podman }) => podman && cell(podman)),
  column("database", "Database", databaseCell, { note: "migration" }),
  column("node", "Node", ({ node, deployed_as: kind }, asOf) => {
    if (kind === "gpu_host") return cell("none: GPU host");
    const age = node?.since ? ` ${span(asOf - node.since * 1000)}` : "";
    return node && cell(node.unit + age, `${node.unit} ${node.since ?? ""}`, badIf(node.unit !== "active"));
  }),
  column("activity", "Activity", ({ activity }) => {
    const bad = badIf(activity?.state === "stuck");
    return activity && cell(activityOf(activity), activity.state, bad);
  }),
  column("image", "Image", ({ image }) => image?.digest && cell(image.digest.replace(/^\w+:/, "").slice(0, 8))),
  column("disk", "Disk free", ({ storage }) => {
    if (typeof storage?.free_kib !== "number") return null;
    return cell(size(storage.free_kib), storage.free_kib, badIf(storage.free_kib < storage.size_kib / 10, "attention"));
  }),
  column("key", "Key", ({ key }) => {
    const severity = key?.state === "unknown" ? "attention" : "wrong";
    return key && cell(key.state, key.state, badIf(key.state !== "present", severity));
  }),
  column(
    "verified",
    "Verified",
    ({ verified }, asOf) => verified && cell(span(asOf - Date.parse(verified)), Date.parse(verified)),
    { note: "ago", descends: true },
  ),
  column(
    "reasons",
    "Reasons",
    ({ reasons }) => reasons && { ...cell(reasons[0] ?? "", reasons.length), more: reasons.length - 1 },
    { descends: true },
  ),
];

function argumentsCell({ kernel_arguments: kernel }) {
  if (!kernel || kernel.wanted.length === 0) return null;
  const text = `${yesOrNo(kernel.live)} / ${yesOrNo(kernel.configured)}`;
  return cell(text, text, badIf(kernel.live === false || kernel.configured === false, "attention"));
}

/** The state in a word, and how many programs run. */
function activityOf({ state, programs }) {
  return programs?.length > 0 ? `${state}, ${counted(programs.length, "program")}` : state;
}

function databaseCell({ database, migration }) {
  if (!database && !migration) return null;
  const missing = database?.missing?.length ?? 0;
  const words = [
    database && [database.kind, database.release].filter(Boolean).join(" "),
    database?.reachable === false && "unreachable",
    missing > 0 && `${counted(missing, "table")} missing`,
    migration && (migration === "success" ? "migrated" : `migration ${migration}`),
  ];
  const bad = database?.reachable === false || missing > 0 || (migration && migration !== "success");
  const text = words.filter(Boolean).join(", ");
  return cell(text, text, badIf(bad));
}

/** A host's cell in a column. Of a host that is down nothing is known: what a document may still say is of old. */
function cellOf(host, column, asOf) {
  if (host.severity === "down" && !["host", "severity", "reasons"].includes(column.key)) return null;
  return column.of(host, asOf) || null;
}
