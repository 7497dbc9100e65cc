"use strict";

// Starts the page: the choice of the test set, all parts, and the notes at the end.
{
  const { el } = Page;
  const select = document.getElementById("group");
  Page.data.groups.forEach((group, number) => {
    const runs = `${group.runs.length} ${group.runs.length === 1 ? "run" : "runs"}`;
    select.append(el("option", { value: number }, `${group.name} (${runs})`));
  });
  select.addEventListener("change", () => Page.showGroup(Number(select.value)));
  Page.listen(({ group }) => { if (group !== undefined) select.value = group; });

  const notes = Page.data.notes.map((note) => el("li", null, note));
  document.getElementById("footer").append(
    el("p", null, `Written by demetar ${Page.data.version} from ${Page.data.runs.length} records. It is one file and asks the network for nothing. Pictures in 3-D: three.js, MIT licence.`),
    el("ul", null, ...notes));

  Page.startTable();
  Page.startFigures();
  Page.startPlayer();
  Page.startTheme();
  Page.showGroup(0);
}
