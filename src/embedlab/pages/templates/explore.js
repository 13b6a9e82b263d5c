"use strict";
(() => {
  const { titles, genres, likes, groups, x, y, exponents, k, colours, groupNames } = data;
  const bytes = Uint8Array.from(atob(data.nearest), (c) => c.charCodeAt(0));
  const nearestRows = new Uint16Array(bytes.buffer); // (movies, exponents, k)
  const n = titles.length;
  const canvas = byId("canvas"), context = canvas.getContext("2d");
  const mostLiked = Math.max(...likes, 1);
  const number = new Intl.NumberFormat("en");

  let chosen = -1, exponent = 0, transform = d3.zoomIdentity;
  let width = 0, height = 0, scale = 1;
  const shown = new Set(d3.range(groupNames.length));

  const nearest = (movie) => {
    const start = (movie * exponents.length + exponent) * k;
    return Array.from(nearestRows.subarray(start, start + k));
  };

  // ---- search -------------------------------------------------------------------------------
  const words = (text) =>
    text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/&/g, " and ")
      .replace(/æ/g, "ae").replace(/œ/g, "oe").replace(/ø/g, "o").replace(/ł/g, "l")
      .replace(/['’]/g, "").split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const titleWords = titles.map(words);
  const joinedWords = titleWords.map((own) => own.join(""));

  const isNear = (a, b) => { // one letter added, missing or different, or two letters swapped
    if (Math.abs(a.length - b.length) > 1) return false;
    let i = 0;
    while (i < a.length && a[i] === b[i]) i++;
    const [restA, restB] = [a.slice(i), b.slice(i)];
    return restA.slice(1) === restB.slice(1) || restA.slice(1) === restB || restA === restB.slice(1)
      || (restA[0] === restB[1] && restA[1] === restB[0] && restA.slice(2) === restB.slice(2));
  };

  const find = (query, limit = 8) => {
    const asked = words(query).filter((word, i, all) => all.length === 1 || word !== "the");
    if (!asked.length) return [];
    const ranked = [];
    for (let movie = 0; movie < n; movie++) {
      let cost = 0;
      for (const word of asked) {
        let best = 3;
        for (const own of titleWords[movie]) {
          if (own === word) { best = 0; break; }
          if (own.startsWith(word)) best = Math.min(best, 0.5);
          else if (word.length > 3 && isNear(word, own)) best = Math.min(best, 1.5);
        }
        cost += best;
        if (best === 3) { cost = Infinity; break; }
      }
      if (joinedWords[movie].startsWith(asked.join(""))) cost = Math.min(cost, 1); // "spiderman"
      if (cost === Infinity) continue;
      // A title of just these words comes before longer ones; else the most liked first.
      const others = titleWords[movie].filter((word) => !asked.includes(word) && word !== "the"
        && !/^\d{4}$/.test(word)).length;
      ranked.push([cost + (others ? 0.25 : 0), movie]);
    }
    return ranked.sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, limit).map(([, m]) => m);
  };

  const query = byId("query"), matches = byId("matches");
  let active = -1;
  const showMatches = () => {
    const found = query.value.trim() ? find(query.value) : [];
    active = found.length ? 0 : -1;
    matches.replaceChildren(...found.map((movie, i) => {
      const item = make("li", titles[movie]);
      item.id = `match${i}`;
      item.role = "option";
      item.dataset.movie = movie;
      return item;
    }));
    if (!found.length) {
      const item = make("li", "No title found: try fewer words.");
      item.role = "option";
      item.ariaDisabled = true;
      matches.append(item);
    }
    matches.hidden = !query.value.trim();
    query.ariaExpanded = !matches.hidden;
    markActive();
  };
  const markActive = () => {
    [...matches.children].forEach((item, i) => item.setAttribute("aria-selected", i === active));
    query.setAttribute("aria-activedescendant", active >= 0 ? `match${active}` : "");
    if (active >= 0) matches.children[active].scrollIntoView({ block: "nearest" });
  };
  const closeMatches = () => {
    matches.hidden = true;
    query.ariaExpanded = false;
    query.setAttribute("aria-activedescendant", "");
  };
  query.addEventListener("input", showMatches);
  query.addEventListener("focus", () => query.select());
  query.addEventListener("keydown", (event) => {
    const count = matches.hidden ? 0 : matches.querySelectorAll("[data-movie]").length;
    if (event.key === "ArrowDown" && matches.hidden) showMatches();
    else if (event.key === "ArrowDown" && count) active = (active + 1) % count;
    else if (event.key === "ArrowUp" && count) active = (active + count - 1) % count;
    else if (event.key === "Enter" && count) return choose(+matches.children[active].dataset.movie);
    else if (event.key === "Escape") return closeMatches();
    else return;
    event.preventDefault();
    markActive();
  });
  matches.addEventListener("mousedown", (event) => {
    const item = event.target.closest("[data-movie]");
    event.preventDefault(); // the field keeps the focus
    if (item) choose(+item.dataset.movie);
  });
  query.addEventListener("blur", closeMatches);

  // ---- the list -----------------------------------------------------------------------------
  const dot = (group) => {
    const span = make("span", [], "dot");
    span.style.background = colours[group];
    return span;
  };
  const people = (count) => `${number.format(count)} ${count === 1 ? "user likes" : "users like"} it`;

  const showList = () => {
    const a = exponents[exponent];
    byId("formula").textContent = a === 0 ? "v·w, the served model’s score=dot"
      : a === 1 ? "v·w / |v|, ranks as the served model’s score=cosine" : `v·w / |v|^${a}`;
    if (chosen < 0) return;
    byId("chosen").replaceChildren(
      make("strong", titles[chosen]),
      make("span", `${genres[chosen]} · ${people(likes[chosen])}`, "quiet"));
    const found = likes[chosen] ? nearest(chosen) : [];
    byId("list").replaceChildren(...found.map((movie, i) => {
      const button = make("button", [make("span", i + 1, "rank"), dot(groups[movie]),
        make("span", titles[movie]), make("span", number.format(likes[movie]), "likes")]);
      button.dataset.movie = movie;
      button.title = `${titles[movie]} · ${genres[movie]} · ${people(likes[movie])}`;
      button.addEventListener("click", () => {
        choose(movie);
        (document.querySelector("#list button") ?? query).focus(); // the clicked button is gone
      });
      return make("li", button);
    }));
    const median = d3.median(found, (movie) => likes[movie]);
    byId("summary").textContent = found.length
      ? `Half of these are liked by ${number.format(Math.round(median))} `
        + `${Math.round(median) === 1 ? "user" : "users"} or more.`
      : "No user likes it in these data, so there are no neighbours to show.";
  };

  const choose = (movie) => {
    chosen = movie;
    query.value = titles[movie];
    closeMatches();
    // In the sandbox of MLflow's viewer a page may not change its address.
    if (origin !== "null" || location.protocol === "file:")
      history.replaceState(null, "", `#${encodeURIComponent(titles[movie])}`);
    showList();
    draw();
  };
  byId("exponent").addEventListener("input", (event) => {
    exponent = +event.target.value;
    event.target.setAttribute("aria-valuetext", `exponent ${exponents[exponent]}`);
    showList();
    draw();
  });

  // ---- the map ------------------------------------------------------------------------------
  let tree; // of the dots that are shown
  const buildTree = () => {
    tree = d3.quadtree(d3.range(n).filter((i) => shown.has(groups[i])), (i) => x[i], (i) => y[i]);
  };
  buildTree();
  const size = n < 500 ? 1.6 : 1; // few dots may be larger
  const margin = 24, maxX = Math.max(...x), maxY = Math.max(...y);
  const place = (i) => transform.apply([
    (width - maxX * scale) / 2 + x[i] * scale,
    (height + maxY * scale) / 2 - y[i] * scale,
  ]);
  const radius = (i) => size * (1.1 + 9 * Math.sqrt(likes[i] / mostLiked)) * Math.min(3, transform.k ** 0.35);

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink"), paper = style.getPropertyValue("--paper");
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.globalAlpha = chosen < 0 ? 0.8 : 0.35;
    for (let i = 0; i < n; i++) {
      if (!shown.has(groups[i])) continue;
      const [px, py] = place(i);
      if (px < -20 || py < -20 || px > width + 20 || py > height + 20) continue;
      context.beginPath();
      context.arc(px, py, radius(i), 0, 2 * Math.PI);
      context.fillStyle = colours[groups[i]];
      context.fill();
    }
    context.globalAlpha = 1;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    const taken = [];
    const name = (i, force) => {
      const [px, py] = place(i);
      const text = titles[i].replace(/ \(\d{4}\)$/, "");
      const half = context.measureText(text).width / 2 + 3, baseline = py - radius(i) - 4;
      const x = Math.max(half, Math.min(px, width - half));  // a name at the edge stays whole
      const box = [x - half, baseline - 12, x + half, baseline + 4];
      if (px < 0 || py < 0 || px > width || py > height) return false;
      if (!force && taken.some((b) => box[0] < b[2] && b[0] < box[2] && box[1] < b[3] && b[1] < box[3]))
        return false;
      taken.push(box);
      context.lineWidth = 3;
      context.strokeStyle = paper;
      context.strokeText(text, x, baseline);
      context.fillStyle = ink;
      context.fillText(text, x, baseline);
      return true;
    };
    if (chosen >= 0 && likes[chosen]) {
      const found = nearest(chosen), from = place(chosen);
      context.strokeStyle = ink;
      context.lineWidth = 1;
      for (const movie of found) {
        context.beginPath();
        context.moveTo(...from);
        context.lineTo(...place(movie));
        context.stroke();
      }
      for (const movie of [chosen, ...found]) {
        context.beginPath();
        context.arc(...place(movie), radius(movie), 0, 2 * Math.PI);
        context.fillStyle = colours[groups[movie]];
        context.fill();
        context.lineWidth = movie === chosen ? 3 : 1;
        context.stroke();
      }
      name(chosen, true);
      for (const movie of found) name(movie, false);
    } else {
      let names = 0;
      for (let i = 0; i < Math.min(n, 1500) && names < 30; i++)
        if (shown.has(groups[i]) && name(i, false)) names++;
    }
  };

  const at = (event) => { // the movie under the pointer, or -1
    const [px, py] = transform.invert(d3.pointer(event, canvas));
    const mapX = (px - (width - maxX * scale) / 2) / scale;
    const mapY = ((height + maxY * scale) / 2 - py) / scale;
    const found = tree.find(mapX, mapY, 14 / (scale * transform.k));
    return found ?? -1;
  };
  const tip = byId("tip");
  canvas.addEventListener("pointermove", (event) => {
    const hovered = at(event);
    tip.hidden = hovered < 0;
    canvas.style.cursor = hovered < 0 ? "grab" : "pointer";
    if (hovered < 0) return;
    tip.textContent = `${titles[hovered]} · ${genres[hovered]} · ${people(likes[hovered])}`;
    const [px, py] = d3.pointer(event, byId("map"));
    tip.style.left = `${Math.min(px + 12, Math.max(0, width - 290))}px`;
    tip.style.top = `${py + 14}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => { if (at(event) >= 0) choose(at(event)); });

  const zoom = d3.zoom().scaleExtent([0.7, 60]).on("zoom", (event) => {
    transform = event.transform;
    requestAnimationFrame(draw);
  });
  const surface = d3.select(canvas).call(zoom).on("dblclick.zoom", null);
  byId("closer").addEventListener("click", () => zoom.scaleBy(surface, 1.6));
  byId("farther").addEventListener("click", () => zoom.scaleBy(surface, 1 / 1.6));
  byId("whole").addEventListener("click", () => zoom.transform(surface, d3.zoomIdentity));

  const resize = () => {
    ({ width, height } = byId("map").getBoundingClientRect());
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    scale = Math.max(0, Math.min((width - 2 * margin) / (maxX || 1), (height - 2 * margin) / (maxY || 1)));
    draw();
  };
  new ResizeObserver(resize).observe(byId("map"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  byId("legend").replaceChildren(...groupNames.map((group, i) => {
    const button = make("button", [dot(i), group]);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!shown.delete(i)) shown.add(i);
      buildTree();
      button.setAttribute("aria-pressed", shown.has(i));
      draw();
    });
    return button;
  }));

  showList();
  let named = "";
  try { named = decodeURIComponent(location.hash.slice(1)); } catch { /* no title */ }
  if (titles.includes(named)) choose(titles.indexOf(named));
})();
