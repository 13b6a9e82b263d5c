"use strict";
(() => {
  const { fits, exact, asked, titles, sampled } = data;
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const cost = (value) => value >= 100 && value < 1e12 ? number.format(value)
    : value && value.toPrecision(3);
  const above = (gap) => {
    if (gap === null) return "diverged";
    const percent = Math.abs(gap) < 5e-5 ? 0 : 100 * gap;
    return `${percent < 0 ? "" : "+"}${percent < 10 ? percent.toFixed(2) : percent < 1e8 ? number.format(percent)
      : percent.toExponential(1)}%`;
  };
  // The first fit shown shares about half of its list, so that a reader sees differences.
  const inCommon = (fit) => {
    const last = Object.values(fit.lists).at(-1)?.[0] ?? [];
    return last.filter((row) => exact.lists[0].includes(row)).length / (last.length || 1);
  };
  let chosen = d3.least(fits, (fit) => Math.abs(inCommon(fit) - 0.55));
  let title = 0, axis = "epochs", epochs = [], at = 0;

  // ---- the chart ----------------------------------------------------------------------------
  const chart = d3.select("#chart"), tip = byId("tip");
  const margin = { top: 10, right: 14, bottom: 34, left: 58 };
  const started = Math.max(...fits.map((fit) => fit.costs[0] ?? exact.cost));
  const draw = () => {
    const { width, height } = byId("chart").getBoundingClientRect();
    if (!width) return;
    const last = Math.max(d3.max(fits, (fit) => fit[axis].at(-1)) ?? 0, 1e-3);
    const x = d3.scaleLinear([0, last], [margin.left, width - margin.right]);
    const lowest = Math.min(exact.cost, d3.min(fits, (fit) => d3.min(fit.costs)) ?? Infinity);
    const y = d3.scaleLog([Math.max(lowest, 1e-6) * 0.8, 20 * started],
      [height - margin.bottom, margin.top]).clamp(true);
    chart.selectAll("*").remove();
    const ticks = y.ticks(6).filter((value) => Number.isInteger(Math.log10(value)));
    chart.append("g").attr("class", "grid").selectAll("line").data(ticks).join("line")
      .attr("x1", margin.left).attr("x2", width - margin.right).attr("y1", y).attr("y2", y);
    chart.append("g").attr("class", "axis").attr("transform", `translate(${margin.left},0)`)
      .call(d3.axisLeft(y).tickValues(ticks).tickFormat((value) => `10${superscript(value)}`));
    chart.append("g").attr("class", "axis").attr("transform", `translate(0,${height - margin.bottom})`)
      .call(d3.axisBottom(x).ticks(6));
    chart.append("text").attr("x", width - margin.right).attr("y", height - 2)
      .attr("text-anchor", "end").text(axis === "epochs" ? "epoch" : "seconds of computing");
    chart.append("line").attr("class", "exact").attr("x1", margin.left)
      .attr("x2", width - margin.right).attr("y1", y(exact.cost)).attr("y2", y(exact.cost));
    chart.append("text").attr("x", margin.left + 6).attr("y", y(exact.cost) - 5)
      .text(`exact solver: ${cost(exact.cost)} in ${exact.seconds.toFixed(1)} s`);
    const line = d3.line().x((point) => x(point[0])).y((point) => y(point[1]));
    for (const fit of [...fits.filter((one) => one !== chosen), chosen]) {
      const path = line(d3.zip(fit[axis], fit.costs));
      chart.append("path").attr("d", path).attr("stroke", fit.colour)
        .attr("class", `fit${fit === chosen ? "" : " faded"}`);
      chart.append("path").attr("d", path).attr("class", "hit")
        .on("pointermove", (event) => showTip(event, fit, x))
        .on("pointerleave", () => { tip.hidden = true; })
        .on("click", () => choose(fit));
    }
    const position = chosen.epochs.indexOf(epochs[at]);
    if (position >= 0)
      chart.append("circle").attr("r", 5).attr("fill", chosen.colour)
        .attr("cx", x(chosen[axis][position])).attr("cy", y(chosen.costs[position]));
  };
  const superscript = (value) =>
    [...String(Math.round(Math.log10(value)))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
  const showTip = (event, fit, x) => {
    const position = d3.bisectCenter(fit[axis], x.invert(d3.pointer(event, byId("chart"))[0]));
    tip.textContent = `${fit.name}, epoch ${fit.epochs[position]}: ${cost(fit.costs[position])}`;
    tip.hidden = false;
    const [px, py] = d3.pointer(event, byId("costs"));
    tip.style.left = `${Math.min(px + 12, byId("costs").clientWidth - 240)}px`;
    tip.style.top = `${py + 14}px`;
  };

  // ---- the table of rates -------------------------------------------------------------------
  const shade = d3.scaleSequentialLog([1e-4, 1e4], d3.interpolateViridis).clamp(true);
  const buttons = new Map();
  for (const [optimizer, group] of d3.group(fits, (fit) => fit.optimizer)) {
    const heading = make("th", optimizer);
    heading.scope = "row";
    const row = make("tr", heading);
    for (const fit of group) {
      const rate = make("strong", fit.name.replace(`${optimizer} lr=`, ""));
      const button = make("button", [rate, make("br"), above(fit.gap)]);
      const colour = d3.color(fit.gap === null ? "#d5d8dc" : shade(Math.max(fit.gap, 1e-4)));
      button.style.background = colour.formatHex();
      button.style.color = d3.lab(colour).l > 55 ? "#111" : "#fff";
      button.addEventListener("click", () => choose(fit));
      buttons.set(fit, button);
      row.append(make("td", button));
    }
    byId("rates").append(row);
  }

  // ---- the lists ----------------------------------------------------------------------------
  const show = () => {
    const exactList = exact.lists[title], epoch = epochs[at];
    const found = chosen.lists[epoch]?.[title] ?? [];
    byId("name").textContent = chosen.name;
    byId("exact").replaceChildren(...exactList.map((row) =>
      make("li", titles[row], found.includes(row) ? "" : "gone")));
    byId("fit").replaceChildren(...found.map((row) =>
      make("li", titles[row], exactList.includes(row) ? "" : "new")));
    for (const item of document.querySelectorAll("#columns li")) item.title = item.textContent;
    const height = document.querySelector("#exact li")?.getBoundingClientRect().height ?? 0;
    const width = byId("links").getBoundingClientRect().width;
    d3.select("#links").selectAll("line").data(exactList.filter((row) => found.includes(row))).join("line")
      .attr("x1", 2).attr("x2", width - 2)
      .attr("y1", (row) => (exactList.indexOf(row) + 0.5) * height)
      .attr("y2", (row) => (found.indexOf(row) + 0.5) * height);
    const position = chosen.epochs.indexOf(epoch);
    byId("at").textContent = epoch === undefined ? "" : `epoch ${epoch}`;
    byId("epoch").setAttribute("aria-valuetext", byId("at").textContent);
    if (epoch === undefined) {
      byId("words").textContent = "This fit diverged and recommends nothing.";
      return;
    }
    const isInside = position >= 0 && position < chosen.epochs.length - 1;
    const now = isInside ? chosen.costs[position] / exact.cost - 1 : chosen.gap;
    const shared = found.filter((row) => exactList.includes(row)).length;
    const share = chosen.shares[epoch];
    byId("words").textContent = `Cost ${above(now).replace(/^\+/, "")} above the exact one. ${shared} of ${exactList.length} `
      + `movies in common${share === undefined ? "" : `; over ${sampled} other movies ${(100 * share).toFixed(0)}%`}.`;
  };
  const choose = (fit) => {
    const before = epochs[at] ?? Infinity;
    chosen = fit;
    epochs = Object.keys(fit.lists).map(Number).sort((a, b) => a - b);
    at = Math.max(0, d3.bisectRight(epochs, before) - 1);
    byId("epoch").max = Math.max(0, epochs.length - 1);
    byId("epoch").value = at;
    byId("epoch").disabled = byId("play").disabled = epochs.length < 2;
    for (const [one, button] of buttons) button.setAttribute("aria-pressed", one === fit);
    draw();
    show();
  };
  const move = (position) => {
    at = position;
    byId("epoch").value = at;
    draw();
    show();
  };

  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "▶";
    byId("play").setAttribute("aria-label", "Play the epochs");
  };
  byId("play").addEventListener("click", () => {
    if (timer) return stop();
    if (at === epochs.length - 1) move(0);
    byId("play").textContent = "❚❚";
    byId("play").setAttribute("aria-label", "Stop");
    timer = setInterval(() => { at < epochs.length - 1 ? move(at + 1) : stop(); }, 700);
  });
  byId("epoch").addEventListener("input", (event) => { stop(); move(+event.target.value); });
  byId("title").append(...asked.map((name, i) => new Option(name, i)));
  byId("title").addEventListener("change", (event) => { title = +event.target.value; show(); });
  for (const choice of document.querySelectorAll("[name=axis]"))
    choice.addEventListener("change", () => { axis = choice.value; draw(); });
  new ResizeObserver(() => { draw(); show(); }).observe(byId("chart"));
  choose(chosen);
})();
