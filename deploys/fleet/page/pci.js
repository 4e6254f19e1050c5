// The PCI tree of a host, and what of it is worth drawing. Pure: nothing here makes elements.

const VFIO = "vfio-pci";

// Base classes whose devices are drawn: what a passed-through board could be, and what a host lives from. The others
// (USB, audio, counters of the processor, …) matter only when they keep company with a board of the node.
const DRAWN_CLASSES = new Set(["01", "02", "03", "0d", "10", "12"]);
const DRAWN_SUBCLASSES = new Set(["0c04", "0c06"]); // Fibre Channel and InfiniBand, among the serial buses
const GPU_CLASSES = new Set(["03", "12"]);
// ASPEED and Matrox: their displays are those of management controllers, no GPUs.
const MANAGEMENT_VENDORS = new Set(["1a03", "102b"]);

// Ten hues that people can distinguish, ordered so that neighbours are far from each other.
const HUES = [250, 55, 150, 325, 100, 285, 25, 195, 350, 125];

const withoutLast = (path, separator) => path.slice(0, path.lastIndexOf(separator));
const byPath = (a, b) => (a.path < b.path ? -1 : 1);

/**
 * The root buses, each with the bridges and boards below: {kind: "bus" | "bridge" | "board", path, functions, above,
 * children, entry}. The tree is in the paths alone. `entry` is what the document says of a board that is the node's;
 * such a board has no functions while it is absent.
 */
function pciTree(functions, boards) {
  const nodes = new Map();
  const at = (kind, path) => {
    if (!nodes.has(path)) nodes.set(path, { kind, path, functions: [], above: null, children: [], entry: null });
    return nodes.get(path);
  };
  for (const each of functions) {
    at(each.bridge ? "bridge" : "board", each.bridge ? each.path : withoutLast(each.path, ".")).functions.push(each);
  }
  for (const entry of boards) if (entry.path) at("board", entry.path).entry = entry;
  for (const node of [...nodes.values()].sort(byPath)) {
    node.functions.sort(byPath);
    let above = withoutLast(node.path, "/");
    // Where a bridge has gone, what was below it hangs on the next one that is there.
    while (above.includes("/") && !nodes.has(above)) above = withoutLast(above, "/");
    node.above = at("bus", above);
    node.above.children.push(node);
  }
  return [...nodes.values()].filter((node) => node.kind === "bus").sort(byPath);
}

const below = (node) => [node, ...node.children.flatMap(below)];
const functionsBelow = (node) => below(node).flatMap((each) => each.functions);

/** A test for nodes: whether they, or anything below, are worth a place in a drawing that is to be read at a glance. */
function interest(buses) {
  const wanted = buses.flatMap(below).filter((node) => node.entry).flatMap((node) => node.functions);
  const groups = new Set(wanted.map((each) => each.iommu_group).filter(Number.isInteger));
  const models = new Set(wanted.map((each) => `${each.vendor}:${each.device}`));
  const isUseful = (each) =>
    DRAWN_CLASSES.has(each.class.slice(0, 2)) ||
    DRAWN_SUBCLASSES.has(each.class.slice(0, 4)) ||
    // Twins of the node's boards: taking the wrong one is what people fear.
    models.has(`${each.vendor}:${each.device}`);
  const isOfInterest = (each) =>
    each.driver === VFIO ||
    Boolean(each.driver_override) ||
    each.locked ||
    groups.has(each.iommu_group) ||
    // Virtual functions are many, and all the same.
    (!each.physical_function && isUseful(each));
  const isDrawn = (node) =>
    node.kind === "board" ? node.entry !== null || node.functions.some(isOfInterest) : node.children.some(isDrawn);
  return isDrawn;
}

/**
 * A bus or bridge as one item of the drawing: {hops, shown, folded}. `hops` are itself and the single bridges that
 * follow, which need no place of their own; `shown` is what branches off after them, `folded` what is left out.
 */
function chain(node, isDrawn) {
  const hops = [node];
  const folded = [];
  for (;;) {
    const { children } = hops.at(-1);
    const shown = children.filter(isDrawn);
    folded.push(...children.filter((child) => !isDrawn(child)));
    if (shown.length !== 1 || shown[0].kind !== "bridge") return { hops, shown, folded };
    hops.push(shown[0]);
  }
}

/** The NUMA node of a root bus: all of it sits on one processor, though not all functions say so. Null if none does. */
function numaNode(bus) {
  const counts = new Map();
  for (const { numa_node: node } of functionsBelow(bus)) {
    if (Number.isInteger(node) && node >= 0) counts.set(node, (counts.get(node) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}

/** A hue for every IOMMU group: the node's boards first, so that they differ from each other. */
function groupHues(buses) {
  const nodes = buses.flatMap(below);
  const inOrder = [...nodes.filter((node) => node.entry), ...nodes].flatMap((node) => node.functions);
  const groups = new Set(inOrder.map((each) => each.iommu_group));
  return new Map([...groups].map((group, index) => [group, HUES[index % HUES.length]]));
}

const isGpu = (each) => GPU_CLASSES.has(each.class.slice(0, 2)) && !MANAGEMENT_VENDORS.has(each.vendor);

const nameOf = (each) => each.device_name ?? each.class_name ?? `${each.vendor}:${each.device}`;

/** The name on the box out of the database's: `AD102 [GeForce RTX 4090]` is a GeForce RTX 4090. */
const productOf = (name) => /\[([^\]]+)\]$/.exec(name)?.[1] ?? name;

/** An address without the domain that nearly all machines have only one of. */
const short = (address) => address.replace(/^0000:/, "");

const speed = (text) => (Number.isNaN(parseFloat(text)) ? "?" : String(parseFloat(text)));
const isSlow = (link) => parseFloat(link.speed) < parseFloat(link.max_speed);
const isNarrow = (link) => link.width < link.max_width;

/** `16 GT/s ×16`, and below its maximum `16 GT/s ×8 of ×16`; null without a link. */
function linkText(link) {
  if (!link) return null;
  const lanes = isNarrow(link) ? `×${link.width} of ×${link.max_width}` : `×${link.width}`;
  return `${speed(link.speed)}${isSlow(link) ? ` of ${speed(link.max_speed)}` : ""} GT/s ${lanes}`;
}
