"use strict";
(() => {
  const { classes, columns, labels, runs } = data;
  const number = new Intl.NumberFormat("en");
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
  const SIZE = 96; // pixels of a shown image
  const rows = Math.ceil(labels.length / columns);
  let run = 0, truth = 0, answer = 0;

  const tile = (image) => {
    const pixels = document.createElement("div");
    pixels.className = "pixels";
    pixels.role = "img";
    pixels.ariaLabel = `an image of ${classes[labels[image]]}`;
    const [row, column] = [Math.floor(image / columns), image % columns];
    pixels.style.backgroundImage = `url(${data.sprite})`;
    pixels.style.backgroundSize = `${columns * SIZE}px ${rows * SIZE}px`;
    pixels.style.backgroundPosition = `-${column * SIZE}px -${row * SIZE}px`;
    const caption = document.createElement("figcaption");
    caption.append(withText("strong", percent(runs[run].confidence[image])));
    let isMended = false;
    runs.forEach((other, i) => {
      if (i === run) return;
      const says = other.predicted[image];
      isMended ||= says === labels[image] && runs[run].predicted[image] !== labels[image];
      caption.append(withText("span", `${other.name}: ${classes[says]} `
        + percent(other.confidence[image])), document.createElement("br"));
    });
    const figure = document.createElement("figure");
    figure.className = isMended ? "mended" : "";
    figure.append(pixels, caption);
    return figure;
  };

  const showCell = () => {
    const { counts, predicted, confidence } = runs[run];
    const found = labels.flatMap((label, image) =>
      label === truth && predicted[image] === answer ? [image] : [])
      .sort((a, b) => confidence[b] - confidence[a]).slice(0, data.perCell);
    const n = counts[truth][answer];
    byId("cell").textContent = truth === answer ? `${classes[truth]}, recognised`
      : `${classes[truth]}, taken for ${classes[answer]}`;
    byId("words").textContent = n > found.length ? `The ${found.length} most confident of `
      + `${number.format(n)} images.` : `${number.format(n)} image${n === 1 ? "" : "s"}.`;
    byId("tiles").replaceChildren(...found.map(tile));
    for (const button of byId("matrix").querySelectorAll("button"))
      button.setAttribute("aria-pressed",
        +button.dataset.truth === truth && +button.dataset.answer === answer);
  };

  const showRun = () => {
    const { counts, accuracy, interval } = runs[run];
    byId("accuracy").textContent = `Test accuracy ${percent(accuracy, 1)} (95 % interval `
      + `${percent(interval[0], 1)} to ${percent(interval[1], 1)}).`;
    const head = document.createElement("thead"), body = document.createElement("tbody");
    const names = document.createElement("tr");
    names.append(withText("td", ""), ...classes.map((name) => {
      const cell = withText("th", name);
      cell.scope = "col";
      return cell;
    }));
    head.append(names);
    counts.forEach((row, i) => {
      const total = Math.max(1, row.reduce((a, b) => a + b, 0));
      const line = document.createElement("tr");
      const name = withText("th", classes[i]);
      name.scope = "row";
      line.append(name, ...row.map((count, j) => {
        const button = withText("button", count ? number.format(count) : "·");
        button.type = "button";
        button.disabled = count === 0;
        button.dataset.truth = i;
        button.dataset.answer = j;
        button.title = `${classes[i]} taken for ${classes[j]}: ${percent(count / total, 1)}`;
        const share = i === j ? count / total : Math.min(1, 4 * count / total);
        const hue = i === j ? "43 138 75" : "192 57 43"; // right green, wrong red
        button.style.background = `rgb(${hue} / ${(0.85 * share).toFixed(3)})`;
        if (share > 0.6) button.style.color = "#fff";
        button.addEventListener("click", () => { [truth, answer] = [i, j]; showCell(); });
        const cell = document.createElement("td");
        cell.append(button);
        return cell;
      }));
      body.append(line);
    });
    byId("matrix").replaceChildren(head, body);
    showCell();
  };

  byId("runs").replaceChildren(...runs.map((one, i) => {
    const label = document.createElement("label"), choice = document.createElement("input");
    choice.type = "radio";
    choice.name = "run";
    choice.checked = i === 0;
    choice.addEventListener("change", () => { run = i; showRun(); });
    label.append(choice, ` ${one.name}`);
    return label;
  }));
  // The first cell shown is the largest confusion.
  let largest = -1;
  runs[0].counts.forEach((row, i) => row.forEach((count, j) => {
    if (i !== j && count > largest) [largest, truth, answer] = [count, i, j];
  }));
  showRun();
})();
