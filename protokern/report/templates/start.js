// Draws what the page is of.
const parts = page.sheets ? drawReport() : drawExplanation();
document.getElementById("main").append(...parts);
if (page.sheets) {
  startFilter();
  startSheets();
}

// On paper nothing can be unfolded or come into view.
addEventListener("beforeprint", () => {
  for (const image of document.images) image.loading = "eager";
  for (const details of document.querySelectorAll(".explained details, .card details")) details.open = true;
});
