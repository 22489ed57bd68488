// Numbers and tokens for people, and tables for spreadsheets.

const KINDS = { credit: "credit", effect: "effect", level: "change", value: "value" };

/** Return a number with the digits that a reader compares; tables for copying have all. */
function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  const isPlain = size >= 0.0001 && size < 100000;
  const digits = size < 1 ? 5 : size < 100 ? 4 : 2;
  return (isPlain ? value.toFixed(digits) : value.toExponential(2)).replaceAll("-", "−");
}

/** Return a number with three decimals, where there is no room for more. */
function brief(value) {
  const size = Math.abs(value);
  return (size < 0.0005 ? 0 : value).toFixed(size < 100 ? 3 : 1).replace("-", "−");
}

const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Return a token's element, its leading blank pale. */
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

/** Return an element with a class and text; text is never read as markup. */
function make(kind, className = "", text = "") {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** Return rows as CSV. Numbers keep the seven digits that they have. */
function csv(rows) {
  const cell = (value) => {
    if (typeof value === "number") return Number.isFinite(value) ? `${Number(value.toPrecision(7))}` : "";
    return /[",\n\r]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

/** Copy text, also where the page may not use the clipboard by itself. */
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
