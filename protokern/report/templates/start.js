// Draws what the page is of.
if (page.sheets) drawReport();
else document.getElementById("main").append(...drawExplanation());

// On paper nothing can be unfolded or come into view.
addEventListener("beforeprint", () => {
  for (const image of document.images) image.loading = "eager";
  for (const details of document.querySelectorAll(".explained details, .card details, .measure details")) details.open = true;
});
