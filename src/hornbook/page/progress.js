// A run that is being trained: its losses as they come, and a sample of the newest weights.

import { h } from "./elements.js";

const WIDTH = 720, HEIGHT = 240;

export class Progress {
  constructor() {
    this.title = h("h2", {});
    this.figures = h("p", { class: "hint", role: "status" });
    this.chart = h("canvas", { class: "chart", width: String(WIDTH), height: String(HEIGHT), role: "img" });
    this.heading = h("h3", {});
    this.sample = h("div", { class: "text", id: "sample", dir: "auto", tabindex: "0", role: "region" });
    this.root = h("section", { id: "training", hidden: true }, this.title, this.figures, this.chart, this.heading, this.sample);
  }

  /** What `/training/MODEL` found, in the words of `speaker`. */
  show(speaker, { rows, steps, finished, weights }) {
    this.root.hidden = finished;
    this.title.textContent = speaker.t("training");
    this.heading.textContent = speaker.t("trainingSample");
    this.sample.setAttribute("aria-label", this.heading.textContent);
    this.chart.setAttribute("aria-label", speaker.t("trainingChart"));
    if (!weights) this.sample.textContent = speaker.t("trainingBegun");
    const last = rows.at(-1);
    if (!last) return;
    const validated = rows.findLast((row) => row.val_loss !== null);
    this.figures.textContent = speaker.t(validated ? "trainingFigures" : "trainingLoss", {
      step: speaker.count(last.step), steps: speaker.count(steps), loss: last.train_loss.toFixed(4), val: validated?.val_loss.toFixed(4),
    });
    this.draw(rows, Math.max(steps, last.step));
  }

  draw(rows, steps) {
    const pen = this.chart.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name);
    const losses = rows.map((row) => row.train_loss);
    const low = Math.min(...losses) * 0.95, high = Math.max(...losses) * 1.02;
    const x = (step) => 44 + ((WIDTH - 56) * step) / Math.max(1, steps);
    const y = (loss) => 12 + ((HEIGHT - 40) * (high - loss)) / Math.max(1e-9, high - low);
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = colour("--soft");
    pen.strokeStyle = colour("--line");
    for (let mark = 0; mark <= 4; mark++) {
      const loss = low + ((high - low) * mark) / 4;
      pen.fillText(loss.toFixed(2), 4, y(loss) + 4);
      pen.beginPath();
      pen.moveTo(44, y(loss));
      pen.lineTo(WIDTH - 12, y(loss));
      pen.stroke();
    }
    pen.fillText(String(steps), WIDTH - 12 - pen.measureText(String(steps)).width, HEIGHT - 8);
    pen.strokeStyle = colour("--sea");
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (const row of rows) pen.lineTo(x(row.step), y(row.train_loss));
    pen.stroke();
    pen.fillStyle = colour("--horn");
    for (const row of rows.filter((each) => each.val_loss !== null)) {
      pen.beginPath();
      pen.arc(x(row.step), y(row.val_loss), 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}
