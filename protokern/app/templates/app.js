// The page as a whole: its sections, and what other pages and programs did meanwhile.
const OFTEN = 1000; // milliseconds between questions while something is being made
const SELDOM = 5000;

Object.assign(SECTIONS, { ask: drawAsk, images: drawImages, edits: drawEdits, prototypes: markedGallery });
SHEET_PARTS.splice(1, 0, editPart, nearNow);

const look = async () => {
  if (live.said) return; // an edit of this page brings the newest state itself
  let news = null;
  try {
    news = await request(withQuery("state", { revision: live.state.revision }));
    live.lost = "";
  } catch (error) {
    live.lost = error.message;
  }
  if (news && !live.said && JSON.stringify(news.state) !== JSON.stringify(live.state)) takeOver(news);
  drawBar();
};

let alarm;
const watch = async () => {
  clearTimeout(alarm);
  if (!document.hidden) await look();
  clearTimeout(alarm);
  alarm = setTimeout(watch, live.state.doing || live.lost ? OFTEN : SELDOM);
};

startImageDialog();
document.body.append(editBar);
drawState();
tabs.addEventListener("message", watch);
document.addEventListener("visibilitychange", watch);
alarm = setTimeout(watch, OFTEN);
