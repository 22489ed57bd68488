// Draw the figures of a page from its numbers.

const { figures } = JSON.parse(document.getElementById("data").textContent);

for (const element of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = figures[Number(element.dataset.figure)];
  Plotly.newPlot(element, data, layout, { displaylogo: false });
}
