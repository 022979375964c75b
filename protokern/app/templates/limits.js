// How prototypes may speak about a class: the signs of its weights.
const LIMIT_OWN = { any: "for and against it", for: "only for it" };
const LIMIT_OTHERS = { any: "for and against it", against: "only against it", none: "not at all" };

const limitsPart = () => {
  const { state } = live;
  const limited = new Map(state.limits.map(([index, own, others]) => [index, [own, others]]));
  const pick = (label, words, chosen) =>
    make("select", { "aria-label": label }, ...Object.entries(words).map(([value, text]) => choiceOf(text, value, value === chosen)));
  const lines = [...limited].map(([index, [own, others]]) => {
    const ofClass = page.images.classes[index];
    const lift = button("Lift it", { "aria-label": `Lift the limit of ${ofClass}` });
    const line = make("li", {}, name(ofClass), `: its own prototypes may speak ${LIMIT_OWN[own]}, those of other classes ${LIMIT_OTHERS[others]}. `, lift);
    lift.addEventListener("click", () => whileBusy(lift, line, () => change({ kind: "limit", classes: [ofClass], own: "any", others: "any" })));
    return line;
  });
  const classes = classChoice("Class that is limited", 0);
  const own = pick("How its own prototypes may speak", LIMIT_OWN, "for");
  const others = pick("How prototypes of other classes may speak", LIMIT_OTHERS, "any");
  const limit = button("Limit it", {});
  const form = make(
    "details",
    { className: "small", open: live.limitsOpen ?? false },
    make("summary", { textContent: "Limit what speaks for a class" }),
    lines.length ? make("ul", { className: "limits" }, ...lines) : null,
    make("div", { className: "buttons" }, make("label", {}, "For ", classes), make("label", {}, "its own prototypes may speak ", own), make("label", {}, "those of other classes ", others), limit),
  );
  form.addEventListener("toggle", () => (live.limitsOpen = form.open));
  limit.addEventListener("click", () =>
    whileBusy(limit, form, () => change({ kind: "limit", classes: [page.images.classes[Number(classes.value)]], own: own.value, others: others.value })),
  );
  return form;
};
