// The sheet of one prototype: all that is known of it, and the addresses that lead there.
const alone = page.alone ? ` ${page.alone}` : "";
let current = null;

const button = (text, properties) => make("button", { type: "button", textContent: text, ...properties });
const toggle = (kind, words) =>
  make(
    "label",
    {},
    make("input", { type: "checkbox", checked: true, "data-shows": kind }),
    " ",
    make("i", { className: `mark ${kind}-mark` }),
    words,
  );
const title = make("h2", { id: "sheet-title", tabIndex: -1 });
const place = make("p", { id: "sheet-place", className: "small muted" });
const body = make("div", { id: "sheet-body" });
const dialog = make(
  "dialog",
  { id: "sheet", "aria-labelledby": "sheet-title" },
  make(
    "div",
    { className: "sheet-bar" },
    make("div", { "aria-live": "polite" }, title, place),
    make(
      "div",
      { className: "sheet-buttons" },
      button("Previous", { "data-step": -1 }),
      button("Next", { "data-step": 1 }),
      button("Close", { "data-close": "" }),
    ),
  ),
  make(
    "fieldset",
    { className: "toggles small" },
    make("legend", { textContent: "On the pictures" }),
    toggle("frame", "frame"),
    page.sees_part ? toggle("field", "what the model could see") : null,
  ),
  body,
);
const part = (heading, ...children) =>
  make("section", { className: "sheet-part" }, make("h3", { textContent: heading }), ...children);

const sourcePart = (sheet) => {
  if (!sheet.view) return make("p", { className: "no-source", textContent: "Not a patch of an image." });
  const figures = make("div", { className: "sheet-pictures" });
  const [mark, what, inside] = sheet.unsought
    ? ["cell-mark", "its patch marked", "its patch, enlarged"]
    : ["frame", "a frame", "what is in the frame, enlarged"];
  figures.append(figure(framed(sheet.view, `The training image it comes from, with ${what}`, mark), "training image"));
  figures.append(figure(enlarged(sheet.view, inside), inside));
  if (sheet.heat !== undefined) figures.append(figure(seen(sheet.heat, sheet.view, "Its heat map there"), "heat map"));
  const from = make("p", { className: "small muted" }, "from ", name(sheet.source));
  if (sheet.moved) from.append(`; moved by ${sheet.moved} when the learnt vector became this patch`);
  const proof = sheet.proof ? make("p", { textContent: sheet.proof }) : "";
  return make("div", {}, figures, proof, from);
};

const becausePart = (sheet) => {
  if (!sheet.reasons) return null;
  const numbers = sheet.reasons.flatMap(([, score, low, high, test]) => [score, low, high, test]).filter((n) => n != null);
  const [least, most] = [Math.min(0, ...numbers), Math.max(0, ...numbers)];
  const at = (value) => `${(100 * (value - least)) / (most - least || 1)}%`;
  const span = (className, from, to) => {
    const element = make("span", { className });
    element.style.left = at(Math.min(from, to));
    element.style.width = `calc(${at(Math.max(from, to))} - ${at(Math.min(from, to))})`;
    return element;
  };
  const decimal = (value) => value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", "−");
  const rows = sheet.reasons.map(([label, score, low, high, test]) => {
    const track = make("span", { className: "track" }, span(score < 0 ? "fill against" : "fill", 0, score), span("zero", 0, 0));
    if (low != null) track.append(span("whisker", low, high));
    if (test != null) track.append(span("test", test, test));
    return make(
      "tr",
      {},
      make("th", { scope: "row", textContent: label }),
      make("td", { "aria-hidden": "true" }, track),
      make("td", { textContent: decimal(score) }),
      make("td", { textContent: low == null ? "–" : `${decimal(low)} to ${decimal(high)}` }),
      make("td", { textContent: test == null ? "–" : decimal(test) }),
    );
  });
  const head = make("tr", {}, make("td"), make("td"));
  for (const text of ["similarity lost", "95 % interval", "on test images"])
    head.append(make("th", { scope: "col", textContent: text }));
  return part(
    "This looks like that, because …",
    make("p", { className: "say", textContent: sheet.because }),
    make(
      "div",
      { className: "scroll", tabIndex: 0, role: "region", "aria-label": "How much every property matters" },
      make("table", { className: "plain reasons" }, make("thead", {}, head), make("tbody", {}, ...rows)),
    ),
    make("p", {
      className: "small muted",
      textContent:
        "Each property of the training images was changed alone; shown is how much similarity that costs at the same " +
        "place. The thin line is the interval, the round mark the test images." +
        alone,
    }),
  );
};

const nearPart = (heading, none, patches) => {
  if (!patches) return null;
  const [agreement, rows] = patches;
  if (!rows.length) return part(heading, make("p", { className: "muted", textContent: none }));
  const items = rows.map(([view, image, ofClass, own, similarity, distance]) =>
    make(
      "li",
      { className: own ? "own" : "" },
      framed(view, "An image with the patch marked", page.tested ? "cell-mark" : "frame"), // only what was tested is framed
      make("p", {}, make("b", {}, name(page.texts[ofClass]))),
      make("p", { className: "small muted" }, `${page.scoring ? "presence" : "similarity"} ${similarity}${distance && `, distance ${distance}`}`),
      make("p", { className: "small muted file" }, name(page.texts[image])),
    ),
  );
  const words = agreement || alone ? make("p", { textContent: (agreement + alone).trim() }) : null;
  return part(heading, words, make("ol", { className: "near" }, ...items));
};

const classesPart = (sheet) => {
  if (!sheet.classes) return null;
  const rows = sheet.classes.map(([text, weight]) =>
    make("tr", {}, make("th", { scope: "row" }, name(page.texts[text])), page.tree ? null : make("td", { textContent: weight })),
  );
  const head = make("tr", {}, ...headCells(page.tree ? ["class"] : ["class", "weight"]));
  const uses = rows.length === 1 ? "The class that uses it" : `The ${rows.length} classes that use it`;
  return part(
    page.tree ? "The classes of the leaves below it" : uses,
    make("table", { className: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows)),
  );
};

// What a sheet is made of, in order; each is a function from a sheet to an element, or null.
const SHEET_PARTS = [
  sourcePart,
  becausePart,
  trustPart,
  (sheet) => nearPart("Nearest patches in the training images", "There are none.", sheet.near?.[0]),
  (sheet) => nearPart("Nearest patches in the test images", "There are none.", sheet.near?.[1]),
  classesPart,
];

const visibleCards = () => {
  const cards = [...cardOf.values()];
  const visible = cards.filter((card) => !card.hidden);
  return visible.some((card) => numberOf(card) === current) ? visible : cards;
};

const fill = (number) => {
  const sheet = sheets.get(number);
  current = number;
  title.textContent = `Prototype ${number}`;
  const order = visibleCards();
  place.replaceChildren(
    name(sheet.of),
    ` (${order.findIndex((card) => numberOf(card) === number) + 1} of ${order.length})`,
  );
  const parts = SHEET_PARTS.map((draw) => draw(sheet));
  body.replaceChildren(...parts.filter((element) => element !== null));
  dialog.scrollTop = 0;
};

// In a frame of a notebook there is no address to change.
const setAddress = (address, how) => {
  try {
    history[how](null, "", address);
  } catch {
    return;
  }
};
const hashOf = (number) => `#prototype-${number}`;
const prototypeIn = (hash) => {
  const found = /^#prototype-(\d+)$/.exec(hash);
  return found && sheets.has(Number(found[1])) ? Number(found[1]) : null;
};
const open = (number) => {
  fill(number);
  if (dialog.open) return;
  dialog.showModal();
  title.focus(); // an autofocus in the page would also be tried while it loads
};
const follow = () => {
  const number = prototypeIn(location.hash);
  if (number !== null) open(number);
  else if (dialog.open) dialog.close();
};
const step = (by) => {
  const order = visibleCards();
  const at = order.findIndex((card) => numberOf(card) === current);
  fill(numberOf(order[(at + by + order.length) % order.length]));
  setAddress(hashOf(current), "replaceState");
};

const startSheets = () => {
  document.body.append(dialog);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const number = prototypeIn(link.getAttribute("href"));
    if (number === null && location.protocol !== "about:") return;
    event.preventDefault();
    if (number === null) {
      document.querySelector(link.getAttribute("href"))?.scrollIntoView(); // a frame would leave for the notebook's page
      return;
    }
    link.focus();
    setAddress(hashOf(number), "pushState");
    open(number);
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // the event comes a moment later, perhaps after it was opened again
    if (prototypeIn(location.hash) !== null) setAddress(location.pathname + location.search, "replaceState");
    if (document.activeElement === document.body) document.querySelector(`.card a[href="${hashOf(current)}"]`)?.focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    const pressed = event.target.closest("[data-step]");
    if (pressed) step(Number(pressed.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.closest("select, textarea, input[type=text]")) return;
    event.preventDefault();
    step(by);
  });
  for (const box of dialog.querySelectorAll("[data-shows]"))
    box.addEventListener("change", () => dialog.classList.toggle(`no-${box.dataset.shows}`, !box.checked));
  follow();
};
