// A chart series of forecasts: a band from lower to upper, the point forecast, and the actual average if known.
// Each forecast spans the bars of its hour. Uses the custom series interface of Lightweight Charts.

import { customSeriesDefaultOptions } from "/static/vendor/lightweight-charts.mjs";

class BandRenderer {
  update(data, options) {
    this.data = data;
    this.options = options;
  }

  draw(target, toCoordinate) {
    const { data, options } = this;
    if (!data?.visibleRange || !data.bars.length) return;
    target.useBitmapCoordinateSpace((scope) => {
      const { context, horizontalPixelRatio: hx, verticalPixelRatio: vx } = scope;
      for (const [first, last] of spans(data.bars, data.visibleRange)) {
        const row = first.originalData;
        const half = data.barSpacing / 2;
        const left = Math.round((first.x - half) * hx);
        const right = Math.max(left + 1, Math.round((last.x + half) * hx) - 1);
        const y = (value) => Math.round((toCoordinate(value) ?? 0) * vx);
        context.fillStyle = options.bandColor;
        context.fillRect(left, y(row.upper), right - left, y(row.lower) - y(row.upper));
        const line = (value, color, width, dash) => {
          context.strokeStyle = color;
          context.lineWidth = width * vx;
          context.setLineDash(dash.map((length) => length * hx));
          context.beginPath();
          context.moveTo(left, y(value));
          context.lineTo(right, y(value));
          context.stroke();
          context.setLineDash([]);
        };
        line(row.upper, options.edgeColor, 1, []);
        line(row.lower, options.edgeColor, 1, []);
        line(row.center, options.centerColor, 2, [4, 3]);
        if (row.actual != null) {
          const outside = row.actual < row.lower || row.actual > row.upper;
          line(row.actual, outside ? options.missColor : options.truthColor, 2.5, []);
        }
      }
    });
  }
}

// Runs of visible bars that belong to one forecast. Bars outside the view have no x and are left out.
function* spans(bars, { from, to }) {
  let start = Math.max(0, Math.floor(from));
  const end = Math.min(bars.length, Math.ceil(to));
  const id = (i) => bars[i].originalData.id;
  while (start < end) {
    let stop = start;
    while (stop + 1 < end && id(stop + 1) === id(start)) stop += 1;
    yield [bars[start], bars[stop]];
    start = stop + 1;
  }
}

export class BandSeries {
  #renderer = new BandRenderer();

  priceValueBuilder(row) {
    return row.actual == null ? [row.lower, row.upper, row.center] : [row.lower, row.upper, row.actual, row.center];
  }

  isWhitespace(row) {
    return row.center === undefined;
  }

  renderer() {
    return this.#renderer;
  }

  update(data, options) {
    this.#renderer.update(data, options);
  }

  defaultOptions() {
    return {
      ...customSeriesDefaultOptions,
      bandColor: "rgba(31, 95, 214, .12)",
      edgeColor: "rgba(31, 95, 214, .35)",
      centerColor: "#1f5fd6",
      truthColor: "#14181f",
      missColor: "#c9374b",
      lastValueVisible: false,
      priceLineVisible: false,
    };
  }
}
