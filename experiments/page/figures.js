"use strict";

// The charts below the table, each drawn from the runs that are ticked there.
{
  const { el } = Page;
  const WORST = ["1", "5", "10"]; // percent
  const SCATTERED = { run: null }; // whose samples the chart of closest approaches shows

  // Fills a figure with its title, what it shows in words, and the rest.
  function figure(id, title, words) {
    const host = document.getElementById(id);
    host.replaceChildren(el("figcaption", null, el("h3", null, title), el("p", null, words)));
    return host;
  }

  const labels = (indices) => indices.map((index) => [Page.run(index).label, Page.color(index)]);
  const errorLabel = (group) => Page.withUnit("test error", group.unit);

  function training(group, selected) {
    const without = selected.filter((index) => !Page.run(index).curve);
    const words = "Validation error over epochs (solid) and training loss (dashed, if it is of the same kind)." +
      (without.length ? ` Of ${without.length} ticked ${without.length === 1 ? "run" : "runs"} the record alone is there: a dot is the lowest validation error.` : "");
    const host = figure("training", "Training", words);
    Page.chart(host, {
      label: "Training curves of the ticked runs",
      x: { label: "epoch", log: true },
      y: { label: Page.withUnit("error", group.unit), log: true },
      series: selected.flatMap((index) => trainingSeries(index)),
      empty: "The ticked runs have no training curves.",
    });
    host.append(Page.legend(labels(selected)));
  }

  // Of heads that are not averaged, those by which no run is judged.
  function heads(group, selected) {
    const host = document.getElementById("heads");
    const [name, unit] = Object.entries(group.heads).find(([, own]) => own !== group.unit) || [];
    const known = selected.filter((index) => name && Page.run(index).curve && name in Page.run(index).curve.heads);
    host.hidden = !known.length;
    if (host.hidden) return;
    figure("heads", `Training: ${name}`, `Validation error of ${name} alone over epochs, in its own unit. Epochs are not chosen by it.`);
    Page.chart(host, {
      label: `Training curves of ${name}`,
      x: { label: "epoch", log: true },
      y: { label: Page.withUnit(`${name} error`, unit), log: true },
      series: known.map((index) => {
        const { label, curve } = Page.run(index);
        const points = curve.epoch.map((epoch, place) => ({ x: epoch, y: curve.heads[name][place], text: `${label}, ${name}: ${Page.fixed(curve.heads[name][place])} ${unit} at epoch ${epoch}` }));
        return { label, color: Page.color(index), line: true, marks: points.length === 1, points };
      }),
    });
    host.append(Page.legend(labels(known)));
  }

  function trainingSeries(index) {
    const run = Page.run(index);
    const color = Page.color(index);
    const line = (name, values, more) => ({
      label: `${run.label}, ${name}`, color, line: true, marks: run.curve.epoch.length === 1, ...more,
      points: run.curve.epoch.map((epoch, place) => ({
        x: epoch, y: values[place], text: `${run.label}, ${name}: ${Page.fixed(values[place])} at epoch ${epoch}`,
      })),
    });
    if (!run.curve) return bestDots(run, color);
    const found = [line("validation", run.curve.valid)];
    if (run.curve.train) found.push(line("training", run.curve.train, { dash: "4 3", wide: 1 }));
    return found;
  }

  function bestDots(run, color) {
    if (!run.best_epoch || !run.valid_loss) return [];
    const points = run.best_epoch.map((epoch, seed) => ({
      x: epoch, y: run.valid_loss[seed],
      text: `${run.label}: lowest validation error ${Page.fixed(run.valid_loss[seed])} at epoch ${epoch}`,
    }));
    return [{ label: run.label, color, points }];
  }

  function tails(group, selected) {
    const host = figure("tails", "How the errors are distributed",
      "The share of the test samples whose error is at least so large. A line that falls late on the right has a heavy tail.");
    const known = selected.filter((index) => Page.run(index).tail);
    Page.chart(host, {
      label: "Share of the test samples with at least an error, for the ticked runs",
      x: { label: Page.withUnit("error of a sample", group.unit), log: true },
      y: { label: "share of samples", log: true },
      series: known.map((index) => {
        const { above, levels } = Page.run(index).tail;
        return {
          label: Page.run(index).label, color: Page.color(index), line: true, marks: false,
          points: levels.map((level, place) => ({
            x: level, y: above[place],
            text: `${Page.run(index).label}: ${Page.percent(above[place])} of the samples have ${Page.fixed(level)} or more`,
          })),
        };
      }),
      empty: "The ticked runs have no errors per sample.",
    });
    host.append(Page.legend(labels(known)));
  }

  function worst(group, selected) {
    const host = figure("worst", "What the worst samples carry",
      "The share of the whole test error that the worst 1, 5 and 10 % of the samples have.");
    const known = selected.filter((index) => Page.run(index).tail);
    const bar = (share, color) => el("td", { class: "left" }, el("span", { class: "bar" },
      el("i", { style: `width:${(4.5 * share).toFixed(2)}em;background:${color}` }), Page.percent(share)));
    const rows = known.map((index) => el("tr", null, el("td", { class: "left" }, ...Page.twoLines(Page.run(index).label)),
      ...Page.run(index).tail.shares.map((share) => bar(share, Page.color(index)))));
    if (!rows.length) {
      host.append(el("p", { class: "hint" }, "The ticked runs have no errors per sample."));
      return;
    }
    const head = ["Run", ...WORST.map((share) => `worst ${share}\u00a0%`)];
    host.append(el("div", { class: "chart" }, el("table", { class: "bars" },
      el("thead", null, el("tr", null, ...head.map((name) => el("th", { class: "left", scope: "col" }, name)))),
      el("tbody", null, ...rows))));
  }

  // --- Closest approaches -------------------------------------------------------------

  function closest(group, selected) {
    const host = document.getElementById("closest");
    host.hidden = !group.closest;
    if (!group.closest) return;
    const known = selected.filter((index) => String(index) in group.samples);
    if (!known.includes(SCATTERED.run)) SCATTERED.run = known.length ? known[0] : null;
    const others = selected.length - known.length;
    figure("closest", "Errors and close encounters",
      "Each dot is a test system: the least distance of two bodies on the way to the target, and the error of one run. Lines are medians of the ticked runs." +
      (others ? ` ${others} of the ticked runs ${others === 1 ? "is" : "are"} left out: tested on data of another generation, or without errors per sample.` : ""));
    const distances = Page.decode(group.closest);
    const scattered = SCATTERED.run;
    const clouds = scattered === null ? [] : [cloud(group, scattered, distances)];
    if (known.length) host.append(chooser(group, selected, known));
    Page.chart(host, {
      label: "Error of test systems over their closest approach",
      x: { label: "closest approach of two bodies", log: true },
      y: { label: Page.withUnit("error of a sample", group.unit), log: true },
      series: [...clouds, ...known.map((index) => medians(group, index, distances))],
      empty: "The ticked runs were tested on data of another generation than those on the machine that wrote the page.",
    });
    host.append(Page.legend(labels(known)));
  }

  function chooser(group, selected, known) {
    const choose = (event) => {
      SCATTERED.run = Number(event.target.value);
      closest(group, selected);
      document.querySelector("#closest select").focus();
    };
    return el("label", { class: "hint" }, "Dots of ", el("select", { onchange: choose },
      ...known.map((index) => el("option", { value: index, selected: index === SCATTERED.run }, Page.run(index).label))));
  }

  function cloud(group, index, distances) {
    const errors = Page.decode(group.samples[index]);
    return {
      label: Page.run(index).label, color: Page.color(index), cloud: true, marks: false,
      points: Array.from(errors, (error, sample) => ({
        x: distances[sample], y: error,
        text: `test system ${sample}: error ${Page.fixed(error)}, closest approach ${Page.fixed(distances[sample])}`,
      })),
    };
  }

  // Median error of ten classes of equally many systems.
  function medians(group, index, distances) {
    const errors = Page.decode(group.samples[index]);
    const order = Array.from(errors.keys()).sort((a, b) => distances[a] - distances[b]);
    const classes = Math.min(10, order.length);
    const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
    const points = Array.from({ length: classes }, (_, k) => {
      const rows = order.slice((k * order.length) / classes, ((k + 1) * order.length) / classes);
      const [x, y] = [distances, errors].map((own) => middle(rows.map((row) => own[row])));
      return { x, y, text: `${Page.run(index).label}: median error ${Page.fixed(y)} about ${Page.fixed(x)}` };
    });
    return { label: Page.run(index).label, color: Page.color(index), line: true, wide: 2.2, marks: false, points };
  }

  // --- Cost and data ------------------------------------------------------------------

  function point(index, x, unit) {
    const run = Page.run(index);
    const [low, high] = run.test_loss_interval;
    return {
      x, y: run.test_loss_mean, low: low > 0 ? low : null, high: low > 0 ? high : null,
      published: run.published ? run.published.loss : null,
      text: `${run.label}: ${Page.fixed(run.test_loss_mean)}, ${unit(x)}`,
    };
  }

  function time(group, selected) {
    const host = figure("time", "Error and time",
      "Test error with its interval over the time of a training step, as it was measured on the device of the run; the flat tick is the published error. Runs that are not ticked are grey.");
    const series = (index) => ({
      label: Page.run(index).label, color: Page.color(index),
      points: [point(index, Page.msPerStep(Page.run(index)), (ms) => `${Page.fixed(ms)} ms per step on ${Page.run(index).device}`)],
    });
    const others = group.runs.filter((index) => !selected.includes(index));
    Page.chart(host, {
      label: "Test error over the time of a training step",
      x: { label: "time per training step / ms", log: true },
      y: { label: errorLabel(group), log: true },
      series: [...others, ...selected].map(series),
    });
    host.append(Page.legend(labels(selected)));
  }

  function samples(group) {
    const host = figure("samples", "Error and number of samples",
      "Test error over the number of training samples, of all runs of the test set. A line joins the lowest errors of a model that was trained with several numbers.");
    const counts = new Set(group.runs.map((index) => Page.run(index).num_train).filter(Boolean));
    if (counts.size < 2) {
      const [count] = counts;
      host.append(el("p", { class: "hint" }, count
        ? `All runs have ${Page.count(count)} training samples.` : "The records do not tell the number of samples."));
      return;
    }
    const models = new Map();
    for (const index of group.runs) {
      const run = Page.run(index);
      if (!run.num_train) continue;
      models.set(run.model, [...(models.get(run.model) || []), index]);
    }
    const several = [...models].filter(([, rows]) => new Set(rows.map((row) => Page.run(row).num_train)).size > 1);
    const color = (name) => `var(--c${several.findIndex(([model]) => model === name) % 10})`;
    const words = (count) => `${Page.count(count)} training samples`;
    const others = [...models].filter(([name]) => !several.some(([model]) => model === name)).flatMap(([, rows]) => rows);
    const grey = { label: "others", color: "var(--mute)", points: others.map((row) => ({ ...point(row, Page.run(row).num_train, words), low: null, published: null })) };
    Page.chart(host, {
      label: "Test error over the number of training samples",
      x: { label: "training samples", log: true },
      y: { label: errorLabel(group), log: true },
      series: [grey, ...several.map(([name, rows]) => ({ label: name, color: color(name), line: true, points: lowest(rows, words) }))],
    });
    host.append(Page.legend([...several.map(([name]) => [name, color(name)]), ["other models", "var(--mute)"]]));
  }

  // The run of the lowest error at each number of samples.
  function lowest(rows, words) {
    const best = new Map();
    for (const row of rows) {
      const run = Page.run(row);
      const known = best.get(run.num_train);
      if (run.test_loss_mean != null && (known == null || run.test_loss_mean < Page.run(known).test_loss_mean))
        best.set(run.num_train, row);
    }
    const counts = [...best.keys()].sort((a, b) => a - b);
    return counts.map((count) => ({ ...point(best.get(count), count, words), published: null }));
  }

  Page.startFigures = () => Page.listen((changes) => {
    if (!("group" in changes || "selected" in changes)) return;
    const [group, selected] = [Page.group(), Page.selected()];
    training(group, selected);
    heads(group, selected);
    tails(group, selected);
    closest(group, selected);
    worst(group, selected);
    time(group, selected);
    samples(group);
  });
}
