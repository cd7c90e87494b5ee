// The page: its head, the writer, and one panel at a time.

import { App } from "./app.js";
import { cutArrays } from "./arrays.js";
import { attentionPanel } from "./attention.js";
import { contentsPanel } from "./contents.js";
import { earlierPanel } from "./earlier.js";
import { h } from "./elements.js";
import { Reader, leaveTime } from "./reader.js";
import { distribution, draw, ranked, randomAt } from "./sampling.js";
import { everything } from "./seen.js";
import { softmax } from "./model.js";
import { stepsPanel } from "./steps.js";
import { surprisePanel } from "./surprise.js";
import { visible } from "./tokenizer.js";
import { votesPanel } from "./votes.js";
import { whatifPanel } from "./whatif.js";
import { Writer } from "./writer.js";

const PANELS = [votesPanel, attentionPanel, earlierPanel, whatifPanel, surprisePanel, stepsPanel, contentsPanel];
const LETTERS = 100;

export class Page {
  constructor(app) {
    this.app = app;
    this.writer = this.newWriter();
    this.panel = null;
    this.opened = null; // what the open panel returned
    app.listen((what) => this.changed(what));
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => {
      app.readColours();
      this.opened?.update();
    };
    this.scheme.addEventListener("change", this.recolour);
  }

  /** End what it does, before another page takes its place. */
  leave() {
    this.writer.writing = false;
    this.scheme.removeEventListener("change", this.recolour);
  }

  speak(language) {
    this.app.language = language;
    this.render();
    this.app.changed("language");
  }

  newWriter() {
    return new Writer(this.app);
  }

  panels() {
    return PANELS.filter((panel) => panel.fits(this.app));
  }

  render() {
    const { app } = this;
    document.documentElement.lang = app.language;
    const panels = this.panels();
    this.tabs = h("nav", { class: "tabs", "aria-label": app.t("lookInside") }, panels.map((panel) =>
      h("button", { type: "button", id: `tab-${panel.id}`, "aria-expanded": "false", "aria-controls": "panel", onClick: () => this.toggle(panel) }, app.t(`panel.${panel.id}`)),
    ));
    this.region = h("section", { id: "panel", hidden: true });
    this.off = h("p", { class: "alert", hidden: true });
    this.learning = h("p", { class: "hint", hidden: true });
    document.getElementById("page").replaceChildren(
      this.letters(),
      this.header(),
      this.off,
      this.learning,
      this.writer.render(),
      panels.length ? h("div", { class: "inside" }, h("h2", {}, app.t("lookInside")), this.tabs, this.region) : "",
      h("footer", {}, h("p", {}, this.footer())),
    );
    if (this.panel) this.open(this.panel);
    this.changed("off");
  }

  /** Count the training text for the mixer, and say how far it is. */
  learn() {
    const { app } = this;
    return app.learn((share) => {
      this.learning.hidden = share === 1;
      this.learning.textContent = app.t("learning", { share: `${Math.floor(100 * share)}%` });
    });
  }

  letters() {
    const { app } = this;
    if (app.tokenizer.kind !== "char") return h("p", { class: "letters", "aria-hidden": "true" }, "✠ ABC abc");
    const shown = app.about.tokenizer.vocabulary.filter((each) => each.trim());
    const more = shown.length - LETTERS;
    return h("p", { class: "letters", "aria-label": app.t("letters") }, `✠ ${visible(shown.slice(0, LETTERS).join("")).split("").join(" ")}`, more > 0 ? h("span", { class: "more" }, ` ${app.t("moreLetters", { count: app.count(more) })}`) : "");
  }

  header() {
    const { app } = this;
    const { about } = app;
    const other = app.language === "ko" ? "en" : "ko";
    const change = () => {
      this.speak(other);
      document.getElementById("language").focus();
    };
    return h(
      "header",
      {},
      h("button", { type: "button", id: "language", lang: other, onClick: change }, other === "ko" ? "한국어" : "English"),
      h("p", { class: "eyebrow" }, app.t("eyebrow")),
      h("h1", {}, visible(about.name)),
      h("p", { class: "lede" }, this.lede()),
    );
  }

  lede() {
    const { app } = this;
    const { about } = app;
    const key = about.kind === "ngram" ? "lede.ngram" : about.joined ? "lede.joined" : "lede.network";
    const loss = about.nats_per_char === undefined || about.nats_per_char === null ? "" : ` ${app.t("lede.loss", { loss: about.nats_per_char.toFixed(3) })}`;
    return `${app.t(key, { kind: about.kind, count: app.count(about.parameters), corpus: about.corpus, order: about.ngrams?.order })}${loss} ${app.t("lede.here")}`;
  }

  footer() {
    const { about } = this.app;
    return this.app.t(about.served ? "footer.served" : "footer", { version: about.version });
  }

  async toggle(panel) {
    if (this.panel === panel) this.close();
    else await this.open(panel);
  }

  close() {
    this.panel = this.opened = null;
    this.app.reader.watching = false;
    this.region.hidden = true;
    this.region.replaceChildren();
    for (const tab of this.tabs.children) tab.setAttribute("aria-expanded", "false");
  }

  async open(panel) {
    const { app } = this;
    this.panel = panel;
    this.opened = null;
    await app.watch();
    for (const tab of this.tabs.children) tab.setAttribute("aria-expanded", String(tab.id === `tab-${panel.id}`));
    const body = h("div", { class: `panel ${panel.id}` });
    this.region.hidden = false;
    this.region.setAttribute("aria-label", app.t(`panel.${panel.id}`));
    this.region.replaceChildren(body);
    this.opened = panel.open(app, body);
  }

  changed(what) {
    const { app } = this;
    if (what === "language") return;
    if (what === "off") {
      this.off.hidden = app.isWhole;
      this.off.textContent = app.isWhole ? "" : app.t("partsOff");
    }
    this.writer.update();
    // A panel that computes for long waits until the writing has stopped.
    if (what === "settings" || (this.opened?.isSlow && this.writer.writing)) return;
    this.opened?.update(what);
  }
}

/** What programs and tests may call. */
function hooks(app, ready) {
  const readFresh = async (text, watching) => {
    await ready;
    const reader = new Reader(app.newModel(), app.about.context);
    reader.model.off = app.off;
    reader.watching = watching;
    reader.watchesAll = true;
    await reader.read(app.tokenizer.encode(text).length ? app.tokenizer.encode(text) : [app.about.start], leaveTime());
    return reader;
  };
  return {
    /** The distribution after a text: [{token, p}, ...], the most likely first. */
    async next(text) {
      const { logits } = await readFresh(text, false);
      const p = softmax(Float64Array.from(logits));
      return ranked(p).map((token) => ({ token: app.tokenizer.text(token), id: token, p: p[token] }));
    },
    /** The distribution after tokens, by token. */
    async following(tokens) {
      await ready;
      const reader = new Reader(app.newModel(), app.about.context);
      return Array.from(softmax(Float64Array.from(await reader.read(tokens))));
    },
    /** What the model computes along a text; see `model.look` of the Python package. */
    async look(text) {
      const reader = await readFresh(text, true);
      return everything(reader.seen.slice(reader.start), reader.model);
    },
    /** The loss of each token but the first, in nats. */
    async losses(tokens) {
      await ready;
      return app.losses(app.newModel(), tokens, leaveTime());
    },
    /** The text that follows, of so many tokens. */
    async write(text, { length = 100, temperature = 1, topK = 0, topP = 1, minP = 0, seed = 0 } = {}) {
      const reader = await readFresh(text, false);
      const tokens = [...reader.tokens];
      const begin = tokens.length;
      const pause = leaveTime();
      while (tokens.length < begin + length) {
        const p = distribution(reader.logits, { temperature, topK, topP, minP });
        tokens.push(draw(p, randomAt(seed, tokens.length)));
        await reader.read(tokens, pause);
      }
      return app.tokenizer.decode(tokens.slice(begin));
    },
  };
}

/**
 * Show a model: its facts, and the bytes of its numbers. `before` is the page of the model that it
 * replaces: settings, language and open panel stay, and the text of a model with the same name.
 */
export async function show(about, bytes, before = null) {
  const app = new App(about, cutArrays(bytes, about.arrays));
  let text = about.prompt || about.opening;
  if (before) {
    Object.assign(app.settings, before.app.settings);
    app.language = before.app.language;
    if (before.app.about.name === about.name) text = before.app.text;
  }
  await app.setTokens(app.tokenizer.encode(text));
  before?.leave();
  const page = new Page(app);
  if (before?.panel?.fits(app)) page.panel = before.panel;
  page.render();
  window.hornbook = hooks(app, page.learn());
  return page;
}
