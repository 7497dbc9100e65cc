"use strict";

// One test sample in 3-D: a panel for each model, all turned together.
//
// Forces on a molecule are arrows: of the data, and of each model. A motion has the true path of every body, and of each model where it says that the
// bodies end; only a model that integrates has a path. Nothing between the start and a
// predicted end is made up.
{
  const { el } = Page;
  const SECONDS = 5; // that a motion lasts at speed 1
  const view = { yaw: 0.6, pitch: 0.35, zoom: 1 };
  const now = { scene: 0, share: 1, playing: false, speed: 1, trails: true, arrows: 0, hidden: new Set() };
  let stage = null; // what is drawn: {renderer, panels, parts of the page}

  Page.player = { view, now }; // for tests

  // The module lies in the page as text, and is read only if there is something to draw.
  let loading = null;
  function loadThree() {
    const text = document.getElementById("three").textContent;
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    loading ||= import(address).finally(() => URL.revokeObjectURL(address));
    return loading;
  }

  // --- The page around the picture ----------------------------------------------------

  const scenes = () => Page.group().scenes;
  const scene = () => scenes()[now.scene];

  function build() {
    const body = document.getElementById("player-body");
    stop();
    dispose();
    now.scene = Page.group().first_scene;
    if (!scenes().length) {
      const reason = Page.group().scenes_reason || "No test sample of these runs was asked for.";
      body.replaceChildren(el("p", { class: "hint" }, `Nothing to show: ${reason}`));
      return;
    }
    const parts = makeParts();
    body.replaceChildren(parts.bar, parts.models, parts.stage, parts.controls, parts.caption, parts.errors);
    loadThree().then((three) => {
      if (body.contains(parts.stage)) start(three, parts);
    }).catch((error) => {
      parts.stage.replaceChildren(el("p", { class: "warning" }, `This browser draws nothing in 3-D (${error.message}); the numbers are below.`));
      describe(parts);
    });
  }

  function makeParts() {
    const choose = el("select", { id: "scene", onchange: (event) => showScene(Number(event.target.value)) },
      ...scenes().map((own, number) => el("option", { value: number, selected: number === now.scene }, own.title + (own.difficulty ? `: ${own.difficulty}` : ""))));
    return {
      bar: el("div", { class: "player-bar" }, el("label", null, "Sample ", choose), ...(scenes().length > 1 ? [nextButton("‹", "previous sample", -1), nextButton("›", "next sample", 1)] : [])),
      models: el("fieldset", { class: "models" }),
      stage: el("div", { class: "stage", id: "stage", tabindex: 0, role: "application", "aria-label": "3-D view. Arrow keys turn it, plus and minus zoom, space plays." },
        el("canvas", { "aria-hidden": "true" }), el("div", { class: "panels" })),
      controls: el("div", { class: "player-bar" }),
      caption: el("p", { class: "hint", id: "scene-caption" }),
      errors: el("div", { id: "scene-errors" }),
    };
  }

  function nextButton(label, name, step) {
    const click = () => {
      const number = (now.scene + step + scenes().length) % scenes().length;
      document.getElementById("scene").value = number;
      showScene(number);
    };
    return el("button", { type: "button", "aria-label": name, onclick: click }, label);
  }

  function showScene(number) {
    now.scene = number;
    stop();
    now.share = 1;
    describe(stage.parts);
    rebuildPanels();
  }

  const shownModels = () => scene().models.filter((model) => !now.hidden.has(model.label));

  // The words, boxes and buttons of a scene.
  function describe(parts) {
    const own = scene();
    const boxes = own.kind === "molecule" ? [] : own.models.map((model) => el("label", null,
      el("input", { type: "checkbox", checked: !now.hidden.has(model.label), onchange: () => toggleModel(model.label) }), ` ${model.label}`));
    parts.models.replaceChildren(...(boxes.length ? [el("legend", null, "Models"), ...boxes] : []));
    const { controls, words } = KINDS[own.kind];
    parts.controls.replaceChildren(...controls(own), ...viewControls());
    parts.caption.textContent = words(own);
    parts.errors.replaceChildren(...errorList(own));
  }

  function motionWords(own) {
    const paths = own.models.some((model) => model.path);
    const what = own.source === "charges" ? "Red bodies have a positive charge, blue ones a negative one. " : "";
    const ends = own.models.length
      ? "Balls follow the true motion. Green cages are where a model says that they end" + (paths ? "; of a model that integrates they move along its own path" : "") + ". A green line is what is missing to the true end."
      : "Balls follow the true motion. No trained model was at hand when the page was written, so none is shown.";
    return `${what}${ends} The closest approach of two bodies is ${Page.fixed(own.closest)}.`;
  }

  function moleculeWords(own) {
    return `True ${own.quantity}: ${own.value} ${own.unit}. ` + own.models.map((model) =>
      `${model.label} predicts ${model.value}, an error of ${Page.fixed(model.error)}.`).join(" ");
  }

  const signed = (value) => (value == null ? "not finite" : `${value < 0 ? "−" : "+"}${Page.fixed(Math.abs(value))}`);

  function forcesWords(own) {
    const longest = Math.max(...own.forces.map((force) => Math.hypot(...force)));
    const arrows = !own.models.length
      ? "Arrows are the true forces. No trained model was at hand when the page was written, so none is shown."
      : now.arrows
        ? `Arrows are the predicted forces less the true ones${now.arrows > 1 ? `, ${now.arrows} times as long as forces are otherwise drawn` : ""}.`
        : "Thin arrows are the true forces, wide green ones those that a model predicts.";
    return `${arrows} The largest true force is ${Page.fixed(longest)} ${own.units.forces}. ` +
      `The energy is ${Page.fixed(Math.abs(own.energy))} ${own.units.energy} ${own.energy < 0 ? "below" : "above"} the mean of the test frames. ` +
      "Frames are single structures: from one to the next there is no motion.";
  }

  function forcesControls(own) {
    if (!own.models.length) return [];
    const kinds = [[0, "true and predicted"], ...[1, 10, 100].map((factor) => [factor, `error, ${factor} ×`])];
    const choose = (event) => {
      now.arrows = Number(event.target.value);
      stage.parts.caption.textContent = forcesWords(scene());
      rebuildPanels();
    };
    return [el("label", null, "Arrows ", el("select", { id: "arrows", onchange: choose },
      ...kinds.map(([value, words]) => el("option", { value, selected: value === now.arrows }, words))))];
  }

  function errorList(own) {
    const entries = Object.entries(own.errors).sort(([, a], [, b]) => a - b);
    if (!entries.length) return [];
    const items = entries.map(([label, error]) => el("li", null, el("span", null, label), el("span", null, Page.fixed(error))));
    return [el("details", null, el("summary", null, `The error of each run on this sample (${entries.length})`),
      el("ul", { class: "sample-errors" }, ...items))];
  }

  const motionError = (model) => `squared error ${Page.fixed(model.error)}`;
  const forcesError = (model, own) =>
    `forces off by ${Page.fixed(model.error)} ${own.units.forces}, energy by ${signed(model.energy_error)} ${own.units.energy}`;

  function motionControls() {
    const speeds = [0.25, 0.5, 1, 2].map((speed) => el("option", { value: speed, selected: speed === now.speed }, `${speed} ×`));
    const trail = el("input", { type: "checkbox", id: "trails", checked: now.trails, onchange: (event) => { now.trails = event.target.checked; render(); } });
    return [
      el("button", { type: "button", id: "play", onclick: togglePlay }, "Play"),
      el("input", { type: "range", id: "scrub", min: 0, max: 1000, value: 1000 * now.share, "aria-label": "time", oninput: (event) => { stop(); setShare(event.target.value / 1000); } }),
      el("output", { id: "clock" }),
      el("label", null, "Speed ", el("select", { onchange: (event) => { now.speed = Number(event.target.value); } }, ...speeds)),
      el("label", null, trail, " Trails"),
    ];
  }

  function viewControls() {
    const button = (label, name, action) => el("button", { type: "button", "aria-label": name, onclick: () => { action(); render(); } }, label);
    return [
      button("−", "zoom out", () => zoom(1 / 1.2)),
      button("+", "zoom in", () => zoom(1.2)),
      button("Reset view", "reset the view", () => Object.assign(view, { yaw: 0.6, pitch: 0.35, zoom: 1 })),
    ];
  }

  function toggleModel(label) {
    if (!now.hidden.delete(label)) now.hidden.add(label);
    rebuildPanels();
  }

  // --- Time ---------------------------------------------------------------------------

  function togglePlay() {
    if (now.playing) return stop();
    if (now.share >= 1) now.share = 0;
    now.playing = true;
    document.getElementById("play").textContent = "Pause";
    let before = performance.now();
    const step = (time) => {
      if (!now.playing) return;
      setShare(Math.min(now.share + ((time - before) / 1000 / SECONDS) * now.speed, 1));
      before = time;
      if (now.share >= 1) stop();
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  function stop() {
    now.playing = false;
    const button = document.getElementById("play");
    if (button) button.textContent = "Play";
  }

  function setShare(share) {
    now.share = share;
    render();
  }

  function showClock(own) {
    const end = own.times[own.times.length - 1];
    document.getElementById("clock").textContent = `t = ${(now.share * end).toFixed(2)} of ${Page.tick(end)}`;
    document.getElementById("scrub").value = 1000 * now.share;
  }

  // --- The view -----------------------------------------------------------------------

  function zoom(factor) {
    view.zoom = Math.min(Math.max(view.zoom * factor, 0.3), 6);
  }

  function turn(yaw, pitch) {
    view.yaw += yaw;
    view.pitch = Math.min(Math.max(view.pitch + pitch, -1.5), 1.5);
    render();
  }

  function listenTo(place) {
    let last = null;
    place.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      place.setPointerCapture(event.pointerId);
    });
    place.addEventListener("pointermove", (event) => {
      if (!last) return;
      turn((last[0] - event.clientX) * 0.01, (event.clientY - last[1]) * 0.01);
      last = [event.clientX, event.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) place.addEventListener(name, () => { last = null; });
    place.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // else the page scrolls
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      render();
    }, { passive: false });
    place.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (turns) turn(...turns);
      else if (event.key === "+" || event.key === "=") { zoom(1.2); render(); }
      else if (event.key === "-") { zoom(1 / 1.2); render(); }
      else if (event.key === " " && scene().kind === "motion") togglePlay();
      else return;
      event.preventDefault();
    });
  }

  // --- Drawing ------------------------------------------------------------------------

  function start(three, parts) {
    const canvas = parts.stage.querySelector("canvas");
    const renderer = new three.WebGLRenderer({ canvas, antialias: true, alpha: true });
    renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    const camera = new three.PerspectiveCamera(35, 1, 0.01, 100);
    const watcher = new ResizeObserver(() => { layOut(); render(); });
    const panelOf = Page.makePanels(three, now);
    stage = { parts, canvas, renderer, camera, watcher, panelOf, panels: [] };
    listenTo(parts.stage);
    describe(parts);
    rebuildPanels();
    watcher.observe(parts.stage);
  }

  function dispose() {
    if (!stage) return;
    stage.watcher.disconnect();
    stage.renderer.dispose();
    stage.renderer.forceContextLoss();
    stage = null;
  }

  function layOut() {
    const host = stage.parts.stage.querySelector(".panels");
    const width = stage.parts.stage.clientWidth;
    const count = stage.panels.length;
    const most = Math.max(1, Math.floor(width / (width < 560 ? 165 : 290)));
    const columns = Math.ceil(count / Math.ceil(count / most)); // rows of equal length
    host.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  }

  function rebuildPanels() {
    if (!stage) return;
    const own = scene();
    const host = stage.parts.stage.querySelector(".panels");
    const models = own.kind === "molecule" ? [] : shownModels();
    const { alone, error } = KINDS[own.kind];
    const titles = models.length ? models : [null];
    stage.panels = titles.map((model) => {
      const label = !model ? [alone || own.title] : [el("b", null, model.label), el("br"), error(model, own)];
      const place = el("div", { class: `panel ${own.kind} ${titles.length === 1 ? "single" : ""}` }, ...label);
      return { place, ...stage.panelOf(own, model) };
    });
    host.replaceChildren(...stage.panels.map((panel) => panel.place));
    layOut();
    render();
  }

  function render() {
    if (!stage) return;
    const { renderer, camera, canvas } = stage;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    renderer.setSize(width, height, false);
    renderer.setScissorTest(true);
    const from = canvas.getBoundingClientRect();
    const distance = (scene().kind === "motion" ? 4.6 : 4.4) / view.zoom;
    camera.position.set(
      distance * Math.cos(view.pitch) * Math.sin(view.yaw), distance * Math.sin(view.pitch),
      distance * Math.cos(view.pitch) * Math.cos(view.yaw));
    camera.lookAt(0, KINDS[scene().kind].above, 0); // the label is above
    for (const panel of stage.panels) {
      const place = panel.place.getBoundingClientRect();
      const box = [place.left - from.left, from.bottom - place.bottom, place.width, place.height];
      renderer.setViewport(...box);
      renderer.setScissor(...box);
      camera.aspect = place.width / place.height;
      camera.fov = camera.aspect < 1 ? 35 / camera.aspect ** 0.8 : 35;
      camera.updateProjectionMatrix();
      panel.sun.position.copy(camera.position);
      panel.show(now.share);
      renderer.render(panel.scene, camera);
    }
    if (scene().kind === "motion") showClock(scene());
  }

  // What is said of a kind of scene, and done with it.
  const KINDS = {
    motion: { controls: motionControls, words: motionWords, alone: "true motion", error: motionError, above: 0.05 },
    molecule: { controls: () => [], words: moleculeWords, alone: "", above: 0.05 },
    forces: { controls: forcesControls, words: forcesWords, alone: "true forces", error: forcesError, above: 0.14 },
  };

  Page.startPlayer = () => Page.listen((changes) => {
    if ("group" in changes) build();
    else if ("theme" in changes) rebuildPanels();
  });
}
