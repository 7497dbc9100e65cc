"use strict";

// Uses the page of results as a person does, and writes what happened as JSON into an
// element of its own. `window.faults` has been gathering since the page began.
{
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const texts = (selector) => all(selector).map((node) => node.textContent);
  const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const change = (node, value, name) => {
    node.value = value;
    node.dispatchEvent(new Event(name, { bubbles: true }));
  };
  const names = () => all("#table [data-reference]").map((node) => Page.run(node.dataset.reference).label);

  // A number for the picture as it was drawn just now.
  function picture() {
    const address = one("#stage canvas").toDataURL();
    let sum = 0;
    for (let i = 0; i < address.length; i++) sum = (31 * sum + address.charCodeAt(i)) % 2147483647;
    return `${address.length} ${sum}`;
  }

  async function until(condition, what) {
    for (let tries = 0; tries < 200; tries++) {
      if (condition()) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${what} did not come about`);
  }

  async function useTable(found) {
    found.byError = names();
    one('[data-sort="params"]').click();
    found.byParams = names();
    one('[data-sort="params"]').click();
    found.byParamsFalling = names();
    found.sorted = one('[data-sort="params"]').closest("th").getAttribute("aria-sort");
    found.focusStays = document.activeElement === document.body;
    one('[data-sort="error"]').focus();
    one('[data-sort="error"]').click();
    found.focusStays = document.activeElement.dataset.sort === "error";
    const legends = () => texts("#tails .legend li").length;
    found.legend = legends();
    one("#table [data-run]:checked").click();
    found.legendLess = legends();
    all("#table [data-reference]").at(-1).click();
    found.details = one("#details").textContent;
    found.differences = texts("#table tbody tr td:nth-child(5)");
    found.bars = all("#table tbody tr td:nth-child(3) svg").length;
    const chart = one("#tails svg");
    chart.focus();
    press(chart, "ArrowRight");
    found.tip = one("#tails .tip").hidden ? "" : one("#tails .tip").textContent;
  }

  async function usePlayer(found) {
    const stage = one("#stage");
    await until(() => one("#clock")?.textContent, "the picture");
    found.panels = texts("#stage .panel");
    const pictures = [];
    const take = (action) => { action(); pictures.push(picture()); };
    take(() => change(one("#scrub"), 1000, "input"));
    take(() => change(one("#scrub"), 250, "input"));
    found.clock = one("#clock").textContent;
    take(() => press(stage, "ArrowLeft"));
    take(() => press(stage, "+"));
    take(() => one("#trails").click());
    take(() => one(".models input").click());
    found.panelsLess = texts("#stage .panel");
    change(one("#scene"), 1, "change");
    take(() => change(one("#scrub"), 500, "input"));
    found.pictures = pictures;
    found.errors = texts("#scene-errors li");
    press(stage, " ");
    found.playing = one("#play").textContent;
    const before = Page.player.now.share;
    await until(() => Page.player.now.share !== before, "motion");
    one("#play").click();
    found.paused = one("#play").textContent;
  }

  async function useTheRest(found) {
    const look = () => getComputedStyle(document.body).backgroundColor;
    found.light = [document.documentElement.dataset.theme, look()];
    one("#theme").click();
    found.dark = [document.documentElement.dataset.theme, look()];
    found.wide = [document.documentElement.scrollWidth, window.innerWidth];
    change(one("#group"), 1, "change");
    found.otherGroup = names();
    found.closestHidden = one("#closest").hidden;
    await until(() => /number 7/.test(one("#stage .panel")?.textContent || ""), "the molecule");
    found.molecule = one("#scene-caption").textContent;
    change(one("#group"), 2, "change");
    found.nothing = one("#player-body").textContent;
  }

  (async () => {
    const found = {};
    try {
      await useTable(found);
      await usePlayer(found);
      await useTheRest(found);
    } catch (error) {
      window.faults.push(String(error.stack || error));
    }
    found.faults = window.faults;
    found.requests = performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("blob:") && !name.startsWith("data:"));
    const outcome = document.createElement("pre");
    outcome.id = "outcome";
    outcome.textContent = JSON.stringify(found);
    document.body.append(outcome);
  })();
}
