// The page as a whole: its sections, and what other pages and programs did meanwhile.
const OFTEN = 1000; // milliseconds between questions while something is being made
const SELDOM = 5000;

Object.assign(SECTIONS, { ask: drawAsk, images: drawImages, edits: drawEdits, prototypes: markedGallery });
SHEET_PARTS.splice(1, 0, editPart, nearNow);

const watch = async () => {
  if (!document.hidden && !live.said) {
    try {
      const { state, page: parts } = await request(withQuery("state", { revision: live.state.revision }));
      const same = JSON.stringify(state) === JSON.stringify(live.state);
      if (!same && !live.said) takeOver({ state, page: parts });
      else if (live.lost) drawState();
      live.lost = false;
    } catch (error) {
      live.lost = true;
      barText.textContent = error.message;
    }
  }
  setTimeout(watch, live.state.doing ? OFTEN : SELDOM);
};

startImageDialog();
document.body.append(editBar);
drawState();
setTimeout(watch, OFTEN);
