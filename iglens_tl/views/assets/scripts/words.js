// Numbers and tokens for people, and tables for spreadsheets.

const KINDS = { credit: "credit", effect: "effect", level: "change", value: "value" };

/**
 * Return a number with the digits that a reader compares; tables for copying have all.
 * @param {number} value
 */
function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  const isPlain = size >= 0.0001 && size < 100000;
  if (!isPlain) return withMinus(value.toExponential(3));
  return withMinus(size < 0.01 ? value.toPrecision(4) : value.toFixed(size < 1 ? 5 : size < 100 ? 4 : 2));
}

/** @param {string} text */
const withMinus = (text) => text.replaceAll("-", "−");

/**
 * Return a number with as many digits as numbers up to a size need beside one another.
 * @param {number} value
 * @param {number} size
 */
function brief(value, size) {
  const decimals = 3 - Math.ceil(Math.log10(size || 1));
  if (decimals > 5) return withMinus(value.toExponential(1));
  return withMinus(value.toFixed(Math.max(0, decimals)));
}

/** @param {number} value */
const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

/**
 * Return a token's element, its leading blank pale.
 * @param {Token} token
 * @param {keyof HTMLElementTagNameMap} kind
 */
function tokenElement(token, kind = "bdi") {
  const shown = content.tokens[token][2];
  const element = document.createElement(kind);
  if (shown.startsWith("␣") && shown.length > 1) {
    element.append(make("span", "blank", "␣"), shown.slice(1));
  } else {
    element.textContent = shown;
  }
  return element;
}

/**
 * Return an element with a class and text; text is never read as markup.
 * @template {keyof HTMLElementTagNameMap} Kind
 * @param {Kind} kind
 * @param {string} className
 * @param {string} text
 */
function make(kind, className = "", text = "") {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/**
 * Return rows as CSV. Numbers keep the seven digits that they have.
 * @param {Cell[][]} rows
 */
function csv(rows) {
  const cell = (/** @type {Cell} */ value) => {
    if (typeof value === "number") return Number.isFinite(value) ? `${Number(value.toPrecision(7))}` : "";
    return /[",\n\r]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

/**
 * Copy text, also where the page may not use the clipboard by itself.
 * @param {string} text
 */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", "unseen");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
