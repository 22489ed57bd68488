// The pinned token's waterfall and its way through the layers, drawn by plotly.

/** @type {("solid" | "dash" | "dot" | "dashdot")[]} */
const DASHES = ["solid", "dash", "dot", "dashdot"];

/**
 * Return settings of a plot whose picture gets a name that tells what it shows.
 * @param {string} name
 * @returns {PlotSettings}
 */
const plotSettings = (name) => ({
  displaylogo: false,
  responsive: true,
  modeBarButtons: [["toImage"]],
  toImageButtonOptions: { filename: [name, state.lens, state.target].join("-") },
});

/**
 * @param {string} unit
 * @returns {PlotLayout}
 */
function plotLayout(unit) {
  const axis = {
    gridcolor: theme.line,
    linecolor: theme.line,
    zerolinecolor: theme.soft,
    fixedrange: true,
  };
  return {
    margin: { l: 62, r: 14, t: 28, b: 76 },
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: fonts.sans, size: 12, color: theme.ink },
    hoverlabel: {
      font: { family: fonts.mono, size: 12, color: theme.ink },
      bgcolor: theme.panel,
      bordercolor: theme.line,
      align: "left",
      namelength: -1,
    },
    xaxis: { ...axis, type: "category", showgrid: false, nticks: 18 },
    yaxis: {
      ...axis,
      title: { text: unit, standoff: 8 },
      zeroline: true,
      exponentformat: "e",
      automargin: true,
    },
    showlegend: false,
  };
}

/** Return the lens that the waterfall shows: the chosen one, or the first whose credits add up. */
function lensWithCredits() {
  const adds = (/** @type {Lens} */ lens) => lens.kind === "credit" && measures(lens, state.value);
  return adds(chosenLens()) ? chosenLens() : content.lenses.find(adds);
}

function drawWaterfall() {
  const lens = lensWithCredits();
  const title = byId("waterfall-title");
  const plot = byId("waterfall");
  if (!lens) {
    title.textContent = `No lens adds up to the ${valueLabel(state.value)}`;
    Plotly.purge(plot);
    plot.hidden = true;
    return;
  }
  plot.hidden = false;
  const measure = measureOf(lens, state.value);
  const credits = Array.from(changesOf(lens, state.value, state.target));
  const start = numberOf(measure.baseline, state.target);
  const end = numberOf(measure.final, state.target);
  const missing = end - start - credits.reduce((sum, credit) => sum + credit, 0);
  const names = ["baseline", ...lens.segments, "unexplained", "final"];
  const heights = [start, ...credits, missing, end];
  const bases = [0];
  let level = start;
  for (const step of [...credits, missing]) {
    bases.push(level);
    level += step;
  }
  bases.push(0);
  const isTotal = (/** @type {number} */ place) => place === 0 || place === names.length - 1;
  const paints = heights.map((height, place) =>
    isTotal(place) ? theme.total : height < 0 ? theme.negative : theme.positive,
  );
  const labels = heights.map((height, place) => (isTotal(place) ? number(height) : signed(height)));
  const size = Math.max(...heights.map(Math.abs), ...bases.map(Math.abs));
  const room = plot.clientWidth / names.length / 6.5;
  // Steps too small to be seen have no number, and no number is wider than its bar's place.
  const written = heights.map((height, place) => {
    const text = brief(height, size);
    const isSeen = Math.abs(height) >= 0.0005 * size && text.length <= room;
    return isTotal(place) || isSeen ? text : "";
  });
  const marked = lens === chosenLens() ? state.segment : null;
  const edges = names.map((_, place) => (place - 1 === marked ? 2 : 0));
  title.textContent = `${lens.label}: from the baseline to the final ${valueLabel(state.value)}`;
  /** @type {PlotData} */
  const bars = {
    type: "bar",
    x: names,
    y: heights,
    base: bases,
    marker: { color: paints, line: { width: edges, color: theme.accent } },
    text: written,
    textposition: "outside",
    textfont: { size: 11 },
    constraintext: "none",
    cliponaxis: false,
    hovertext: names.map((name, place) => {
      const after = number(bases[place] + heights[place]);
      return `<b>${name}</b><br>${labels[place]} ${measure.unit}<br>level ${after}`;
    }),
    hoverinfo: "text",
  };
  const drawn = plotLayout(measure.unit);
  drawn.xaxis.tickangle = -45;
  drawn.xaxis.tickvals = names.filter((_, place) => isNamed(place, names.length));
  drawn.yaxis.range = rangeOfBars(bases, heights, written);
  Plotly.react(plot, [bars], { ...drawn, bargap: 0.25, hovermode: "x" }, plotSettings("waterfall"));
}

/**
 * Return whether a bar has its name below it: the first, the last, and as many as fit between.
 * @param {number} place
 * @param {number} count
 */
function isNamed(place, count) {
  const step = Math.ceil(count / 18);
  return place === count - 1 || (place % step === 0 && place < count - step);
}

/**
 * Return the bars' range, with room for the numbers above those that rise and below the others.
 * @param {number[]} bases
 * @param {number[]} heights
 * @param {string[]} written
 */
function rangeOfBars(bases, heights, written) {
  const ends = heights.map((height, place) => bases[place] + height);
  const low = Math.min(0, ...bases, ...ends);
  const high = Math.max(0, ...bases, ...ends);
  const room = 0.09 * (high - low) || 1;
  const reached = ends.map((end, place) => {
    if (written[place] === "") return end;
    return heights[place] < 0 ? end - room : end + room;
  });
  return [Math.min(low, ...reached), Math.max(high, ...reached)];
}

function drawTrajectory() {
  const plot = byId("trajectory");
  const lenses = content.lenses.filter((lens) => measures(lens, state.value));
  const lines = lenses.map((lens) => {
    const style = content.lenses.indexOf(lens);
    const chosen = lens.name === state.lens;
    /** @type {PlotData & { y: number[] }} */
    const line = {
      type: "scatter",
      mode: "lines+markers",
      name: lens.label,
      x: lens.segments,
      y: Array.from(levelsOf(lens, state.value, state.target)),
      line: {
        color: theme[`line-${(style % 6) + 1}`],
        dash: DASHES[style % 4],
        width: chosen ? 3.5 : 1.75,
      },
      marker: { size: chosen ? 6 : 4 },
      hovertemplate: "%{y:.6g}",
    };
    return line;
  });
  const absent = content.lenses.filter((lens) => !lenses.includes(lens)).map(({ label }) => label);
  byId("trajectory-absent").textContent = absent.length
    ? `${absent.join(", ")}: not of this value`
    : "";
  const unit = measureOf(lenses[0], state.value).unit;
  const drawn = plotLayout(unit);
  drawn.xaxis.categoryorder = "array";
  drawn.xaxis.categoryarray = content.segments;
  const highest = Math.max(...lines.flatMap(({ y }) => y));
  // Small probabilities are drawn to their own scale.
  if (unit === "probability" && highest > 0.1) drawn.yaxis.range = [-0.03, 1.03];
  const segment = state.segment === null ? null : chosenLens().segments[state.segment];
  /** @type {PlotShape} */
  const mark = {
    type: "line",
    x0: segment,
    x1: segment,
    yref: "paper",
    y0: 0,
    y1: 1,
    line: { color: theme.accent, width: 1.5, dash: "dot" },
  };
  Plotly.react(
    plot,
    lines,
    {
      ...drawn,
      hovermode: "x unified",
      showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
      margin: { ...drawn.margin, t: 34, b: 48 },
      shapes: segment === null ? [] : [mark],
    },
    plotSettings("levels"),
  );
}
