// The text as tokens. What was measured is a button; the others are plain.

const textBox = byId("text");
/** @type {HTMLElement[]} */
const chips = [];

/**
 * Return whether a line ends after a token.
 * @param {Token} token
 */
const endsLine = (token) => content.tokens[token][1].includes("\n");

function buildText() {
  /** @type {Map<number, number>} */
  const targetAt = new Map();
  content.targets.forEach(({ place }, target) => place !== null && targetAt.set(place, target));
  content.text.forEach((token, place) => {
    const target = targetAt.get(place);
    if (target === undefined) {
      const chip = tokenElement(token, "span");
      chip.classList.add("token");
      addTip(chip, () => [...tokenHeading(token, `position ${place}`), "not measured"]);
      textBox.append(chip);
    } else {
      textBox.append(chipOf(target));
    }
    if (endsLine(token)) textBox.append(make("br"));
  });
  const others = content.targets.flatMap(({ place }, target) => (place === null ? [target] : []));
  if (others.length) {
    const row = make("span", "candidates", "measured as what comes next: ");
    row.append(...others.map(chipOf));
    textBox.append(row);
  }
}

/**
 * @param {number} target
 * @returns {HTMLElement}
 */
function chipOf(target) {
  const { token, position } = content.targets[target];
  const chip = tokenElement(token, "button");
  chip.setAttribute("type", "button");
  chip.classList.add("token");
  chip.addEventListener("click", () => update({ target }));
  chip.addEventListener("mouseenter", () => update({ hovered: target }));
  chip.addEventListener("mouseleave", () => update({ hovered: null }));
  addTip(chip, () => {
    const measure = measureOf(chosenLens(), state.value);
    return [
      ...tokenHeading(token, `read at position ${position}`),
      [`final, ${measure.unit}`, number(numberOf(measure.final, target))],
      ["baseline", number(numberOf(measure.baseline, target))],
      ["onset", chosenLens().segments[numberOf(measure.onsets, target)]],
    ];
  });
  chips[target] = chip;
  return chip;
}

/** Shade the tokens by their final value and mark the pinned one. */
function drawText() {
  const measure = measureOf(chosenLens(), state.value);
  const finals = array(measure.final).numbers;
  const [low, high] = limits(finals, "level", measure.unit);
  chips.forEach((chip, target) => {
    const { paint, ink } = pale(finals[target], low, high);
    chip.style.background = paint;
    chip.style.color = ink;
  });
}

function markPinned() {
  chips.forEach((chip, target) => {
    const pinned = target === state.target;
    chip.setAttribute("aria-pressed", `${pinned}`);
    chip.tabIndex = pinned ? 0 : -1;
    if (pinned && textBox.contains(document.activeElement)) chip.focus();
    if (pinned) scrollInside(textBox, chip);
  });
}

/** Mark the token whose column the pointer is on. */
function markHovered() {
  chips.forEach((chip, target) => chip.classList.toggle("hovered", target === state.hovered));
}

/**
 * Scroll a box, and only the box, so that an element in it is seen below the box's head.
 * @param {HTMLElement} box
 * @param {HTMLElement} element
 * @param {number} head
 */
function scrollInside(box, element, head = 0) {
  const { top, bottom } = element.getBoundingClientRect();
  const frame = box.getBoundingClientRect();
  if (top < frame.top + head) box.scrollTop -= frame.top + head - top + 4;
  if (bottom > frame.bottom) box.scrollTop += bottom - frame.bottom + 4;
}

textBox.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  const step = stepOf(event, steps);
  if (!step) return;
  event.preventDefault();
  update({ target: clamp(state.target + step, content.targets.length) });
});
