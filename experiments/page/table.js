"use strict";

// The table of results: sorted by any column, and the details of one run.
{
  const { el, svg } = Page;
  const [BAR_WIDTH, BAR_HEIGHT] = [150, 16];

  const COLUMNS = [
    { key: "name", label: "Run", left: true, value: (run) => run.label, cell: nameCell },
    { key: "error", label: "Test error", value: (run) => run.test_loss_mean, cell: errorCell },
    { key: "low", label: "95 % interval", left: true, value: (run) => run.test_loss_interval[0], cell: intervalCell },
    { key: "published", label: "Published", value: (run) => run.published && run.published.loss, cell: publishedCell },
    { key: "difference", label: "Less the reference", left: true, value: differenceOf, cell: differenceCell },
    { key: "params", label: "Parameters", value: (run) => run.num_params, cell: (run) => Page.count(run.num_params) },
    { key: "samples", label: "Samples", value: (run) => run.num_train, cell: (run) => (run.num_train ? Page.count(run.num_train) : "–") },
    { key: "epochs", label: "Epochs", value: (run) => run.epochs, cell: (run) => Page.count(run.epochs) },
    { key: "seeds", label: "Seeds", value: (run) => run.seeds, cell: (run) => String(run.seeds) },
    { key: "delta", label: "Δ_EQ", value: deltaOf, cell: deltaCell },
    { key: "ms", label: "ms per step", value: Page.msPerStep, cell: (run) => (run.steps_per_second ? Page.fixed(Page.msPerStep(run)) : "–") },
    { key: "wall", label: "Wall time", value: (run) => run.wall_seconds, cell: (run) => Page.clock(run.wall_seconds) },
    { key: "device", label: "Device", left: true, value: (run) => run.device, cell: (run) => run.device },
  ];

  // Of heads that are not averaged each has a column, in its own unit. The one that runs
  // are judged by is the test error.
  const isJudged = (group, head) => group.heads[head] === group.unit;

  function columnsOf(group) {
    const names = Object.keys(group.heads);
    const judged = names.find((head) => isJudged(group, head));
    const label = (head) => `${head} MAE, ${group.heads[head]}`;
    const own = (run, head) => run.heads[head] && run.heads[head].mae;
    const others = names.filter((head) => head !== judged).map((head) => ({
      key: `head ${head}`, label: label(head), head, value: (run) => own(run, head), cell: (run) => Page.fixed(own(run, head)),
    }));
    const columns = COLUMNS.map((column) => (column.key === "error" && judged ? { ...column, label: label(judged), head: judged } : column));
    columns.splice(2, 0, ...others);
    return columns;
  }

  function nameCell(run, index) {
    const checked = Page.state.selected.includes(index);
    return el("span", { class: "name-cell" },
      el("input", { type: "checkbox", checked, "aria-label": `show ${run.label} in the charts`, "data-run": index, onchange: () => Page.toggle(index) }),
      el("span", { class: "swatch", style: `background:${checked ? Page.color(index) : "transparent"}` }),
      el("button", { type: "button", "data-reference": index, "aria-pressed": String(Page.state.reference === index), onclick: () => setReference(index) }, ...Page.twoLines(run.label)));
  }

  const setReference = (index) =>
    Page.update({ reference: Page.state.reference === index ? null : index });

  function errorCell(run) {
    const mean = run.test_loss_mean;
    const spread = run.seeds > 1 && run.test_loss_std != null ? ` ± ${Page.fixed(run.test_loss_std, mean)}` : "";
    return Page.fixed(mean) + spread;
  }

  // Logarithmic if all ends are positive. The published value is a tick.
  function intervalCell(run, index, scale) {
    const [low, high] = run.test_loss_interval;
    if (low == null || high == null || run.test_loss_mean == null) return "not finite";
    const words = `${Page.fixed(low, run.test_loss_mean)} to ${Page.fixed(high, run.test_loss_mean)}`;
    const color = Page.state.selected.includes(index) ? Page.color(index) : "var(--soft)";
    const middle = BAR_HEIGHT / 2;
    const bar = svg("svg", { width: BAR_WIDTH, height: BAR_HEIGHT, role: "img", "aria-label": words },
      svg("title", null, run.published ? `${words}; published ${run.published.loss}` : words),
      svg("line", { x1: 0, x2: BAR_WIDTH, y1: middle, y2: middle, stroke: "var(--grid)" }),
      svg("line", { x1: scale(low), x2: scale(high) + 0.5, y1: middle, y2: middle, stroke: color, "stroke-width": 5, opacity: 0.55 }),
      svg("circle", { cx: scale(run.test_loss_mean), cy: middle, r: 3.2, fill: color }));
    if (run.published)
      bar.append(svg("path", { d: `M${scale(run.published.loss)} 1V${BAR_HEIGHT - 1}`, stroke: "var(--ink)", "stroke-width": 2 }));
    return bar;
  }

  function intervalScale(runs) {
    const values = runs
      .flatMap((run) => [...run.test_loss_interval, run.test_loss_mean, run.published && run.published.loss])
      .filter((value) => value != null && value > 0);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const span = Math.log(high / low) || 1;
    return (value) => 5 + (Math.log(Math.max(value, low) / low) / span) * (BAR_WIDTH - 10);
  }

  function publishedCell(run) {
    if (!run.published) return "–";
    const others = Object.entries(run.published.by_head).filter(([head]) => !isJudged(Page.group(), head));
    const words = others.map(([head, value]) => ` (${head} ${value})`).join("");
    return el("span", { title: run.published.source }, `${run.published.loss}${words}`);
  }

  function differenceOf(run, index) {
    const found = Page.paired(Page.group(), index, Page.state.reference);
    return found && found[0];
  }

  function differenceCell(run, index, _, widest) {
    if (Page.state.reference === null) return "–";
    if (Page.state.reference === index) return "the reference";
    const found = Page.paired(Page.group(), index, Page.state.reference);
    if (!found) return el("span", { title: "no errors per sample, or test data of another generation" }, "no common samples");
    const [mean, low, high] = found;
    const sure = low > 0 || high < 0;
    const kind = !sure ? "" : mean < 0 ? "better" : "worse";
    const words = Page.minus(`${Page.fixed(mean)} (${Page.fixed(low, mean)} to ${Page.fixed(high, mean)})`);
    return el("span", { class: `name-cell ${kind}`, title: sure ? "beyond chance" : "within chance" },
      differenceBar(found, widest), words);
  }

  // Symmetric about zero, with the root of the size, so that small ones can be seen.
  function differenceBar([mean, low, high], widest) {
    const at = (value) => 40 + Math.sign(value) * Math.sqrt(Math.abs(value) / widest) * 37;
    return svg("svg", { width: 80, height: BAR_HEIGHT, "aria-hidden": "true" },
      svg("line", { x1: 40, x2: 40, y1: 0, y2: BAR_HEIGHT, stroke: "var(--mute)" }),
      svg("line", { x1: at(low), x2: at(high) + 0.5, y1: 8, y2: 8, stroke: "currentColor", "stroke-width": 5, opacity: 0.5 }),
      svg("circle", { cx: at(mean), cy: 8, r: 3, fill: "currentColor" }));
  }

  function deltaOf(run) {
    const values = Object.values(run.delta_eq).filter((value) => value != null);
    return values.length ? Math.max(...values) : null;
  }

  function deltaCell(run) {
    const entries = Object.entries(run.delta_eq);
    const words = (value) => (value == null ? "not finite" : value.toExponential(1));
    if (!entries.length) return "–";
    if (entries.length === 1) return words(entries[0][1]);
    return entries.map(([head, value]) => `${head} ${words(value)}`).join(", ");
  }

  // The runs of the group in the order of the chosen column; what is missing is last.
  function sorted(group) {
    const columns = columnsOf(group);
    const column = columns.find((own) => own.key === Page.state.sort) || columns.find((own) => own.key === "error");
    const sign = Page.state.falling ? -1 : 1;
    const keyed = group.runs.map((index) => [column.value(Page.run(index), index), index]);
    const missing = (value) => value == null;
    keyed.sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    });
    return keyed.map(([, index]) => index);
  }

  function header(column) {
    const active = Page.state.sort === column.key;
    const sort = !active ? "none" : Page.state.falling ? "descending" : "ascending";
    const click = () => Page.update({ sort: column.key, falling: active && !Page.state.falling });
    const arrow = !active ? "" : Page.state.falling ? " ▾" : " ▴";
    return el("th", { scope: "col", "aria-sort": sort, class: `${column.left ? "left" : ""} ${column.key === "name" ? "name" : ""}` },
      el("button", { type: "button", "data-sort": column.key, onclick: click }, column.label + arrow));
  }

  function widestDifference(group) {
    const found = group.runs.map((index) => Page.paired(group, index, Page.state.reference)).filter(Boolean);
    return Math.max(...found.flat().map(Math.abs), 1e-300);
  }

  const cellOf = (tag, column, ...children) =>
    el(tag, { class: `${column.left ? "left" : ""} ${column.key === "name" ? "name" : ""}` }, ...children);

  // What was published of the data, whatever the model: below our runs.
  function publishedRow(own, columns) {
    const cell = (column) => {
      if (column.key === "name") return el("span", null, el("small", null, "published: "), own.name);
      if (column.head) return String(own.by_head[column.head]);
      if (column.key === "samples") return Page.count(own.num_train);
      return column.key === "device" ? own.source : "";
    };
    return el("tr", { title: own.source }, ...columns.map((column) => cellOf("td", column, cell(column))));
  }

  function draw() {
    const group = Page.group();
    const columns = columnsOf(group);
    const scale = intervalScale(group.runs.map(Page.run));
    const widest = Page.state.reference === null ? 1 : widestDifference(group);
    const rows = sorted(group).map((index) => {
      const run = Page.run(index);
      const cells = columns.map((column) => cellOf("td", column, column.cell(run, index, scale, widest)));
      return el("tr", { class: Page.state.reference === index ? "reference" : "" }, ...cells);
    });
    const focused = document.activeElement && document.activeElement.dataset;
    const key = focused && ["sort", "reference", "run"].find((name) => name in focused);
    const again = key && `[data-${key}="${focused[key]}"]`;
    document.getElementById("table").replaceChildren(
      el("thead", null, el("tr", null, ...columns.map(header))), el("tbody", null, ...rows),
      el("tfoot", null, ...group.published.map((own) => publishedRow(own, columns))));
    if (again) document.querySelector(`#table ${again}`)?.focus({ preventScroll: true });
    document.getElementById("table-key").textContent =
      `Test error${group.unit ? ` in ${group.unit}` : ""}: mean ± standard deviation over seeds. ` +
      "Interval: bootstrap over test samples, on a logarithmic axis; the upright tick is the published value. " +
      "Δ_EQ: mean relative equivariance error under rotations." +
      (Object.keys(group.heads).length ? " MAE: mean absolute error, of vectors by component." : "");
    drawDetails();
  }

  function drawDetails() {
    const place = document.getElementById("details");
    const index = Page.state.reference;
    if (index === null) {
      place.replaceChildren();
      return;
    }
    const run = Page.run(index);
    const rows = [
      ["Command", run.command && el("code", null, run.command)],
      ["Protocol", run.protocol],
      ["Published", run.published && `${run.published.loss}: ${run.published.source}`],
      ["Published elsewhere", run.elsewhere],
      ["Errors by head", headErrors(run)],
      ["Lowest validation error", bestEpoch(run)],
    ].filter(([, value]) => value);
    place.replaceChildren(el("h3", null, run.label),
      el("dl", null, ...rows.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)])));
  }

  function headErrors(run) {
    const apart = Object.entries(run.heads).map(([head, own]) => {
      const each = own.mae_per_node == null ? "" : `; per atom ${Page.fixed(own.mae_per_node)} and ${Page.fixed(own.rmse_per_node)}`;
      return `${head}: MAE ${Page.fixed(own.mae)}, RMSE ${Page.fixed(own.rmse)} ${own.unit}${each}`;
    });
    if (apart.length) return apart.join(". ");
    const heads = Object.entries(run.test_loss_by_head || {});
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    if (heads.length < 2) return "";
    return heads.map(([head, values]) => `${head} ${Page.fixed(mean(values))}`).join(", ");
  }

  function bestEpoch(run) {
    if (!run.best_epoch || !run.valid_loss) return "";
    return run.valid_loss.map((loss, seed) => `${Page.fixed(loss)} at epoch ${run.best_epoch[seed]}`).join(", ");
  }

  Page.startTable = () => Page.listen((changes) => {
    if (!("theme" in changes)) draw();
  });
}
