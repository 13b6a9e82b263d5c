"use strict";
(() => {
  const { classes, columns, labels, runs } = data;
  const number = new Intl.NumberFormat("en");
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
  const SIZE = 96; // pixels of a shown image
  const rows = Math.ceil(labels.length / columns);
  let run = 0, truth = 0, answer = 0;

  const tile = (image) => {
    const pixels = make("div", [], "pixels");
    pixels.role = "img";
    pixels.ariaLabel = `an image of ${classes[labels[image]]}`;
    const [row, column] = [Math.floor(image / columns), image % columns];
    pixels.style.backgroundImage = `url(${data.sprite})`;
    pixels.style.backgroundSize = `${columns * SIZE}px ${rows * SIZE}px`;
    pixels.style.backgroundPosition = `-${column * SIZE}px -${row * SIZE}px`;
    const caption = make("figcaption", make("strong", percent(runs[run].confidence[image])));
    let isRightElsewhere = false;
    runs.forEach((other, i) => {
      if (i === run) return;
      const says = other.predicted[image];
      isRightElsewhere ||= says === labels[image] && runs[run].predicted[image] !== labels[image];
      caption.append(make("span", `${other.name}: ${classes[says]} `
        + percent(other.confidence[image])), make("br"));
    });
    return make("figure", [pixels, caption], isRightElsewhere ? "right-elsewhere" : "");
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
    byId("accuracy").textContent = `Test accuracy ${percent(accuracy, 1)} (95% interval `
      + `${percent(interval[0], 1)} to ${percent(interval[1], 1)}).`;
    const names = classes.map((name) => {
      const cell = make("th", name);
      cell.scope = "col";
      return cell;
    });
    const lines = counts.map((row, i) => {
      const total = Math.max(1, row.reduce((a, b) => a + b, 0));
      const name = make("th", classes[i]);
      name.scope = "row";
      return make("tr", [name, ...row.map((count, j) => {
        const button = make("button", count ? number.format(count) : "·");
        button.disabled = count === 0;
        button.dataset.truth = i;
        button.dataset.answer = j;
        button.title = `${classes[i]} taken for ${classes[j]}: ${percent(count / total, 1)}`;
        const share = i === j ? count / total : Math.min(1, 4 * count / total);
        const hue = i === j ? "43 138 75" : "192 57 43"; // right green, wrong red
        button.style.background = `rgb(${hue} / ${(0.85 * share).toFixed(3)})`;
        if (share > 0.6) button.style.color = "#fff";
        button.addEventListener("click", () => { [truth, answer] = [i, j]; showCell(); });
        return make("td", button);
      })]);
    });
    const head = make("thead", make("tr", [make("td"), ...names]));
    byId("matrix").replaceChildren(head, make("tbody", lines));
    showCell();
  };

  byId("runs").replaceChildren(...runs.map((one, i) => {
    const choice = make("input");
    choice.type = "radio";
    choice.name = "run";
    choice.checked = i === 0;
    choice.addEventListener("change", () => { run = i; showRun(); });
    return make("label", [choice, ` ${one.name}`]);
  }));
  // The first cell shown is the largest confusion.
  let largest = 0;
  runs[0].counts.forEach((row, i) => row.forEach((count, j) => {
    if (i !== j && count > largest) [largest, truth, answer] = [count, i, j];
  }));
  showRun();
})();
