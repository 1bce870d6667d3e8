// The two charts: price with live mid and forecasts, and hourly forecasts with actual prices. Times are in UTC.

import {
  CandlestickSeries, LineSeries, createChart, CrosshairMode, LastPriceAnimationMode, LineStyle,
} from "/static/vendor/lightweight-charts.mjs";
import { BandSeries } from "/static/band.js";
import { hourMinute, date, number, priceDigits } from "/static/format.js";

const HOUR = 3600;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

function chartOptions(c) {
  return {
    layout: {
      background: { color: "transparent" }, textColor: c.muted, fontFamily: getComputedStyle(document.body).fontFamily,
      fontSize: 12,
    },
    grid: { vertLines: { visible: false }, horzLines: { color: c.line } },
    rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.08, bottom: 0.08 } },
    timeScale: { borderColor: c.line },
    crosshair: {
      vertLine: { color: c.muted, labelBackgroundColor: c.ink }, horzLine: { color: c.muted, labelBackgroundColor: c.ink },
    },
  };
}

const bandOptions = (c) => ({
  bandColor: c.band, edgeColor: c["band-edge"], centerColor: c.accent, truthColor: c.truth, missColor: c.down,
});

class Chart {
  constructor(element, timeScale) {
    this.element = element;
    this.chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false }, // the attribution is in the footer
      crosshair: { mode: CrosshairMode.Normal },
      localization: { priceFormatter: (value) => number(value, this.precision ?? 2), timeFormatter: (t) => `${date(t * 1000)} ${hourMinute(t * 1000)} UTC` },
      timeScale: { timeVisible: true, secondsVisible: false, rightOffset: 4, ...timeScale },
    });
    this.isFollowing = true; // until the user moves the chart
    element.addEventListener("keydown", (event) => this.onKey(event));
    for (const name of ["pointerdown", "wheel"]) {
      element.addEventListener(name, () => { this.isFollowing = false; }, { passive: true });
    }
    new ResizeObserver(() => requestAnimationFrame(() => this.isFollowing && this.goHome())).observe(element);
    addEventListener("themechange", () => this.paint());
  }

  onKey(event) {
    const scale = this.chart.timeScale();
    const keys = {
      ArrowLeft: () => scale.scrollToPosition(scale.scrollPosition() - 10, false),
      ArrowRight: () => scale.scrollToPosition(scale.scrollPosition() + 10, false),
      "+": () => scale.applyOptions({ barSpacing: scale.options().barSpacing * 1.25 }),
      "-": () => scale.applyOptions({ barSpacing: scale.options().barSpacing / 1.25 }),
      End: () => this.goHome(),
    };
    const act = keys[event.key];
    if (act) {
      this.isFollowing = event.key === "End";
      act();
      event.preventDefault();
    }
  }

  // Shows now at about three quarters of the width, and forecasts to the right of it.
  goHome() {
    this.isFollowing = true;
    const scale = this.chart.timeScale();
    const barsRight = Math.floor((scale.width() / scale.options().barSpacing) * 0.28);
    scale.scrollToPosition(Math.min(4, barsRight - this.barsAhead()), false);
  }

  barsAhead() {
    return 0;
  }

  digits(value) {
    const precision = priceDigits(value);
    if (value == null || precision === this.precision) return;
    this.precision = precision;
    const priceFormat = { type: "price", precision, minMove: 10 ** -precision };
    for (const series of this.series) series.applyOptions({ priceFormat });
  }
}

const RANK = { champion: 2, baseline: 1 }; // roles that serve

// One forecast per target hour: the champion's if there is one; of several, the one issued last.
function servedForecasts(predictions) {
  const best = new Map();
  for (const p of predictions) {
    if (!(p.role in RANK)) continue;
    const known = best.get(p.target_start);
    if (!known || RANK[p.role] > RANK[known.role] || (p.role === known.role && p.issued_at > known.issued_at)) {
      best.set(p.target_start, p);
    }
  }
  return [...best.values()].sort((a, b) => (a.target_start < b.target_start ? -1 : 1));
}

// End of a forecast's anchor hour, ms.
export function anchorEnd(p) {
  return Date.parse(p.target_end) - p.horizon_h * 3_600_000;
}

// The forecast of the newest anchor hour, not of the latest target: earlier forecasts with a longer horizon have later
// targets.
export function newestForecast(predictions) {
  let newest = null;
  for (const p of predictions) {
    if (!(p.role in RANK)) continue;
    const ahead = newest && (anchorEnd(p) - anchorEnd(newest) || RANK[p.role] - RANK[newest.role]);
    if (!newest || ahead > 0 || (ahead === 0 && p.issued_at > newest.issued_at)) newest = p;
  }
  return newest;
}

function bandRows(predictions, scores, step) {
  const truth = new Map(scores.map((s) => [s.target_start, s.actual_avg_price]));
  const rows = [];
  for (const p of servedForecasts(predictions)) {
    const start = Date.parse(p.target_start) / 1000;
    const end = Date.parse(p.target_end) / 1000;
    for (let time = start; time < end; time += step) {
      const row = { time, id: p.prediction_id, lower: p.lower, upper: p.upper, center: p.pred_avg_price };
      if (truth.has(p.target_start)) row.actual = truth.get(p.target_start);
      rows.push(row);
    }
  }
  // Forecasts with a horizon above one hour overlap; a chart has one value per bar, that of the later forecast.
  return [...new Map(rows.map((row) => [row.time, row])).values()].sort((a, b) => a.time - b.time);
}

export class PriceChart extends Chart {
  constructor(element) {
    super(element, { barSpacing: 6, minBarSpacing: 0.5 });
    this.step = 60;
    this.band = this.chart.addCustomSeries(new BandSeries(), {});
    this.candle = this.chart.addSeries(CandlestickSeries, { borderVisible: false, priceLineVisible: false, lastValueVisible: false });
    this.mid = this.chart.addSeries(LineSeries, {
      lineWidth: 2, priceLineStyle: LineStyle.Dotted,
      crosshairMarkerRadius: 3,
    });
    this.series = [this.band, this.candle, this.mid];
    this.clear();
    this.paint();
    reducedMotion.addEventListener("change", () => this.paint());
  }

  clear() {
    this.candles = new Map();
    this.mids = new Map();
    this.forecasts = [[], []];
    this.shown = false;
  }

  paint() {
    const c = colours();
    this.chart.applyOptions(chartOptions(c));
    this.candle.applyOptions({ upColor: c.up, downColor: c.down, wickUpColor: c.up, wickDownColor: c.down });
    const { Continuous, Disabled } = LastPriceAnimationMode;
    this.mid.applyOptions({ color: c.mid, priceLineColor: c.mid, lastPriceAnimation: reducedMotion.matches ? Disabled : Continuous });
    this.band.applyOptions(bandOptions(c));
  }

  setStep(step) {
    this.step = step;
    this.redraw();
    this.chart.timeScale().resetTimeScale();
    this.goHome();
  }

  barsAhead() {
    const last = Math.max(this.lastBar ?? 0, this.lastMid?.time ?? 0);
    return last && this.lastBand > last ? (this.lastBand - last) / this.step : 0;
  }

  // A tick exactly at the end of a bar belongs to that bar.
  barOf(at) {
    const inside = at - 0.001;
    return inside - (inside % this.step);
  }

  load(history) {
    this.clear();
    for (const row of history.candles) this.candles.set(row[0] / 1000, row);
    for (const [at, mid] of history.ticks) this.mids.set(at / 1000, mid);
    this.redraw();
    this.goHome();
  }

  setForecasts(predictions, scores) {
    this.forecasts = [predictions, scores];
    const rows = bandRows(predictions, scores, this.step);
    this.lastBand = rows.at(-1)?.time ?? 0;
    this.band.setData(rows);
    this.digits(predictions[0]?.last_price);
  }

  addCandle(candle) {
    const at = Date.parse(candle.open_time) / 1000;
    this.candles.set(at, [at * 1000, candle.open, candle.high, candle.low, candle.close, candle.volume]);
    const bar = this.bars(at - (at % this.step), at - (at % this.step) + this.step)[0];
    if (this.lastBar && bar.time < this.lastBar) this.candle.setData(this.bars()); // an earlier candle arrived late
    else this.candle.update(bar);
    this.lastBar = Math.max(this.lastBar ?? 0, bar.time);
    this.onFirst();
  }

  addMid([at, mid]) {
    const time = at / 1000;
    const bar = this.barOf(time);
    this.mids.set(time, mid);
    const before = this.lastMid;
    if (before && bar < before.time) return;
    if (mid != null) {
      this.lastMid = { time: bar, value: mid };
      // Nothing is drawn in a gap of quotes: the point before it hides the line to the next point.
      if (this.isGap(before, bar)) this.mid.update({ ...before, color: "transparent" }, true);
      this.mid.update({ time: bar, value: mid });
      this.digits(mid);
    }
    if (this.isFollowing) this.goHome();
  }

  isGap(before, time) {
    return before != null && time - before.time > Math.max(this.step, 60) * 2.5;
  }

  // Candles of the selected length from one-minute candles; missing minutes are not filled.
  bars(from = -Infinity, to = Infinity) {
    const out = new Map();
    for (const at of [...this.candles.keys()].filter((t) => t >= from && t < to).sort((a, b) => a - b)) {
      const [, open, high, low, close] = this.candles.get(at);
      const time = at - (at % this.step);
      const bar = out.get(time);
      if (bar) Object.assign(bar, { high: Math.max(bar.high, high), low: Math.min(bar.low, low), close });
      else out.set(time, { time, open, high, low, close });
    }
    return [...out.values()];
  }

  redraw() {
    const bars = this.bars();
    const mids = new Map();
    for (const [at, mid] of this.mids) mids.set(this.barOf(at), mid);
    const line = [...mids].filter(([, value]) => value != null).map(([time, value]) => ({ time, value }));
    line.forEach((point, i) => {
      if (i && this.isGap(line[i - 1], point.time)) line[i - 1].color = "transparent";
    });
    this.lastBar = bars.at(-1)?.time;
    this.lastMid = line.length ? { time: line.at(-1).time, value: line.at(-1).value } : null;
    this.digits(bars.at(-1)?.close ?? line.at(-1)?.value);
    this.candle.setData(bars);
    this.mid.setData(line);
    this.setForecasts(...this.forecasts);
    this.onFirst();
  }

  onFirst() {
    const any = this.candles.size > 0 || this.mids.size > 0;
    document.getElementById("price-empty").hidden = any;
    if (any && !this.shown) this.goHome();
    this.shown = any;
  }
}

export class ForecastChart extends Chart {
  constructor(element) {
    super(element, { barSpacing: 22, minBarSpacing: 2 });
    this.band = this.chart.addCustomSeries(new BandSeries(), {});
    this.series = [this.band];
    this.paint();
  }

  paint() {
    const c = colours();
    this.chart.applyOptions(chartOptions(c));
    this.band.applyOptions(bandOptions(c));
  }

  set(predictions, scores) {
    const rows = bandRows(predictions, scores, HOUR);
    this.band.setData(rows);
    this.digits(rows.at(-1)?.center);
    document.getElementById("forecast-empty").hidden = rows.length > 0;
    if (this.isFollowing) this.goHome();
  }
}
