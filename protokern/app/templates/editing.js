// Correcting the net: every edit is written at once, and the page shows what it changed.
const isForbidden = (number) => (live.state.forbidden ?? []).some(([forbidden]) => forbidden === number);
const reasonOf = (number) => (live.state.forbidden ?? []).find(([forbidden]) => forbidden === number)?.[1];

const change = async (edit) => {
  live.say("Solving the last layer again …");
  try {
    takeOver(await post("edits", { edit, revision: live.state.revision }));
  } finally {
    live.say("");
  }
};

// Puts what the server said in the place of what the page showed.
const takeOver = ({ state, page: parts }) => {
  const isNew = state.revision !== live.state.revision || Boolean(state.history) !== canEdit();
  live.state = state;
  if (parts) redraw(parts);
  if (isNew) {
    for (const note of live.stale) {
      if (note.isConnected) note.hidden = false;
      else live.stale.delete(note);
    }
    live.loadImages?.();
  }
  drawState();
  if (parts && dialog.open) {
    if (sheets.has(current)) fill(current);
    else dialog.close();
  }
};

const redraw = (parts) => {
  Object.assign(page, parts);
  sheets.clear();
  for (const sheet of page.sheets) sheets.set(sheet.index, sheet);
  const chosen = ["class-picker", "search"].map((id) => document.getElementById(id)?.value ?? "");
  cardOf.clear();
  document.getElementById("prototypes").replaceWith(SECTIONS.prototypes(page.prototypes));
  document.getElementById("class-picker").value = chosen[0];
  document.getElementById("search").value = chosen[1];
  startFilter();
};

const markedGallery = (part) => {
  const gallery = drawGallery(part);
  for (const [number, reason] of live.state.forbidden ?? []) {
    const card = cardOf.get(number);
    if (!card) continue;
    card.classList.add("forbidden");
    card.querySelector(".name").after(make("p", { className: "small" }, make("span", { className: "tag wrong", textContent: "forbidden" }), reason ? " " : null, reason ? name(reason) : null));
  }
  return gallery;
};

// A patch of a training image as a new prototype, or in the place of another.
const useForm = (image, patchOf, label) => {
  const classes = classChoice("Class of the new prototype", label ?? 0);
  const add = button("Add as a prototype", {});
  const numbers = make("select", { "aria-label": "Prototype that is replaced" }, ...[...sheets.values()].map((sheet) => choiceOf(`${sheet.index}, ${sheet.of}`, sheet.index)));
  const put = button("Put in its place", {});
  const form = make(
    "details",
    { className: "use small" },
    make("summary", { textContent: "Make it a prototype" }),
    make("div", { className: "buttons" }, make("label", {}, "of ", classes), add),
    make("div", { className: "buttons" }, make("label", {}, "in place of ", numbers), put),
  );
  add.addEventListener("click", () => whileBusy(add, form, () => change({ kind: "add", classes: [page.images.classes[Number(classes.value)]], image, patch: patchOf() })));
  put.addEventListener("click", () => whileBusy(put, form, () => change({ kind: "replace", prototype: Number(numbers.value), image, patch: patchOf() })));
  return form;
};

const editPart = (sheet) => {
  if (!canEdit()) return null;
  const number = sheet.index;
  const where = part("Correct it");
  if (isForbidden(number)) {
    const reason = reasonOf(number);
    const keep = button("Allow it again", {});
    keep.addEventListener("click", () => whileBusy(keep, where, () => change({ kind: "keep", prototype: number })));
    where.append(make("p", {}, make("span", { className: "tag wrong", textContent: "forbidden" }), reason ? " " : null, reason ? name(reason) : null), make("div", { className: "buttons" }, keep));
    return where;
  }
  const reason = make("input", { type: "text", maxLength: 300, placeholder: "why? for example: a coat hanger", autocomplete: "off", "aria-label": `Why prototype ${number} is forbidden` });
  const forbid = make("button", { type: "submit", textContent: "Forbid it" });
  const form = make("form", { className: "buttons" }, reason, forbid);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(forbid, where, () => change({ kind: "forbid", prototype: number, reason: reason.value }));
  });
  const keep = button("It is good, keep it", {});
  keep.addEventListener("click", () => whileBusy(keep, where, () => change({ kind: "keep", prototype: number })));
  const own = new Set((sheet.classes ?? []).map(([, , index]) => index));
  const boxes = page.images.classes.map((text, index) => [text, make("input", { type: "checkbox", checked: own.has(index) })]);
  const assign = button("Give it to these classes", {});
  assign.addEventListener("click", () =>
    whileBusy(assign, where, () => change({ kind: "assign", prototype: number, classes: boxes.filter(([, box]) => box.checked).map(([text]) => text) })),
  );
  where.append(
    make("p", { className: "small muted", textContent: "The net can do without it, keep it, or use it for other classes. To replace it, choose one of its nearest patches below, or a patch of any training image." }),
    form,
    make("div", { className: "buttons" }, keep),
    make("details", { className: "small" }, make("summary", { textContent: "Move or share it" }), make("div", { className: "class-boxes" }, ...boxes.map(([text, box]) => make("label", {}, box, " ", name(text)))), make("div", { className: "buttons" }, assign)),
  );
  return where;
};

const stepButtons = () => {
  const step = (kind, text, can) => {
    const pressed = button(text, { disabled: !can });
    pressed.addEventListener("click", () => whileBusy(pressed, pressed.parentElement, () => change({ kind })).then(() => drawState()));
    return pressed;
  };
  return [step("undo", "Undo", live.state.can_undo), step("redo", "Redo", live.state.can_redo)];
};

const saveForm = () => {
  const field = make("input", { type: "text", value: `${page.name}-edited`, maxLength: 80, spellcheck: false, autocomplete: "off", id: "save-name" });
  const save = make("button", { type: "submit", textContent: "Save as a new run", disabled: !live.state.can_undo });
  const form = make("form", { className: "buttons", id: "save" }, make("label", {}, "Name ", field), save);
  const where = make("div", {}, form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(save, where, async () => {
      live.say("Saving …");
      try {
        const saved = await post("save", { name: field.value });
        where.querySelector(".saved")?.remove();
        where.append(
          make("div", { className: "saved", role: "status" }, make("p", {}, "Saved in ", name(saved.folder), `. It answers ${saved.test} of ${saved.images} test images rightly.`), make("p", { className: "small muted" }, "Every command takes it, for example ", make("code", { textContent: `protokern report ${saved.folder}` }))),
        );
      } finally {
        live.say("");
      }
    });
  });
  return where;
};

const outcomeOf = (state) => {
  const [changed, won, lost] = [state.num_changed, state.won, state.lost];
  const words = changed
    ? `${changed} validation image${changed === 1 ? " is" : "s are"} answered otherwise: ${won} now right, ${lost} now wrong.`
    : "No validation image is answered otherwise.";
  const items = state.changed.map(([ref, [index, rows, columns], truth, before, after]) => {
    const look = make("button", { type: "button", className: "image-button", "aria-label": `Explain an image of ${truth}` }, picture(index, rows, columns, ""));
    look.addEventListener("click", () => showImage(ref));
    return make("li", {}, look, make("p", {}, make("b", {}, name(truth))), make("p", { className: "small" }, make("span", { className: before === truth ? "" : "against-text" }, name(before)), " → ", make("span", { className: after === truth ? "" : "against-text" }, name(after))));
  });
  return [make("p", { textContent: words }), items.length ? make("ul", { className: "near images" }, ...items) : null];
};

const renderEdits = () => {
  const { state } = live;
  if (state.doing) return [paragraph("muted", state.doing)];
  if (!state.history) return [paragraph("muted", state.refusal)];
  const count = state.history.length;
  const history = state.history.map(([text, counts]) => make("li", { className: counts ? "" : "undone", dir: "auto" }, counts ? text : make("s", { textContent: text }), counts ? null : " (undone)"));
  return [
    state.busy ? trouble(state.busy) : null,
    state.empty.length ? make("p", { className: "trouble" }, "No prototype is left for ", ...state.empty.flatMap((text, at) => (at ? [", ", name(text)] : [name(text)])), ". Add one, or the class can hardly be answered.") : null,
    make("h3", { textContent: "What changed" }),
    table("plain", headCells(["", "as it was trained", "now"]), state.numbers.map((cells) => row(...cells))),
    ...outcomeOf(state),
    make("h3", { textContent: "History" }),
    count ? make("ol", { className: "history" }, ...history) : paragraph("muted", "Nothing was edited yet."),
    make("div", { className: "buttons" }, ...stepButtons()),
    make("h3", { textContent: "Save" }),
    paragraph("small muted", "The run itself is never changed. Edits are kept in it, also when this page is closed; saving makes a run of its own."),
    saveForm(),
  ];
};

const editsPlace = make("div", { className: "edits" });
const drawEdits = () =>
  section(
    "edits",
    headOf("Edits", paragraph("prose muted", "Forbid, keep, replace, add, move or share prototypes: open one, or a training image. After each edit the weights of all prototypes are solved again.")),
    editsPlace,
  );

const barText = make("p", { className: "small", "aria-live": "polite", id: "bar-text" });
const barButtons = make("div", { className: "buttons" });
const editBar = make("aside", { className: "edit-bar", "aria-label": "Edits" }, make("div", { className: "wrap" }, barText, barButtons));

const drawState = () => {
  const { state } = live;
  const active = document.activeElement?.closest?.(".edits, .edit-bar") ? document.activeElement.textContent : null;
  editsPlace.replaceChildren(...renderEdits().filter((element) => element !== null));
  const counting = (state.history ?? []).filter(([, counts]) => counts).length;
  const [, , now] = state.numbers?.[0] ?? [];
  const words = state.doing || (!state.history ? state.refusal : `${counting} edit${counting === 1 ? "" : "s"}; ${now} of the validation images right, ${state.numbers[0][1]} as trained`);
  barText.textContent = live.said || state.busy || words;
  const toEdits = make("a", { href: "#edits", className: "small", textContent: "Edits" });
  barButtons.replaceChildren(...(state.history ? [...stepButtons(), toEdits] : []));
  if (active) [...document.querySelectorAll(".edits button, .edit-bar button")].find((one) => one.textContent === active && !one.disabled)?.focus();
};
live.say = (text) => {
  live.said = text;
  barText.textContent = text;
  if (!text) drawState();
};
