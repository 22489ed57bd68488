// The map of layers and tokens. Only what is in view is drawn, so that long texts stay quick.

const mapBox = byId("map");
const scroller = findOne(mapBox, ".map-scroll");
const canvas = /** @type {HTMLCanvasElement} */ (findOne(mapBox, "canvas"));
const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
const WIDEST = 160;
const layout = { left: 0, width: 0, height: 0, rows: 0, total: 0, isWide: false };

/** Fit the cells to the width; more tokens than fit are scrolled. */
function layOutMap() {
  const { segments } = chosenLens();
  pen.font = `12px ${fontOf("--sans")}`;
  layout.left = 12 + Math.max(...segments.map((label) => pen.measureText(label).width));
  const room = mapBox.clientWidth - layout.left - 4;
  const count = content.targets.length;
  layout.width = Math.max(15, Math.min(WIDEST, Math.floor(room / count)));
  layout.height = segments.length > 40 ? 13 : segments.length > 20 ? 17 : 26;
  layout.rows = segments.length;
  layout.isWide = layout.width >= 64;
  layout.total = layout.rows * layout.height + (layout.isWide ? 26 : 82);
  const space = findOne(scroller, ".map-space");
  space.style.width = `${layout.left + layout.width * count + 50}px`;
  space.style.height = `${layout.total}px`;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(scroller.clientWidth * ratio);
  canvas.height = Math.round(layout.total * ratio);
  canvas.style.width = `${scroller.clientWidth}px`;
  canvas.style.height = `${layout.total}px`;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
}

/** @param {string} name */
const fontOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

function drawMap() {
  const lens = chosenLens();
  const measure = measureOf(lens, state.value);
  const { left, width, height, rows } = layout;
  const [low, high] = mapLimits();
  const colours = state.show === "level" ? scales.levels : scales.credit;
  const first = Math.max(0, Math.floor(scroller.scrollLeft / width));
  const shown = Math.ceil((scroller.clientWidth - left) / width) + 1;
  const last = Math.min(content.targets.length, first + shown);
  const named = namesTokens() && hasTop(lens) ? lens : null;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, canvas.width, layout.total);
  pen.clip();
  pen.translate(left - scroller.scrollLeft, 0);
  pen.textBaseline = "middle";
  for (let target = first; target < last; target += 1) {
    const numbers = shownOf(lens, state.value, state.show, target);
    const onset = numberOf(measure.onsets, target);
    pen.font = `12px ${fonts.mono}`;
    for (let segment = 0; segment < rows; segment += 1) {
      const { paint, ink } = colour(colours, numbers[segment], low, high);
      const x = target * width;
      const y = (rows - 1 - segment) * height;
      pen.fillStyle = paint;
      pen.fillRect(x, y, width - 1, height - 1);
      pen.fillStyle = ink;
      if (named) {
        const [best] = topOf(named, target, segment);
        const name = content.tokens[best.token][2].replace(/^␣(?=.)/, "");
        pen.fillText(clip(name, Math.floor((width - 10) / 7.3)), x + 4, y + height / 2);
      }
      if (segment === onset) {
        pen.beginPath();
        pen.arc(x + width - 6, y + 6, Math.min(3, width / 5), 0, 2 * Math.PI);
        pen.fill();
      }
    }
    drawColumnLabel(target);
  }
  outline(state.hovered, theme.soft, 1);
  outline(state.target, theme.accent, 2);
  if (state.segment !== null) {
    pen.lineWidth = 2;
    pen.strokeStyle = theme.ink;
    const y = (rows - 1 - state.segment) * height;
    pen.strokeRect(state.target * width, y, width - 1, height - 1);
  }
  pen.restore();
  drawRowLabels(lens.segments);
}

/** @param {number} target */
function drawColumnLabel(target) {
  const { width, height, rows } = layout;
  const [, , shown] = tokenOf(target);
  pen.save();
  pen.font = `${target === state.target ? "600 " : ""}12px ${fonts.mono}`;
  pen.fillStyle = target === state.target ? theme.accent : theme.ink;
  if (layout.isWide) {
    pen.fillText(clip(shown, Math.floor((width - 6) / 7.3)), target * width + 4, rows * height + 13);
  } else {
    pen.translate(target * width + width / 2 - 2, rows * height + 8);
    pen.rotate(width < 24 ? Math.PI / 2 : Math.PI / 4);
    pen.fillText(clip(shown, 12), 0, 0);
  }
  pen.restore();
}

/** @param {string[]} segments */
function drawRowLabels(segments) {
  const { left, height, rows } = layout;
  pen.font = `12px ${fonts.sans}`;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  const step = Math.ceil(13 / height);
  segments.forEach((label, segment) => {
    if (segment % step && segment !== rows - 1) return;
    pen.fillStyle = segment === state.segment ? theme.ink : theme.soft;
    pen.fillText(label, left - 8, (rows - 1 - segment + 0.5) * height);
  });
  pen.textAlign = "left";
}

/**
 * @param {number | null} target
 * @param {string} stroke
 * @param {number} lineWidth
 */
function outline(target, stroke, lineWidth) {
  if (target === null) return;
  pen.strokeStyle = stroke;
  pen.lineWidth = lineWidth;
  pen.strokeRect(target * layout.width - 0.5, 0.5, layout.width, layout.rows * layout.height - 1);
}

/**
 * @param {string} text
 * @param {number} length
 */
const clip = (text, length) =>
  text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text;

/** Return whether the cells have room for the most probable token. */
const namesTokens = () => Boolean(chosenLens().top) && layout.width >= 44 && layout.height >= 16;

/** Return the limits of the map's colours: those of all its numbers. */
function mapLimits() {
  const measure = measureOf(chosenLens(), state.value);
  const key = `${state.lens} ${state.value} ${state.show}`;
  let known = knownLimits.get(key);
  if (!known) {
    const rows = content.targets.map((_, target) =>
      limits(shownOf(chosenLens(), state.value, state.show, target), state.show, measure.unit),
    );
    const low = Math.min(...rows.map((row) => row[0]));
    known = [low, Math.max(...rows.map((row) => row[1]))];
    knownLimits.set(key, known);
  }
  return known;
}
/** @type {Map<string, [number, number]>} */
const knownLimits = new Map();
const fonts = { sans: "", mono: "" };

function drawLegend() {
  byId("map-tokens").hidden = !namesTokens();
  const { unit } = measureOf(chosenLens(), state.value);
  const [low, high] = mapLimits();
  const [first, strip, last] = findAll(byId("legend"), "span, i");
  const colours = state.show === "level" ? scales.levels : scales.credit;
  const stops = [0, 64, 128, 191, 255].map((place) => colours[place].paint);
  strip.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  first.textContent = state.show === "level" ? number(low) : signed(low);
  const what = state.show === "level" ? "level" : KINDS[chosenLens().kind];
  last.textContent = `${state.show === "level" ? number(high) : signed(high)} ${what}, ${unit}`;
}

/**
 * Return the cell at a place of the window, or null.
 * @param {MouseEvent} event
 */
function cellAt(event) {
  const frame = scroller.getBoundingClientRect();
  if (event.clientX - frame.left < layout.left) return null;
  const x = event.clientX - frame.left - layout.left + scroller.scrollLeft;
  const target = Math.floor(x / layout.width);
  const segment = layout.rows - 1 - Math.floor((event.clientY - frame.top) / layout.height);
  return target < content.targets.length && segment >= 0 && segment < layout.rows
    ? { target, segment }
    : null;
}

scroller.addEventListener("mousemove", (event) => {
  const cell = cellAt(event);
  update({ hovered: cell ? cell.target : null });
  if (!cell) return hideTip();
  const lines = cellLines(chosenLens(), state.value, cell.target, cell.segment);
  return showTip(lines, event.clientX, event.clientY);
});
scroller.addEventListener("mouseleave", () => update({ hovered: null }));
scroller.addEventListener("click", (event) => {
  const cell = cellAt(event);
  if (cell) update(cell);
});
scroller.addEventListener("scroll", () => requestAnimationFrame(drawMap));

mapBox.addEventListener("keydown", (event) => {
  const steps = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, 1],
    ArrowDown: [0, -1],
    Home: [-Infinity, 0],
    End: [Infinity, 0],
  };
  const step = stepOf(event, steps);
  if (!step) return;
  event.preventDefault();
  const [right, up] = step;
  // The first key chooses the last segment.
  const segment = clamp(state.segment === null ? layout.rows - 1 : state.segment + up, layout.rows);
  update({ segment, target: clamp(state.target + right, content.targets.length) });
  showCell(segment);
});

/** Bring the pinned token into view. */
function scrollToPinned() {
  const { left, width } = layout;
  const room = scroller.clientWidth - left;
  const x = state.target * width - scroller.scrollLeft;
  if (x < 0 || x + width > room) scroller.scrollLeft += x - room / 2;
}

/**
 * Bring the chosen cell into view, show its numbers and tell them to screen readers.
 * @param {number} segment
 */
function showCell(segment) {
  scrollToPinned();
  const covered = byId("controls").getBoundingClientRect().bottom;
  const { y } = middleOfCell(segment);
  const room = 2 * layout.height;
  if (y < covered + room) scrollBy(0, y - covered - room);
  if (y > innerHeight - room) scrollBy(0, y - innerHeight + room);
  const lines = tipAtCell(segment);
  const said = lines.flatMap((line) =>
    Array.isArray(line) && typeof line[0] === "string" ? [line.join(" ")] : [],
  );
  say(`${tokenOf(state.target)[2]}: ${said.join(", ")}`);
}

/**
 * Show the numbers of the chosen cell beside it and return them.
 * @param {number} segment
 * @returns {TipLine[]}
 */
function tipAtCell(segment) {
  const { x, y } = middleOfCell(segment);
  const lines = cellLines(chosenLens(), state.value, state.target, segment);
  showTip(lines, x, y, () => tipAtCell(segment));
  return lines;
}

/** @param {number} segment */
function middleOfCell(segment) {
  const { left, width, height, rows } = layout;
  const frame = scroller.getBoundingClientRect();
  return {
    x: frame.left + left + (state.target + 0.5) * width - scroller.scrollLeft,
    y: frame.top + (rows - 0.5 - segment) * height,
  };
}
