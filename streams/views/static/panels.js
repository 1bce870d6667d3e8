// The panels next to the charts. Records are inserted as text, never as markup.

import {
  age, clock, count, dayTime, hourMinute, ms, number, onDay, percent, price, quantity, signedPercent,
} from "/static/format.js";
import { anchorEnd, newestForecast } from "/static/charts.js";

const $ = (id) => document.getElementById(id);
const TITLES = { binance: "Binance", coingecko: "CoinGecko" };
const STATES = { ok: "ok", waiting: "waiting", late: "late", outage: "outage", disabled: "off", unknown: "unknown" };

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

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
const facts = (pairs) =>
  make("dl", { className: "facts" }, ...pairs.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));

// Why no source has a price of a market; null if one has, or if none was asked yet.
const STATUS_TEXTS = {
  unknown_symbol: "does not list it", missing: "has no data of it", invalid: "sent invalid data of it", disabled: "is disabled",
};
function without(states) {
  const all = Object.entries(states).filter(([, s]) => s.status !== "not_polled");
  if (!all.length || all.some(([, s]) => s.status === "ok")) return null;
  const why = all.sort().map(([name, s]) => `${title(name)} ${STATUS_TEXTS[s.status] ?? `fails (${s.status.replaceAll("_", " ")})`}`);
  return `No source has a price: ${why.join(", ")}`;
}

export function headline(row, states) {
  $("price-title").textContent = row.symbol.replace("-", " / ");
  $("last").textContent = price(row.last);
  const change = $("change");
  change.textContent = row.change_24h_percent == null ? "" : `${signedPercent(row.change_24h_percent)} in 24 h`;
  change.dataset.sign = Math.sign(row.change_24h_percent ?? 0);
  document.title = row.last == null ? "Bitcoin Data" : `${price(row.last)} ${row.symbol}`;
  $("quote-line").textContent = row.timestamp == null
    ? without(states) ?? "Waiting for the first tick…"
    : `${row.mid == null ? "No quote from Binance; price from CoinGecko" : `Mid, spread ${number(row.spread_bps)} bps`} · ${row.quote} · ${clock(ms(row.timestamp))}`;
  const reason = without(states);
  write($("market-alert"), reason == null || row.timestamp == null ? [] : [`${row.symbol}: ${reason}; last tick ${clock(ms(row.timestamp))}`]);
  put($("price-empty"), reason == null ? "Waiting for the first candles…" : `${reason}.`);
}

// Few markets are shown as a strip, many as a list (markets.js).
export function strip(rows, chosen, choose) {
  const nav = $("strip");
  nav.hidden = document.body.classList.contains("many");
  if (nav.hidden) return;
  for (const [symbol, last, change, flags, of] of rows) {
    let button = nav.querySelector(`[data-symbol="${symbol}"]`);
    if (!button) {
      button = make("button", { type: "button", data: { symbol } }, make("span", { className: "name" }),
        make("span", { className: "value" }), make("span", { className: "delta" }), make("span", { className: "of" }));
      button.addEventListener("click", () => choose(symbol));
      nav.append(button);
    }
    button.setAttribute("aria-pressed", String(symbol === chosen));
    put(button.children[0], flags.length ? `${symbol} ◆` : symbol);
    button.title = flags.map(flagText).join(", ");
    put(button.children[1], price(last));
    put(button.children[2], change == null ? "" : signedPercent(change));
    button.children[2].dataset.sign = Math.sign(change ?? 0);
    put(button.children[3], of === "mid" ? "mid" : of === "price" ? "CoinGecko" : "no price");
  }
}

const title = (source) => TITLES[source] ?? source;
const flagText = (flag) => (flag.startsWith("stale_") ? `${title(flag.slice(6))} is stale` : flag === "divergent" ? "prices diverge" : flag === "jump" ? "price jumped" : flag);

const current = { row: null, states: null, isUnknown: () => false };

// Sources of the selected market: status, age of the data, and divergence of the two prices.
export function sources(row, states) {
  Object.assign(current, { row, states });
  drawSources();
}

// Marks sources whose current state is unknown, whatever their last state was.
export function markSourcesUnknown(isUnknown) {
  current.isUnknown = isUnknown;
  if (current.row) drawSources();
}

function drawSources() {
  const { row, states, isUnknown } = current;
  const chips = Object.entries(states).sort().map(([name, s]) => {
    if (isUnknown(name)) return ["unknown", `${title(name)} unknown, last ${s.status.replaceAll("_", " ")} at ${hourMinute(ms(row.timestamp))}`];
    const isStale = row.flags.includes(`stale_${name}`);
    const level = s.status === "ok" ? (isStale ? "late" : "ok") : ["disabled", "not_polled", "no_coin_id"].includes(s.status) ? "waiting" : "outage";
    const old = s.staleness_ms == null ? "" : ` ${age(s.staleness_ms / 1000)} old`;
    return [level, `${title(name)} ${s.status === "ok" ? (isStale ? "stale," : "ok,") + (old || " age unknown") : s.status.replaceAll("_", " ")}`];
  });
  if (row.divergence_bps != null) {
    const isWide = row.flags.includes("divergent");
    chips.push([isWide ? "late" : Object.keys(states).some(isUnknown) ? "unknown" : "ok", `CoinGecko ${row.divergence_bps > 0 ? "+" : ""}${number(row.divergence_bps, 1)} bps of mid${isWide ? ", divergent" : ""}`]);
  }
  const box = $("sources");
  while (box.children.length > chips.length) box.lastChild.remove();
  chips.forEach(([level, text], i) => {
    const chip = box.children[i] ?? box.appendChild(make("li", { className: "state" }));
    chip.dataset.state = level;
    put(chip, text);
  });
}

const HOUR_MS = 3_600_000;

// isForecast: whether the market is in forecasting.symbols. graceS: seconds after an hour's end within which the next
// forecast must arrive.
export function forecast({ predictions, isForecast }, symbol, now, graceS) {
  const newest = newestForecast(predictions);
  const tag = $("forecast-role");
  const isOver = newest != null && now != null && ms(newest.target_end) <= now;
  const box = $("forecast");
  const dueAt = newest == null ? null : anchorEnd(newest) + HOUR_MS;
  const isOverdue = isForecast && dueAt != null && now != null && graceS != null && now > dueAt + graceS * 1000;
  const shows = `${symbol} ${newest?.prediction_id} ${newest?.issued_at} ${isOver} ${isOverdue} ${isForecast}`;
  if (box.dataset.shows === shows) return; // keep the user's text selection
  box.dataset.shows = shows;
  tag.hidden = !newest;
  box.classList.toggle("overdue", isOverdue);
  $("forecast-title").textContent = isOverdue ? "Overdue forecast" : isOver ? "Latest forecast" : "Next hour";
  if (!newest) {
    $("forecast").replaceChildren(empty(!isForecast ? `No forecasts for ${symbol}: it is not in forecasting.symbols.` :
      `Waiting for the first forecast for ${symbol}. It is made when an hour closes, once a model is trained.`,
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
    isOverdue ? make("p", { className: "notice" }, `Overdue since ${dayTime(dueAt)}. This is the last forecast received.`) : null,
    make("p", { className: "quiet" }, `Average price, ${newest.target_start.slice(0, 10)} ${hours}`),
    make("p", { className: "figure" }, price(newest.pred_avg_price), " ", make("span", { className: "delta", data: { sign: Math.sign(move) } }, signedPercent(move))),
    bar,
    make("p", { className: "ends" }, make("span", {}, price(low)), make("span", {}, `${percent(newest.interval_level * 100, 0)} band`), make("span", {}, price(high))),
    isOver && !isOverdue ? make("p", { className: "notice" }, isForecast ? "This hour is over. Waiting for the next forecast." : "This hour is over. There are no further forecasts for this market.") : null,
    newest.stale_reason == null ? null : make("p", { className: "notice" }, `Baseline instead of the champion: ${newest.stale_reason.replaceAll("_", " ")}`),
    facts([
      ["Model", newest.model_version],
      ["Trained through", newest.trained_through == null ? "no training needed" : dayTime(ms(newest.trained_through))],
      ["Data through", dayTime(ms(newest.data_through))],
      ["Issued", dayTime(ms(newest.issued_at))],
      ["Price at issue", price(newest.last_price)],
      ["Calibrated on", `${count(newest.n_calib)} hours`],
    ]),
  ].filter((node) => node != null));
}

export function scores(document, symbol) {
  const rows = document.summary.filter((row) => row.symbol === symbol);
  $("scores-table").hidden = !rows.length;
  $("scores-empty").hidden = rows.length > 0;
  const head = ["Model", "Hours", "In band", "Error", "Last price", "Ratio"];
  const hints = ["role, version", "scored", "nominal", "abs., bps", "abs., bps", "RMSE"];
  const version = (text) => text.split(/(?=-)/).flatMap((part) => [make("wbr"), part]); // breaks before each hyphen
  $("scores").replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col", title: HINTS[i] }, text, make("small", {}, hints[i]))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, make("span", { className: "tag", data: { role: row.role } }, row.role), make("small", {}, ...version(row.model_version), row.origin === "live" ? "" : ", backfilled")),
      make("td", {}, count(row.n)),
      make("td", {}, percent(row.coverage * 100, 1), make("small", {}, `of ${percent(row.interval_level * 100, 0)}`)),
      make("td", {}, number(row.mean_abs_error_bps, 1)),
      make("td", {}, number(row.mean_abs_last_price_error_bps, 1)),
      make("td", {}, number(row.rmse_ratio_to_last_price, 3)),
    ))),
  );
}

const HINTS = [
  "Role and version of the model", "Number of scored hours", "Share of hours inside the band, and the band's nominal share",
  "Mean absolute error of the forecast", "Mean absolute error of the last price as the forecast",
  "RMSE of the forecast divided by that of the last price; below 1 is better",
];

const FEATURES = [
  ["Last mid", (w) => price(w.last)], ["Open", (w) => price(w.open)], ["High", (w) => price(w.high)], ["Low", (w) => price(w.low)],
  ["Return", (w) => signedPercent(w.log_return == null ? null : w.log_return * 100, 3), (w) => w.log_return],
  ["Realised volatility", (w) => percent(w.realised_volatility == null ? null : w.realised_volatility * 100, 3)],
  ["Mean spread, bps", (w) => number(w.mean_spread_bps)], ["Max spread, bps", (w) => number(w.max_spread_bps)],
  ["Mean liquidity", (w) => quantity(w.mean_liquidity)], ["Quote imbalance", (w) => number(w.imbalance, 3)],
  ["VWAP", (w) => price(w.vwap)], ["Volume", (w) => quantity(w.volume)],
  ["Ticks", (w) => count(w.n_ticks)], ["Coverage", (w) => percent(w.coverage * 100, 0)],
];

export function features(row) {
  const table = $("features");
  if (!row) {
    table.replaceChildren();
    $("features-line").textContent = "Waiting for the first features…";
    return;
  }
  const names = Object.keys(row.windows);
  const windows = Object.values(row.windows);
  // Polls have no trades; a stream's window can be without one.
  $("features-note").textContent = windows.every((w) => w.volume == null) ? "VWAP and volume are unknown: quotes from polls contain no trades (streams.feed)."
    : windows.some((w) => w.vwap == null) ? "A window without VWAP has no trades, or trades were not collected in it." : "";
  $("features-line").textContent =
    `As of ${clock(ms(row.timestamp))} · EWMA volatility ${percent(row.ewma_volatility == null ? null : row.ewma_volatility * 100, 3)} per √minute`;
  if (table.dataset.windows !== names.join() || !table.tBodies.length) {
    table.dataset.windows = names.join();
    table.replaceChildren(
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Window"), ...names.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...FEATURES.map(([label]) => make("tr", {}, make("th", { scope: "row" }, label), ...names.map(() => make("td"))))),
    );
  }
  FEATURES.forEach(([, text, sign], i) => names.forEach((name, j) => {
    const cell = table.tBodies[0].rows[i].cells[j + 1];
    put(cell, text(row.windows[name]));
    if (!sign) return;
    cell.className = "delta";
    cell.dataset.sign = Math.sign(sign(row.windows[name]) ?? 0);
  }));
}

export function health(document) {
  const overall = $("health-state");
  overall.dataset.state = document.state;
  overall.textContent = STATES[document.state] ?? document.state;
  const speed = $("speed");
  speed.hidden = document.speed === 1;
  speed.textContent = `replay ×${number(document.speed, 0)}`;
  const isDisconnected = document.kafka.state !== "ok"; // the current state of the parts is unknown
  const late = new Set(document.sources.filter((s) => s.status === "ok" && s.state === "outage").map((s) => s.source));
  markSourcesUnknown((name) => isDisconnected || late.has(name));
  const now = ms(document.now);
  const row = (name, what, last, seconds, lag, status) => make("tr", {},
    make("th", { scope: "row" }, name, make("small", {}, what)),
    make("td", {}, hourMinute(ms(last)), ...[onDay(ms(last), now), last == null || seconds == null ? "" : `${age(seconds)} ago`].filter(Boolean).map((text) => make("small", {}, text))),
    make("td", {}, lag == null ? "–" : count(lag)),
    make("td", {}, state(status)));
  const known = (status) => (isDisconnected && status === "ok" ? "unknown" : status);
  const made = document.forecasts;
  const lag = { ticks_clean: document.kafka.lag.clean, features: document.kafka.lag.features };
  const body = [
    ...document.sources.map((s) => row(title(s.source), s.stale_markets ? `stale for ${count(s.stale_markets)} markets` : s.status === "ok" ? "source" : s.status, s.observed_at, s.age_s, null, known(s.state))),
    ...document.parts.map((p) => row(p.name, p.part === "predictions" && made.n_overdue ? `overdue for ${count(made.n_overdue)} of ${count(made.n_markets)} markets` : p.what, p.last_event, p.age_s, lag[p.part], known(p.state))),
    row("Kafka", isDisconnected ? "no connection" : "brokers", document.kafka.since, null, null, document.kafka.state),
  ];
  programs(document);
  const dead = document.dead_letters;
  const reasons = Object.entries(dead.by_reason).map(([reason, n]) => `${reason} ${count(n)}`).join(", ");
  const deadLetters = make("p", { className: "note" }, make("b", {}, count(dead.on_topic)), dead.on_topic === 1 ? " dead letter" : " dead letters", reasons ? make("small", {}, reasons) : null);
  if (dead.newest) {
    const d = dead.newest;
    deadLetters.append(make("small", {}, `newest: ${d.field} ${d.value}, expected ${d.expected} (${d.topic}-${d.partition}@${d.offset})`));
  }
  const widest = document.divergence.widest;
  const divergence = widest == null ? null : make("p", { className: "note" }, make("b", {}, `${number(Math.abs(widest.divergence_bps), 1)} bps`),
    " widest divergence", make("small", {}, `${widest.symbol}: CoinGecko's price against Binance's mid; flagged above ${number(document.divergence.bound_bps, 0)} bps`));
  const head = ["Part", "Last, UTC", "Lag", "State"];
  $("health-parts").replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...body),
  );
  $("health-notes").replaceChildren(deadLetters, ...(divergence ? [divergence] : []));
  const plot = $("plot");
  plot.hidden = !document.plot;
  alerts(document);
}

const PROGRAM_STATES = { running: "ok" };

// Parts of other programs. Their times are times of their machines, so they are shown as ages.
function programs(document) {
  const rows = document.programs.flatMap((p) => [
    make("tr", {},
      make("th", { scope: "row" }, p.name, make("small", {}, p.what)),
      make("td", {}, p.success_age_s == null ? "–" : `${age(p.success_age_s)} ago`),
      make("td", {}, p.lag == null ? "–" : count(p.lag)),
      make("td", {}, make("span", { className: "state", data: { state: p.state } }, PROGRAM_STATES[p.status] ?? p.status))),
    p.reason == null ? null : make("tr", { className: "why" }, make("td", { colSpan: 4 }, p.reason)),
  ]).filter((row) => row != null);
  $("health-programs").replaceChildren(
    make("thead", {}, make("tr", {}, ...["Program", "Success", "Lag", "State"].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows),
  );
}

function alerts(document) {
  const texts = [];
  const enabled = document.sources.filter((s) => s.status !== "disabled");
  const effect = enabled.some((s) => s.status === "ok") ? "its fields are empty, the other source continues" : "no source responds, so there are no clean ticks";
  for (const s of document.sources) {
    if (s.state === "outage") {
      texts.push(s.status === "ok"
        ? `${TITLES[s.source] ?? s.source}: no tick since ${hourMinute(ms(s.last_tick))} UTC`
        : `${TITLES[s.source] ?? s.source}: outage (${s.status})${s.failing_since ? ` since ${hourMinute(ms(s.failing_since))} UTC` : ""}; ${effect}`);
    }
  }
  for (const p of document.pauses) {
    const state = p.pause_s ? `not requested for ${age(p.pause_s)} (${p.kind}), then again` : `failing (${p.kind})`;
    texts.push(`${TITLES[p.source] ?? p.source}: ${p.operation} ${state}: ${p.problem}`);
  }
  for (const p of document.parts) {
    if (p.state === "outage" && p.part !== "predictions") texts.push(`${p.name}: outage, no new data since ${hourMinute(ms(p.last_event))} UTC`);
  }
  for (const p of document.programs) {
    if (p.state === "outage") texts.push(p.status === "failing" ? `${p.name}: failing for ${age(p.since_age_s)}: ${p.reason}` : `${p.name}: no report for ${age(p.since_age_s)}`);
  }
  const { overdue: [longest], n_overdue: n } = document.forecasts;
  if (longest) {
    const more = n > 1 ? ` and ${count(n - 1)} more` : "";
    texts.push(`Forecasts: overdue for ${longest.symbol}${more}; the last one is for ${dayTime(ms(longest.target_start))}; check that the predictor is running`);
  }
  if (document.kafka.state === "outage") texts.push("Kafka: outage; the page shows the last known data");
  show("health", texts);
  write($("notices"), document.flags.map(({ flag, n_markets: n, markets }) => {
    const what = flag === "divergent" ? "Prices of CoinGecko and Binance diverge" : flagText(flag);
    return `${what}: ${n === 1 ? markets[0] : `${count(n)} markets`}${n > 1 ? `, ${markets.slice(0, 3).join(", ")}${n > 3 ? " …" : ""}` : ""}`;
  }));
}

const shown = { link: [], health: [] };

// Shows the alerts of the connection and of the parts together.
export function show(kind, texts) {
  shown[kind] = texts;
  write($("alerts"), [...shown.link, ...shown.health]);
}

// Writes only changes, because screen readers read them aloud.
function write(box, texts) {
  if (box.dataset.text === texts.join("|")) return;
  box.dataset.text = texts.join("|");
  box.replaceChildren(...texts.map((text) => make("p", {}, text)));
}
