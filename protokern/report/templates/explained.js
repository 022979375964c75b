// One explained image: the answer, and why.
const pairOf = (framedPicture, heat, ...caption) =>
  make("figure", { className: "pair" }, framedPicture, heat, make("figcaption", {}, ...caption));
const proofOf = (text) => (text ? [make("br"), make("span", { className: "proof", textContent: text })] : []);

const struckOut = ([index, rows, columns], alt) =>
  make("div", { className: "seen struck-out" }, picture(index, rows, columns, alt.split(";")[0]));

const matchOf = (match) => {
  const { here, there } = match;
  const caption = match.link ? make("a", { href: match.link, textContent: match.caption }) : match.caption;
  const like = paragraph("like", match.like || "looks like");
  if (match.role) like.append(make("br"), make("span", { className: "small", textContent: match.role }));
  return make(
    "li",
    { className: "match" },
    pairOf(
      match.absent ? struckOut(here, match.here_alt) : framed(here, match.here_alt),
      match.absent ? null : seen(match.here_heat, here, match.here_heat_alt),
      "this image",
      ...(match.absent ? [] : proofOf(match.here_proof)),
    ),
    like,
    pairOf(
      there ? framed(there, match.there_alt) : paragraph("no-source small muted", match.no_patch),
      there ? seen(match.there_heat, there, match.there_heat_alt) : null,
      caption,
      ...proofOf(match.there_proof),
    ),
    make(
      "div",
      { className: "sum" },
      make("span", { className: "small muted", textContent: match.product }),
      " ",
      make("span", { className: match.against ? "result against" : "result", textContent: match.points }),
      bar(match.share, match.against, { "aria-hidden": "true" }),
    ),
    optional("why small", match.because),
  );
};

const matchesOf = (one) => {
  const list = (matches) => make("ol", { className: "matches" }, ...matches.map(matchOf));
  const line = ([text, value], className = "") =>
    make("div", { className }, make("dt", {}, ...rich(text)), make("dd", { textContent: value }));
  return [
    one.none ? paragraph("small muted", ...rich(one.none)) : list(one.reasons),
    one.counted ? paragraph("small muted", ...rich(one.counted)) : null,
    one.counted ? list(one.no_reasons) : null,
    make("dl", { className: "ledger small" }, ...one.ledger.map((entry) => line(entry)), line(one.total, "total")),
    optional("small muted", one.note),
  ];
};

const explained = (item, heading) => {
  const answer = make(
    "div",
    { className: "answer" },
    make("p", { className: "small muted", dir: "auto", textContent: item.name }),
    make(heading, { dir: "auto", textContent: item.answer }),
  );
  if (item.verdict) {
    const tag = make("span", { className: `tag ${item.verdict}`, textContent: item.verdict });
    answer.append(make("p", {}, tag, ...(item.truth ? [" ", make("span", { className: "small" }, ...rich(item.truth))] : [])));
  } else answer.append(paragraph("small muted", item.unknown));
  const totals = item.totals.map(([text, points, probability, share]) => {
    const line = row(text, points, probability);
    line.append(make("td", { "aria-hidden": "true" }, bar(share)));
    return line;
  });
  const [points, probability] = headCells([item.total_head, "probability"]);
  probability.colSpan = 2;
  return make(
    "article",
    { className: "explained" },
    make(
      "div",
      { className: "verdict" },
      seen(item.picture[0], item.picture, item.alt),
      answer,
      totals.length ? table("totals", [make("td"), points, probability], totals) : null,
    ),
    make("div", { className: "evidence" }, make("h4", {}, ...rich(item.why)), ...matchesOf(item.first)),
    ...item.others.map((one) =>
      make("details", { className: "evidence" }, make("summary", {}, ...rich(one.why)), ...matchesOf(one)),
    ),
  );
};

const readingOf = (entries) =>
  make(
    "dl",
    { className: "reading" },
    ...entries.map(([mark, word, text]) =>
      make(
        "div",
        {},
        make("dt", {}, mark ? make("i", { className: `mark ${mark}-mark` }) : null, word),
        make("dd", {}, ...rich(text)),
      ),
    ),
  );

const drawExplanation = () => [
  make(
    "section",
    {},
    make(
      "div",
      { className: "section-head prose" },
      paragraph("eyebrow", ...(page.model ? ["protokern, ", name(page.model)] : ["protokern"])),
      make("h1", {}, ...(page.heading ? [page.heading] : ["Why ", name(page.item.answer), "?"])),
    ),
    explained(page.item, "h2"),
  ),
  make("section", {}, readingOf(page.reading)),
];
