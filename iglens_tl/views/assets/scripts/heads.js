// The heads of largest credit, and the tokens that they read it from, drawn over the text.

const headsBox = byId("heads");
const ALL_HEADS = "all heads";

/**
 * Return the largest heads of a target, each with its largest sources.
 * @param {Heads} heads
 * @param {number} target
 * @returns {Head[]}
 */
function headsOf(heads, target) {
  const { labels, credits, sources, source_credits } = heads;
  const places = part(heads.heads, target);
  return Array.from(part(credits, target), (credit, index) => {
    const read = part(source_credits, target, index);
    return {
      label: labels[places[index]],
      credit,
      sources: Array.from(part(sources, target, index), (position, place) => ({
        position,
        credit: read[place],
      })).filter((source) => source.credit !== 0),
    };
  });
}

/**
 * Return all heads together, with what they read from each position that they can read.
 * @param {Heads} heads
 * @param {number} target
 * @returns {Head}
 */
function allHeads(heads, target) {
  const read = part(heads.together, target).subarray(0, content.targets[target].position + 1);
  const sources = Array.from(read, (credit, position) => ({ position, credit }));
  return { label: ALL_HEADS, credit: sources.reduce((sum, { credit }) => sum + credit, 0), sources };
}

/**
 * Return what of a head's credit its listed sources leave; 0 where it is but rounding.
 * @param {number} credit
 * @param {Source[]} sources
 */
function restOf(credit, sources) {
  const rest = credit - sources.reduce((sum, source) => sum + source.credit, 0);
  return Math.abs(rest) > 1e-6 * Math.abs(credit) ? rest : 0;
}

function drawHeads() {
  const { heads } = content;
  if (!heads) {
    const why = content.why_no_heads || "The heads were not measured for this page.";
    headsBox.replaceChildren(make("p", "hint", why));
    findOne(document, '[data-copy="heads"]').hidden = true;
    return;
  }
  const title = `Largest heads, and what they read: credit of ${heads.label}`;
  byId("heads-title").textContent = title;
  const list = headsOf(heads, state.target);
  const together = allHeads(heads, state.target);
  const rows = [together, ...list];
  const chosen = rows.find(({ label }) => label === state.head) ?? together;
  const limit = Math.max(...list.map(({ credit }) => Math.abs(credit)), 1e-12);
  const choices = make("div", "head-list");
  choices.setAttribute("role", "radiogroup");
  choices.setAttribute("aria-label", "Whose reading is drawn over the text");
  choices.append(...rows.map((head) => headRow(heads, head, limit, head === chosen)));
  const hadFocus = headsBox.contains(document.activeElement);
  const views = make("div", "heads");
  views.append(choices, sourcesText(chosen));
  headsBox.replaceChildren(partsLine(heads), views);
  if (hadFocus) findOne(choices, '[aria-checked="true"]').focus();
}

/**
 * Return the sums over the kinds of components, which add up to final − baseline.
 * @param {Heads} heads
 */
function partsLine(heads) {
  const { parts, unit } = heads;
  const sums = part(parts.sums, state.target);
  const size = Math.max(...Array.from(sums, Math.abs));
  const line = make("p", "parts");
  parts.names.forEach((name, index) => {
    const item = make("span", "", `${name} `);
    // What is left of parts that cancel exactly is rounding.
    item.append(make("b", "", Math.abs(sums[index]) < 1e-6 * size ? "0" : number(sums[index])));
    addTip(item, () => [[`${name}, ${unit}`, signed(sums[index])]]);
    line.append(item);
  });
  return line;
}

/**
 * @param {Heads} heads
 * @param {Head} head
 * @param {number} limit
 * @param {boolean} chosen
 */
function headRow(heads, { label, credit, sources }, limit, chosen) {
  const row = make("button", "head-row");
  row.type = "button";
  row.setAttribute("role", "radio");
  row.setAttribute("aria-checked", `${chosen}`);
  row.tabIndex = chosen ? 0 : -1;
  row.dataset.head = label;
  const bar = make("span", "bar");
  const fill = make("i");
  // The bars compare single heads; their sum has none.
  const size = label === ALL_HEADS ? 0 : (50 * Math.abs(credit)) / limit;
  fill.style.width = `${size}%`;
  fill.style.left = `${credit < 0 ? 50 - size : 50}%`;
  fill.style.background = credit < 0 ? theme.negative : theme.positive;
  bar.append(fill);
  row.append(make("span", "", label), bar, make("span", "number", signed(credit)));
  row.addEventListener("click", () => update({ head: label }));
  addTip(row, () => {
    const largest = [...sources].sort((a, b) => Math.abs(b.credit) - Math.abs(a.credit)).slice(0, 5);
    return [
      make("strong", "", label),
      [`credit, ${heads.unit}`, signed(credit)],
      "read from",
      ...largest.map((source) => readLine(source)),
    ];
  });
  return row;
}

/**
 * Return the text up to the pinned token, shaded by what a head read from each token.
 * @param {Head} head
 */
function sourcesText({ label, sources, credit }) {
  const view = make("div", "text");
  view.setAttribute("role", "group");
  view.setAttribute("aria-label", `Text as read by ${label}`);
  moveFocusIn(view);
  const byPosition = new Map(sources.map((source) => [source.position, source.credit]));
  const limit = Math.max(...sources.map((source) => Math.abs(source.credit)), 1e-12);
  const end = content.targets[state.target].position;
  content.text.slice(0, end + 1).forEach((token, position) => {
    const chip = tokenElement(token, "span");
    chip.classList.add("token");
    const read = byPosition.get(position);
    if (read !== undefined) {
      const { paint, ink } = colour(scales.credit, read, -limit, limit);
      chip.style.background = paint;
      chip.style.color = ink;
    }
    chip.tabIndex = position ? -1 : 0;
    addTip(chip, () => [
      ...tokenHeading(token, `position ${position}`),
      read === undefined ? `among the small rest of ${label}` : [`read by ${label}`, signed(read)],
    ]);
    view.append(chip);
    if (endsLine(token)) view.append(make("br"));
  });
  const target = tokenElement(content.targets[state.target].token, "b");
  target.classList.add("token");
  target.style.borderColor = theme.accent;
  view.append("→ ", target);
  const rest = restOf(credit, sources);
  if (rest) {
    view.append(make("span", "candidates", `all other tokens together: ${signed(rest)}`));
  }
  return view;
}

/**
 * Return a line that names a token with what was read from it.
 * @param {Source} source
 * @returns {TipLine}
 */
const readLine = ({ position, credit }) => [tokenElement(content.text[position]), signed(credit)];

headsBox.addEventListener("keydown", (event) => {
  const step = stepOf(event, { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 });
  const rows = findAll(headsBox, ".head-row");
  const place = rows.findIndex((row) => row === event.target);
  if (!step || place < 0) return;
  event.preventDefault();
  update({ head: rows[clamp(place + step, rows.length)].dataset.head });
});
