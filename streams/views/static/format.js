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
const TINY = 1e-12; // so are prices below

export const number = (value, digits = 2) =>
  value == null ? DASH : (Math.abs(value) >= VAST ? value.toExponential(3) : formatter(digits).format(value)).replace("-", "−");

// Decimals of a price: five significant digits for small ones, so that 0.00000001 is not shown as zero.
export function priceDigits(value) {
  const size = Math.abs(value ?? 0);
  if (size === 0 || size >= 100) return 2;
  return size >= 1 ? 4 : Math.min(4 - Math.floor(Math.log10(size)), 16);
}

export const price = (value) =>
  value != null && value !== 0 && Math.abs(value) < TINY ? value.toExponential(3).replace("-", "−") : number(value, priceDigits(value));

// A volume or quantity: three decimals, more if it is small.
export const quantity = (value) => number(value, value != null && Math.abs(value) < 0.1 ? Math.max(priceDigits(value), 3) : 3);

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
