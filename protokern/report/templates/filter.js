(() => {
  const picker = document.getElementById("class-picker");
  if (!picker) return;
  const groups = document.querySelectorAll(".class-group");
  const count = document.getElementById("class-count");
  const show = () => {
    let shown = 0;
    for (const group of groups) {
      const before = shown;
      for (const card of group.querySelectorAll(".card")) {
        card.hidden = picker.value !== "" && !card.dataset.classes.split(" ").includes(picker.value);
        if (!card.hidden) shown += 1;
      }
      group.hidden = shown === before;
    }
    count.textContent = shown === 1 ? "1 prototype" : `${shown} prototypes`;
  };
  const showAll = () => {
    picker.value = "";
    show();
  };
  picker.addEventListener("change", show);
  for (const link of document.querySelectorAll('a[href^="#prototype-"]')) link.addEventListener("click", showAll);
  picker.closest(".filter").hidden = false;
  show();
})();
