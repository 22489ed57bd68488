// The numbers of the page. An array is named by its number in content.arrays; its rows are targets.

/**
 * Return the element of an id, which the page has.
 * @param {string} id
 */
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/**
 * Return the first element that fits a selector, which the box has.
 * @param {ParentNode} box
 * @param {string} selector
 */
function findOne(box, selector) {
  const found = box.querySelector(selector);
  if (!(found instanceof HTMLElement)) throw new Error(`the page has no ${selector}`);
  return found;
}

/**
 * Return the elements that fit a selector.
 * @param {ParentNode} box
 * @param {string} selector
 * @returns {HTMLElement[]}
 */
const findAll = (box, selector) => Array.from(box.querySelectorAll(selector));

/** @type {Content} */
const content = JSON.parse(byId("data").textContent ?? "");
const TYPES = { f4: Float32Array, u2: Uint16Array, u4: Uint32Array };
/** @type {Map<Place, { shape: number[], numbers: Numbers }>} */
const decoded = new Map();

/**
 * Return an array of the page: its numbers in one piece, and its shape.
 * @param {Place} place
 */
function array(place) {
  const known = decoded.get(place);
  if (known) return known;
  const { type, shape, data } = content.arrays[place];
  const characters = atob(data);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < bytes.length; index += 1) bytes[index] = characters.charCodeAt(index);
  const made = { shape, numbers: new TYPES[type](bytes.buffer) };
  decoded.set(place, made);
  return made;
}

/**
 * Return the part of an array that stands under the given indices.
 * @param {Place} place
 * @param {...number} indices
 * @returns {Numbers}
 */
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

/** @param {string} name */
function lensNamed(name) {
  const found = content.lenses.find((lens) => lens.name === name);
  if (!found) throw new Error(`the page has no lens ${name}`);
  return found;
}

/** @param {number} target */
const tokenOf = (target) => content.tokens[content.targets[target].token];
/** @param {string} name */
const valueLabel = (name) => content.values.find((value) => value.name === name)?.label ?? name;

/**
 * Return whether a lens measured a value.
 * @param {Lens} lens
 * @param {string} value
 */
const measures = (lens, value) => value in lens.measures;

/**
 * Return how a lens measured a value.
 * @param {Lens} lens
 * @param {string} value
 */
const measureOf = (lens, value) => lens.measures[value];

/**
 * Return what belongs to each segment of a target: credits, or the changes of levels.
 * @param {Lens} lens
 * @param {string} value
 * @param {number} target
 * @returns {Numbers | number[]}
 */
function changesOf(lens, value, target) {
  const measure = measureOf(lens, value);
  if (measure.values !== undefined) return part(measure.values, target);
  const levels = part(measure.levels, target);
  return Array.from(levels, (level, segment) => (segment ? level - levels[segment - 1] : 0));
}

/**
 * @param {Lens} lens
 * @param {string} value
 * @param {number} target
 */
const levelsOf = (lens, value, target) => part(measureOf(lens, value).levels, target);
/**
 * @param {Place} place
 * @param {number} target
 */
const numberOf = (place, target) => part(place, target)[0];

/**
 * Return the numbers that the map shows for a target.
 * @param {Lens} lens
 * @param {string} value
 * @param {State["show"]} show
 * @param {number} target
 */
const shownOf = (lens, value, show, target) =>
  show === "level" ? levelsOf(lens, value, target) : changesOf(lens, value, target);

/**
 * Return whether a lens has most probable tokens.
 * @param {Lens} lens
 * @returns {lens is LensWithTop}
 */
const hasTop = (lens) => lens.top !== undefined;

/**
 * Return the lens whose most probable tokens are shown: the chosen one if it has any.
 * @param {Lens} lens
 */
const lensWithTop = (lens) => [lens, ...content.lenses].find(hasTop);

/**
 * Return the most probable tokens of a target after a segment, best first.
 * @param {LensWithTop} lens
 * @param {number} target
 * @param {number} segment
 */
function topOf(lens, target, segment) {
  const probs = part(lens.top.probs, target, segment);
  return Array.from(part(lens.top.tokens, target, segment), (token, place) => ({
    token,
    prob: probs[place],
  }));
}
