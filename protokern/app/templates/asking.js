// Asking the net: photographs that are dropped, pasted or chosen, and what it sees in their patches.
const MOST_SENT = 64 * 2 ** 20; // bytes; the server takes no more
const live = { state: page.state, stale: new Set() };

const request = async (path, options) => {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. It was stopped, or the connection is lost.");
  }
  const unclear = reply.status === 404 ? "The server was started anew. Open the address that its terminal shows." : `The server answered ${reply.status}.`;
  const answer = await reply.json().catch(() => ({ error: unclear }));
  if (!reply.ok) throw new Error(answer.error);
  return answer;
};
const post = (path, content) =>
  request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
const withQuery = (path, values) => `${path}?${new URLSearchParams(values)}`;
const trouble = (text) => make("p", { className: "trouble", role: "alert", textContent: text });
const choiceOf = (text, value, chosen = false) => make("option", { value, textContent: text, selected: chosen });
const classChoice = (label, chosen) =>
  make("select", { "aria-label": label }, ...page.images.classes.map((text, index) => choiceOf(text, index, index === chosen)));
const mayPress = (pressed) => pressed.getAttribute("aria-disabled") !== "true";
// Runs `work` unless the button is at work; what goes wrong is said beside it. A button that were disabled would lose the focus.
const whileBusy = async (pressed, where, work) => {
  if (!mayPress(pressed)) return;
  pressed.setAttribute("aria-disabled", "true");
  where.querySelector(":scope > .trouble")?.remove();
  try {
    await work();
  } catch (error) {
    where.append(trouble(error.message));
  } finally {
    pressed.removeAttribute("aria-disabled");
  }
};
const canEdit = () => Boolean(live.state.history);

// A picture whose patches can be pointed at, with the pointer or with the arrow keys; a drag marks several.
const explorerOf = (reply) => {
  const [rows, columns] = reply.grid;
  const [index, high, wide] = reply.item.picture;
  const mark = make("span", { className: "window" });
  const picked = make(
    "div",
    { className: "seen patches", tabIndex: 0, role: "group", "aria-label": `Patches of ${reply.item.name}: arrow keys move, with Shift they widen` },
    picture(index, high, wide, ""),
    mark,
  );
  const told = make("div", { className: "told", "aria-live": "polite" });
  const near = make("div", { className: "near-window" });
  const window = { row: Math.floor(rows / 2), column: Math.floor(columns / 2), rows: 1, columns: 1 };
  let start = null;

  const tell = () => {
    const { row: r, column: c, rows: h, columns: w } = window;
    mark.style.top = `${(100 * r) / rows}%`;
    mark.style.left = `${(100 * c) / columns}%`;
    mark.style.height = `${(100 * h) / rows}%`;
    mark.style.width = `${(100 * w) / columns}%`;
    const where = h * w === 1 ? `Patch in row ${r + 1}, column ${c + 1}.` : `${h} by ${w} patches.`;
    const best = new Map();
    for (let y = r; y < r + h; y += 1)
      for (let x = c; x < c + w; x += 1)
        for (const [number, similarity] of reply.cells[y * columns + x])
          if (!best.has(number) || parseFloat(similarity) > parseFloat(best.get(number))) best.set(number, similarity);
    const order = [...best].sort((one, other) => parseFloat(other[1].replace("−", "-")) - parseFloat(one[1].replace("−", "-")));
    const items = order.slice(0, 3).map(([number, similarity]) => {
      const sheet = reply.run === page.name ? sheets.get(number) : null;
      const label = sheet ? make("a", { href: `#prototype-${number}`, textContent: `Prototype ${number}` }) : `Prototype ${number}`;
      return make(
        "li",
        {},
        sheet?.view ? enlarged(sheet.view, "") : null,
        make("span", {}, label, sheet ? make("span", { className: "small muted" }, " ", name(sheet.of)) : null),
        make("span", { className: "small muted number", textContent: `similarity ${similarity}` }),
      );
    });
    told.replaceChildren(paragraph("small muted", `${where} The prototypes most like it:`), make("ul", { className: "seers" }, ...items));
  };
  const cellAt = (event) => {
    const box = picked.getBoundingClientRect();
    const clamp = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value)));
    return [clamp(((event.clientY - box.top) / box.height) * rows, rows), clamp(((event.clientX - box.left) / box.width) * columns, columns)];
  };
  const span = ([r0, c0], [r1, c1]) =>
    Object.assign(window, { row: Math.min(r0, r1), column: Math.min(c0, c1), rows: Math.abs(r0 - r1) + 1, columns: Math.abs(c0 - c1) + 1 });
  let fixed = false; // a patch that was chosen stays when the pointer moves on
  picked.addEventListener("pointerdown", (event) => {
    start = cellAt(event);
    fixed = true;
    span(start, start);
    tell();
    picked.setPointerCapture(event.pointerId);
  });
  picked.addEventListener("pointermove", (event) => {
    if (fixed && start === null) return;
    const at = cellAt(event);
    span(start ?? at, at);
    tell();
  });
  for (const end of ["pointerup", "pointercancel"]) picked.addEventListener(end, () => (start = null));
  picked.addEventListener("dragstart", (event) => event.preventDefault());
  const widen = (by) => {
    window.rows = Math.max(1, Math.min(rows, window.rows + by));
    window.columns = Math.max(1, Math.min(columns, window.columns + by));
    window.row = Math.min(window.row, rows - window.rows);
    window.column = Math.min(window.column, columns - window.columns);
    fixed = true;
    tell();
  };
  picked.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    fixed = true;
    if (event.shiftKey) {
      window.rows = Math.max(1, Math.min(rows - window.row, window.rows + move[0]));
      window.columns = Math.max(1, Math.min(columns - window.column, window.columns + move[1]));
    } else {
      window.row = Math.max(0, Math.min(rows - window.rows, window.row + move[0]));
      window.column = Math.max(0, Math.min(columns - window.columns, window.column + move[1]));
    }
    tell();
  });
  tell();
  const seek = button("Nearest training patches", {});
  seek.addEventListener("click", () =>
    whileBusy(seek, near, async () => {
      const found = await post(`${reply.base}window`, { image: reply.ref, window: [window.row, window.column, window.rows, window.columns] });
      near.replaceChildren(nearWindow(found.rows, reply));
      near.scrollIntoView({ block: "nearest" });
    }),
  );
  const [larger, smaller] = [button("Mark more", {}), button("Mark less", {})];
  larger.addEventListener("click", () => widen(1));
  smaller.addEventListener("click", () => widen(-1));
  const own = reply.split === "train" && reply.run === page.name && canEdit();
  const use = own ? useForm(reply.item.name, () => [window.row + Math.floor((window.rows - 1) / 2), window.column + Math.floor((window.columns - 1) / 2)], reply.label, Boolean(live.choosing)) : null;
  const notOwn = !own && reply.split && reply.run === page.name && canEdit() ? paragraph("small muted", `This is one of the ${SPLIT_NAMES[reply.split]}. Patches of training images alone can become prototypes.`) : null;
  return make(
    "details",
    { className: "evidence explorer", open: Boolean(own && live.choosing) },
    make("summary", { textContent: "Look into its patches" }),
    paragraph("small muted", "Point at a patch, or drag over several, to see which prototypes are like it.", make("span", { className: "no-touch", textContent: " With the keyboard: arrow keys, with Shift for several." })),
    make("div", { className: "explorer-parts" }, picked, make("div", {}, told, make("div", { className: "buttons" }, seek, larger, smaller), use, notOwn)),
    near,
  );
};

const nearWindow = (rows, reply) => {
  if (!rows.length) return paragraph("muted", "There are none.");
  const items = rows.map(([ref, view, image, ofClass, distance, patch]) => {
    const look = button("Explain", {});
    look.addEventListener("click", () => showImage(ref, reply.base));
    const own = reply.run === page.name && canEdit();
    return make(
      "li",
      {},
      framed(view, `${image}, with the patches that are like it in a frame`),
      make("p", {}, make("b", {}, name(ofClass))),
      make("p", { className: "small muted" }, `distance ${distance}`),
      make("p", { className: "small muted file" }, name(image)),
      make("div", { className: "buttons" }, look),
      own ? useForm(image, () => patch, page.images.classes.indexOf(ofClass)) : null,
    );
  });
  return make("div", {}, paragraph("small muted", "The training patches most like it, one of an image:"), make("ol", { className: "near" }, ...items));
};

// The explanation of one image, with what can be asked about it.
const answered = (reply, heading = "h3") => {
  const whole = make("div", { className: "answered" });
  const draw = (shown, isAgain) => {
    const article = explained(shown.item, heading);
    if (shown.run !== page.name) for (const link of article.querySelectorAll('a[href^="#prototype-"]')) link.replaceWith(link.textContent);
    const title = article.querySelector(heading);
    title.tabIndex = -1;
    const explorer = explorerOf(shown);
    const again = (pressed, where, values) =>
      whileBusy(pressed, where, async () => {
        const next = await request(withQuery(`${shown.base}explain`, { image: shown.ref, ...values }));
        const wasOpen = explorer.open;
        draw({ ...next, base: shown.base }, true).open = wasOpen;
      });
    const known = shown.split ? null : trueClassOf(shown, (select, where) => again(select, where, select.value === "" ? {} : { class: select.value }));
    const old = make("div", { className: "old small", hidden: true }, "You have edited the net since. ");
    const repeat = button("Ask again", {});
    repeat.addEventListener("click", () => again(repeat, old, {}));
    old.append(repeat);
    if (shown.run === page.name) live.stale.add(old);
    article.querySelector(".answer").append(...(known ? [known] : []), old);
    article.append(explorer, shown.tested ? paragraph("small muted", "The frames are tested: each was made as small as the similarity allows.") : checkOf(again));
    whole.replaceChildren(article);
    if (isAgain) title.focus({ preventScroll: true });
    return explorer;
  };
  draw(reply, false);
  return whole;
};

// Of a photograph that was sent: what it is, as the reader knows; then the page says why it was not answered so.
const trueClassOf = (shown, ask) => {
  const select = make("select", {}, choiceOf("not told", ""), ...page.images.classes.map((text, index) => choiceOf(text, index, index === shown.label)));
  const where = make("div", { className: "small true-class" }, make("label", {}, "It really is ", select));
  select.addEventListener("change", () => ask(select, where));
  return shown.run === page.name ? where : null;
};

const checkOf = (again) => {
  const check = button("Test the frames", {});
  const where = make("div", { className: "buttons" }, check, make("span", { className: "small muted", textContent: "Seeks the smallest frames that keep the similarity. It takes seconds." }));
  check.addEventListener("click", () => again(check, where, { frame: "sufficient" }));
  return where;
};

const askAbout = async (base, file) => {
  if (file.size > MOST_SENT) throw new Error(`${file.name} has more than 64 MB. Send a smaller one.`);
  const reply = await request(withQuery(`${base}ask`, { name: file.name }), { method: "POST", body: file });
  return { ...reply, base };
};

const answerOf = (reply, result) => {
  const [index, rows, columns] = reply.item.picture;
  const go = make("button", { type: "button", className: "image-button", "aria-label": `Go to the reasons of ${reply.item.name}` }, picture(index, rows, columns, ""));
  go.addEventListener("click", () => result.scrollIntoView());
  const [, , probability] = reply.item.totals[0] ?? ["", "", ""];
  return make("li", {}, go, make("p", {}, make("b", {}, name(reply.item.answer)), " ", make("span", { className: "small muted number", textContent: probability })), make("p", { className: "small muted file" }, name(reply.item.name)));
};

const drawAsk = (part) => {
  const results = make("div", { className: "results" });
  const told = make("p", { className: "away", role: "status" });
  const input = (properties) => make("input", { type: "file", accept: "image/*", className: "away", ...properties });
  const many = input({ multiple: true, id: "photographs" });
  const camera = input({ capture: "environment", id: "camera" });
  const also = part.others.map(([address, text]) => [make("input", { type: "checkbox", checked: true }), address, text]);
  const ask = async (files) => {
    closeAll();
    const group = make("div");
    results.prepend(group);
    const all = files.length > 1 ? make("ol", { className: "near answers" }) : null;
    if (all) group.append(make("section", { className: "result" }, paragraph("small muted", `${files.length} photographs. Choose one to go to its reasons.`), all));
    for (const [at, file] of files.entries()) {
      const result = make("section", { className: "result" }, paragraph("muted", "Looking at ", name(file.name), " …"));
      group.append(result);
      if (!at) (all ? group : result).scrollIntoView();
      const bases = ["", ...also.filter(([box]) => box.checked).map(([, address]) => address)];
      const columns = make("div", { className: bases.length > 1 ? "side-by-side" : "" });
      for (const base of bases) {
        try {
          const reply = await askAbout(base, file);
          const head = bases.length > 1 ? make("h3", { className: "of-run" }, name(reply.run)) : null;
          columns.append(make("div", {}, ...(head ? [head] : []), answered(reply, "h4")));
          told.textContent = `${file.name}: ${reply.item.answer}`;
          if (all && !base) all.append(answerOf(reply, result));
        } catch (error) {
          columns.append(trouble(error.message));
        }
      }
      result.replaceChildren(columns);
    }
  };
  for (const one of [many, camera])
    one.addEventListener("change", () => {
      ask([...one.files]);
      one.value = "";
    });
  const zone = make(
    "div",
    { className: "drop" },
    make("p", {}, "Drop photographs here, paste one, or"),
    make("div", { className: "buttons" }, many, make("label", { htmlFor: "photographs", className: "button" }, "Choose files"), camera, make("label", { htmlFor: "camera", className: "button only-touch" }, "Take one")),
  );
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    zone.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? zone.classList.remove("over"));
  addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    zone.classList.remove("over");
    ask([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) ask(files);
  });
  const others = also.length
    ? make("fieldset", { className: "toggles small" }, make("legend", { textContent: "Ask beside it" }), ...also.map(([box, , text]) => make("label", {}, box, " ", name(text))))
    : null;
  return section(
    "ask",
    headOf("Ask the net about a photograph", paragraph("prose muted", "The answer comes with its reasons: which parts of the photograph look like which parts of training images, and how many points that gives. Photographs stay on this machine, and are not kept.")),
    zone,
    others,
    told,
    results,
  );
};
