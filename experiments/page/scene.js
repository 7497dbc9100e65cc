"use strict";

// What is drawn of a test sample: bodies, paths and cages, or atoms and bonds.
{
  const CHARGES = { positive: "#e5484d", negative: "#3b82f6" };
  const PREDICTED = { light: "#157f3c", dark: "#5fe08d" };
  const ATOMS = {
    H: ["#e8e8e8", 0.31], C: ["#6f7680", 0.76], N: ["#3f5fe0", 0.71], O: ["#e03c31", 0.66],
    F: ["#67c23a", 0.57], P: ["#e88a1a", 1.07], S: ["#d8b400", 1.05], Cl: ["#2fb344", 1.02],
  };
  const OTHER_ATOM = ["#b06fc4", 1.0];

  // Makes panels of a scene with the module three.js: {scene, sun, show(share)}.
  //   settings: {trails}: whether paths are shown, read whenever something is drawn.
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
      return (point) => new three.Vector3(...point.map((value, axis) => (2 * value - low[axis] - high[axis]) / size));
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
      const places = own.positions.map(fit);
      const angstrom = own.positions.length > 1 ? places[0].distanceTo(places[1]) / distance(own.positions) : 0.5;
      own.symbols.forEach((symbol, atom) => {
        const [color, radius] = ATOMS[symbol] || OTHER_ATOM;
        const sphere = ball(0.45 * radius ** 0.7 * angstrom, color);
        sphere.position.copy(places[atom]);
        found.add(sphere);
      });
      for (const [first, second] of own.bonds) found.add(stick(places[first], places[second], 0.09 * angstrom));
      return { scene: found, sun, show: () => {} };
    }

    const distance = ([a, b]) => Math.hypot(...a.map((value, axis) => value - b[axis]));

    function stick(from, to, radius) {
      const along = to.clone().sub(from);
      const shape = new three.CylinderGeometry(radius, radius, along.length(), 12);
      const found = new three.Mesh(shape, new three.MeshStandardMaterial({ color: "#a9b0b8", roughness: 0.6 }));
      found.position.copy(from).addScaledVector(along, 0.5);
      found.quaternion.setFromUnitVectors(new three.Vector3(0, 1, 0), along.normalize());
      return found;
    }

    return (own, model) => (own.kind === "motion" ? motionPanel(own, model) : moleculePanel(own));
  };
}
