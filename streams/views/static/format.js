// Formatting of numbers and times. A missing value is a dash, never a zero.

const DASH = "–";
const cache = new Map();

function formatter(digits) {
  if (!cache.has(digits)) {
    cache.set(digits, new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return cache.get(digits);
}

const VAST = 1e12; // larger numbers are shown as a power of ten, to fit into a cell

export const number = (value, digits = 2) =>
  value == null ? DASH : (Math.abs(value) >= VAST ? value.toExponential(3) : formatter(digits).format(value)).replace("-", "−");

export const priceDigits = (value) => (value == null || Math.abs(value) >= 100 ? 2 : Math.abs(value) >= 1 ? 4 : 5);

export const price = (value) => number(value, priceDigits(value));

export const percent = (value, digits = 2) => (value == null ? DASH : `${number(value, digits)} %`);

export const signedPercent = (value, digits = 2) =>
  value == null ? DASH : `${value > 0 ? "+" : ""}${percent(value, digits)}`;

export const count = (value) => number(value, 0);

export const ms = (text) => (text == null ? null : Date.parse(text));

export const date = (at) => (at == null ? DASH : new Date(at).toISOString().slice(0, 10));

export const hourMinute = (at) => (at == null ? DASH : new Date(at).toISOString().slice(11, 16));

// The date, unless it is that of `now`.
export const onDay = (at, now) => (at == null || date(at) === date(now) ? "" : date(at));

export const clock = (at) => (at == null ? DASH : `${date(at)} ${new Date(at).toISOString().slice(11, 19)} UTC`);

export const dayTime = (at) => (at == null ? DASH : `${date(at)} ${hourMinute(at)} UTC`);

// Ages are rounded to seconds; less is noise of the polling.
export function age(seconds) {
  if (seconds == null) return DASH;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${number(seconds / 3600, 1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}
