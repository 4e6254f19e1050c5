// The drawing of a PCI tree: from the root buses on the left to the boards on the right.

/** All of it. What is handed down as `drawing` is {functions, hues, isDrawn}. */
function drawPci(functions, boards) {
  const buses = pciTree(functions, boards);
  const drawing = { functions, hues: groupHues(buses), isDrawn: interest(buses) };
  // What does not say where it is comes last.
  const nodes = [...new Set(buses.map(numaNode))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const areas = nodes.map((node) => drawArea(node, buses.filter((bus) => numaNode(bus) === node), drawing));
  return element("div", { class: "areas" }, areas);
}

/** The root buses of one NUMA node, and in one item what is not drawn of them. */
function drawArea(numa, buses, drawing) {
  const boards = buses.flatMap(below).filter((node) => node.entry).length;
  const drawn = buses.filter(drawing.isDrawn).map((bus) => chain(bus, drawing.isDrawn));
  // Devices of the root buses themselves are the processor's and the chipset's: one item for all of them.
  const isOuter = (node) => node.above.kind === "bus";
  const rest = [
    ...buses.filter((bus) => !drawing.isDrawn(bus)),
    ...drawn.flatMap(({ folded }) => folded.filter(isOuter)),
  ];
  const items = drawn.map((each) => ({ ...each, folded: each.folded.filter((node) => !isOuter(node)) }));
  return element(
    "section",
    { class: "area" },
    element(
      "h3",
      {},
      numa === null ? "NUMA node unknown" : `NUMA node ${numa}`,
      boards > 0 && smallNote(`${counted(boards, "board")} of the node`),
    ),
    items.length > 0 && element("ul", { class: "tree" }, items.map((each) => drawChain(each, drawing))),
    drawFolded(rest, drawing),
  );
}

function drawNode(node, drawing) {
  return node.kind === "board" ? drawBoard(node, drawing) : drawChain(chain(node, drawing.isDrawn), drawing);
}

/** Bridges one below the other, and to their right what branches off. */
function drawChain({ hops, shown, folded }, drawing) {
  const branches = shown.map((node) => drawNode(node, drawing));
  if (folded.length > 0) branches.push(element("li", {}, drawFolded(folded, drawing)));
  return element(
    "li",
    { class: "chain" },
    element("div", { class: "hops" }, hops.flatMap((hop) => drawHop(hop, drawing))),
    branches.length > 0 && element("ul", { class: "branches" }, branches),
  );
}

/** A root bus or a bridge on the way to boards. */
function drawHop(node, drawing) {
  if (node.kind === "bus") return element("div", { class: "hop bus" }, "bus ", short(node.path));
  const [bridge] = node.functions;
  const isRootPort = node.above.kind === "bus";
  const hop = element(
    "div",
    { class: "hop", title: nameOf(bridge) },
    drawGroup(bridge, drawing),
    short(bridge.address),
    isRootPort && spoken(" root port"),
    // Only one that leads nowhere has the room for its name.
    node.children.length === 0 && element("span", {}, nameOf(bridge)),
  );
  if (isRootPort || !node.children.some((child) => child.kind === "bridge")) return hop;
  // A port may be wider than what is plugged into it; the way into a switch narrows everything behind it.
  const { link } = bridge;
  return [hop, element("small", {}, "switch ", link && (isSlow(link) || isNarrow(link)) && drawLink(link))];
}

/** A board: the functions of one slot. Those of the node, and GPUs, have a heading; of others a line says it all. */
function drawBoard(board, drawing) {
  const { entry, functions } = board;
  const [first] = functions;
  const gpu = functions.find(isGpu);
  const name = entry?.model_name ?? (first ? nameOf(gpu ?? first) : entry.model ?? "board");
  const product = entry || gpu ? productOf(name) : null;
  // All functions of a card have its link: it is shown once.
  const shared = product !== null && functions.every((each) => linkText(each.link) === linkText(first.link));
  const isFolded = (each) => each.physical_function && each.driver !== VFIO && !entry;
  const list = (shown, given) =>
    element("ul", { class: "functions" }, shown.map((each) => drawFunction(each, given, drawing)));
  const folded = functions.filter(isFolded);
  const isBad = entry && (entry.verdict !== "present" || entry.state !== "bound");
  const kinds = [entry && "wanted", isBad && "bad", product !== null && "gpu", !first && "absent"];
  const card = element(
    "div",
    { class: ["board", ...kinds.filter(Boolean)].join(" ") },
    product !== null && drawHeading(board, product, drawing),
    product !== null && drawMeta(first, shared),
    list(functions.filter((each) => !isFolded(each)), { entry, product, shared }),
    folded.length > 0 && unfolding(counted(folded.length, "virtual function"), () => list(folded, {})),
  );
  return element("li", {}, card);
}

/** Name, product and state of a board of the node's, or of a GPU that is the host's. */
function drawHeading({ entry, functions, path }, product, drawing) {
  return element(
    "p",
    { class: "heading" },
    entry?.name && [element("strong", {}, entry.name), " "],
    element("span", { class: "product" }, product),
    entry ? boardState(entry) : element("span", { class: "state quiet" }, "left to the host"),
    functions.length === 0 && element("code", {}, path),
    entry && drawCompany(functions, entry, drawing),
  );
}

/** What holds for all of a card: its link, the slot as the board's maker numbers it, and how it can be reset. */
function drawMeta(first, shared) {
  const parts = [
    shared && first?.link && drawLink(first.link),
    first?.slot && `slot ${first.slot}`,
    first?.reset_methods?.length > 0 && `reset ${first.reset_methods.join(", ")}`,
  ].filter(Boolean);
  return parts.length > 0 && element("p", { class: "meta" }, parts.map((part) => element("span", {}, part)));
}

/** How a board of the node's stands: its verdict if that is why it is not bound, and else its state. */
function boardState({ verdict, state }) {
  if (verdict !== "present") return marked("wrong", verdict);
  if (state === "bound") return marked("ok", state);
  return marked(state === "planned" || state === "recorded" ? "attention" : "wrong", state);
}

/** Who else is in the board's IOMMU groups, which go to a virtual machine as a whole. */
function drawCompany(functions, { state, viable }, drawing) {
  const groups = new Set(functions.map((each) => each.iommu_group).filter(Number.isInteger));
  const isOther = (each) => !each.bridge && groups.has(each.iommu_group) && !functions.includes(each);
  const others = drawing.functions.filter(isOther);
  // Of a board that is not bound the state says it already.
  if (others.length === 0) return viable === false && state === "bound" && marked("wrong", "group not viable");
  const more = others.length > 1 ? ` +${others.length - 1}` : "";
  return marked(viable === false ? "wrong" : "attention", `shares its group with ${short(others[0].address)}${more}`);
}

/** One function: group, address, name, driver, link; of those not what its card says for all. */
function drawFunction(each, { entry, product, shared }, drawing) {
  const notes = [each.boot_vga && "boot display", each.locked && "locked: its override cannot be read"].filter(Boolean);
  return element(
    "li",
    { class: "function", title: [each.vendor_name, `${each.vendor}:${each.device}`].filter(Boolean).join(" ") },
    drawGroup(each, drawing),
    element("code", {}, each.address),
    element("span", { class: "name" }, nameOf(each).replace(` [${product}]`, ""), notes.map(smallNote)),
    drawDriver(each, entry ? VFIO : each.driver_override),
    !shared && each.link && drawLink(each.link),
  );
}

function drawDriver({ driver }, wanted) {
  const text = driver ?? "no driver";
  if (wanted && wanted !== driver) {
    return element("span", { class: "driver" }, marked("wrong", text), smallNote(`wanted ${wanted}`));
  }
  return element("span", { class: `driver ${driver === VFIO ? "vfio" : "quiet"}` }, text);
}

/** An IOMMU group: its number, and a colour to see at a glance what is in the same one. */
function drawGroup({ iommu_group: group }, { hues }) {
  if (!Number.isInteger(group)) return element("span", { class: "group none" }, spoken("no IOMMU group"), "–");
  const tag = element("span", { class: "group" }, spoken("IOMMU group "), String(group));
  tag.style.setProperty("--hue", hues.get(group));
  return tag;
}

function drawLink(link) {
  // Lost lanes do not come back; the speed is lower also while a device saves power.
  const kind = isNarrow(link) ? "narrow" : isSlow(link) ? "slow" : null;
  const mark = kind && ["▼ ", spoken("below its maximum: ")];
  return element("span", { class: `link ${kind ?? ""}` }, mark, linkText(link));
}

/** How many functions are left out and of what kinds, and a button that draws them all. */
function drawFolded(nodes, drawing) {
  const functions = nodes.flatMap(functionsBelow);
  if (functions.length === 0) return null;
  const counts = new Map();
  for (const { class_name: kind } of functions) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 3);
  const kinds = counts.size === 1 ? most[0][0] : most.map(([kind, count]) => `${count} ${kind}`).join(", ");
  const label = [`${functions.length} more`, smallNote(counts.size > most.length ? `${kinds}, …` : kinds)];
  const everything = { ...drawing, isDrawn: () => true };
  return unfolding(label, () => element("ul", { class: "tree" }, nodes.map((node) => drawNode(node, everything))));
}
