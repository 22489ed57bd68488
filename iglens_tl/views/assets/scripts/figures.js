// Draw the figures of a page from its numbers.

/** @type {{ figures: FigureOfPage[] }} */
const { figures } = JSON.parse(document.getElementById("data")?.textContent ?? "");

for (const element of document.querySelectorAll("[data-figure]")) {
  if (!(element instanceof HTMLElement)) continue;
  const { data, layout } = figures[Number(element.dataset.figure)];
  Plotly.newPlot(element, data, layout, { displaylogo: false });
}
