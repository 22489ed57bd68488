// The most probable tokens after every segment, and the tables that can be copied.

function drawTop() {
  const table = byId("top");
  const lens = lensWithTop(chosenLens());
  byId("top-title").textContent = lens
    ? `Most probable tokens after each segment: ${lens.label}`
    : "The page has no most probable tokens";
  findOne(document, '[data-copy="top"]').hidden = !lens;
  if (!lens) {
    table.replaceChildren();
    return;
  }
  const rows = lens.segments.map((label, segment) => topRow(lens, label, segment)).reverse();
  table.style.setProperty("--n", `${array(lens.top.tokens).shape[2]}`);
  const head = make("div", "top-row top-head");
  head.append(
    make("span", "", "after"),
    make("span", "rank", "rank"),
    make("span", "guesses", "tokens with their probabilities, best first"),
  );
  const hadFocus = table.contains(document.activeElement);
  table.replaceChildren(head, ...rows);
  const current = findAll(table, ".current")[0];
  const reached = findOne(current ?? rows[0], "button");
  reached.tabIndex = 0;
  if (hadFocus) reached.focus({ preventScroll: true });
  if (current) scrollInside(table, reached, head.offsetHeight);
}

/**
 * @param {LensWithTop} lens
 * @param {string} label
 * @param {number} segment
 */
function topRow(lens, label, segment) {
  const row = make("div", "top-row");
  const own = chosenLens().segments.indexOf(label);
  row.classList.toggle("current", own >= 0 && own === state.segment);
  const button = make("button", "", label);
  button.type = "button";
  button.tabIndex = -1;
  if (own >= 0) button.addEventListener("click", () => update({ segment: own }));
  const value = measures(lens, state.value) ? state.value : Object.keys(lens.measures)[0];
  addTip(button, () => cellLines(lens, value, state.target, segment));
  const rank = lens.ranks === undefined ? "" : `${part(lens.ranks, state.target)[segment]}`;
  row.append(button, make("span", "rank", rank));
  moveFocusIn(row);
  for (const { token, prob } of topOf(lens, state.target, segment)) {
    const { paint, ink } = pale(prob, 0, 1);
    const guess = make("span", "guess");
    guess.style.background = paint;
    guess.style.color = ink;
    guess.classList.toggle("target", token === content.targets[state.target].token);
    guess.append(tokenElement(token), make("small", "", prob.toFixed(2).replace(/^0/, "")));
    guess.tabIndex = -1;
    addTip(guess, () => [...tokenHeading(token, `after ${label}`), ["probability", number(prob)]]);
    row.append(guess);
  }
  return row;
}

byId("top").addEventListener("keydown", (event) => {
  const step = stepOf(event, { ArrowUp: 1, ArrowDown: -1 });
  if (!step) return;
  event.preventDefault();
  const count = chosenLens().segments.length;
  update({ segment: clamp((state.segment ?? count) + step, count) });
});

/**
 * Return what names a target in every table.
 * @param {number} target
 * @returns {Cell[]}
 */
function targetCells(target) {
  const [id, token] = tokenOf(target);
  return [content.targets[target].position, id, token];
}

const TARGET_COLUMNS = ["position", "token_id", "token"];

/**
 * The tables by the name of their button: functions that return rows, the first with the names.
 * @type {Record<string, () => Cell[][]>}
 */
const COPIES = {
  map() {
    const lens = chosenLens();
    const { unit } = measureOf(lens, state.value);
    const shown = state.show === "level" ? "level" : KINDS[lens.kind];
    const rows = content.targets.map((_, target) => [
      ...targetCells(target),
      ...[lens.name, state.value, unit, shown],
      ...shownOf(lens, state.value, state.show, target),
    ]);
    return [[...TARGET_COLUMNS, "lens", "value", "unit", "shown", ...lens.segments], ...rows];
  },
  token() {
    /** @type {Cell[][]} */
    const rows = [[...TARGET_COLUMNS, "lens", "value", "unit", "segment", "change", "level", "rank"]];
    for (const lens of content.lenses) {
      for (const [value, { unit }] of Object.entries(lens.measures)) {
        const changes = changesOf(lens, value, state.target);
        const levels = levelsOf(lens, value, state.target);
        lens.segments.forEach((segment, place) => {
          const rank = lens.ranks === undefined ? "" : part(lens.ranks, state.target)[place];
          const cells = [lens.name, value, unit, segment, changes[place], levels[place], rank];
          rows.push([...targetCells(state.target), ...cells]);
        });
      }
    }
    return rows;
  },
  top() {
    const lens = lensWithTop(chosenLens());
    /** @type {Cell[][]} */
    const rows = [[...TARGET_COLUMNS, "lens", "segment", "place", "top_token_id", "top_token", "prob"]];
    if (!lens) return rows;
    lens.segments.forEach((segment, index) => {
      topOf(lens, state.target, index).forEach(({ token, prob }, place) => {
        const [id, string] = content.tokens[token];
        const cells = [lens.name, segment, place + 1, id, string, prob];
        rows.push([...targetCells(state.target), ...cells]);
      });
    });
    return rows;
  },
  heads() {
    const columns = ["value", "unit", "head", "credit", "source"];
    columns.push("source_token_id", "source_token", "source_credit");
    /** @type {Cell[][]} */
    const rows = [[...TARGET_COLUMNS, ...columns]];
    const { heads } = content;
    if (!heads) return rows;
    const { value, unit } = heads;
    for (const { label, credit, sources } of [
      allHeads(heads, state.target),
      ...headsOf(heads, state.target),
    ]) {
      const start = [...targetCells(state.target), value, unit, label, credit];
      for (const source of sources) {
        const [id, token] = content.tokens[content.text[source.position]];
        rows.push([...start, source.position, id, token, source.credit]);
      }
      const rest = restOf(credit, sources);
      if (rest) rows.push([...start, "", "", "all other tokens", rest]);
    }
    return rows;
  },
};
