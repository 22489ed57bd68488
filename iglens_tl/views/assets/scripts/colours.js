// Colours of the style sheet as numbers, and scales of 256 colours.

/** @type {Record<string, string>} */
let theme = {};
/** @type {{ credit: Shade[], levels: Shade[] }} */
const scales = { credit: [], levels: [] };

/** Read the colours of the style sheet; they differ between light and dark. */
function readTheme() {
  const probe = make("i");
  document.body.append(probe);
  const names = ["panel", "ink", "soft", "line", "accent"];
  names.push("neutral", "negative", "positive", "total", "level");
  names.push(...[1, 2, 3, 4, 5, 6].map((index) => `line-${index}`));
  theme = {};
  for (const name of names) {
    probe.style.color = `var(--${name})`;
    theme[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  scales.credit = scale([theme.negative, theme.neutral, theme.positive]);
  scales.levels = scale([theme.neutral, theme.level]);
}

/** @param {string} colour */
const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);

/**
 * Return the relative luminance of a colour, from 0 to 1.
 * @param {number[]} colour
 */
function luminance(colour) {
  const [red, green, blue] = colour.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/**
 * Return 256 colours that pass evenly through the given ones, each with its ink.
 * @param {string[]} stops
 * @returns {Shade[]}
 */
function scale(stops) {
  const ends = stops.map(channels);
  return Array.from({ length: 256 }, (_, index) => {
    const place = (index / 255) * (ends.length - 1);
    const left = Math.min(Math.floor(place), ends.length - 2);
    const mixed = ends[left].map((start, channel) =>
      Math.round(start + (place - left) * (ends[left + 1][channel] - start)),
    );
    // Black is read better than white above this luminance (WCAG 2).
    return { paint: `rgb(${mixed.join(", ")})`, ink: luminance(mixed) > 0.179 ? "#000000" : "#ffffff" };
  });
}

/**
 * Return a colour of a scale for a number between two limits.
 * @param {Shade[]} scaleColours
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function colour(scaleColours, value, low, high) {
  const place = Math.round((255 * (value - low)) / (high - low || 1));
  return scaleColours[Math.max(0, Math.min(255, place))];
}

/**
 * Return a colour of levels under text, which stays readable on it.
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
const pale = (value, low, high) => colour(scales.levels, value, low, low + (high - low) / 0.6);

/**
 * Return the limits of numbers: symmetric for changes, 0 to 1 for probabilities.
 * @param {Iterable<number>} numbers
 * @param {State["show"]} show
 * @param {string} unit
 * @returns {[number, number]}
 */
function limits(numbers, show, unit) {
  if (show === "level" && unit === "probability") return [0, 1];
  let low = Infinity;
  let high = -Infinity;
  for (const value of numbers) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (show === "level") return [low, high];
  const size = Math.max(-low, high, 1e-12);
  return [-size, size];
}
