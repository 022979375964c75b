// Which prototypes the gallery shows: those of a class, with the words that are searched for.
const numberOf = (card) => Number(card.id.slice("prototype-".length));

const startFilter = () => {
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
        ...(sheet.classes ?? []).map(([place]) => page.texts[place]),
        ...(sheet.main ?? []),
      ].join("\n"),
    );
  const isOf = (sheet, choice) =>
    choice === "none" ? !sheet.classes : (sheet.classes ?? []).some(([, , index]) => String(index) === choice);
  let searchable = null;

  const filter = () => {
    searchable ??= new Map(page.sheets.map((sheet) => [sheet.index, wordsOf(sheet)]));
    const wanted = plain(search.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [index, card] of cardOf) {
      const ofClass = picker.value === "" || isOf(sheets.get(index), picker.value);
      const text = wanted.length ? searchable.get(index) : "";
      card.hidden = !(ofClass && wanted.every((word) => text.includes(word)));
      if (!card.hidden) shown += 1;
    }
    for (const group of document.querySelectorAll(".class-group"))
      group.hidden = !group.querySelector(".card:not([hidden])");
    const all = cardOf.size === 1 ? "1 prototype" : `${cardOf.size} prototypes`;
    count.textContent = shown === cardOf.size ? all : `${shown} of ${all}`;
    nothing.hidden = shown > 0;
  };
  picker.addEventListener("change", filter);
  search.addEventListener("input", filter);
  nothing.querySelector("button").addEventListener("click", () => {
    picker.value = search.value = "";
    filter();
    search.focus();
  });
  filter();
};
