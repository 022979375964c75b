// The images of the run by what the net answers, and what every prototype does among them.
const SPLIT_NAMES = { val: "validation images", test: "test images", train: "training images" };
const imageDialog = make("dialog", { id: "image-dialog", "aria-labelledby": "image-title" });
const imageTitle = make("h2", { id: "image-title", tabIndex: -1, textContent: "Explained image" });
const imageBody = make("div", { id: "image-body" });
const shownImage = { ref: "", base: "", turn: 0 };

// Which dialogs are open, the topmost last. The bar is in the topmost, because nothing below it can be reached.
const layers = [];
const layering = new MutationObserver((records) => {
  for (const { target } of records) {
    if (layers.includes(target)) layers.splice(layers.indexOf(target), 1);
    if (target.open) layers.push(target);
  }
  const host = layers.at(-1) ?? document.body;
  if (editBar.parentNode !== host) host.append(editBar);
});
const closeAll = () => {
  for (const one of [...layers].reverse()) one.close();
};

// Leads out of the dialogs to a section; the focus must be there before they tell that they are closed.
const leaveFor = (hash) => {
  const target = document.querySelector(hash);
  if (!target) return; // a prototype that an undo has taken away
  closeAll();
  setAddress(hash, "pushState");
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  target.scrollIntoView();
};

// Images of this run have addresses, so that the way back leads to where the reader was.
const imageHash = () => (shownImage.base ? "" : `#image-${shownImage.ref.replace("/", "-")}`);
const imageIn = (hash) => /^#image-(train|val|test)-(\d{1,9})$/.exec(hash);
const withoutHash = () => location.pathname + location.search;

const showImage = async (ref, base = "", isNew = true) => {
  const turn = (shownImage.turn += 1);
  Object.assign(shownImage, { ref, base });
  imageBody.replaceChildren(paragraph("muted", "Looking at it …"));
  if (imageDialog.open && layers.at(-1) !== imageDialog) imageDialog.close(); // it comes above the sheet
  if (!imageDialog.open) imageDialog.showModal();
  if (isNew && imageHash()) setAddress(imageHash(), "pushState");
  imageDialog.scrollTop = 0;
  imageTitle.focus();
  let content;
  try {
    content = answered({ ...(await request(withQuery(`${base}explain`, { image: ref }))), base });
  } catch (error) {
    content = trouble(error.message);
  }
  if (turn === shownImage.turn) imageBody.replaceChildren(content);
};

const followImage = () => {
  const found = imageIn(location.hash);
  const ref = found && `${found[1]}/${found[2]}`;
  if (ref && !(imageDialog.open && shownImage.ref === ref && !shownImage.base)) showImage(ref, "", false);
  else if (!ref && imageDialog.open && (layers.at(-1) === imageDialog || prototypeIn(location.hash) === null)) imageDialog.close();
};

const startImageDialog = () => {
  const close = button("Close", {});
  close.addEventListener("click", () => imageDialog.close());
  imageDialog.append(make("div", { className: "sheet-bar" }, make("div", {}, imageTitle), make("div", { className: "sheet-buttons" }, close)), imageBody);
  imageDialog.addEventListener("click", (event) => event.target === imageDialog && imageDialog.close());
  imageDialog.addEventListener("close", () => {
    if (imageDialog.open) return;
    shownImage.turn += 1;
    if (imageIn(location.hash)) setAddress(dialog.open ? hashOf(current) : withoutHash(), "replaceState");
    if (document.activeElement === document.body)
      [...document.querySelectorAll(`[data-ref="${shownImage.ref}"]`)].find((one) => one.checkVisibility())?.focus();
  });
  dialog.addEventListener("close", () => {
    if (!dialog.open && imageDialog.open && imageHash() && !imageIn(location.hash)) setAddress(imageHash(), "replaceState");
  });
  document.body.append(imageDialog);
  for (const one of [dialog, imageDialog]) {
    layering.observe(one, { attributeFilter: ["open"] });
    one.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#"]');
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const hash = link.getAttribute("href");
      if (prototypeIn(hash) === null) {
        event.preventDefault();
        leaveFor(hash);
      } else if (one === imageDialog && dialog.open) dialog.close(); // the prototype comes above the image
    });
  }
  addEventListener("popstate", followImage);
  addEventListener("hashchange", followImage);
  followImage();
};

const lookAt = (ref, label, shown) => {
  const look = make("button", { type: "button", className: "image-button", "aria-label": label, "data-ref": ref }, shown);
  look.addEventListener("click", () => showImage(ref));
  return look;
};

const imageCard = ([ref, [index, rows, columns], file, truth, answer, right, probability]) => {
  const look = lookAt(ref, `Explain ${file}: ${truth}, answered ${answer}`, picture(index, rows, columns, ""));
  const said = right ? null : make("p", { className: "small against-text" }, "answered ", name(answer));
  return make("li", {}, look, make("p", {}, make("b", {}, name(truth))), said, make("p", { className: "small muted number", textContent: probability }), make("p", { className: "small muted file" }, name(file)));
};

const drawImages = (part) => {
  const head = headOf("Images and answers", paragraph("prose muted", "What the net answers to the images of the run, with the probability that it gives its answer. Open one to see why; the prototype that misleads it can be corrected. The net learnt from the training images; the validation images chose its settings; the test images were never used, and are a fair test as long as no edit is chosen by them."));
  if (!part.there) return section("images", head, paragraph("muted", live.state.refusal));
  const pick = (label, options) => [label, make("select", {}, ...options.map(([value, text]) => choiceOf(text, value)))];
  const fields = {
    split: pick("Of the", Object.entries(SPLIT_NAMES)),
    class: pick("Class", [["", "all classes"], ...part.classes.map((text, index) => [index, text])]),
    verdict: pick("Answers", [["all", "right and wrong"], ["wrong", "wrong ones"], ["right", "right ones"]]),
    order: pick("Order", [["unsure", "least sure first"], ["sure", "most sure first"], ["data", "as in the data"]]),
  };
  const told = make("output", { className: "muted", "aria-live": "polite" });
  const list = make("ul", { className: "near images" });
  const more = button("Show more", { hidden: true });
  const wrong = make("div");
  let asked = 0; // only the newest answer is drawn
  const fetchImages = (start) => {
    const values = Object.fromEntries(Object.entries(fields).map(([key, [, select]]) => [key, select.value]).filter(([, value]) => value !== ""));
    return request(withQuery("images", { ...values, start }));
  };
  // Draws the images from `start`, as many as there were, at least one page of them.
  const load = async (start, count = 0) => {
    const turn = (asked += 1);
    const rows = [];
    if (live.state.doing) {
      wrong.replaceChildren(paragraph("muted", live.state.doing));
      return;
    }
    try {
      let reply;
      do {
        reply = await fetchImages(start + rows.length);
        rows.push(...reply.rows);
      } while (reply.rows.length && rows.length < count);
      if (turn !== asked) return;
      const cards = rows.map(imageCard);
      if (start) list.append(...cards);
      else list.replaceChildren(...cards);
      const percent = reply.all ? ((100 * reply.right) / reply.all).toFixed(1) : "0";
      told.textContent = `${reply.total} of ${reply.all} images; of all, ${percent}% are answered rightly`;
      more.hidden = list.children.length >= reply.total;
      wrong.replaceChildren(reply.total ? "" : paragraph("muted", "There are none."));
    } catch (error) {
      if (turn === asked) wrong.replaceChildren(trouble(error.message));
    }
  };
  more.addEventListener("click", () => load(list.children.length));
  for (const [, select] of Object.values(fields)) select.addEventListener("change", () => load(0));
  live.loadImages = () => load(0, list.children.length);
  live.showTraining = (ofClass) => {
    for (const [key, value] of Object.entries({ split: "train", class: ofClass, verdict: "all", order: "data" })) fields[key][1].value = value;
    list.replaceChildren(); // the images that were there cannot be chosen
    load(0);
  };
  const filter = make("div", { className: "filter" }, ...Object.values(fields).map(([label, select]) => make("label", {}, `${label} `, select)), told);
  load(0);
  return section("images", head, choosingNote, filter, wrong, list, make("div", { className: "buttons" }, more));
};

// Somebody who wants another patch for a prototype, or the first one of a class, chooses it among training images.
const choosingNote = make("p", { className: "old", hidden: true, role: "status" });
const startChoosing = (ofClass, number) => {
  live.choosing = { number };
  const what = number === null ? "a new prototype" : `prototype ${number}`;
  const stop = button("Leave it", {});
  stop.addEventListener("click", stopChoosing);
  choosingNote.replaceChildren("Open a training image and mark the part that shall be ", what, ". ", stop);
  choosingNote.hidden = false;
  live.showTraining(ofClass);
  leaveFor("#images");
};
const stopChoosing = () => {
  live.choosing = null;
  choosingNote.hidden = true;
};

// What a sheet shows of a prototype that was not known when the page was made.
const nearNow = (sheet) => {
  live.near?.stop();
  live.near = null;
  if (sheet.near || isForbidden(sheet.index) || !page.images.there) return null;
  const place = make("div", {}, paragraph("sheet-part muted small", live.state.doing || "Seeking its nearest patches …"));
  let stopping = new AbortController();
  let isThere = false;
  const fetchNear = async () => {
    stopping = new AbortController();
    const { signal } = stopping;
    try {
      const reply = await request(withQuery("near", { prototype: sheet.index }), { signal });
      if (signal.aborted) return;
      place.replaceChildren(...drawNear(sheet, reply));
      body.style.minHeight = "";
      isThere = true;
    } catch (error) {
      if (signal.aborted) return;
      place.replaceChildren(trouble(error.message));
    }
  };
  if (live.state.doing) return place;
  live.near = { stop: () => stopping.abort(), fetch: () => isThere || fetchNear() };
  fetchNear();
  return place;
};

const drawNear = (sheet, reply) => {
  const first = page.texts.length;
  page.texts.push(...reply.texts);
  const shifted = ([agreement, rows]) => [agreement, rows.map(([view, image, ofClass, ...more]) => [view, image + first, ofClass + first, ...more])];
  const [train, test] = reply.near.map(shifted);
  const ofTrain = nearPart("Nearest patches in the training images", "There are none.", train);
  if (canEdit())
    ofTrain.querySelectorAll("li").forEach((item, at) => {
      const use = button("Use this instead", {});
      const [image, patch] = reply.places[at];
      use.addEventListener("click", () => whileBusy(use, item, () => change({ kind: "replace", prototype: sheet.index, image, patch })));
      item.append(make("div", { className: "buttons" }, use));
    });
  return [decidedPart(reply.decided), ofTrain, nearPart("Nearest patches in the test images", "There are none.", test)].filter((element) => element !== null);
};

const decidedPart = (decided) => {
  if (!decided) return null;
  const wrong = decided.wrong ? ` ${decided.wrong} of these answers ${decided.wrong === 1 ? "is" : "are"} wrong.` : "";
  const words = `Of ${decided.of} test images, ${decided.count || "none"} got most points for ${decided.count > 1 ? "their" : "its"} answer from this prototype.${wrong}`;
  const items = decided.rows.map(([ref, view, answer, right, points]) => {
    const look = lookAt(ref, `Explain the image that was answered ${answer}`, framed(view, ""));
    return make("li", {}, look, make("p", {}, make("b", {}, name(answer)), right ? null : make("span", { className: "against-text small" }, " wrong")), make("p", { className: "small muted number", textContent: `${points} points` }));
  });
  return part("Where it decided", make("p", { textContent: words }), make("ol", { className: "near" }, ...items));
};
