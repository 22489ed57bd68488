// One box beside the pointer or the focus, with every number of what is there.

const tip = byId("tip");
/** @type {WeakMap<Element, () => TipLine[]>} */
const describe = new WeakMap();

/**
 * Show lines, made when they are needed, while the pointer or the focus is on an element.
 * @param {HTMLElement} element
 * @param {() => TipLine[]} lines
 */
function addTip(element, lines) {
  describe.set(element, lines);
  element.classList.add("has-tip");
}

/**
 * Return whether a key is pressed by itself, and not for the browser.
 * @param {KeyboardEvent} event
 */
const isPlainKey = (event) => !event.altKey && !event.ctrlKey && !event.metaKey;

/**
 * Return what a key pressed by itself means, or undefined.
 * @template Meaning
 * @param {KeyboardEvent} event
 * @param {Record<string, Meaning>} meanings
 */
const stepOf = (event, meanings) => (isPlainKey(event) ? meanings[event.key] : undefined);

// What happens to the box when something scrolls: the pointer's goes, the focus's goes along.
/** @type {() => unknown} */
let whenScrolled = hideTip;

/**
 * Show lines: a heading as text, a pair as label and number, a pair with a token as its row.
 * @param {TipLine[]} lines
 * @param {number} x
 * @param {number} y
 * @param {() => unknown} onScroll
 */
function showTip(lines, x, y, onScroll = hideTip) {
  whenScrolled = onScroll;
  tip.replaceChildren(
    ...lines.flatMap((line) => {
      if (typeof line === "string") return [make("em", "", line)];
      if (!Array.isArray(line)) return [line];
      const [label, value] = line;
      return [label instanceof Node ? label : make("span", "", label), make("span", "mono", value)];
    }),
  );
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
  whenScrolled = hideTip;
}

/** @param {MouseEvent} event */
function tipAtPointer(event) {
  const element = event.target instanceof Element && event.target.closest(".has-tip");
  const lines = element && describe.get(element);
  if (lines) showTip(lines(), event.clientX, event.clientY);
}

/** Show the tip of what has the focus, where it stands now; screen readers read it, too. */
function tipAtFocus() {
  const element = document.activeElement;
  const lines = element && describe.get(element);
  if (!lines || !element.matches(":focus-visible")) return;
  element.setAttribute("aria-describedby", "tip");
  const { left, bottom } = element.getBoundingClientRect();
  showTip(lines(), left, bottom - 12, tipAtFocus);
}

document.addEventListener("mouseover", tipAtPointer);
document.addEventListener("focusin", tipAtFocus);
for (const type of ["mouseout", "focusout"]) document.addEventListener(type, hideTip);
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", () => whenScrolled(), true);

/**
 * Let the left and right arrow keys move the focus among what has a tip inside a box.
 * @param {HTMLElement} box
 */
function moveFocusIn(box) {
  box.addEventListener("keydown", (event) => {
    const step = stepOf(event, { ArrowLeft: -1, ArrowRight: 1 });
    if (!step) return;
    event.preventDefault();
    const places = findAll(box, ".has-tip");
    const place = places.findIndex((element) => element === document.activeElement);
    places[clamp(place + step, places.length)].focus();
  });
}

/**
 * Return the heading of a tip: a token, its id and where it is read.
 * @param {Token} token
 * @param {string} place
 * @returns {TipLine[]}
 */
function tokenHeading(token, place) {
  const heading = tokenElement(token, "strong");
  return [heading, `id ${content.tokens[token][0]}, ${place}`];
}

/**
 * Return everything that is known of a target after a segment.
 * @param {Lens} lens
 * @param {string} value
 * @param {number} target
 * @param {number} segment
 */
function cellLines(lens, value, target, segment) {
  const measure = measureOf(lens, value);
  const { token, position } = content.targets[target];
  /** @type {TipLine[]} */
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
  if (hasTop(lens)) {
    lines.push("most probable after it");
    for (const guess of topOf(lens, target, segment)) {
      lines.push([tokenElement(guess.token), number(guess.prob)]);
    }
  }
  return lines;
}
