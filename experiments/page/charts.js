"use strict";

// A chart of lines and points with bars, on linear or logarithmic axes, as SVG.
{
  const { el, svg } = Page;
  const MARGIN = { left: 58, right: 14, top: 10, bottom: 40 };
  const HEIGHT = 300;

  // A scale from values to pixels, with its ticks.
  function makeScale(values, log, pixels) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (log) {
      const pad = low === high ? 2 : (high / low) ** 0.05;
      [low, high] = [low / pad, high * pad];
      const span = Math.log(high / low);
      const at = (value) => pixels[0] + (Math.log(value / low) / span) * (pixels[1] - pixels[0]);
      return { at, ticks: logTicks(low, high) };
    }
    const pad = (high - low || Math.abs(high) || 1) * 0.05;
    [low, high] = [low - pad, high + pad];
    const at = (value) => pixels[0] + ((value - low) / (high - low)) * (pixels[1] - pixels[0]);
    return { at, ticks: linearTicks(low, high) };
  }

  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const steps = decades > 3.2 ? [1] : decades > 1.3 ? [1, 3] : [1, 2, 3, 5, 7];
    const every = Math.ceil(decades / 8);
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) {
        const value = Number(`${step}e${power}`);
        if (power % every === 0 && value >= low && value <= high) ticks.push(value);
      }
    return ticks;
  }

  function linearTicks(low, high) {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(Number((k * step).toPrecision(6)));
    return ticks;
  }

  Page.tick = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(0).replace("e+", "e");
    return size >= 1000 ? Page.count(value) : String(Number(value.toPrecision(3)));
  };

  function drawAxes(root, spec, x, y, width) {
    const bottom = HEIGHT - MARGIN.bottom;
    for (const value of y.ticks) {
      const at = y.at(value);
      root.append(
        svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
        svg("text", { x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, Page.tick(value)));
    }
    let last = -Infinity;
    for (const value of x.ticks) {
      const at = x.at(value);
      root.append(svg("line", { class: "grid", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
      if (at - last < 38) continue; // labels would touch
      last = at;
      root.append(svg("text", { x: at, y: bottom + 15, "text-anchor": "middle" }, Page.tick(value)));
    }
    root.append(
      svg("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${width - MARGIN.right}` }),
      svg("text", { x: (MARGIN.left + width) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, spec.x.label),
      svg("text", { transform: `translate(13 ${(bottom + MARGIN.top) / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.y.label));
  }

  function drawSeries(root, series, x, y) {
    const at = (point) => `${x.at(point.x).toFixed(1)} ${y.at(point.y).toFixed(1)}`;
    const style = { stroke: series.color, fill: "none" };
    if (series.line && series.points.length > 1)
      root.append(svg("path", { ...style, d: "M" + series.points.map(at).join("L"), "stroke-width": series.wide || 1.6, "stroke-dasharray": series.dash }));
    if (series.cloud)
      root.append(svg("path", { ...style, d: series.points.map((point) => `M${at(point)}h0`).join(""), "stroke-width": 2.4, "stroke-linecap": "round", opacity: 0.35 }));
    for (const point of series.marks === false ? [] : series.points) {
      const [px, py] = [x.at(point.x), y.at(point.y)];
      if (point.low != null)
        root.append(svg("path", { ...style, d: `M${px} ${y.at(point.low)}V${y.at(point.high)}`, "stroke-width": 1.4 }));
      if (point.published != null)
        root.append(svg("path", { ...style, d: `M${px - 8} ${y.at(point.published)}h16`, "stroke-width": 2.5 }));
      root.append(svg("circle", { cx: px, cy: py, r: series.radius || 3.4, fill: series.color }));
    }
  }

  // All values of an axis that it must hold.
  function valuesOf(series, axis, log) {
    const names = axis === "x" ? ["x"] : ["y", "low", "high", "published"];
    const all = series.flatMap((own) => own.points.flatMap((point) => names.map((name) => point[name])));
    return all.filter((value) => Number.isFinite(value) && (!log || value > 0));
  }

  // Points that the axes can show.
  function shownPoints(spec, point) {
    const good = (axis, value) => Number.isFinite(value) && (!spec[axis].log || value > 0);
    return good("x", point.x) && good("y", point.y);
  }

  // The point nearest to a place, as {series, point, distance}.
  function nearest(series, x, y, px, py) {
    let best = null;
    for (const own of series)
      for (const point of own.points) {
        const distance = Math.hypot(x.at(point.x) - px, y.at(point.y) - py);
        if (!best || distance < best.distance) best = { series: own, point, distance };
      }
    return best;
  }

  // Draws a chart into a host, again whenever its width changes.
  //   spec: {label, x: {label, log}, y: {label, log}, series: [{label, color, points:
  //   [{x, y, low, high, published, text}], line, dash, marks, cloud}], empty}
  Page.chart = (host, spec) => {
    const series = spec.series
      .map((own) => ({ ...own, points: own.points.filter((point) => shownPoints(spec, point)) }))
      .filter((own) => own.points.length);
    const box = el("div", { class: "chart" });
    host.append(box);
    if (!series.length) {
      box.append(el("p", { class: "hint" }, spec.empty || "There is nothing to show."));
      return;
    }
    const draw = () => paint(box, spec, series);
    draw();
    let width = box.clientWidth;
    const watcher = new ResizeObserver(() => {
      if (!box.isConnected) watcher.disconnect();
      else if (Math.abs(box.clientWidth - width) > 1) {
        width = box.clientWidth;
        draw();
      }
    });
    watcher.observe(box);
  };

  function paint(box, spec, series) {
    const width = Math.max(box.clientWidth, 240);
    const x = makeScale(valuesOf(series, "x", spec.x.log), spec.x.log, [MARGIN.left, width - MARGIN.right]);
    const y = makeScale(valuesOf(series, "y", spec.y.log), spec.y.log, [HEIGHT - MARGIN.bottom, MARGIN.top]);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": spec.label, tabindex: 0 });
    drawAxes(root, spec, x, y, width);
    for (const own of series) drawSeries(root, own, x, y);
    const ring = svg("circle", { r: 6, fill: "none", stroke: "var(--ink)", visibility: "hidden" });
    root.append(ring);
    const tip = el("div", { class: "tip", role: "status", hidden: true });
    box.replaceChildren(root, tip);
    const show = (found) => {
      tip.hidden = !found;
      ring.setAttribute("visibility", found ? "visible" : "hidden");
      if (!found) return;
      const [px, py] = [x.at(found.point.x), y.at(found.point.y)];
      ring.setAttribute("cx", px);
      ring.setAttribute("cy", py);
      tip.textContent = found.point.text || `${found.series.label}: ${Page.fixed(found.point.y)} at ${Page.tick(found.point.x)}`;
      tip.style.left = `${Math.min(px + 10, Math.max(width - tip.offsetWidth - 4, 0))}px`;
      tip.style.top = `${Math.max(py - tip.offsetHeight - 10, 0)}px`;
    };
    root.addEventListener("pointermove", (event) => {
      const place = root.getBoundingClientRect();
      const scale = width / place.width;
      const found = nearest(series, x, y, (event.clientX - place.left) * scale, (event.clientY - place.top) * scale);
      show(found && found.distance < 30 ? found : null);
    });
    root.addEventListener("pointerleave", () => show(null));
    root.addEventListener("blur", () => show(null));
    walkByKeys(root, series, show);
  }

  // Left and right go along a line, up and down to another one.
  function walkByKeys(root, series, show) {
    let [line, place] = [0, -1];
    root.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") show(null);
      if (!steps) return;
      event.preventDefault();
      line = (line + steps[0] + series.length) % series.length;
      const points = series[line].points;
      place = Math.min(Math.max(place + steps[1], 0), points.length - 1);
      show({ series: series[line], point: points[place] });
    });
  }

  Page.legend = (items) =>
    el("ul", { class: "legend" }, ...items.map(([label, color]) =>
      el("li", null, el("span", { class: "swatch", style: `background:${color}` }), label)));
}
