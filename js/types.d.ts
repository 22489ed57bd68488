// What the scripts of a page read: the numbers that Python writes, and plotly.

// The library declares itself as the global Plotly.
import type * as PlotlyTypes from "plotly.js";

declare global {
  /** The number of an array in `Content.arrays`. */
  type Place = number;
  /** The number of a token in `Content.tokens`. */
  type Token = number;
  type Numbers = Float32Array | Uint16Array | Uint32Array;

  interface StoredArray {
    type: "f4" | "u2" | "u4";
    shape: number[];
    data: string;
  }

  /** One value of a lens; a level lens has no values of its own. */
  interface Measure {
    unit: string;
    values?: Place;
    levels: Place;
    baseline: Place;
    final: Place;
    onsets: Place;
  }

  interface Lens {
    name: string;
    label: string;
    sentence: string;
    kind: "credit" | "effect" | "level" | "value";
    segments: string[];
    measures: Record<string, Measure>;
    statistics: Record<string, Place>;
    ranks?: Place;
    top?: { tokens: Place; probs: Place };
  }

  type LensWithTop = Lens & { top: { tokens: Place; probs: Place } };

  interface Target {
    position: number;
    token: Token;
    /** Where the target stands in the text, if it is the token there. */
    place: number | null;
  }

  interface Heads {
    value: string;
    label: string;
    unit: string;
    labels: string[];
    parts: { names: string[]; sums: Place };
    together: Place;
    heads: Place;
    credits: Place;
    sources: Place;
    source_credits: Place;
  }

  interface Content {
    text: Token[];
    targets: Target[];
    values: { name: string; label: string }[];
    segments: string[];
    lenses: Lens[];
    heads: Heads | null;
    /** Why there are no heads, in a sentence. */
    why_no_heads: string;
    /** For each token its id, its string, and how it is shown. */
    tokens: [number, string, string][];
    arrays: StoredArray[];
  }

  interface Source {
    position: number;
    credit: number;
  }

  interface Head {
    label: string;
    credit: number;
    sources: Source[];
  }

  /** What is chosen on the page. */
  interface State {
    target: number;
    segment: number | null;
    hovered: number | null;
    lens: string;
    value: string;
    show: "credit" | "level";
    head: string;
    theme?: symbol;
    size?: string;
  }

  /** A colour of a scale, and the colour of text on it. */
  interface Shade {
    paint: string;
    ink: string;
  }

  /** A line of the box beside the pointer: a heading, an element, or a label with a number. */
  type TipLine = string | Node | [string | Node, string];
  type Cell = string | number;

  type PlotData = PlotlyTypes.Data & { base?: number[] };
  type PlotShape = Partial<PlotlyTypes.Shape>;
  type PlotSettings = Partial<PlotlyTypes.Config>;
  type PlotAxis = Partial<PlotlyTypes.LayoutAxis>;
  type PlotLayout = Partial<PlotlyTypes.Layout> & { xaxis: PlotAxis; yaxis: PlotAxis };
  type FigureOfPage = { data: PlotlyTypes.Data[]; layout: Partial<PlotlyTypes.Layout> };
}
