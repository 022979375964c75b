// Correcting the net: every edit is written at once, and the page shows what it changed.
const isForbidden = (number) => (live.state.forbidden ?? []).some(([forbidden]) => forbidden === number);
const reasonOf = (number) => (live.state.forbidden ?? []).find(([forbidden]) => forbidden === number)?.[1];

const tabs = new BroadcastChannel(location.pathname); // other pages of this run look at once what is new

const change = async (edit) => {
  live.trouble = "";
  live.say("Working out the points of all prototypes anew …");
  live.near?.stop(); // they may not be those of the edited net
  try {
    takeOver(await post("edits", { edit, revision: live.state.revision }));
    tabs.postMessage("edited");
  } catch (error) {
    live.near?.fetch();
    throw error;
  } finally {
    live.say("");
  }
};

// Puts what the server said in the place of what the page showed.
const takeOver = ({ state, page: parts }) => {
  const old = live.state;
  const isNew = state.revision !== old.revision || Boolean(state.history) !== canEdit();
  live.state = state;
  for (const done of document.querySelectorAll(".done")) done.replaceChildren(); // it may have been undone
  if (old.history && state.history) live.last = lastChange(old, state) ?? live.last;
  if (parts) redraw(parts);
  if (isNew) {
    for (const note of live.stale) {
      if (note.isConnected) note.hidden = false;
      else live.stale.delete(note);
    }
  }
  if (isNew || old.doing !== state.doing) live.loadImages?.();
  drawState();
  if ((parts || isNew) && dialog.open) {
    if (sheets.has(current)) refill();
    else dialog.close();
  }
};

// What the newest entry of the history did, and how many answers were right before it.
const lastChange = (old, state) => {
  const at = state.history.findIndex(([, counts], place) => old.history[place]?.[1] !== counts);
  if (at < 0) return null;
  const [text, counts] = state.history[at];
  const again = old.history[at] ? "Done again: " : "";
  return { text: counts ? `${again}${text}` : `Undone: ${text}`, before: old.numbers[0][2] };
};

// Draws an open sheet anew where it is; what was typed and what has the focus stay, if they are still there.
const refill = () => {
  const labelOf = (one) => one.getAttribute("aria-label") ?? one.textContent;
  const fieldIn = () => body.querySelector("input[type=text]");
  const [active, typed, top, source] = [document.activeElement, fieldIn()?.value, dialog.scrollTop, body.dataset.source];
  const wanted = body.contains(active) ? labelOf(active) : null;
  body.style.minHeight = `${body.offsetHeight}px`; // until its nearest patches are there again
  fill(current);
  if (typed && fieldIn()) fieldIn().value = typed;
  if (source === body.dataset.source) dialog.scrollTop = top;
  if (wanted === null) return;
  const same = [...body.querySelectorAll("button, input, summary")].find((one) => labelOf(one) === wanted);
  (same ?? title).focus({ preventScroll: true });
};

const redraw = (parts) => {
  Object.assign(page, parts);
  sheets.clear();
  for (const sheet of page.sheets) sheets.set(sheet.index, sheet);
  const chosen = ["class-picker", "search"].map((id) => document.getElementById(id)?.value ?? "");
  cardOf.clear();
  document.getElementById("prototypes").replaceWith(SECTIONS.prototypes(page.prototypes));
  const picker = document.getElementById("class-picker");
  picker.value = chosen[0];
  if (picker.selectedIndex < 0) picker.value = ""; // what was chosen has no prototype any more
  document.getElementById("search").value = chosen[1];
  startFilter();
};

const markedGallery = (part) => {
  const gallery = drawGallery(part);
  for (const [number, reason] of live.state.forbidden ?? []) {
    const card = cardOf.get(number);
    if (!card) continue;
    card.classList.add("forbidden");
    card.querySelector(".name").after(make("p", { className: "small" }, ...forbiddenNote(reason)));
  }
  return gallery;
};

// A patch of a training image as a new prototype, or in the place of another.
const useForm = (image, patchOf, label, isOpen = false) => {
  const classes = classChoice("Class of the new prototype", label ?? 0);
  const add = button("Add it", {});
  const numbers = make("select", { "aria-label": "Prototype that is replaced" });
  const put = button("Put it there", {});
  const done = make("p", { className: "small done", role: "status" });
  const form = make(
    "details",
    { className: "use small" },
    make("summary", { textContent: "Make it a prototype" }),
    paragraph("muted", "A prototype is one patch. Of several, the middle one is taken."),
    make("div", { className: "buttons" }, make("label", {}, "a new one of ", classes), add),
    make("div", { className: "buttons" }, make("label", {}, "in place of ", numbers), put),
    done,
  );
  const offer = () => {
    const others = [...sheets.values()].filter((sheet) => !isForbidden(sheet.index));
    const ofClass = others.find((sheet) => (sheet.classes ?? []).some(([, , index]) => index === label));
    const chosen = numbers.value || String(live.choosing?.number ?? ofClass?.index ?? "");
    numbers.replaceChildren(...others.map((sheet) => choiceOf(`prototype ${sheet.index}, ${sheet.of}`, sheet.index, String(sheet.index) === chosen)));
  };
  const tell = (number) => {
    offer();
    done.replaceChildren("It is ", make("a", { href: `#prototype-${number}`, textContent: `prototype ${number}` }), " now.");
    stopChoosing();
  };
  form.addEventListener("toggle", () => form.open && offer());
  form.open = isOpen;
  add.addEventListener("click", () =>
    whileBusy(add, form, async () => {
      await change({ kind: "add", classes: [page.images.classes[Number(classes.value)]], image, patch: patchOf() });
      tell(Math.max(...sheets.keys()));
    }),
  );
  put.addEventListener("click", () =>
    whileBusy(put, form, async () => {
      const number = Number(numbers.value);
      await change({ kind: "replace", prototype: number, image, patch: patchOf() });
      tell(number);
    }),
  );
  return form;
};

const forbiddenNote = (reason) => [make("span", { className: "tag wrong", textContent: "forbidden" }), reason ? " " : null, reason ? name(reason) : null];

const editPart = (sheet) => {
  body.dataset.source = `${sheet.index} ${sheet.view}`;
  if (!canEdit()) return null;
  const number = sheet.index;
  const where = part("Correct it");
  const press = (text, edit) => {
    const pressed = button(text, {});
    pressed.addEventListener("click", () => whileBusy(pressed, where, () => change(edit())));
    return pressed;
  };
  const keep = (text) => press(text, () => ({ kind: "keep", prototype: number }));
  if (isForbidden(number)) {
    const reason = reasonOf(number);
    const text = make("p", {}, ...forbiddenNote(reason).filter((one) => one !== null), reason ? ". " : " ", "The net does without it.");
    where.append(text, make("div", { className: "buttons" }, keep("Allow it again")), ...outcomeNotes());
    return where;
  }
  const reason = make("input", { type: "text", maxLength: 300, placeholder: "why? for example: a coat hanger", autocomplete: "off", "aria-label": `Why prototype ${number} is forbidden` });
  const forbid = make("button", { type: "submit", textContent: "Forbid it" });
  const form = make("form", { className: "buttons" }, reason, forbid, keep("It is good, keep it"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(forbid, where, () => change({ kind: "forbid", prototype: number, reason: reason.value.trim() }));
  });
  const own = new Set((sheet.classes ?? []).map(([, , index]) => index));
  const boxes = page.images.classes.map((text, index) => [text, make("input", { type: "checkbox", checked: own.has(index) })]);
  const assign = press("Give it to these classes", () => {
    const classes = boxes.filter(([, box]) => box.checked).map(([text]) => text);
    if (!classes.length) throw new Error("Choose a class at least. A prototype of no class is one to forbid.");
    return { kind: "assign", prototype: number, classes };
  });
  where.append(
    paragraph("small muted", "Does it look at the wrong thing, a background or a label? Forbid it, and the net does without it. Or replace it by another patch of a training image: choose one, or take one of its nearest patches below, if they look at the right thing."),
    form,
    chooseButton("Choose another patch for it", own.size ? [...own][0] : 0, number),
    make("details", { className: "small" }, make("summary", { textContent: "Give it to other classes" }), make("div", { className: "class-boxes" }, ...boxes.map(([text, box]) => make("label", {}, box, " ", name(text)))), make("div", { className: "buttons" }, assign)),
    ...outcomeNotes(),
  );
  return where;
};

const steps = [["undo", "Undo"], ["redo", "Redo"]].map(([kind, text]) => {
  const pressed = button(text, { "data-kind": kind, disabled: true });
  pressed.addEventListener("click", async () => {
    if (!mayPress(pressed)) return;
    for (const one of steps) one.setAttribute("aria-disabled", "true");
    try {
      await change({ kind });
    } catch (error) {
      await watch(); // perhaps another page was faster
      live.trouble = error.message;
    }
    for (const one of steps) one.removeAttribute("aria-disabled");
    drawBar();
  });
  return pressed;
});

const saveField = make("input", { type: "text", value: `${page.name}-edited`.replace(/[^\w.-]/g, "_").replace(/^[.-]/, "_"), maxLength: 80, spellcheck: false, autocomplete: "off", id: "save-name" });
const saveButton = make("button", { type: "submit", textContent: "Save as a new run", disabled: true });
const saveForm = make("form", { className: "buttons", id: "save" }, make("label", {}, "Name ", saveField), saveButton);
const savePlace = make("div", {}, saveForm);
saveForm.addEventListener("submit", (event) => {
  event.preventDefault();
  savePlace.querySelector(".saved")?.remove();
  whileBusy(saveButton, savePlace, async () => {
    live.say("Saving …");
    try {
      const saved = await post("save", { name: saveField.value.trim() });
      savePlace.append(
        make("div", { className: "saved", role: "status" }, make("p", {}, "Saved in ", name(saved.folder), `. It answers ${saved.test} of ${saved.images} test images rightly; without the edits ${saved.before}.`), make("p", { className: "small muted" }, "Every command takes it. To open it here: ", make("code", { textContent: `protokern app ${saved.folder}` }))),
      );
    } finally {
      live.say("");
    }
  });
});

// What all edits together did to the answers, in short.
const sayChanged = ({ num_changed: changed, won, lost }) => {
  if (!changed) return "All validation images are answered as they were without edits.";
  const parts = [won ? `${won} now right` : "", lost ? `${lost} now wrong` : "", changed - won - lost ? `${changed - won - lost} wrong in another way` : ""];
  return `${changed} validation image${changed === 1 ? " is" : "s are"} answered differently than without edits: ${parts.filter(Boolean).join(", ")}.`;
};
const emptyNote = ({ empty }) =>
  empty.length
    ? make(
        "div",
        {},
        make("p", { className: "trouble" }, "No prototype is left for ", ...empty.flatMap((text, at) => (at ? [", ", name(text)] : [name(text)])), ": it can hardly be answered any more. Add one."),
        ...empty.map((text) => chooseButton(`Choose a patch for ${text}`, page.images.classes.indexOf(text), null)),
      )
    : null;
const chooseButton = (text, ofClass, number) => {
  const choose = button(text, {});
  choose.addEventListener("click", () => startChoosing(ofClass, number));
  return make("div", { className: "buttons" }, choose);
};
const outcomeNotes = () => (live.state.can_undo ? [paragraph("small", sayChanged(live.state)), emptyNote(live.state)].filter((one) => one !== null) : []);

const outcomeOf = (state) => {
  const items = state.changed.map(([ref, [index, rows, columns], truth, before, after]) => {
    return make("li", {}, lookAt(ref, `Explain an image of ${truth}`, picture(index, rows, columns, "")), make("p", {}, make("b", {}, name(truth))), make("p", { className: "small" }, make("span", { className: before === truth ? "" : "against-text" }, name(before)), " → ", make("span", { className: after === truth ? "" : "against-text" }, name(after))));
  });
  const more = state.num_changed - items.length;
  return [
    paragraph("", sayChanged(state)),
    items.length ? paragraph("small muted", "In bold the right class, below it the answer without edits and the one now, in colour where it is wrong.") : null,
    items.length ? make("ul", { className: "near images" }, ...items) : null,
    more ? paragraph("small muted", `${more} more ${more === 1 ? "is" : "are"} not shown.`) : null,
  ];
};

const renderEdits = () => {
  const { state } = live;
  if (state.doing) return [paragraph("muted", state.doing)];
  if (!state.history) return [paragraph("muted", state.refusal)];
  const history = state.history.map(([text, counts]) => make("li", { className: counts ? "" : "undone", dir: "auto" }, counts ? text : make("s", { textContent: text }), counts ? null : " (undone)"));
  return [
    state.busy ? trouble(state.busy) : null,
    emptyNote(state),
    make("h3", { textContent: "What changed" }),
    table("plain", [make("td"), ...headCells(["as it was trained", "now"])], state.numbers.map((cells) => row(...cells))),
    paragraph("small muted", "Validation images come from where the training images come from. A fault that both share, such as a sticker on every picture of a class, does not show in these numbers: go by what the prototypes show."),
    ...outcomeOf(state),
    make("h3", { textContent: "History" }),
    history.length ? make("ol", { className: "history" }, ...history) : paragraph("muted", "Nothing was edited yet."),
    make("h3", { textContent: "Limits" }),
    limitsPart(),
    make("h3", { textContent: "Save" }),
    paragraph("small muted", "The run itself is never changed. Its edits stay with it when this page is closed. Saving makes a run of its own."),
    savePlace,
  ];
};

const editsPlace = make("div", { className: "edits" });
const drawEdits = () =>
  section(
    "edits",
    headOf("Edits", paragraph("prose muted", "Correct what the net looks at: forbid a prototype, replace it, give it to other classes, or add one. Open a prototype, or a training image under ", make("a", { href: "#images", textContent: "Images" }), ". After each edit the net works out anew how many points each prototype gives, and you see here what that changed.")),
    editsPlace,
  );

const barText = make("p", { className: "small", role: "status", id: "bar-text" });
const toEdits = make("a", { href: "#edits", className: "small", textContent: "What changed" });
const barButtons = make("div", { className: "buttons" }, ...steps, toEdits);
const editBar = make("aside", { className: "edit-bar", "aria-label": "Edits" }, make("div", { className: "wrap" }, barText, barButtons));

const sayEdits = () => {
  const { state, last } = live;
  if (!state.history) return [state.refusal];
  const count = state.history.filter(([, counts]) => counts).length;
  const [, trained, now] = state.numbers[0];
  if (last) {
    const before = now === last.before ? ", as before" : `, before ${last.before}`;
    return [name(last.text), `. Right validation images: ${now}${before}${trained === last.before ? "" : `, as trained ${trained}`}.`];
  }
  return [count ? `${count} edit${count === 1 ? "" : "s"}. ` : "No edits yet. ", `Right validation images: ${now}${count ? `, as trained ${trained}` : ""}.`];
};
const drawBar = () => {
  const { state } = live;
  const wrong = live.said ? "" : live.lost || live.trouble || state.busy;
  const words = live.said ? [live.said] : wrong ? [wrong] : state.doing ? [state.doing] : sayEdits();
  const text = words.map((one) => one.textContent ?? one).join("");
  if (barText.textContent !== text) barText.replaceChildren(...words);
  barText.classList.toggle("against-text", Boolean(wrong));
  barButtons.hidden = !state.history;
  const focused = steps.find((one) => one === document.activeElement);
  for (const [at, can] of [state.can_undo, state.can_redo].entries()) steps[at].disabled = !can;
  if (focused?.disabled) (steps.find((one) => !one.disabled) ?? toEdits).focus();
};

const drawState = () => {
  const { state } = live;
  const active = document.activeElement;
  editsPlace.replaceChildren(...renderEdits().filter((element) => element !== null));
  if (savePlace.contains(active)) active.focus({ preventScroll: true });
  saveButton.disabled = !state.can_undo;
  drawBar();
};
live.say = (text) => {
  live.said = text;
  drawBar();
};
