(() => {
  const picker = document.getElementById("class-picker");
  if (!picker) return;
  const groups = document.querySelectorAll(".class-group");
  const count = document.getElementById("class-count");
  const show = () => {
    let cards = 0;
    for (const group of groups) {
      group.hidden = picker.value !== "" && group.dataset.class !== picker.value;
      if (!group.hidden) cards += group.querySelectorAll(".card").length;
    }
    count.textContent = cards === 1 ? "1 prototype" : `${cards} prototypes`;
  };
  picker.addEventListener("change", show);
  picker.closest(".filter").hidden = false;
  show();
})();
