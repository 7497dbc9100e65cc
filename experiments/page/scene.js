"use strict";

// What is drawn of a test sample: bodies, paths and cages, or atoms and bonds.
{
  const CHARGES = { positive: "#e5484d", negative: "#3b82f6" };
  const PREDICTED = { light: "#157f3c", dark: "#5fe08d" };
  const TRUE_FORCE = { light: "#16191d", dark: "#ffffff" };
  const FORCE_ERROR = { light: "#c0267e", dark: "#ff8ecb" };
  const LONGEST = 1.1; // Å that the largest true force of a frame is drawn with
  const ATOMS = {
    H: ["#e8e8e8", 0.31], C: ["#6f7680", 0.76], N: ["#3f5fe0", 0.71], O: ["#e03c31", 0.66],
    F: ["#67c23a", 0.57], P: ["#e88a1a", 1.07], S: ["#d8b400", 1.05], Cl: ["#2fb344", 1.02],
  };
  const OTHER_ATOM = ["#b06fc4", 1.0];

  // Makes panels of a scene with the module three.js: {scene, sun, show(share)}.
  //   settings: {trails}: whether paths are shown, read whenever something is drawn;
  //   {arrows}: 0 for true and predicted forces, or a factor by which their difference
  //   is drawn instead.
  Page.makePanels = (three, settings) => {
    // A scene with light that comes from the camera.
    function lit() {
      const found = new three.Scene();
      const sun = new three.DirectionalLight("#ffffff", 2.2);
      found.add(new three.AmbientLight("#ffffff", 1.3), sun);
      return { scene: found, sun };
    }

    // Moves and shrinks points so that all of them lie in a cube of side 2.
    function fitting(points) {
      const low = [0, 1, 2].map((axis) => Math.min(...points.map((point) => point[axis])));
      const high = [0, 1, 2].map((axis) => Math.max(...points.map((point) => point[axis])));
      const size = Math.max(...high.map((value, axis) => value - low[axis]), 1e-9);
      const place = (point) => new three.Vector3(...point.map((value, axis) => (2 * value - low[axis] - high[axis]) / size));
      return Object.assign(place, { unit: 2 / size });
    }

    function ball(radius, color, more) {
      const material = new three.MeshStandardMaterial({ color, roughness: 0.55, ...more });
      return new three.Mesh(new three.SphereGeometry(radius, 24, 16), material);
    }

    // The edges of an icosahedron, through which the true body can be seen.
    function cage(radius, color) {
      const edges = new three.EdgesGeometry(new three.IcosahedronGeometry(radius, 0));
      return new three.LineSegments(edges, new three.LineBasicMaterial({ color }));
    }

    function line(points, color, opacity) {
      const geometry = new three.BufferGeometry().setFromPoints(points);
      return new three.Line(geometry, new three.LineBasicMaterial({ color, transparent: opacity < 1, opacity }));
    }

    // A trail with a width, of which the first part can be shown.
    function tube(points, radius, color) {
      const [along, around] = [points.length - 1, 6];
      const shape = new three.TubeGeometry(new three.CatmullRomCurve3(points), along, radius, around);
      const object = new three.Mesh(shape, new three.MeshStandardMaterial({ color, roughness: 0.7 }));
      const setShare = (share) => shape.setDrawRange(0, Math.round(share * along) * around * 6);
      return { object, setShare };
    }

    // A floor under the lowest point, which tells up from down.
    function floor(lowest) {
      const color = Page.theme() === "dark" ? "#3c444e" : "#d3d8dd";
      const found = new three.GridHelper(2.1, 6, color, color);
      found.position.y = lowest - 0.12;
      return found;
    }

    function bodyLook(own, body) {
      const value = own.sources[body];
      if (own.source === "charges") return [value > 0 ? CHARGES.positive : CHARGES.negative, 0.06];
      const many = own.sources.length > 20;
      return ["#d9962b", (many ? 0.022 : 0.06) * Math.cbrt(Math.abs(value) || 1)];
    }

    // Places at a share of the time, between the two frames about it.
    function at(path, share) {
      const place = share * (path.length - 1);
      const before = Math.min(Math.floor(place), path.length - 2);
      return path[before].clone().lerp(path[before + 1], place - before);
    }

    function motionPanel(own, model) {
      const { scene: found, sun } = lit();
      const fit = fitting(own.true.flat());
      const bodies = own.sources.map((_, body) => body);
      const green = PREDICTED[Page.theme()];
      const alongPath = (path, body) => path.map((frame) => fit(frame[body]));
      const moving = bodies.map((body) => trueBody(own, body, alongPath(own.true, body)));
      const guesses = !model ? [] : bodies.map((body) =>
        predictedBody(model, body, alongPath, fit, green, bodyLook(own, body)[1], moving[body].path));
      for (const item of [...moving, ...guesses]) found.add(...item.objects);
      found.add(floor(Math.min(...moving.flatMap((item) => item.path.map((point) => point.y)))));
      const show = (share) => { for (const item of [...moving, ...guesses]) item.show(share); };
      return { scene: found, sun, show };
    }

    function trueBody(own, body, path) {
      const [color, radius] = bodyLook(own, body);
      const sphere = ball(radius, color);
      const [whole, trail] = [line(path, color, 0.4), tube(path, 0.3 * radius, color)];
      const show = (share) => {
        sphere.position.copy(at(path, share));
        trail.setShare(share);
        trail.object.visible = whole.visible = settings.trails;
      };
      return { objects: [sphere, whole, trail.object], path, show };
    }

    function predictedBody(model, body, alongPath, fit, color, radius, truth) {
      const ghost = cage(1.6 * radius, color);
      const end = fit(model.end[body]);
      const gap = line([truth[truth.length - 1], end], color, 1);
      if (!model.path) {
        ghost.position.copy(end);
        return { objects: [ghost, gap], show: () => {} };
      }
      const path = alongPath(model.path, body);
      const trail = tube(path, 0.15 * radius, color);
      const show = (share) => {
        ghost.position.copy(at(path, share));
        trail.setShare(share);
        trail.object.visible = settings.trails;
        gap.visible = share >= 1;
      };
      return { objects: [ghost, trail.object, gap], show };
    }

    function moleculePanel(own) {
      const { scene: found, sun } = lit();
      const fit = fitting(own.positions.length > 1 ? own.positions : [...own.positions, [1, 1, 1]]);
      found.add(...atomsAndBonds(own, fit));
      return { scene: found, sun, show: () => {} };
    }

    const atomLook = (symbol) => ATOMS[symbol] || OTHER_ATOM;
    const atomRadius = (symbol) => 0.45 * atomLook(symbol)[1] ** 0.7; // in Å

    function atomsAndBonds(own, fit) {
      const places = own.positions.map(fit);
      const balls = own.symbols.map((symbol, atom) => {
        const sphere = ball(atomRadius(symbol) * fit.unit, atomLook(symbol)[0]);
        sphere.position.copy(places[atom]);
        return sphere;
      });
      return [...balls, ...own.bonds.map(([first, second]) => stick(places[first], places[second], 0.09 * fit.unit))];
    }

    function stick(from, to, radius, more) {
      const along = to.clone().sub(from);
      const shape = new three.CylinderGeometry(radius, radius, along.length(), 12);
      const found = new three.Mesh(shape, new three.MeshStandardMaterial({ color: "#a9b0b8", roughness: 0.6, ...more }));
      return pointed(found, from, to);
    }

    // An object that lies along y about its middle, put between two points.
    function pointed(object, from, to) {
      object.position.copy(from).lerp(to, 0.5);
      object.quaternion.setFromUnitVectors(new three.Vector3(0, 1, 0), to.clone().sub(from).normalize());
      return object;
    }

    // --- Forces -------------------------------------------------------------------------

    const added = (a, b, factor) => a.map((value, axis) => value + factor * b[axis]);

    function forcesPanel(own, model) {
      const { scene: found, sun } = lit();
      const longest = Math.max(...own.forces.map((force) => Math.hypot(...force)), 1e-9);
      const scale = LONGEST / longest; // in Å per unit of force
      const tips = own.positions.map((place, atom) => added(place, own.forces[atom], scale));
      const fit = fitting([...own.positions, ...tips, [0.5, 0.5, 0.5], [-0.5, -0.5, -0.5]]);
      found.add(...atomsAndBonds(own, fit));
      for (const { forces, factor, width, more } of arrowSets(own, model))
        own.positions.forEach((place, atom) => found.add(...arrow(own.symbols[atom], place, forces[atom], scale * factor, width, more, fit)));
      return { scene: found, sun, show: () => {} };
    }

    // The thin true arrows lie in the wide ones that are predicted, if these are right.
    function arrowSets(own, model) {
      const theme = Page.theme();
      const truth = { forces: own.forces, factor: 1, width: 0.035, more: { color: TRUE_FORCE[theme] } };
      if (!model) return [truth];
      const glass = { transparent: true, opacity: 0.5, depthWrite: false };
      if (!settings.arrows)
        return [truth, { forces: model.forces, factor: 1, width: 0.085, more: { color: PREDICTED[theme], ...glass } }];
      const errors = model.forces.map((force, atom) => added(force, own.forces[atom], -1));
      return [{ forces: errors, factor: settings.arrows, width: 0.05, more: { color: FORCE_ERROR[theme] } }];
    }

    // A shaft and a head that begin at the surface of an atom; lengths in Å.
    function arrow(symbol, place, force, scale, width, more, fit) {
      const size = Math.hypot(...force);
      const length = size * scale;
      if (length < 1e-3) return [];
      const along = (distance) => fit(added(place, force, (atomRadius(symbol) + distance) / size));
      const head = Math.min(4.5 * width, 0.6 * length);
      const [start, neck, tip] = [0, length - head, length].map(along);
      const cone = new three.ConeGeometry(0.5 * head * fit.unit, head * fit.unit, 16);
      const material = new three.MeshStandardMaterial({ roughness: 0.6, ...more });
      return [stick(start, neck, Math.min(width, 0.25 * head) * fit.unit, more), pointed(new three.Mesh(cone, material), neck, tip)];
    }

    const panels = { motion: motionPanel, molecule: moleculePanel, forces: forcesPanel };
    return (own, model) => panels[own.kind](own, model);
  };
}
