// The page's state: the selected market, its data, and the event stream that updates them.
// Each stream begins with a snapshot, also after a lost connection. Only scores are fetched separately.

import { ForecastChart, PriceChart } from "/static/charts.js";
import { clock, ms } from "/static/format.js";
import { MarketList } from "/static/markets.js";
import * as panels from "/static/panels.js";

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1500;
const price = new PriceChart($("price-chart"));
const forecasts = new ForecastChart($("forecast-chart"));
const list = new MarketList(choose);
const time = { event: null, at: 0, speed: 1 };
let graceS = null; // seconds after an hour's end; later, a forecast is overdue
let symbol = decodeURIComponent(location.hash.slice(1)) || null; // null: the worker's first market
let loaded = null; // predictions and scores of the selected market, and whether it is in forecasting.symbols
let source = null;
let lastEvent = null; // time of the last event
let isDisconnected = false;

function link(state, text) {
  $("link").dataset.state = state;
  if ($("link-text").textContent !== text) $("link-text").textContent = text;
}

function setClock(event, speed) {
  Object.assign(time, { event: ms(event), at: performance.now(), speed });
}

function tickClock() {
  if (time.event == null || isDisconnected) return;
  $("clock").textContent = clock(time.event + (performance.now() - time.at) * time.speed);
}

function drawForecasts() {
  price.setForecasts(loaded.predictions, loaded.scores.scores);
  forecasts.set(loaded.predictions, loaded.scores.scores);
  panels.forecast(loaded, symbol, time.event, graceS);
  panels.scores(loaded.scores, symbol);
}

// The charts draw in the next frame; after it, they are on the screen.
function markPicture() {
  requestAnimationFrame(() => setTimeout(() => performance.mark("picture")));
}

const handlers = {
  snapshot(all) {
    symbol = all.symbol;
    list.set(all.markets);
    list.mark(symbol);
    panels.strip(all.markets.rows, symbol, choose);
    panels.headline(all.market, all.sources);
    panels.sources(all.market, all.sources);
    price.load(all.history);
    panels.features(all.features);
    loaded = { isForecast: all.is_forecast, predictions: all.predictions, scores: all.scores };
    handlers.health(all.health);
    drawForecasts();
    panels.show("link", []);
    document.body.dataset.loaded = symbol;
    if (all.history.candles.length || all.history.ticks.length) markPicture();
  },
  tick({ market, point, sources }) {
    panels.headline(market, sources);
    panels.strip([[market.symbol, market.last, market.change_24h_percent, market.flags, market.last_of]], symbol, choose);
    panels.sources(market, sources);
    price.addMid(point);
  },
  markets(rows) {
    list.update(rows);
    panels.strip(rows.rows, symbol, choose);
  },
  candle: (candle) => candle.interval === "1m" && price.addCandle(candle),
  features: (row) => panels.features(row),
  prediction(prediction) {
    loaded.predictions.push(prediction);
    drawForecasts();
  },
  async score() {
    // Only the server computes the summary.
    const wanted = symbol;
    const response = await fetch(`/api/scores?symbol=${encodeURIComponent(wanted)}`);
    if (!response.ok || wanted !== symbol || !loaded) return; // the next snapshot contains it
    loaded.scores = await response.json();
    drawForecasts();
  },
  health(document) {
    isDisconnected = false;
    // The data is live only while the worker can read Kafka.
    if (document.kafka.state === "ok") link("ok", "Live");
    else link("outage", "Not live");
    setClock(document.now, document.speed);
    graceS = document.forecasts.grace_s;
    panels.health(document);
    if (loaded) panels.forecast(loaded, symbol, time.event, graceS);
  },
  dead_letter() {},
  resync: () => listen(),
};

function listen() {
  source?.close();
  const query = symbol == null ? "" : `&symbol=${encodeURIComponent(symbol)}`;
  const stream = new EventSource(`/api/events?snapshot=1${query}`);
  source = stream;
  for (const [name, handle] of Object.entries(handlers)) {
    stream.addEventListener(name, (event) => {
      if (stream !== source) return;
      lastEvent = new Date();
      handle(JSON.parse(event.data));
    });
  }
  stream.addEventListener("error", () => onLost(stream));
}

function onLost(stream) {
  if (stream !== source) return;
  if (stream.readyState === EventSource.CLOSED && symbol != null && !loaded && !document.body.dataset.loaded) {
    symbol = null; // the address contains an unknown market
  }
  isDisconnected = true;
  link("outage", "Reconnecting…");
  panels.markSourcesUnknown(() => true);
  const since = lastEvent ? ` since ${lastEvent.toISOString().slice(11, 19)} UTC` : "";
  panels.show("link", [`No response from the worker${since}; the page shows the last known data`]);
  // Browsers reconnect automatically, except after an HTTP error.
  if (stream.readyState === EventSource.CLOSED) setTimeout(() => stream === source && listen(), RETRY_MS);
}

function choose(wanted) {
  if (wanted === symbol) return;
  symbol = wanted;
  loaded = null;
  list.mark(symbol);
  history.replaceState(null, "", `#${symbol}`);
  listen();
}

$("intervals").addEventListener("click", ({ target }) => {
  if (!target.dataset.seconds) return;
  for (const button of $("intervals").children) button.setAttribute("aria-pressed", String(button === target));
  price.setStep(Number(target.dataset.seconds));
});
$("plot").addEventListener("toggle", () => {
  if ($("plot").open) $("plot-image").src = "/api/plot.png";
});
setInterval(tickClock, 250);
listen();
