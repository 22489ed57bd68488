// The heads of largest credit, and the tokens that they read it from, drawn over the text.

const headsBox = document.getElementById("heads");
const ALL_HEADS = "all heads";

/** Return the largest heads of a target, each with its largest sources. */
function headsOf(target) {
  const { labels, heads, credits, sources, source_credits } = content.heads;
  const places = part(heads, target);
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

/** Return all heads together, with what they read from each position that they can read. */
function allHeads(target) {
  const read = part(content.heads.together, target).subarray(0, content.targets[target].position + 1);
  const sources = Array.from(read, (credit, position) => ({ position, credit }));
  return { label: ALL_HEADS, credit: sources.reduce((sum, { credit }) => sum + credit, 0), sources };
}

/** Return what of a head's credit its listed sources leave; 0 where it is but rounding. */
function restOf(credit, sources) {
  const rest = credit - sources.reduce((sum, source) => sum + source.credit, 0);
  return Math.abs(rest) > 1e-6 * Math.abs(credit) ? rest : 0;
}

function drawHeads() {
  if (!content.heads) {
    const why = "The heads were not measured for this page; how it was made may say why.";
    headsBox.replaceChildren(make("p", "hint", why));
    document.querySelector('[data-copy="heads"]').hidden = true;
    return;
  }
  const title = `Largest heads, and what they read: credit of ${content.heads.label}`;
  document.getElementById("heads-title").textContent = title;
  const list = headsOf(state.target);
  const together = allHeads(state.target);
  const rows = [together, ...list];
  const chosen = rows.find(({ label }) => label === state.head) ?? together;
  const limit = Math.max(...list.map(({ credit }) => Math.abs(credit)), 1e-12);
  const choices = make("div", "head-list");
  choices.setAttribute("role", "radiogroup");
  choices.setAttribute("aria-label", "Whose reading is drawn over the text");
  choices.append(...rows.map((head) => headRow(head, limit, head === chosen)));
  const hadFocus = headsBox.contains(document.activeElement);
  const views = make("div", "heads");
  views.append(choices, sourcesText(chosen));
  headsBox.replaceChildren(partsLine(), views);
  if (hadFocus) choices.querySelector('[aria-checked="true"]').focus();
}

/** Return the sums over the kinds of components, which add up to final − baseline. */
function partsLine() {
  const { parts, unit } = content.heads;
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

function headRow({ label, credit, sources }, limit, chosen) {
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
      [`credit, ${content.heads.unit}`, signed(credit)],
      "read from",
      ...largest.map((source) => [tokenElement(content.text[source.position]), signed(source.credit)]),
    ];
  });
  return row;
}

/** Return the text up to the pinned token, shaded by what a head read from each token. */
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
      const { paint, ink } = colour(theme.credit, read, -limit, limit);
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

headsBox.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!step || !isPlainKey(event) || !event.target.matches(".head-row")) return;
  event.preventDefault();
  const rows = [...headsBox.querySelectorAll(".head-row")];
  update({ head: rows[clamp(rows.indexOf(event.target) + step, rows.length)].dataset.head });
});
