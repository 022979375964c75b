// The sections of a run's page, and its gallery with filter and search.
const MOST_WEIGHTS = 6; // of a prototype on its card; more are folded
const SVG = (() => {
  const template = document.createElement("template");
  template.innerHTML = "<svg></svg>";
  return template.content.firstChild.namespaceURI;
})();

const headOf = (title, ...others) => make("div", { className: "section-head" }, make("h2", { textContent: title }), ...others);
const section = (id, ...children) => make("section", { id }, ...children);
const cardOf = new Map();
const linkTo = (index) => make("a", { href: `#prototype-${index}`, textContent: index });

const drawOverview = (part) => {
  const list = (texts) =>
    make("ul", { className: "notes" }, ...texts.map((text) => make("li", { dir: "auto", textContent: text })));
  const tiles = part.tiles.map(([label, value, detail]) => {
    const number = make("dd", {}, make("span", { className: "value", textContent: value }));
    if (detail) number.append(make("br"), make("span", { className: "small muted", textContent: detail }));
    return make("div", {}, make("dt", { textContent: label }), number);
  });
  const notes = part.notes.length ? list(part.notes) : null;
  notes?.classList.add("small");
  return section(
    "overview",
    paragraph("eyebrow", part.eyebrow),
    make("h1", { dir: "auto", textContent: part.title }),
    paragraph("lede", part.lede),
    make("dl", { className: "tiles" }, ...tiles),
    part.warnings.length
      ? make("div", { className: "warnings small" }, make("h2", { textContent: part.warned }), list(part.warnings))
      : null,
    notes,
  );
};

const drawHow = (part) => {
  const head = headOf(part.title, paragraph("prose", ...rich(part.text)));
  if (!part.example) return section("how", head, readingOf(part.reading));
  const [here, there] = part.example.map(([caption, view, alt]) => figure(framed(view, alt), caption));
  const [answer, ...more] = part.says;
  return section(
    "how",
    head,
    make(
      "div",
      { className: "example" },
      make("div", { className: "example-pictures" }, here, paragraph("like", "looks like"), there),
      make(
        "div",
        { className: "prose" },
        paragraph("say", ...rich(answer)),
        ...more.map((text) => make("p", {}, ...rich(text))),
      ),
    ),
    readingOf(part.reading),
  );
};

const drawExplanations = (part) =>
  section(
    "explanations",
    headOf(part.title, paragraph("prose muted", part.text)),
    ...part.items.map((item) => explained(item, "h3")),
  );

const drawBecause = (part) => {
  const [changed, ...others] = headCells(part.head);
  const rows = part.rows.map(([property, share, against, mean, most]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", textContent: property }),
      make("td", { "aria-hidden": "true" }, bar(share, against)),
      make("td", { textContent: mean }),
      make("td", { textContent: most }),
    ),
  );
  return section(
    "because",
    headOf(part.title, paragraph("prose muted", part.text), paragraph("prose say", ...rich(part.say))),
    table("plain bars", [changed, make("td"), ...others], rows),
  );
};

const sheets = new Map((page.sheets ?? []).map((sheet) => [sheet.index, sheet]));

const drawPool = (part) => {
  const slot = (held) => {
    if (held === null)
      return make("td", { className: "slot empty" }, make("span", { className: part.has_pictures ? "no-patch" : "", textContent: "empty" }));
    const [index, label, shared] = held;
    const view = sheets.get(index).view;
    const link = make("a", { href: `#prototype-${index}`, "aria-label": label });
    if (part.has_pictures)
      link.append(view ? enlarged(view, `The patch that is prototype ${index}`) : make("span", { className: "no-patch" }));
    link.append(make("b", { textContent: index }));
    if (shared) link.append(" ", make("span", { className: "muted", textContent: shared }));
    return make("td", { className: shared ? "slot shared" : "slot" }, link);
  };
  const uses = part.uses.flatMap(([words, numbers]) => {
    const links = numbers.flatMap((index, at) => (at ? [", ", linkTo(index)] : [linkTo(index)]));
    return [make("dt", { textContent: words }), make("dd", {}, ...(links.length ? links : ["none"]))];
  });
  const rows = part.rows.map(([text, slots]) =>
    make("tr", {}, make("th", { scope: "row" }, name(text)), ...slots.map(slot)),
  );
  return section(
    "pool",
    headOf(
      part.title,
      make("div", { className: "prose muted" }, ...part.text.map((text) => make("p", { textContent: text }))),
      make("dl", { className: "facts uses number" }, ...uses),
    ),
    scrolling(part.label, table("slots", [make("td"), ...headCells(part.head)], rows)),
  );
};

const drawScoring = (part) => {
  const entry = ([index, label, weight]) => {
    const view = sheets.get(index).view;
    const link = make("a", { href: `#prototype-${index}`, "aria-label": label });
    if (part.has_pictures)
      link.append(view ? enlarged(view, `The patch in which prototype ${index} is most present`) : make("span", { className: "no-patch" }));
    link.append(make("b", { textContent: index }), " ", make("span", { className: "muted number", textContent: `× ${weight}` }));
    return make("td", { className: "slot" }, link);
  };
  const none = () => make("td", { className: "slot empty" }, make("span", { textContent: "nothing" }));
  const rows = part.rows.map(([text, entries]) =>
    make("tr", {}, make("th", { scope: "row" }, name(text)), ...(entries.length ? entries.map(entry) : [none()])),
  );
  return section(
    "scoring",
    headOf(
      part.title,
      make("div", { className: "prose muted" }, ...part.text.map((text) => make("p", { textContent: text }))),
    ),
    scrolling(part.label, table("slots", [make("td"), ...headCells(["prototype × weight"])], rows)),
  );
};

const weightsOf = (sheet) =>
  make(
    "ul",
    {},
    ...sheet.classes.map(([text, weight]) =>
      make("li", {}, name(page.texts[text]), " ", page.tree ? null : make("span", { className: "number", textContent: weight })),
    ),
  );

const usesOf = (sheet, oneEach) => {
  const withWeights = page.tree ? "" : ", with weights";
  const moved = sheet.moved ? `moved by ${sheet.moved} in the push` : "";
  if (oneEach) {
    const line = paragraph("small muted number", page.tree ? "" : `weight ${sheet.classes[0][1]} for its class`);
    if (moved) line.append(make("br"), moved);
    return [line];
  }
  const count = sheet.classes?.length ?? 0;
  const lines = [];
  if (count > MOST_WEIGHTS) {
    const summary = make("summary", { textContent: `${page.tree ? "above leaves of" : "shared by"} ${count} classes${withWeights}` });
    lines.push(make("details", { className: "small muted weights" }, summary, weightsOf(sheet)));
  } else if (count) {
    const uses = count > 1 ? "shared by, with weights" : "used by, with weight";
    const words = page.tree ? "above leaves of" : uses;
    lines.push(make("div", { className: "small muted weights" }, make("p", { textContent: words }), weightsOf(sheet)));
  }
  return [...lines, optional("small muted number", moved)];
};

const drawCard = (index, oneEach) => {
  const sheet = sheets.get(index);
  const { view } = sheet;
  const views =
    view &&
    make(
      "div",
      { className: "views" },
      framed(view, sheet.alt, sheet.unsought ? "cell-mark" : "frame"),
      make(
        "div",
        { className: "stack" },
        enlarged(view, sheet.unsought ? "Its patch, enlarged" : "What is in the frame, enlarged"),
        seen(sheet.heat, view, `Heat map of prototype ${index} on its own training image`),
      ),
    );
  const link = make("a", { href: `#prototype-${index}`, textContent: `Prototype ${index}` });
  const card = make(
    "li",
    { className: "card", id: `prototype-${index}` },
    views ?? paragraph("no-source small muted", sheet.no_patch),
    paragraph("name", link),
    sheet.source ? make("p", { className: "small muted file", dir: "auto", textContent: sheet.source }) : null,
    optional("small muted number", sheet.proof_name),
    optional("small", sheet.main_names),
    ...usesOf(sheet, oneEach),
  );
  cardOf.set(index, card);
  return card;
};

const drawGallery = (part) => {
  const option = (value, text) => make("option", { value, textContent: text });
  const choices = [option("", "all classes"), ...part.choices.map(([value, text]) => option(value, text))];
  const search = { type: "search", id: "search", placeholder: part.hint, autocomplete: "off", spellcheck: false };
  const filter = make(
    "div",
    { className: "filter", role: "search", "aria-label": "Prototypes" },
    make("label", {}, "Class ", make("select", { id: "class-picker" }, ...choices)),
    make("label", {}, "Search ", make("input", search)),
    make("output", { id: "class-count", className: "muted", for: "class-picker search", "aria-live": "polite" }),
  );
  const nothing = make(
    "p",
    { id: "nothing", hidden: true },
    "No prototype is like that. ",
    make("button", { type: "button", textContent: "Show all" }),
  );
  const gallery = section("prototypes", headOf(part.title, paragraph("prose muted", part.text), filter, nothing));
  if (part.many) gallery.className = "many";
  for (const [key, title, count, indices] of part.groups)
    gallery.append(
      make(
        "section",
        { className: "class-group", id: key },
        make("h3", {}, name(title), " ", make("span", { textContent: count })),
        make("ul", { className: "cards" }, ...indices.map((index) => drawCard(index, part.one_class_each))),
      ),
    );
  return gallery;
};

const drawChart = (chart, [width, height, left, right, top, bottom]) => {
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes))
      element.setAttribute(key, typeof value === "number" ? Math.round(10 * value) / 10 : value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.summary });
  chart.bands.forEach(({ name: stage, x0, x1 }, at) => {
    if (at % 2) svg.append(draw("rect", { class: "band", x: x0, y: top, width: x1 - x0, height: bottom - top }));
    svg.append(draw("text", { x: x0 + 5, y: top + 14 }, stage));
  });
  svg.append(draw("text", { class: "title", x: 0, y: 14 }, chart.title));
  for (const { position, label } of chart.y_ticks)
    svg.append(
      draw("line", { class: "grid", x1: left, x2: right, y1: position, y2: position }),
      draw("text", { x: left - 8, y: position + 4, "text-anchor": "end" }, label),
    );
  for (const { position, label } of chart.x_ticks)
    svg.append(draw("text", { x: position, y: bottom + 18, "text-anchor": "middle" }, label));
  svg.append(draw("text", { x: right, y: bottom + 36, "text-anchor": "end" }, "epoch"));
  for (const { style, points, last } of chart.curves)
    svg.append(
      draw("polyline", { class: style, points }),
      draw("circle", { class: style, cx: last[0], cy: last[1], r: 3.5 }),
    );
  const legend = chart.curves.map(({ style, name: curve, last_label }) =>
    make("span", {}, make("i", { className: style }), `${curve} `, make("b", { textContent: last_label })),
  );
  return make("figure", { className: "chart" }, svg, make("figcaption", { className: "legend" }, ...legend));
};

const drawTraining = (part) => {
  const rows = part.stages.map(([stage, ...cells]) => row(stage, ...cells));
  return section(
    "training",
    headOf(part.title),
    part.charts.length
      ? make("div", { className: "charts" }, ...part.charts.map((chart) => drawChart(chart, part.area)))
      : null,
    rows.length ? scrolling(part.label, table("plain", headCells(part.head), rows), "scroll stages") : null,
  );
};

const drawConfusion = (part) => {
  const cell = ([count, share, same]) => {
    const kinds = ["cell", ...(same ? ["same"] : []), ...(count ? [] : ["none"])];
    const element = make("td", { className: kinds.join(" "), textContent: count || "·" });
    element.style.setProperty("--share", share);
    return element;
  };
  const matrix = part.matrix?.map((counts, at) =>
    make("tr", {}, make("th", { scope: "row", title: part.classes[at], textContent: part.classes[at] }), ...counts.map(cell)),
  );
  const pairs = part.pairs?.map(([truth, answer, count]) =>
    make("tr", {}, make("th", { scope: "row" }, name(truth)), make("td", {}, name(answer)), make("td", { textContent: count })),
  );
  const scores = part.scores && table("plain", headCells(part.scores_head), part.scores.map((cells) => row(...cells)));
  scores?.prepend(make("caption", { className: "small muted", textContent: part.scores_text }));
  return section(
    "confusion",
    headOf(part.title, paragraph("prose muted", part.text)),
    matrix
      ? scrolling(part.label, table("confusion", [make("td"), ...headCells(part.classes)], matrix))
      : table("plain", headCells(part.pairs_head), pairs),
    scores ? scrolling(part.scores_label, scores) : null,
  );
};

const drawRun = (part) => {
  const settings = part.settings
    ? make(
        "details",
        { className: "settings" },
        make("summary", { textContent: part.settings_title }),
        make("pre", { tabIndex: 0, textContent: part.settings }),
      )
    : null;
  const facts = part.facts.flatMap(([fact, value]) => [make("dt", { textContent: fact }), make("dd", { textContent: value })]);
  return section("run", headOf(part.title), settings, facts.length ? make("dl", { className: "facts" }, ...facts) : null);
};

const SECTIONS = {
  overview: drawOverview,
  how: drawHow,
  explanations: drawExplanations,
  because: drawBecause,
  trust: drawTrust,
  pool: drawPool,
  scoring: drawScoring,
  tree: (part) => section("tree", headOf(part.title, paragraph("prose muted", part.text)), treePlace(part)),
  prototypes: drawGallery,
  training: drawTraining,
  confusion: drawConfusion,
  run: drawRun,
};

const drawNavigation = () => {
  const links = page.nav.map(([place, text]) => make("a", { href: `#${place}`, textContent: text }));
  const bar = make("nav", { className: "wrap", "aria-label": "Sections" });
  bar.append(make("span", { className: "wordmark", textContent: "protokern" }), ...links);
  bar.append(make("button", { type: "button", id: "theme", hidden: true }));
  return make("header", { className: "top" }, bar);
};

const drawReport = () => {
  const main = document.getElementById("main");
  main.before(drawNavigation());
  const draw = (places) => main.append(...places.map(([place]) => SECTIONS[place](page[place])));
  const gallery = page.nav.findIndex(([place]) => place === "prototypes");
  draw(page.nav.slice(0, gallery));
  const finish = () => {
    draw(page.nav.slice(gallery));
    startFilter();
    startSheets();
  };
  if (!page.prototypes.many) return finish();
  requestAnimationFrame(() =>
    setTimeout(() => {
      finish(); // after the reader has seen the beginning
      document.getElementById(location.hash.slice(1))?.scrollIntoView();
    }),
  );
};
