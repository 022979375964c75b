// The gallery's filter and search, and the sheet of one prototype. Every text is set as text, never as markup.
(() => {
  const table = JSON.parse(document.getElementById("sheets").textContent);
  const sheets = new Map(table.sheets.map((sheet) => [sheet.index, sheet]));
  const cards = [...document.querySelectorAll(".card")];
  const numberOf = (card) => Number(card.id.slice("prototype-".length));

  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const name = (text) => make("bdi", { textContent: text });
  const alone = table.focal
    ? " Similarities here are of the place alone, before that of the image on average comes off."
    : "";

  // ---- filter and search
  const picker = document.getElementById("class-picker");
  const search = document.getElementById("search");
  const count = document.getElementById("class-count");
  const nothing = document.getElementById("nothing");
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const wordsOf = (sheet) =>
    plain(
      [
        `prototype ${sheet.index}`,
        sheet.source ?? "",
        ...(sheet.classes ?? []).map(([place]) => table.texts[place]),
        ...(sheet.main ?? []),
      ].join("\n"),
    );
  let searchable = null;

  const filter = () => {
    searchable ??= new Map(table.sheets.map((sheet) => [sheet.index, wordsOf(sheet)]));
    const wanted = plain(search.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const ofClass = picker.value === "" || card.dataset.classes.split(" ").includes(picker.value);
      const text = wanted.length ? searchable.get(numberOf(card)) : "";
      card.hidden = !(ofClass && wanted.every((word) => text.includes(word)));
      if (!card.hidden) shown += 1;
    }
    for (const group of document.querySelectorAll(".class-group"))
      group.hidden = !group.querySelector(".card:not([hidden])");
    const all = cards.length === 1 ? "1 prototype" : `${cards.length} prototypes`;
    count.textContent = shown === cards.length ? all : `${shown} of ${all}`;
    nothing.hidden = shown > 0;
  };
  picker.addEventListener("change", filter);
  search.addEventListener("input", filter);
  nothing.querySelector("button").addEventListener("click", () => {
    picker.value = search.value = "";
    filter();
    search.focus();
  });
  picker.closest(".filter").hidden = false;
  filter();

  // ---- the sheet of one prototype
  const dialog = document.getElementById("sheet");
  const title = document.getElementById("sheet-title");
  const place = document.getElementById("sheet-place");
  const body = document.getElementById("sheet-body");
  let current = null;

  const addressOf = (index) => {
    const name = table.pictures[index];
    if (table.beside) return `pictures/${name}`;
    if (name !== null) return `data:image/jpeg;base64,${name}`;
    return document.getElementById(`picture-${index}`).getAttribute("href");
  };
  const picture = (index, rows, columns, alt) =>
    make("img", { src: addressOf(index), width: columns, height: rows, alt, loading: "lazy", decoding: "async" });
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
  const figure = (content, ...caption) => make("figure", {}, content, make("figcaption", {}, ...caption));
  const part = (heading, ...children) =>
    make("section", { className: "sheet-part" }, make("h3", { textContent: heading }), ...children);

  const sourcePart = (sheet) => {
    if (!sheet.view) return make("p", { className: "no-source", textContent: "Not a patch of an image." });
    const figures = make("div", { className: "sheet-pictures" });
    figures.append(figure(framed(sheet.view, "The training image it comes from, with a frame"), "training image"));
    figures.append(figure(enlarged(sheet.view, "What is in the frame, enlarged"), "what is in the frame, enlarged"));
    if (sheet.heat !== undefined)
      figures.append(
        figure(
          make("div", { className: "seen" }, picture(sheet.heat, sheet.view[1], sheet.view[2], "Its heat map there")),
          "heat map",
        ),
      );
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
        framed(view, "An image with the patch marked", table.tested ? "cell-mark" : "frame"), // only what was tested is framed
        make("p", {}, make("b", {}, name(table.texts[ofClass]))),
        make("p", { className: "small muted" }, `similarity ${similarity}, distance ${distance}`),
        make("p", { className: "small muted file" }, name(table.texts[image])),
      ),
    );
    const words = agreement || alone ? make("p", { textContent: (agreement + alone).trim() }) : null;
    return part(heading, words, make("ol", { className: "near" }, ...items));
  };

  const classesPart = (sheet) => {
    if (!sheet.classes) return null;
    const rows = sheet.classes.map(([text, weight]) =>
      make("tr", {}, make("th", { scope: "row" }, name(table.texts[text])), make("td", { textContent: weight })),
    );
    const head = make("tr", {}, make("th", { scope: "col", textContent: "class" }), make("th", { scope: "col", textContent: "weight" }));
    return part(
      rows.length === 1 ? "The class that uses it" : `The ${rows.length} classes that use it`,
      make("table", { className: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows)),
    );
  };

  const visibleCards = () => {
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
    const near = sheet.near ?? [null, null];
    const parts = [
      sourcePart(sheet),
      becausePart(sheet),
      nearPart("Nearest patches in the training images", "There are none.", near[0]),
      nearPart("Nearest patches in the test images", "There are none.", near[1]),
      classesPart(sheet),
    ];
    body.replaceChildren(...parts.filter((element) => element !== null));
    dialog.scrollTop = 0;
  };

  const hashOf = (number) => `#prototype-${number}`;
  const numberInAddress = () => {
    const found = /^#prototype-(\d+)$/.exec(location.hash);
    return found && sheets.has(Number(found[1])) ? Number(found[1]) : null;
  };
  const follow = () => {
    const number = numberInAddress();
    if (number === null) {
      if (dialog.open) dialog.close();
      return;
    }
    fill(number);
    if (dialog.open) return;
    dialog.showModal();
    title.focus(); // an autofocus in the page would also be tried while it loads
  };
  const step = (by) => {
    const order = visibleCards();
    const at = order.findIndex((card) => numberOf(card) === current);
    fill(numberOf(order[(at + by + order.length) % order.length]));
    history.replaceState(null, "", hashOf(current));
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#prototype-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    link.focus();
    history.pushState(null, "", link.hash);
    follow();
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // the event comes a moment later, perhaps after it was opened again
    if (numberInAddress() !== null) history.replaceState(null, "", location.pathname + location.search);
    if (document.activeElement === document.body) document.querySelector(`.card a[href="${hashOf(current)}"]`)?.focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    const button = event.target.closest("[data-step]");
    if (button) step(Number(button.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  for (const box of dialog.querySelectorAll("[data-shows]"))
    box.addEventListener("change", () => dialog.classList.toggle(`no-${box.dataset.shows}`, !box.checked));
  follow();

  // On paper nothing can be unfolded or come into view.
  addEventListener("beforeprint", () => {
    for (const image of document.images) image.loading = "eager";
    for (const details of document.querySelectorAll(".explained details, .card details")) details.open = true;
  });
})();
