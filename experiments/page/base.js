"use strict";

// What all parts of the page share: the data, the state, elements and numbers.
const Page = {};

{
  Page.data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = 10;

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }

  // An element. Children are nodes or texts: no text is ever read as HTML.
  Page.el = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  Page.svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  // --- The state: which test set, which runs, compared with which one ----------------

  const listeners = [];
  Page.state = { group: 0, selected: [], reference: null, sort: "error", falling: false };
  Page.listen = (listener) => listeners.push(listener);
  Page.update = (changes) => {
    Object.assign(Page.state, changes);
    for (const listener of listeners) listener(changes);
  };
  Page.group = () => Page.data.groups[Page.state.group];
  Page.run = (index) => Page.data.runs[index];

  // The best run of each model, at most `count`: what a test set shows at first.
  Page.bestOfModels = (group, count) => {
    const best = new Map();
    for (const index of group.runs) {
      const run = Page.run(index);
      if (run.test_loss_mean == null) continue;
      const known = best.get(run.model);
      if (known == null || run.test_loss_mean < Page.run(known).test_loss_mean)
        best.set(run.model, index);
    }
    const error = (index) => Page.run(index).test_loss_mean;
    return [...best.values()].sort((a, b) => error(a) - error(b)).slice(0, count);
  };

  Page.showGroup = (number) => {
    const selected = Page.bestOfModels(Page.data.groups[number], 8);
    Page.update({ group: number, selected, reference: null });
  };

  // A run keeps its place in the list, and so its colour, until it is left out.
  Page.toggle = (index) => {
    const selected = [...Page.state.selected];
    const place = selected.indexOf(index);
    const free = selected.indexOf(null);
    if (place >= 0) selected[place] = null;
    else if (free >= 0) selected[free] = index;
    else selected.push(index);
    Page.update({ selected });
  };
  Page.selected = () => Page.state.selected.filter((index) => index != null);
  Page.color = (index) => {
    const place = Page.state.selected.indexOf(index);
    return place < 0 ? "var(--mute)" : `var(--c${place % COLORS})`;
  };

  // --- Numbers ------------------------------------------------------------------------

  // A value to as many decimals as show three digits of the reference.
  Page.fixed = (value, reference = value) => {
    if (value == null) return "not finite";
    const size = Math.abs(reference || value);
    const decimals = size ? 2 - Math.floor(Math.log10(size)) : 2;
    if (size && size < 1e-4) return value.toExponential(2);
    return value.toFixed(Math.min(Math.max(decimals, 0), 12));
  };
  // With the sign of a number as it is printed.
  Page.minus = (text) => text.replace(/(^|[ (])-/g, "$1−");
  Page.count = (value) => value.toLocaleString("en-US");
  Page.percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  // A quantity without dimension needs no unit on an axis.
  Page.withUnit = (label, unit) => (unit && !unit.includes("dimensionless") ? `${label} / ${unit}` : label);
  // The name of a run: the folder above it, small, and the last part.
  Page.twoLines = (label) => {
    const place = label.lastIndexOf("/") + 1;
    const folder = place ? [Page.el("small", null, label.slice(0, place))] : [];
    return [...folder, label.slice(place)];
  };
  Page.clock = (seconds) => {
    if (seconds == null) return "–";
    const whole = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  };
  Page.msPerStep = (run) => (run.steps_per_second ? 1000 / run.steps_per_second : null);

  // What experiments/page/tails.py has encoded: 16 bits of a common logarithm.
  Page.decode = (text) => {
    const bytes = atob(text);
    const values = new Float64Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const code = bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1);
      values[i] = code ? 10 ** (-20 + ((code - 1) / 65534) * 32) : NaN;
    }
    return values;
  };

  // Mean difference and interval of run a less run b; null if they have no common
  // test samples, or no finite errors.
  Page.paired = (group, a, b) => {
    const set = group.paired.find((own) => own.runs.includes(a) && own.runs.includes(b));
    if (!set || a === b) return null;
    const [i, j] = [set.runs.indexOf(a), set.runs.indexOf(b)];
    const [low, high] = [Math.min(i, j), Math.max(i, j)];
    // Pairs before the row of `low`, then those of that row.
    const before = (low * (2 * set.runs.length - low - 1)) / 2;
    const found = set.values[before + high - low - 1];
    if (found.some((value) => value == null)) return null;
    return i < j ? found : [-found[0], -found[2], -found[1]];
  };

  // --- Light and dark -----------------------------------------------------------------

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  Page.theme = () => chosen || (dark.matches ? "dark" : "light");
  const applyTheme = () => {
    const theme = Page.theme();
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${button.textContent.toLowerCase()} theme`);
    Page.update({ theme });
  };
  Page.startTheme = () => {
    dark.addEventListener("change", applyTheme);
    document.getElementById("theme").addEventListener("click", () => {
      chosen = Page.theme() === "dark" ? "light" : "dark";
      applyTheme();
    });
    applyTheme();
  };
}
