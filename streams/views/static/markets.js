// The list of markets: a search field and a list that renders only the visible rows.
// The field is a combobox with a list box (ARIA Authoring Practices): it keeps the focus, arrow keys select the row.

import { count, price, signedPercent } from "/static/format.js";

const $ = (id) => document.getElementById(id);
const SPARE = 3; // rows rendered above and below the visible ones

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export class MarketList {
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.symbols = [];
    this.rows = new Map(); // symbol to [symbol, last, change, flags]
    this.shown = [];
    this.active = 0;
    this.pool = [];
    this.chosen = null;
    this.isQueued = false;
    Object.assign(this, {
      button: $("market"), panel: $("markets"), input: $("market-search"), flagged: $("market-flagged"),
      list: $("market-list"), space: $("market-space"), count: $("market-count"),
    });
    this.button.addEventListener("click", () => this.toggle(!this.isOpen));
    this.input.addEventListener("input", () => this.filter());
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.flagged.addEventListener("click", () => {
      this.flagged.setAttribute("aria-pressed", String(!this.onlyFlagged));
      this.filter();
    });
    this.list.addEventListener("scroll", () => this.queue(), { passive: true });
    this.list.addEventListener("mousedown", (event) => event.preventDefault()); // keep the focus in the field
    this.list.addEventListener("click", ({ target }) => {
      const row = target.closest(".row");
      if (row) this.choose(row.dataset.symbol);
    });
    this.panel.addEventListener("focusout", ({ relatedTarget: to }) => {
      if (to && !this.panel.contains(to) && to !== this.button) this.toggle(false);
    });
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOpen) {
        this.toggle(false);
        this.button.focus();
      }
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (this.isOpen && !this.panel.contains(target) && !this.button.contains(target)) this.toggle(false);
    });
    new ResizeObserver(() => this.queue()).observe(this.list);
  }

  get isOpen() {
    return this.panel.classList.contains("open");
  }

  get onlyFlagged() {
    return this.flagged.getAttribute("aria-pressed") === "true";
  }

  get rowHeight() {
    return 2.5 * parseFloat(getComputedStyle(document.documentElement).fontSize); // .row in style.css
  }

  toggle(open) {
    this.panel.style.setProperty("--below", `${Math.round(this.button.getBoundingClientRect().bottom + 8)}px`);
    this.panel.classList.toggle("open", open);
    this.button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    this.input.value = "";
    this.filter(this.chosen);
    this.input.focus();
  }

  set({ rows }) {
    this.symbols = rows.map(([symbol]) => symbol);
    this.rows = new Map(rows.map((row) => [row[0], row]));
    document.body.classList.toggle("many", rows.length > 24);
    this.filter(this.shown[this.active] ?? this.chosen);
  }

  update({ rows }) {
    for (const row of rows) this.rows.set(row[0], row);
    if (this.onlyFlagged) this.filter(this.shown[this.active]);
    else this.queue();
  }

  mark(symbol) {
    this.chosen = symbol;
    put($("market-name"), symbol);
    this.queue();
  }

  // Markets that contain every word of the search; those that begin with the first word come first.
  filter(active = null) {
    const words = this.input.value.toUpperCase().split(/[\s/]+/).filter(Boolean);
    const found = this.symbols.filter(
      (symbol) => words.every((word) => symbol.includes(word)) && (!this.onlyFlagged || this.rows.get(symbol)[3].length),
    );
    const first = words.length ? found.filter((symbol) => symbol.startsWith(words[0])) : found;
    this.shown = first.length === found.length ? found : [...first, ...found.filter((s) => !s.startsWith(words[0]))];
    put(this.count, words.length || this.onlyFlagged
      ? `${count(this.shown.length)} of ${count(this.symbols.length)} markets` : `${count(this.symbols.length)} markets`);
    this.space.style.height = `${this.shown.length * this.rowHeight}px`;
    this.move(Math.max(this.shown.indexOf(active), 0));
  }

  move(to) {
    this.active = Math.min(Math.max(to, 0), Math.max(this.shown.length - 1, 0));
    const [height, top] = [this.rowHeight, this.active * this.rowHeight];
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + height > this.list.scrollTop + this.list.clientHeight) {
      this.list.scrollTop = top + height - this.list.clientHeight;
    }
    this.draw();
  }

  onKey(event) {
    const page = Math.max(Math.floor(this.list.clientHeight / this.rowHeight) - 1, 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key in steps) this.move(this.active + steps[event.key]);
    else if (event.key === "Enter" && this.shown.length) this.choose(this.shown[this.active]);
    else return;
    event.preventDefault();
  }

  choose(symbol) {
    const wasOpen = this.isOpen;
    this.toggle(false);
    if (wasOpen && this.button.offsetParent) this.button.focus();
    this.move(this.shown.indexOf(symbol));
    this.onChoose(symbol);
  }

  // Combine many updates into one rendering per frame.
  queue() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.isQueued = false;
    const height = this.rowHeight;
    if (!this.list.clientHeight) return; // hidden
    const first = Math.max(Math.floor(this.list.scrollTop / height) - SPARE, 0);
    const wanted = Math.min(Math.ceil(this.list.clientHeight / height) + 2 * SPARE, this.shown.length);
    while (this.pool.length < wanted) this.pool.push(this.makeRow());
    this.pool.forEach((row, i) => {
      const at = first + ((i - (first % wanted) + wanted) % wanted); // a row that remains visible keeps its node
      row.hidden = i >= wanted || at >= this.shown.length;
      if (!row.hidden) this.fill(row, at, height);
    });
    const active = this.shown.length ? `market-row-${this.active}` : "";
    if (this.input.getAttribute("aria-activedescendant") !== active) this.input.setAttribute("aria-activedescendant", active);
  }

  makeRow() {
    const row = document.createElement("div");
    row.className = "row";
    row.setAttribute("role", "option");
    for (const name of ["name", "flag", "value", "delta"]) {
      const part = document.createElement("span");
      part.className = name;
      row.append(part);
    }
    this.space.append(row);
    return row;
  }

  fill(row, at, height) {
    const [symbol, last, change, flags] = this.rows.get(this.shown[at]);
    const [name, flag, value, delta] = row.children;
    if (row.dataset.symbol !== symbol || row.dataset.at !== String(at)) {
      row.id = `market-row-${at}`;
      Object.assign(row.dataset, { symbol, at });
      row.setAttribute("aria-posinset", at + 1);
      row.style.transform = `translateY(${at * height}px)`;
      put(name, symbol);
    }
    row.setAttribute("aria-setsize", this.shown.length);
    row.setAttribute("aria-selected", String(at === this.active));
    row.classList.toggle("chosen", symbol === this.chosen);
    put(flag, flags.length ? "◆" : "");
    flag.title = flags.join(", ");
    put(value, price(last));
    put(delta, change == null ? "" : signedPercent(change));
    delta.dataset.sign = Math.sign(change ?? 0);
  }
}
