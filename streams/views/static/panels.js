// What stands beside the charts. Everything is set as text: records never become markup.

import {
  age, clock, count, dayTime, hourMinute, ms, number, percent, price, signedPercent,
} from "/static/format.js";
import { servedForecasts } from "/static/charts.js";

const $ = (id) => document.getElementById(id);
const TITLES = { binance: "Binance", coingecko: "CoinGecko" };
const STATES = { ok: "ok", waiting: "waiting", late: "late", outage: "outage", disabled: "off" };

function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "data") Object.assign(node.dataset, value);
    else if (name === "scope") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const state = (name) => make("span", { className: "state", data: { state: name } }, STATES[name] ?? name);
const empty = (text) => make("p", { className: "hint" }, text);
const facts = (pairs) =>
  make("dl", { className: "facts" }, ...pairs.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));

export function headline(row) {
  $("price-title").textContent = row.symbol.replace("-", " / ");
  $("last").textContent = price(row.last);
  const change = $("change");
  change.textContent = row.change_24h_percent == null ? "" : `${signedPercent(row.change_24h_percent)} in 24 h`;
  change.dataset.sign = Math.sign(row.change_24h_percent ?? 0);
  document.title = row.last == null ? "Bitcoin Data" : `${price(row.last)} ${row.symbol}`;
  $("quote-line").textContent = row.timestamp == null
    ? "Waiting for the first tick…"
    : `${row.mid == null ? "No quote from Binance; CoinGecko's price" : `mid, spread ${number(row.spread_bps)} bps`} · ${row.quote} · ${clock(ms(row.timestamp))}`;
}

export function strip(rows, chosen, choose) {
  const nav = $("strip");
  nav.hidden = rows.length > 24; // beyond that the picker is the better list
  if (nav.hidden) return;
  for (const row of rows) {
    let button = nav.querySelector(`[data-symbol="${row.symbol}"]`);
    if (!button) {
      button = make("button", { type: "button", data: { symbol: row.symbol } },
        make("span", { className: "name" }, row.symbol), make("span", { className: "value" }), make("span", { className: "delta" }));
      button.addEventListener("click", () => choose(row.symbol));
      nav.append(button);
    }
    button.setAttribute("aria-pressed", String(row.symbol === chosen));
    button.children[1].textContent = price(row.last);
    button.children[2].textContent = row.change_24h_percent == null ? "" : signedPercent(row.change_24h_percent);
    button.children[2].dataset.sign = Math.sign(row.change_24h_percent ?? 0);
  }
}

export function forecast(predictions, symbol, now) {
  const served = servedForecasts(predictions);
  const newest = served.at(-1);
  const tag = $("forecast-role");
  const isOver = newest != null && now != null && ms(newest.target_end) <= now;
  tag.hidden = !newest;
  $("forecast-title").textContent = isOver ? "Latest forecast" : "Next hour";
  if (!newest) {
    $("forecast").replaceChildren(empty(
      `Waiting for the first hour of ${symbol} to close: its forecast of the next hour's average price follows within seconds, once a model is trained.`,
    ));
    return;
  }
  tag.textContent = newest.role;
  tag.dataset.role = newest.role;
  const hours = `${hourMinute(ms(newest.target_start))}–${hourMinute(ms(newest.target_end))} UTC`;
  const move = (newest.pred_avg_price / newest.last_price - 1) * 100;
  const [low, high, width] = [newest.lower, newest.upper, newest.upper - newest.lower || 1];
  const bar = make("div", { className: "gauge" }, make("i"), make("b"));
  const spot = (value) => `${Math.min(Math.max((value - low) / width, 0), 1) * 100}%`;
  bar.children[0].style.left = spot(newest.pred_avg_price);
  bar.children[1].style.left = spot(newest.last_price);
  $("forecast").replaceChildren(...[
    make("p", { className: "quiet" }, `Average price of ${hours}, ${newest.target_start.slice(0, 10)}`),
    make("p", { className: "figure" }, price(newest.pred_avg_price), " ", make("span", { className: "delta", data: { sign: Math.sign(move) } }, signedPercent(move))),
    bar,
    make("p", { className: "ends" }, make("span", {}, price(low)), make("span", {}, `${percent(newest.interval_level * 100, 0)} band`), make("span", {}, price(high))),
    isOver ? make("p", { className: "notice" }, "Its hour is over; waiting for the next forecast.") : null,
    newest.stale_reason == null ? null : make("p", { className: "notice" }, `The baseline serves: ${newest.stale_reason}`),
    facts([
      ["Model", newest.model_version],
      ["Trained through", newest.trained_through == null ? "needs no training" : dayTime(ms(newest.trained_through))],
      ["Data through", dayTime(ms(newest.data_through))],
      ["Issued", dayTime(ms(newest.issued_at))],
      ["Price at issue", price(newest.last_price)],
      ["Calibrated on", `${count(newest.n_calib)} hours`],
    ]),
  ].filter((node) => node != null));
}

export function scores(document, symbol) {
  const rows = document.summary.filter((row) => row.symbol === symbol);
  if (!rows.length) {
    $("scores").replaceChildren(empty("Waiting for the first forecast hour to close: its score follows."));
    return;
  }
  const head = ["Model", "Hours", "In band", "Error", "Last price", "RMSE ratio"];
  const hints = ["role and version", "scored", "share, of nominal", "mean abs., bps", "its error, bps", "below 1 beats it"];
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col" }, text, make("small", {}, hints[i]))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, make("span", { className: "tag", data: { role: row.role } }, row.role), make("small", {}, `${row.model_version}${row.origin === "live" ? "" : ", backfilled"}`)),
      make("td", {}, count(row.n)),
      make("td", {}, `${percent(row.coverage * 100, 1)} `, make("small", {}, `of ${percent(row.interval_level * 100, 0)}`)),
      make("td", {}, number(row.mean_abs_error_bps, 1)),
      make("td", {}, number(row.mean_abs_last_price_error_bps, 1)),
      make("td", {}, number(row.rmse_ratio_to_last_price, 3)),
    ))));
  $("scores").replaceChildren(make("div", { className: "scroll", tabIndex: 0 }, table));
}

const FEATURES = [
  ["Last mid", (w) => price(w.last)], ["Open", (w) => price(w.open)], ["High", (w) => price(w.high)], ["Low", (w) => price(w.low)],
  ["Return", (w) => signedPercent(w.log_return == null ? null : w.log_return * 100, 3), (w) => w.log_return],
  ["Realised volatility", (w) => percent(w.realised_volatility == null ? null : w.realised_volatility * 100, 3)],
  ["Mean spread, bps", (w) => number(w.mean_spread_bps)], ["Max spread, bps", (w) => number(w.max_spread_bps)],
  ["Mean liquidity", (w) => number(w.mean_liquidity, 3)], ["Quote imbalance", (w) => number(w.imbalance, 3)],
  ["VWAP", (w) => price(w.vwap)], ["Volume", (w) => number(w.volume, 3)],
  ["Ticks", (w) => count(w.n_ticks)], ["Coverage", (w) => percent(w.coverage * 100, 0)],
];

export function features(row) {
  const table = $("features");
  if (!row) {
    table.replaceChildren();
    $("features-line").textContent = "Waiting for the first row…";
    return;
  }
  const names = Object.keys(row.windows);
  $("features-line").textContent =
    `As of ${clock(ms(row.timestamp))} · EWMA volatility ${percent(row.ewma_volatility == null ? null : row.ewma_volatility * 100, 3)} per √minute`;
  table.replaceChildren(
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Window"), ...names.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...FEATURES.map(([label, text, sign]) => make("tr", {}, make("th", { scope: "row" }, label),
      ...names.map((name) => make("td", sign ? { className: "delta", data: { sign: Math.sign(sign(row.windows[name]) ?? 0) } } : {}, text(row.windows[name]))),
    ))),
  );
}

export function health(document) {
  const overall = $("health-state");
  overall.dataset.state = document.state;
  overall.textContent = STATES[document.state] ?? document.state;
  const speed = $("speed");
  speed.hidden = document.speed === 1;
  speed.textContent = `replay ×${number(document.speed, 0)}`;
  const row = (name, what, last, seconds, lag, status) => make("tr", {},
    make("th", { scope: "row" }, name, make("small", {}, what)),
    make("td", {}, hourMinute(ms(last)), make("small", {}, last == null ? "" : `${age(seconds)} ago`)),
    make("td", {}, lag == null ? "–" : count(lag)),
    make("td", {}, state(status)));
  const lag = { ticks_clean: document.kafka.lag.clean, features: document.kafka.lag.features };
  const body = [
    ...document.sources.map((s) => row(TITLES[s.source] ?? s.source, s.status === "ok" ? "source" : s.status, s.observed_at, s.age_s, null, s.state)),
    ...document.parts.map((p) => row(p.name, p.what, p.last_event, p.age_s, lag[p.part], p.state)),
    row("Kafka", document.kafka.problem == null ? "brokers" : "brokers do not answer", document.kafka.since, null, null, document.kafka.state),
  ];
  const dead = document.dead_letters;
  const reasons = Object.entries(dead.by_reason).map(([reason, n]) => `${reason} ${count(n)}`).join(", ");
  const letters = make("p", { className: "letters" }, make("b", {}, count(dead.on_topic)), " dead letters", reasons ? make("small", {}, reasons) : null);
  if (dead.newest) {
    const d = dead.newest;
    letters.append(make("small", {}, `newest: ${d.field} ${d.value}, expected ${d.expected} (${d.topic}-${d.partition}@${d.offset})`));
  }
  const head = ["Part", "Last, UTC", "Lag", "State"];
  $("health").replaceChildren(
    make("div", { className: "scroll", tabIndex: 0 }, make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...body))),
    letters,
  );
  const plot = $("plot");
  plot.hidden = !document.plot;
  alerts(document);
}

function alerts(document) {
  const texts = [];
  const asked = document.sources.filter((s) => s.status !== "disabled");
  const rest = asked.some((s) => s.status === "ok") ? "its fields stay empty, the other source goes on" : "no source answers, so there are no clean ticks";
  for (const s of document.sources) {
    if (s.state === "outage") {
      texts.push(s.status === "ok"
        ? `${TITLES[s.source] ?? s.source}: no tick since ${hourMinute(ms(s.last_tick))} UTC`
        : `${TITLES[s.source] ?? s.source}: outage (${s.status})${s.failing_since ? ` since ${hourMinute(ms(s.failing_since))} UTC` : ""}; ${rest}`);
    }
  }
  for (const p of document.parts) {
    if (p.state === "outage") texts.push(`${p.name}: outage, nothing new for ${age(p.age_s)} (last ${hourMinute(ms(p.last_event))} UTC)`);
  }
  if (document.kafka.state === "outage") texts.push("Kafka: outage; what is shown is what was known before");
  show("health", texts);
}

const shown = { link: [], health: [] };

// Alerts of the link and of the parts stand together; nothing is written when nothing changed, for screen readers read it.
export function show(kind, texts) {
  shown[kind] = texts;
  const all = [...shown.link, ...shown.health];
  const box = $("alerts");
  if (box.dataset.text === all.join("|")) return;
  box.dataset.text = all.join("|");
  box.replaceChildren(...all.map((text) => make("p", {}, text)));
}
