// What is chosen, the views that depend on it, and the controls.

/**
 * @param {number} place
 * @param {number} count
 */
const clamp = (place, count) => Math.max(0, Math.min(count - 1, place));

/** @type {State} */
const state = {
  target: content.targets.length - 1,
  segment: null,
  hovered: null,
  lens: content.lenses[0].name,
  value: content.values[0].name,
  show: "credit",
  head: ALL_HEADS,
};
const chosenLens = () => lensNamed(state.lens);

// Every view with what it depends on. The slow ones are drawn afterwards, each by itself, so that
// the page answers at once.
/** @type {[() => void, (keyof State)[], "later"?][]} */
const VIEWS = [
  [drawControls, ["lens", "value", "show", "theme"]],
  [layOutMap, ["lens", "size"]],
  [drawMap, ["lens", "value", "show", "target", "segment", "hovered", "theme", "size"]],
  [drawLegend, ["lens", "value", "show", "theme", "size"]],
  [drawText, ["lens", "value", "theme"]],
  [markPinned, ["target"]],
  [markHovered, ["hovered"]],
  [scrollToPinned, ["target", "size"]],
  [drawPinned, ["target", "lens", "value"]],
  [drawTop, ["target", "lens", "value", "segment", "theme"], "later"],
  [drawHeads, ["target", "head", "theme"], "later"],
  [drawWaterfall, ["target", "lens", "value", "segment", "theme"], "later"],
  [drawTrajectory, ["target", "lens", "value", "segment", "theme"], "later"],
];
/** @type {Set<keyof State>} */
const changed = new Set();
/** @type {Set<() => void>} */
const waiting = new Set();

/**
 * Take new choices over, then redraw what depends on them, once before the next picture.
 * @param {Partial<State>} choices
 */
function update(choices) {
  for (const name of /** @type {(keyof State)[]} */ (Object.keys(choices))) {
    if (state[name] === choices[name]) continue;
    Object.assign(state, { [name]: choices[name] });
    if (!changed.size) requestAnimationFrame(redraw);
    changed.add(name);
  }
}

function redraw() {
  const names = new Set(changed);
  changed.clear();
  for (const [draw, dependsOn, later] of VIEWS) {
    if (!dependsOn.some((name) => names.has(name))) continue;
    if (!later) draw();
    else {
      if (!waiting.size) setTimeout(drawNext);
      waiting.add(draw);
    }
  }
}

function drawNext() {
  const [draw] = waiting;
  waiting.delete(draw);
  if (waiting.size) setTimeout(drawNext);
  draw();
}

/**
 * Choose a lens; if it does not measure the chosen value, its own value is shown.
 * @param {string} name
 */
function chooseLens(name) {
  const { measures, segments } = lensNamed(name);
  const label = state.segment === null ? null : chosenLens().segments[state.segment];
  const segment = label === null ? -1 : segments.indexOf(label);
  update({
    lens: name,
    value: wanted.value in measures ? wanted.value : Object.keys(measures)[0],
    segment: segment < 0 ? null : segment,
  });
}
// The value that the reader chose, also while a lens is shown that does not measure it.
const wanted = { value: state.value };

/** @param {string} name */
function chooseValue(name) {
  wanted.value = name;
  update({ value: name });
}

function buildControls() {
  addChoices("lens", content.lenses.map(({ name, label }) => [name, label]), chooseLens);
  addChoices("value", content.values.map(({ name, label }) => [name, label]), chooseValue);
  addChoices("show", [["credit", "credit"], ["level", "level"]], (show) =>
    update({ show: show === "level" ? "level" : "credit" }),
  );
}

/**
 * @param {string} name
 * @param {[string, string][]} options
 * @param {(value: string) => void} choose
 */
function addChoices(name, options, choose) {
  const group = byId(`choose-${name}`);
  for (const [value, label] of options) {
    const choice = make("label", "choice");
    const input = make("input");
    input.type = "radio";
    input.name = name;
    input.value = value;
    input.addEventListener("change", () => choose(value));
    choice.append(input, make("span", "", label));
    group.append(choice);
    controls.push(input);
  }
}

/** @type {HTMLInputElement[]} */
const controls = [];

function drawControls() {
  const lens = chosenLens();
  for (const input of controls) {
    input.checked = input.value === state[/** @type {keyof State} */ (input.name)];
    if (input.name === "value") {
      input.disabled = !(input.value in lens.measures);
      const why = input.disabled ? `${lens.label} did not measure it` : "";
      input.parentElement?.setAttribute("title", why);
    }
    if (input.name === "show" && input.value === "credit") {
      const [name] = findAll(document, `input[value="credit"] + span`);
      name.textContent = KINDS[lens.kind];
    }
  }
  byId("lens-sentence").textContent = lens.sentence;
}

function drawPinned() {
  const { token, position } = content.targets[state.target];
  const measure = measureOf(chosenLens(), state.value);
  const [id] = tokenOf(state.target);
  const final = number(numberOf(measure.final, state.target));
  const onset = chosenLens().segments[numberOf(measure.onsets, state.target)];
  const facts = [
    ` final ${valueLabel(state.value)} ${final}`,
    `onset ${onset}`,
    `id ${id}, read at position ${position}`,
  ];
  const pinned = byId("pinned");
  pinned.replaceChildren(tokenElement(token, "b"), make("small", "", facts.join(" · ")));
}

/** @param {string} text */
function say(text) {
  byId("status").textContent = text;
}

for (const button of findAll(document, "[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const rows = COPIES[button.dataset.copy ?? ""]();
    await copy(csv(rows));
    button.textContent = `Copied ${rows.length - 1} rows`;
    say(button.textContent);
    setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
}

const THEMES = ["system", "light", "dark"];
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
  root.dataset.theme = next;
  byId("theme").textContent = `Theme: ${next}`;
  changeTheme();
});

function changeTheme() {
  readTheme();
  update({ theme: Symbol("theme") });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changeTheme);
addEventListener("resize", () => update({ size: `${innerWidth} ${devicePixelRatio}` }));

fonts.sans = fontOf("--sans");
fonts.mono = fontOf("--mono");
readTheme();
buildControls();
buildText();
for (const [draw] of VIEWS) draw();
