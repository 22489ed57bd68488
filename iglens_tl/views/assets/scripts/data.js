// The numbers of the page. An array is named by its number in content.arrays; its rows are targets.

const content = JSON.parse(document.getElementById("data").textContent);
const TYPES = { f4: Float32Array, u2: Uint16Array, u4: Uint32Array };
const decoded = new Map();

/** Return an array of the page: its numbers in one piece, and its shape. */
function array(place) {
  if (!decoded.has(place)) {
    const { type, shape, data } = content.arrays[place];
    const characters = atob(data);
    const bytes = new Uint8Array(characters.length);
    for (let index = 0; index < bytes.length; index += 1) bytes[index] = characters.charCodeAt(index);
    decoded.set(place, { shape, numbers: new TYPES[type](bytes.buffer) });
  }
  return decoded.get(place);
}

/** Return the part of an array that stands under the given indices. */
function part(place, ...indices) {
  const { shape, numbers } = array(place);
  let size = numbers.length;
  let start = 0;
  indices.forEach((index, axis) => {
    size /= shape[axis];
    start += index * size;
  });
  return numbers.subarray(start, start + size);
}

const lensNamed = (name) => content.lenses.find((lens) => lens.name === name);
const tokenOf = (target) => content.tokens[content.targets[target].token];
const valueLabel = (name) => content.values.find((value) => value.name === name).label;

/** Return how a lens measured a value, or undefined. */
const measureOf = (lens, value) => lens.measures[value];

/** Return what belongs to each segment of a target: credits, or the changes of levels. */
function changesOf(lens, value, target) {
  const measure = measureOf(lens, value);
  if (measure.values !== undefined) return part(measure.values, target);
  const levels = part(measure.levels, target);
  return levels.map((level, segment) => (segment ? level - levels[segment - 1] : 0));
}

const levelsOf = (lens, value, target) => part(measureOf(lens, value).levels, target);
const numberOf = (place, target) => part(place, target)[0];

/** Return the numbers that the map shows for a target. */
const shownOf = (lens, value, show, target) =>
  show === "level" ? levelsOf(lens, value, target) : changesOf(lens, value, target);

/** Return the lens whose most probable tokens are shown: the chosen one if it has any. */
const lensWithTop = (lens) => (lens.top ? lens : content.lenses.find((other) => other.top));

/** Return the most probable tokens of a target after a segment, best first. */
function topOf(lens, target, segment) {
  const probs = part(lens.top.probs, target, segment);
  return Array.from(part(lens.top.tokens, target, segment), (token, place) => ({
    token,
    prob: probs[place],
  }));
}
