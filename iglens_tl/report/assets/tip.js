// One box beside the pointer or the focus, with every number of what is there.

const box = document.getElementById("tip");
const describe = new WeakMap();

/** Show lines, made when they are needed, while the pointer or the focus is on an element. */
function addTip(element, lines) {
  describe.set(element, lines);
  element.classList.add("has-tip");
}

/** Show lines: a heading as text, a pair as label and number, a pair with a token as its row. */
function showTip(lines, x, y) {
  box.replaceChildren(
    ...lines.flatMap((line) => {
      if (typeof line === "string") return [make("em", "", line)];
      if (!Array.isArray(line)) return [line];
      const [label, value] = line;
      return [label instanceof Node ? label : make("span", "", label), make("span", "mono", value)];
    }),
  );
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, top)}px`;
}

const hideTip = () => {
  box.hidden = true;
};

function tipOf(event) {
  const element = event.target instanceof Element && event.target.closest(".has-tip");
  if (!element) return;
  const { left, bottom } = element.getBoundingClientRect();
  const isMouse = event.type === "mouseover";
  showTip(describe.get(element)(), isMouse ? event.clientX : left, isMouse ? event.clientY : bottom - 12);
}

document.addEventListener("mouseover", tipOf);
document.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && tipOf(event));
for (const type of ["mouseout", "focusout", "scroll"]) document.addEventListener(type, hideTip, true);
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

/** Return the heading of a tip: a token, its id and where it is read. */
function tokenHeading(token, place) {
  const heading = tokenElement(token, "strong");
  return [heading, `id ${content.tokens[token][0]}, ${place}`];
}

/** Return everything that is known of a target after a segment. */
function cellLines(lens, value, target, segment) {
  const measure = measureOf(lens, value);
  const { token, position } = content.targets[target];
  const lines = [
    ...tokenHeading(token, `read at position ${position}`),
    ["segment", lens.segments[segment]],
    [`${KINDS[lens.kind]}, ${measure.unit}`, signed(changesOf(lens, value, target)[segment])],
    ["level after it", number(levelsOf(lens, value, target)[segment])],
  ];
  if (lens.ranks !== undefined) lines.push(["rank after it", `${part(lens.ranks, target)[segment]}`]);
  for (const [name, place] of Object.entries(lens.statistics)) {
    lines.push([`${name.replaceAll("_", " ")}, nats`, number(part(place, target)[segment])]);
  }
  if (lens.top) {
    lines.push("most probable after it");
    for (const guess of topOf(lens, target, segment)) {
      lines.push([tokenElement(guess.token), number(guess.prob)]);
    }
  }
  return lines;
}
