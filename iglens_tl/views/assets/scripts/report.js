// What is chosen, the views that depend on it, and the controls.

const clamp = (place, count) => Math.max(0, Math.min(count - 1, place));

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
const changed = new Set();
const waiting = new Set();

/** Take new choices over, then redraw what depends on them, once before the next picture. */
function update(choices) {
  for (const [name, choice] of Object.entries(choices)) {
    if (state[name] === choice) continue;
    state[name] = choice;
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

/** Choose a lens; if it does not measure the chosen value, its own value is shown. */
function chooseLens(name) {
  const { measures, segments } = lensNamed(name);
  const label = state.segment === null ? null : chosenLens().segments[state.segment];
  const segment = segments.indexOf(label);
  update({
    lens: name,
    value: wanted.value in measures ? wanted.value : Object.keys(measures)[0],
    segment: segment < 0 ? null : segment,
  });
}
// The value that the reader chose, also while a lens is shown that does not measure it.
const wanted = { value: state.value };

function chooseValue(name) {
  wanted.value = name;
  update({ value: name });
}

function buildControls() {
  addChoices("lens", content.lenses.map(({ name, label }) => [name, label]), chooseLens);
  addChoices("value", content.values.map(({ name, label }) => [name, label]), chooseValue);
  addChoices("show", [["credit", "credit"], ["level", "level"]], (show) => update({ show }));
}

function addChoices(name, options, choose) {
  const group = document.getElementById(`choose-${name}`);
  for (const [value, label] of options) {
    const choice = make("label", "choice");
    const input = make("input");
    input.type = "radio";
    input.name = name;
    input.value = value;
    input.addEventListener("change", () => choose(value));
    choice.append(input, make("span", "", label));
    group.append(choice);
  }
}

function drawControls() {
  const lens = chosenLens();
  for (const input of document.querySelectorAll(".choice input")) {
    input.checked = input.value === state[input.name];
    if (input.name === "value") {
      input.disabled = !(input.value in lens.measures);
      input.parentNode.title = input.disabled ? `${lens.label} did not measure it` : "";
    }
    if (input.name === "show" && input.value === "credit") {
      input.nextSibling.textContent = KINDS[lens.kind];
    }
  }
  document.getElementById("lens-sentence").textContent = lens.sentence;
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
  const pinned = document.getElementById("pinned");
  pinned.replaceChildren(tokenElement(token, "b"), make("small", "", facts.join(" · ")));
}

function say(text) {
  document.getElementById("status").textContent = text;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const rows = copies[button.dataset.copy]();
    await copy(csv(rows));
    button.textContent = `Copied ${rows.length - 1} rows`;
    say(button.textContent);
    setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
}

const THEMES = ["system", "light", "dark"];
document.getElementById("theme").addEventListener("click", (event) => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
  root.dataset.theme = next;
  event.target.textContent = `Theme: ${next}`;
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
