// Elements, pictures, and what is drawn on them. Every text is set as text, never as markup.
const page = JSON.parse(document.getElementById("page").textContent);

const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
};
const name = (text) => make("bdi", { textContent: text });
// A text with marks in it: pieces that are plain, or [mark, text], or ["a", text, address].
const rich = (pieces) =>
  pieces.map((piece) => {
    if (typeof piece === "string") return piece;
    const [mark, text, address] = piece;
    if (mark === "a") return make("a", { href: address, textContent: text });
    return mark === "name" ? make("b", {}, name(text)) : make(mark, { textContent: text });
  });
const paragraph = (className, ...children) => make("p", { className }, ...children);
const optional = (className, text) => (text ? paragraph(className, text) : null);

// A server gives addresses, a page numbers of its pictures.
const addressOf = (index) => {
  if (typeof index === "string") return index;
  return page.beside ? `pictures/${page.pictures[index]}` : `data:image/jpeg;base64,${page.pictures[index]}`;
};
const picture = (index, rows, columns, alt) =>
  make("img", { loading: page.beside ? "lazy" : "eager", decoding: "async", src: addressOf(index), width: columns, height: rows, alt });
const outline = (kind, [y0, x0, y1, x1], rows, columns) => {
  const span = make("span", { className: kind });
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  span.style.top = percent(y0, rows);
  span.style.left = percent(x0, columns);
  span.style.height = percent(y1 - y0, rows);
  span.style.width = percent(x1 - x0, columns);
  return span;
};
const framed = ([index, rows, columns, box, field, cell], alt, kind = "frame") =>
  make(
    "div",
    { className: "seen" },
    picture(index, rows, columns, alt),
    field ? outline("field", field, rows, columns) : null,
    cell ? outline("cell-mark", cell, rows, columns) : null,
    outline(kind, box, rows, columns),
  );
const enlarged = ([index, rows, columns, [y0, x0, y1, x1]], alt) => {
  const [height, width] = [y1 - y0, x1 - x0];
  const crop = make("div", { className: "crop" }, picture(index, rows, columns, alt));
  crop.style.setProperty("--ratio", width / height);
  crop.style.setProperty("--w", `${(100 * columns) / width}%`);
  crop.style.setProperty("--x", `${(-100 * x0) / width}%`);
  crop.style.setProperty("--y", `${(-100 * y0) / height}%`);
  return make("div", { className: "seen crop-place" }, crop);
};
const seen = (index, [, rows, columns], alt) =>
  index == null ? null : make("div", { className: "seen" }, picture(index, rows, columns, alt));
const figure = (content, ...caption) => make("figure", {}, content, make("figcaption", {}, ...caption));
const bar = (share, against = false, properties = {}) => {
  const filled = make("span");
  filled.style.setProperty("--share", share);
  return make("span", { className: against ? "bar against" : "bar", ...properties }, filled);
};

const headCells = (names) => names.map((text) => make("th", { scope: "col", textContent: text }));
const table = (className, head, rows) =>
  make("table", { className }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
const row = (title, ...cells) =>
  make("tr", {}, make("th", { scope: "row" }, name(title)), ...cells.map((text) => make("td", { textContent: text })));
const scrolling = (label, content, className = "scroll") =>
  make("div", { className, tabIndex: 0, role: "region", "aria-label": label }, content);
