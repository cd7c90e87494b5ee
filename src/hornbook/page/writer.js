// Write and watch: the text, what may come next, and how the next token is drawn.

import { h, bar, percent } from "./elements.js";
import { softmax } from "./model.js";
import { leaveTime } from "./reader.js";
import { distribution, draw, randomAt } from "./sampling.js";
import { codePoint, visible } from "./tokenizer.js";

const BARS = 10;
// Tokens a second; 0 writes as fast as the model computes.
const SPEEDS = [4, 25, 0];

export class Writer {
  constructor(app) {
    this.app = app;
    this.writing = false;
    this.speed = 25;
    this.length = 400;
    this.shown = "";
  }

  render() {
    const { app } = this;
    this.box = h("textarea", {
      id: "text", rows: "7", spellcheck: "false", autocapitalize: "off", autocomplete: "off", dir: "auto",
      "aria-label": app.t("text"), placeholder: app.t("placeholder"),
      onInput: () => this.typed(), onSelect: () => this.moved(), onKeyup: () => this.moved(), onClick: () => this.moved(),
      onKeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.toggle();
      },
    });
    this.warning = h("p", { class: "alert", role: "alert", hidden: true });
    this.start = h("button", { type: "button", class: "primary", onClick: () => this.toggle() });
    this.step = h("button", { type: "button", onClick: () => this.once() }, app.t("step"));
    this.back = h("button", { type: "button", onClick: () => this.undo() }, app.t("back"));
    this.bars = h("div", { class: "next" });
    this.status = h("p", { class: "visually-hidden", role: "status" });
    const root = h(
      "section",
      { class: "writer", "aria-label": app.t("writer") },
      h("div", { class: "sheet" }, this.box, this.warning, h("div", { class: "buttons" }, this.start, this.step, this.back, this.speedChoice()), this.sliders()),
      this.bars,
      this.status,
    );
    this.update();
    return root;
  }

  speedChoice() {
    const { app } = this;
    const options = SPEEDS.map((speed) => h("option", { value: String(speed) }, app.t(`speed${speed}`)));
    const choice = h("select", { id: "speed", onChange: () => (this.speed = Number(choice.value)) }, options);
    choice.value = String(this.speed);
    return h("label", { class: "speed" }, h("span", {}, app.t("speed")), choice);
  }

  sliders() {
    const { app } = this;
    const slider = (name, low, high, step, shown = (value) => String(value)) => {
      const output = h("output", { for: name }, shown(app.settings[name]));
      const input = h("input", {
        type: "range", id: name, min: String(low), max: String(high), step: String(step),
        onInput: () => {
          app.settings[name] = Number(input.value);
          output.textContent = shown(app.settings[name]);
          input.setAttribute("aria-valuetext", output.textContent);
          app.changed("settings");
        },
      });
      input.value = String(app.settings[name]);
      input.setAttribute("aria-valuetext", output.textContent);
      return h("div", { class: "slider" }, h("label", { for: name }, app.t(name)), input, output);
    };
    const seed = h("input", { type: "number", id: "seed", min: "0", max: "4294967295", step: "1", onChange: () => this.seeded(Number(seed.value)) });
    seed.value = String(app.settings.seed);
    this.seed = seed;
    const length = h("input", { type: "number", id: "length", min: "1", max: "20000", step: "1", onChange: () => (this.length = Math.max(1, Number(length.value) || 1)) });
    length.value = String(this.length);
    return h(
      "details",
      { class: "settings", open: this.opened, onToggle: (event) => (this.opened = event.target.open) },
      h("summary", {}, app.t("settings")),
      h(
        "div",
        { class: "sliders" },
        slider("temperature", 0, 2, 0.05, (value) => value.toFixed(2)),
        slider("topK", 0, Math.min(100, app.tokenizer.size), 1, (value) => (value ? String(value) : app.t("all"))),
        slider("topP", 0.05, 1, 0.01, (value) => value.toFixed(2)),
        slider("minP", 0, 0.5, 0.01, (value) => value.toFixed(2)),
        h("div", { class: "slider" }, h("label", { for: "seed" }, app.t("seed")), seed, h("button", { type: "button", onClick: () => this.seeded(Math.floor(Math.random() * 1e6)) }, app.t("another"))),
        h("div", { class: "slider" }, h("label", { for: "length" }, app.t("length")), length, h("output", {}, app.t("tokens"))),
      ),
      h("p", { class: "hint" }, app.t("settingsHint")),
    );
  }

  seeded(seed) {
    this.app.settings.seed = Math.max(0, Math.min(4294967295, Math.floor(seed) || 0));
    this.seed.value = String(this.app.settings.seed);
  }

  // ---- what the person does

  /** The text was edited: all of it is read as new tokens. */
  async typed() {
    const { app } = this;
    this.writing = false;
    this.shown = this.box.value;
    const unknown = app.tokenizer.unknown(this.shown);
    this.warn(unknown);
    if (unknown.length) return;
    const before = app.tokenizer.encode(this.shown.slice(0, this.box.selectionStart)).length;
    const tokens = app.tokenizer.encode(this.shown);
    this.typing = app.setTokens(tokens, before >= tokens.length ? Infinity : Math.max(0, before - 1));
    await this.typing;
  }

  /** Unknown characters stay where they are, and are named; the model waits. */
  warn(unknown) {
    const { app } = this;
    this.unknown = unknown;
    this.warning.hidden = !unknown.length;
    const named = unknown.slice(0, 6).map((each) => `${visible(each)} (${codePoint(each)})`).join(", ");
    const remove = h("button", { type: "button", onClick: () => this.removeUnknown() }, app.t("remove"));
    this.warning.replaceChildren(app.t("unknown", { named: unknown.length > 6 ? `${named} …` : named, count: app.count(app.tokenizer.size) }), " ", remove);
    this.buttons();
  }

  removeUnknown() {
    this.box.value = Array.from(this.box.value).filter((each) => !this.unknown.includes(each)).join("");
    this.typed();
    this.box.focus();
  }

  /** The caret moved: look at what follows it. */
  moved() {
    const { app } = this;
    if (this.writing || this.unknown?.length || !app.tokens.length) return;
    const caret = this.box.selectionStart;
    let length = 0;
    let position = app.tokens.length - 1;
    if (caret < this.box.value.length) {
      const pieces = app.tokenizer.pieces(app.tokens);
      position = pieces.findIndex((piece) => (length += app.tokenizer.shown(piece).length) >= Math.max(1, caret));
    }
    position = Math.max(app.reader.start, position);
    if (position !== app.position && app.reader.seen[position]?.logits) app.choose(position);
  }

  /** Go on with this token after the position that is looked at. */
  async go(token) {
    const { app } = this;
    this.writing = false;
    const kept = app.tokens.length ? app.tokens.slice(0, app.position + 1) : [];
    await app.setTokens([...kept, token]);
    this.status.textContent = app.t("wrote", { token: app.label(token) });
  }

  async undo() {
    this.writing = false;
    await this.app.setTokens(this.app.tokens.slice(0, -1));
  }

  async once() {
    const { app } = this;
    this.writing = false;
    const token = this.drawn(app.reader.seen[app.position].logits, app.position + 1);
    await this.go(token);
  }

  drawn(logits, position) {
    const { settings } = this.app;
    return draw(distribution(logits, settings), randomAt(settings.seed, position));
  }

  toggle() {
    if (this.writing) this.writing = false;
    else this.write();
  }

  /** Write until stopped, or as many tokens as were asked for. */
  async write() {
    const { app } = this;
    this.writing = true;
    this.buttons();
    await this.typing; // where the caret stands is known when the text is read
    // From the caret on, where it stands inside the text.
    let tokens = app.tokens.length ? app.tokens.slice(0, app.position + 1) : [];
    const end = tokens.length + this.length;
    const pause = leaveTime();
    let drawnAt = 0;
    await app.setTokens(tokens);
    while (this.writing && tokens.length < end) {
      const next = this.drawn(app.reader.logits, app.readTokens.length);
      tokens = [...tokens, next];
      app.tokens = tokens;
      await app.inTurn(() => app.reader.read(app.readTokens, pause));
      app.position = app.readTokens.length - 1;
      const now = performance.now();
      // With a panel open every token is drawn.
      if (this.speed || app.reader.watching || now - drawnAt > 60) {
        app.changed("text");
        drawnAt = now;
      }
      if (this.speed) await new Promise((resolve) => setTimeout(resolve, 1000 / this.speed));
    }
    this.writing = false;
    app.changed("text");
    this.status.textContent = app.t("stopped", { count: app.count(tokens.length) });
  }

  // ---- what is shown

  update() {
    const { app } = this;
    const text = app.tokenizer.shown(app.text);
    if (text !== this.shown && !this.unknown?.length) {
      this.shown = text;
    }
    if (this.box.value !== this.shown) {
      const atEnd = this.box.scrollTop + this.box.clientHeight > this.box.scrollHeight - 40;
      this.box.value = this.shown;
      if (this.writing || atEnd) this.box.scrollTop = this.box.scrollHeight;
    }
    this.buttons();
    this.showNext();
  }

  buttons() {
    const { app } = this;
    const waits = Boolean(this.unknown?.length);
    this.start.textContent = app.t(this.writing ? "stop" : "write");
    this.start.disabled = waits;
    this.step.disabled = waits || this.writing;
    this.back.disabled = waits || this.writing || !app.tokens.length;
  }

  showNext() {
    const { app } = this;
    const seen = app.here;
    if (!seen?.logits) return;
    const plain = softmax(Float64Array.from(seen.logits));
    const p = distribution(seen.logits, app.settings);
    const order = app.ranked(plain).slice(0, BARS);
    const most = Math.max(...order.map((token) => Math.max(p[token], plain[token])));
    const rest = order.reduce((left, token) => left - p[token], 1);
    const inside = app.tokens.length && app.position < app.readTokens.length - 1;
    const after = visible(app.tokenizer.decode(app.readTokens.slice(Math.max(0, app.position - 11), app.position + 1)));
    const rows = order.map((token) => {
      const both = bar(p[token] / most, "horn");
      const before = h("i", { class: "before" });
      before.style.width = `${(100 * plain[token]) / most}%`;
      both.prepend(before);
      return h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: `choice${p[token] ? "" : " out"}`, "aria-label": app.t("choose", { token: app.label(token), p: percent(p[token]) }), onClick: () => this.go(token) },
          h("b", {}, app.label(token)), both, h("span", { class: "number" }, percent(p[token])),
        ),
      );
    });
    this.bars.replaceChildren(
      h("h2", {}, app.t("next")),
      h("p", { class: "hint after" }, inside ? app.t("afterCaret") : app.t("after"), " ", h("code", {}, after)),
      h("ol", { class: "bars" }, rows),
      h("p", { class: "hint" }, app.t("others", { p: percent(Math.max(0, rest)) })),
    );
  }
}
