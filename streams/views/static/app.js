// The page's state: the chosen market, its documents, and the live stream that keeps them true.

import { ForecastChart, PriceChart } from "/static/charts.js";
import { clock, ms } from "/static/format.js";
import * as panels from "/static/panels.js";

const $ = (id) => document.getElementById(id);
const price = new PriceChart($("price-chart"));
const forecasts = new ForecastChart($("forecast-chart"));
const markets = new Map();
const time = { event: null, at: 0, speed: 1 };
let symbol = null;
let loaded = null; // predictions and scores of the chosen market
let source = null;
let lastHeard = null;

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.json();
}

function link(state, text) {
  $("link").dataset.state = state;
  if ($("link-text").textContent !== text) $("link-text").textContent = text;
}

function setClock(event, speed) {
  Object.assign(time, { event: ms(event), at: performance.now(), speed });
}

function tickClock() {
  if (time.event == null || $("link").dataset.state === "outage") return;
  $("clock").textContent = clock(time.event + (performance.now() - time.at) * time.speed);
}

function drawForecasts() {
  price.setForecasts(loaded.predictions, loaded.scores.scores);
  forecasts.set(loaded.predictions, loaded.scores.scores);
  panels.forecast(loaded.predictions, symbol, time.event);
  panels.scores(loaded.scores, symbol);
}

// Fetch everything about a market; events that come meanwhile are in the answers or come again.
async function load(wanted) {
  const query = encodeURIComponent(wanted);
  const [all, history, features, predictions, scores, health] = await Promise.all([
    get("/api/markets"), get(`/api/markets/${query}/history`), get(`/api/markets/${query}/features`),
    get(`/api/predictions?symbol=${query}`), get(`/api/scores?symbol=${query}`), get("/api/health"),
  ]);
  if (wanted !== symbol) return;
  for (const row of all.markets) markets.set(row.symbol, row);
  panels.strip([...markets.values()], symbol, choose);
  panels.headline(markets.get(symbol));
  price.load(history);
  panels.features(features.features);
  loaded = { predictions: predictions.predictions, scores };
  onHealth(health);
  drawForecasts();
  document.body.dataset.loaded = symbol;
}

function onHealth(document) {
  setClock(document.now, document.speed);
  panels.health(document);
  if (loaded) panels.forecast(loaded.predictions, symbol, time.event);
}

const handlers = {
  tick({ market, point }) {
    markets.set(market.symbol, market);
    panels.headline(market);
    price.addMid(point);
  },
  markets({ markets: rows }) {
    for (const row of rows) markets.set(row.symbol, row);
    panels.strip(rows, symbol, choose);
  },
  candle: (candle) => candle.interval === "1m" && price.addCandle(candle),
  features: (row) => panels.features(row),
  prediction(prediction) {
    loaded?.predictions.push(prediction);
    if (loaded) drawForecasts();
  },
  async score() {
    // The summary is made by the server, so that it stands in one place.
    const scores = await get(`/api/scores?symbol=${encodeURIComponent(symbol)}`);
    if (!loaded) return;
    loaded.scores = scores;
    drawForecasts();
  },
  health: onHealth,
  dead_letter() {},
  resync: () => load(symbol),
};

function listen() {
  source?.close();
  const stream = new EventSource(`/api/events?symbol=${encodeURIComponent(symbol)}`);
  source = stream;
  let isReady = false;
  stream.addEventListener("open", async () => {
    try {
      await load(symbol);
      isReady = true;
      link("ok", "Live");
      panels.show("link", []);
    } catch {
      onLost(stream);
    }
  });
  for (const [name, handle] of Object.entries(handlers)) {
    stream.addEventListener(name, (event) => {
      lastHeard = new Date();
      if (isReady || name === "health") handle(JSON.parse(event.data));
    });
  }
  stream.addEventListener("error", () => onLost(stream));
}

function onLost(stream) {
  if (stream !== source) return;
  link("outage", "Reconnecting…");
  const since = lastHeard ? ` since ${lastHeard.toISOString().slice(11, 19)} UTC` : "";
  panels.show("link", [`The worker does not answer${since}. What is shown is what was known before.`]);
  // Browsers try again by themselves unless the answer was an HTTP error.
  if (stream.readyState === EventSource.CLOSED) setTimeout(() => stream === source && listen(), 1500);
}

function choose(wanted) {
  if (wanted === symbol || !markets.has(wanted)) return;
  symbol = wanted;
  loaded = null;
  $("market").value = symbol;
  history.replaceState(null, "", `#${symbol}`);
  panels.strip([...markets.values()], symbol, choose);
  listen();
}

async function start() {
  let all;
  try {
    all = await get("/api/markets");
  } catch {
    link("outage", "No answer");
    setTimeout(start, 1500);
    return;
  }
  for (const row of all.markets) markets.set(row.symbol, row);
  $("market").replaceChildren(...all.markets.map((row) => new Option(row.symbol, row.symbol)));
  setClock(all.now, 1);
  const named = decodeURIComponent(location.hash.slice(1));
  choose(markets.has(named) ? named : all.markets[0].symbol);
}

$("market").addEventListener("change", (event) => choose(event.target.value));
$("intervals").addEventListener("click", ({ target }) => {
  if (!target.dataset.seconds) return;
  for (const button of $("intervals").children) button.setAttribute("aria-pressed", String(button === target));
  price.setStep(Number(target.dataset.seconds));
});
$("plot").addEventListener("toggle", () => {
  if ($("plot").open) $("plot-image").src = "/api/plot.png";
});
setInterval(tickClock, 250);
start();
