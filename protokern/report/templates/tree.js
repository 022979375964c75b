// A decision tree: branches with their patches, leaves with their classes. Deep parts open when they are chosen.
const TREE_LEVELS = 3;
const TREE_CELL = { width: 124, height: 148, side: 84 };
const draw = (tag, properties = {}, ...children) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
};

// Where every shown node is, in columns and levels; a leaf and a closed part take a column each.
const layTree = (nodes, top) => {
  const places = [];
  let column = 0;
  const lay = (index, level) => {
    const node = nodes[index];
    const closed = !node.leaf && level === TREE_LEVELS;
    const place = { index, level, closed, below: [] };
    places.push(place);
    if (node.leaf || closed) place.x = column++;
    else {
      place.below = [lay(node.absent, level + 1), lay(node.present, level + 1)];
      place.x = (place.below[0].x + place.below[1].x) / 2;
    }
    return place;
  };
  lay(top, 0);
  return { places, columns: column, levels: Math.max(...places.map((place) => place.level)) + 1 };
};

const countLeaves = (nodes, index) => {
  const node = nodes[index];
  return node.leaf ? 1 : countLeaves(nodes, node.absent) + countLeaves(nodes, node.present);
};

const drawPatch = (view, x, y, side) => {
  if (!view) return draw("rect", { x, y, width: side, height: side, class: "no-patch" });
  const [index, rows, columns, [y0, x0, y1, x1]] = view;
  const scale = side / Math.max(rows, columns);
  const frame = { x: x + x0 * scale, y: y + y0 * scale, width: (x1 - x0) * scale, height: (y1 - y0) * scale };
  return draw(
    "g",
    {},
    draw("image", { href: addressOf(index), x, y, width: columns * scale, height: rows * scale }),
    draw("rect", { ...frame, class: "tree-frame" }),
  );
};

const write = (content, x, y, className = "") => {
  const element = draw("text", { x, y, class: className });
  element.textContent = content;
  return element;
};

const drawLeaf = (leaf, x, y) =>
  draw(
    "g",
    { class: "tree-leaf" },
    draw("title", {}, leaf.map(([name, percent]) => `${name} ${percent}`).join("\n")),
    ...leaf.flatMap(([name, percent, share], row) => [
      draw("rect", { x: x - 54, y: y + 30 * row, width: 108 * share, height: 5 }),
      write(name.length > 9 ? `${name.slice(0, 8)}…` : name, x - 54, y + 17 + 30 * row),
      write(percent, x + 54, y + 17 + 30 * row, "tree-number"),
    ]),
  );

const drawBranch = (place, node, nodes, x, y, open) => {
  const { side } = TREE_CELL;
  const children = [drawPatch(node.view, x - side / 2, y, side), write(`prototype ${node.prototype}`, x, y + side + 14, "tree-name")];
  if (!place.closed) {
    const link = draw("a", { href: `#prototype-${node.prototype}` }, ...children);
    return link;
  }
  const number = countLeaves(nodes, place.index);
  const button = draw(
    "g",
    { class: "tree-open", tabindex: 0, role: "button", "aria-label": `Open the part below prototype ${node.prototype}` },
    ...children,
    write(`${number} leaves below ▸`, x, y + side + 30, "tree-name"),
  );
  button.addEventListener("click", () => open(place.index));
  button.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") (event.preventDefault(), open(place.index));
  });
  return button;
};

const drawTree = (nodes, top, open) => {
  const { places, columns, levels } = layTree(nodes, top);
  const { width, height, side } = TREE_CELL;
  const at = (place) => [(place.x + 0.5) * width, place.level * height + 8];
  const edges = places.flatMap((place) =>
    place.below.map((below, present) => {
      const [[x0, y0], [x1, y1]] = [at(place), at(below)];
      const middle = [(x0 + x1) / 2, (y0 + side + 18 + y1) / 2];
      return draw(
        "g",
        { class: "tree-edge" },
        draw("line", { x1: x0, y1: y0 + side + 18, x2: x1, y2: y1 - 3 }),
        write(present ? "there" : "not there", middle[0] + (present ? 4 : -4), middle[1] - 4, present ? "tree-right" : "tree-left"),
      );
    }),
  );
  const drawn = places.map((place) => {
    const [node, [x, y]] = [nodes[place.index], at(place)];
    return node.leaf ? drawLeaf(node.leaf, x, y) : drawBranch(place, node, nodes, x, y, open);
  });
  const size = [columns * width, levels * height];
  return draw(
    "svg",
    { viewBox: `0 0 ${size.join(" ")}`, width: size[0], height: size[1], class: "tree", role: "img", "aria-label": page.tree.title },
    ...edges,
    ...drawn,
  );
};

const treePlace = ({ nodes }) => {
  const place = make("div", { className: "scroll tree-place", tabIndex: 0, role: "region", "aria-label": "The whole tree" });
  const show = (top) => {
    const back = make("button", { className: "small", textContent: "Back to the root" });
    back.addEventListener("click", () => show(0));
    const tree = drawTree(nodes, top, show);
    place.replaceChildren(...(top ? [back] : []), tree);
    requestAnimationFrame(() => (place.scrollLeft = (place.scrollWidth - place.clientWidth) / 2)); // to the root
  };
  show(0);
  return place;
};
