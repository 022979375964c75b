// The images of the run by what the net answers, and what every prototype does among them.
const SPLIT_NAMES = { test: "test images", val: "validation images", train: "training images" };
const imageDialog = make("dialog", { id: "image-dialog", "aria-label": "Explained image" });
const imageTitle = make("h2", { tabIndex: -1, textContent: "Explained image" });
const imageBody = make("div", { id: "image-body" });

const showImage = async (ref, base = "") => {
  imageBody.replaceChildren(paragraph("muted", "Looking at it …"));
  if (!imageDialog.open) imageDialog.showModal();
  imageTitle.focus();
  try {
    const reply = await request(withQuery(`${base}explain`, { image: ref }));
    imageBody.replaceChildren(answered({ ...reply, base }));
  } catch (error) {
    imageBody.replaceChildren(trouble(error.message));
  }
};

const startImageDialog = () => {
  const close = button("Close", {});
  close.addEventListener("click", () => imageDialog.close());
  imageDialog.append(make("div", { className: "sheet-bar" }, make("div", {}, imageTitle), make("div", { className: "sheet-buttons" }, close)), imageBody);
  imageDialog.addEventListener("click", (event) => event.target === imageDialog && imageDialog.close());
  document.body.append(imageDialog);
};

const imageCard = ([ref, [index, rows, columns], file, truth, answer, right, probability]) => {
  const look = make("button", { type: "button", className: "image-button", "aria-label": `Explain ${file}: ${truth}, answered ${answer}` }, picture(index, rows, columns, ""));
  look.addEventListener("click", () => showImage(ref));
  const said = right ? null : make("p", { className: "small against-text" }, "answered ", name(answer));
  return make("li", {}, look, make("p", {}, make("b", {}, name(truth))), said, make("p", { className: "small muted number", textContent: probability }), make("p", { className: "small muted file" }, name(file)));
};

const drawImages = (part) => {
  const head = headOf("Its images", paragraph("prose muted", "What the net answers to the images of the run; the number is the probability it gives its answer. Open one to see why. Test images choose nothing: judge edits by the validation images."));
  if (!part.there) return section("images", head, paragraph("muted", live.state.refusal));
  const pick = (label, options) => [label, make("select", {}, ...options.map(([value, text]) => choiceOf(text, value)))];
  const fields = {
    split: pick("Of the", Object.entries(SPLIT_NAMES)),
    class: pick("Class", [["", "all classes"], ...part.classes.map((text, index) => [index, text])]),
    verdict: pick("Answers", [["all", "right and wrong"], ["wrong", "wrong ones"], ["right", "right ones"]]),
    order: pick("Order", [["unsure", "least sure first"], ["sure", "most sure first"], ["data", "as in the data"]]),
  };
  const count = make("output", { className: "muted", "aria-live": "polite" });
  const list = make("ul", { className: "near images" });
  const more = button("Show more", { hidden: true });
  const wrong = make("div");
  let asked = 0; // only the newest answer is drawn
  const load = async (start) => {
    const turn = (asked += 1);
    const values = Object.fromEntries(Object.entries(fields).map(([key, [, select]]) => [key, select.value]).filter(([, value]) => value !== ""));
    try {
      const reply = await request(withQuery("images", { ...values, start }));
      if (turn !== asked) return;
      if (!start) list.replaceChildren();
      list.append(...reply.rows.map(imageCard));
      const percent = reply.all ? ((100 * reply.right) / reply.all).toFixed(1) : "0";
      count.textContent = `${reply.total} of ${reply.all} images; ${percent} % of all are answered rightly`;
      more.hidden = list.children.length >= reply.total;
      wrong.replaceChildren();
    } catch (error) {
      if (turn === asked) wrong.replaceChildren(live.state.doing ? paragraph("muted", live.state.doing) : trouble(error.message));
    }
  };
  more.addEventListener("click", () => load(list.children.length));
  for (const [, select] of Object.values(fields)) select.addEventListener("change", () => load(0));
  live.loadImages = () => load(0);
  const filter = make("div", { className: "filter" }, ...Object.values(fields).map(([label, select]) => make("label", {}, `${label} `, select)), count);
  load(0);
  return section("images", head, filter, wrong, list, make("div", { className: "buttons" }, more));
};

// What a sheet shows of a prototype that was not known when the page was made.
const nearNow = (sheet) => {
  if (sheet.near || isForbidden(sheet.index) || !page.images.there) return null;
  const place = make("div", {}, paragraph("sheet-part muted small", live.state.doing || "Seeking its nearest patches …"));
  const fetchNear = async () => {
    try {
      const reply = await request(withQuery("near", { prototype: sheet.index }));
      if (current !== sheet.index) return;
      place.replaceChildren(...drawNear(sheet, reply));
    } catch (error) {
      place.replaceChildren(trouble(error.message));
    }
  };
  if (!live.state.doing) fetchNear();
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
  const words = `Of ${decided.of} test images, ${decided.count} were answered as they were mainly because of it${decided.wrong ? `; ${decided.wrong} of them wrongly` : ""}.`;
  const items = decided.rows.map(([ref, view, answer, right, points]) => {
    const look = make("button", { type: "button", className: "image-button", "aria-label": `Explain the image that was answered ${answer}` }, framed(view, ""));
    look.addEventListener("click", () => showImage(ref));
    return make("li", {}, look, make("p", {}, make("b", {}, name(answer)), right ? null : make("span", { className: "against-text small" }, " wrong")), make("p", { className: "small muted number", textContent: `${points} points` }));
  });
  return part("Where it decided", make("p", { textContent: words }), make("ol", { className: "near" }, ...items));
};
