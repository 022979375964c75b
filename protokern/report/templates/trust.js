// The section "Can this be trusted?": one block for each measure.
const trackOf = ([value, low, high, line, zero]) => {
  const at = (place) => `${100 * place}%`;
  const span = (className, from, to) => {
    const element = make("span", { className });
    element.style.left = at(Math.min(from, to));
    element.style.width = at(Math.abs(to - from));
    return element;
  };
  const track = make("span", { className: "track wide", "aria-hidden": "true" }, span("fill", zero, value));
  if (zero > 0) track.append(span("zero", zero, zero));
  if (low !== null && high !== null) track.append(span("whisker", low, high));
  if (line !== null) track.append(span("reference", line, line));
  return track;
};

const endOf = ([heading, prototypes]) =>
  make(
    "div",
    { className: "end" },
    paragraph("small muted", heading),
    make(
      "ul",
      {},
      ...prototypes.map(([index, number]) => {
        const { view } = sheets.get(index);
        const link = make("a", { href: `#prototype-${index}`, "aria-label": `Prototype ${index}, ${number}` });
        if (view) link.append(enlarged(view, `The patch that is prototype ${index}`));
        link.append(make("b", { textContent: index }), " ", make("span", { className: "muted", textContent: number }));
        return make("li", {}, link);
      }),
    ),
  );

const allNumbersOf = (row) => {
  const head = ["", "number", "95 % interval", "over", ...(row.has_reference ? ["random patches"] : [])];
  const rows = row.all.map(([text, value, interval, over, reference]) => {
    const cells = [value, interval, over, ...(row.has_reference ? [reference] : [])].map((cell) => cell || "–");
    return make("tr", {}, make("th", { scope: "row", textContent: text }), ...cells.map((textContent) => make("td", { textContent })));
  });
  const [, ...named] = headCells(head);
  return make(
    "details",
    { className: "small" },
    make("summary", { textContent: `All numbers of ${row.name}` }),
    scrolling(`All numbers of ${row.name}`, table("plain numbers", [make("td"), ...named], rows)),
    row.details.length ? paragraph("muted", row.details.join("; ")) : null,
  );
};

const measureOf = (row) => {
  const block = make("article", { className: "measure" });
  if (row.say) {
    const facts = [row.interval ? `${row.interval} (95 %)` : "", row.over, row.better].filter(Boolean).join("; ");
    block.append(
      make(
        "div",
        { className: "measured" },
        paragraph("say", ...rich(row.say)),
        trackOf(row.bar),
        make(
          "p",
          { className: "small muted number" },
          facts,
          ...(row.line ? [make("br"), make("i", { className: "reference-mark" }), row.line] : []),
        ),
      ),
    );
    if (row.ends.length) block.append(make("div", { className: "ends" }, ...row.ends.map(endOf)));
  }
  block.append(allNumbersOf(row));
  return block;
};

const drawTrust = (part) => {
  const notes = part.notes.map((text) => make("li", { textContent: text }));
  const groups = part.groups.map(([heading, rows]) =>
    make("section", { className: "measures" }, make("h3", { textContent: heading }), ...rows.map(measureOf)),
  );
  const left = part.left_out.flatMap(([measure, reason]) => [
    make("dt", { textContent: measure }),
    make("dd", { dir: "auto", textContent: reason }),
  ]);
  return section(
    "trust",
    headOf(
      part.title,
      paragraph("prose muted", part.text),
      notes.length ? make("ul", { className: "notes small" }, ...notes) : null,
    ),
    ...groups,
    left.length ? make("h3", { textContent: "Not measured, and why" }) : null,
    left.length ? make("dl", { className: "facts" }, ...left) : null,
  );
};

const trustPart = (sheet) => {
  if (!sheet.trust) return null;
  const rows = sheet.trust.map(([text, value, median]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", textContent: text }),
      make("td", { textContent: value }),
      make("td", { textContent: median || "–" }),
    ),
  );
  const head = make("tr", {}, make("td"), ...headCells(["this prototype", "median of all"]));
  return part(
    "Can it be trusted?",
    make("table", { className: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows)),
  );
};
