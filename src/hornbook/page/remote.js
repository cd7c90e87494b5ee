// Writing with a model that runs on the server: one that is too large for a page, or must stay there.

import { Speaker, firstSettings } from "./app.js";
import { bar, h, percent } from "./elements.js";
import { Page } from "./main.js";
import { visible } from "./tokenizer.js";
import { Writer } from "./writer.js";

const GUESSES = 10;
// The text's end that is sent: more than the server accepts would be refused.
const SENT = 100000;
const TYPING_MS = 150;

/** What the writer needs to know: a text, and how to go on. */
class RemoteApp extends Speaker {
  constructor(about, server) {
    super();
    Object.assign(this, { about, server, text: "", settings: firstSettings(), isWhole: true });
    this.tokenizer = { size: 100, shown: (text) => text };
    this.listeners = [];
  }

  get tokens() {
    return this.text;
  }

  readColours() {}

  listen(listener) {
    this.listeners.push(listener);
  }

  changed(what) {
    for (const listener of this.listeners) listener(what);
  }

  /** The request for what follows the text. */
  request(more) {
    const { temperature, topK, topP, minP, seed } = this.settings;
    const end = Array.from(this.text.slice(-SENT)).join("");
    return { model: this.about.name, prompt: end, temperature, top_k: topK, top_p: topP, min_p: minP, seed, ...more };
  }
}

class RemoteWriter extends Writer {
  constructor(app) {
    super(app);
    this.guesses = [];
  }

  speedChoice() {
    return null;
  }

  typed() {
    this.stop();
    this.app.text = this.shown = this.box.value;
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.guess(), TYPING_MS);
    this.buttons();
  }

  moved() {}

  /** Show what the server objects to, as a character that the model does not know. */
  warnOf(error) {
    this.warning.hidden = !error;
    this.warning.textContent = error ? error.message : "";
  }

  /** Ask for the most likely next tokens. */
  async guess() {
    const asked = this.app.text;
    try {
      const { choices } = await this.app.server.json("v1/completions", this.app.request({ max_tokens: 1, logprobs: GUESSES }));
      if (asked !== this.app.text) return;
      const top = Object.entries(choices[0].logprobs.top_logprobs[0] ?? {});
      this.guesses = top.sort((a, b) => b[1] - a[1]).map(([token, logprob]) => ({ token, p: Math.exp(logprob) }));
      this.warnOf(null);
    } catch (error) {
      this.warnOf(error);
    }
    this.update();
  }

  async go(token) {
    this.stop();
    this.app.text += token;
    this.update();
    this.status.textContent = this.app.t("wrote", { token: visible(token) });
    await this.guess();
  }

  async undo() {
    this.stop();
    this.app.text = Array.from(this.app.text).slice(0, -1).join("");
    this.update();
    await this.guess();
  }

  once() {
    // Another number at each place, or every token would be drawn by the same one.
    return this.write(1, this.app.settings.seed + this.app.text.length);
  }

  stop() {
    this.writing = false;
    this.running?.abort();
  }

  toggle() {
    if (this.writing) this.stop();
    else this.write(this.length, this.app.settings.seed);
  }

  async write(length, seed) {
    const { app } = this;
    this.stop();
    const mine = (this.running = new AbortController());
    this.writing = true;
    this.buttons();
    let pieces = 0;
    try {
      for await (const { text } of app.server.completion(app.request({ max_tokens: Math.min(length, 16384), seed }), mine.signal)) {
        if (mine.signal.aborted) return;
        app.text += text;
        pieces += Array.from(text).length;
        this.update();
      }
      this.warnOf(null);
    } catch (error) {
      if (mine.signal.aborted) return;
      this.warnOf(error);
    }
    this.writing = false;
    this.status.textContent = app.t("stoppedCharacters", { count: app.count(pieces) });
    this.update();
    await this.guess();
  }

  showNext() {
    const { app } = this;
    const most = Math.max(1e-9, ...this.guesses.map(({ p }) => p));
    const rows = this.guesses.map(({ token, p }) => {
      // A part of a character has no text of its own.
      const disabled = token.startsWith("bytes:");
      return h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "choice", disabled, "aria-label": app.t("choose", { token: visible(token), p: percent(p) }), onClick: () => this.go(token) },
          h("b", {}, visible(token)), bar(p / most, "horn"), h("span", { class: "number" }, percent(p)),
        ),
      );
    });
    this.bars.replaceChildren(h("h2", {}, app.t("next")), h("ol", { class: "bars" }, rows), h("p", { class: "hint" }, app.t("nextRemote")));
  }
}

class RemotePage extends Page {
  newWriter() {
    return new RemoteWriter(this.app);
  }

  panels() {
    return [];
  }

  letters() {
    return h("p", { class: "letters", "aria-hidden": "true" }, "✠ ABC abc");
  }

  lede() {
    return this.app.t("lede.remote");
  }

  footer() {
    return this.app.t("footer.remote");
  }

  leave() {
    super.leave();
    this.writer.stop();
  }
}

/** Show a model that runs on the server, in the place of the page `before`. */
export function showRemote(about, server, before) {
  const app = new RemoteApp(about, server);
  if (before) {
    Object.assign(app.settings, before.app.settings);
    app.language = before.app.language;
    if (before.app.about.name === about.name) app.text = before.app.text;
  }
  before?.leave();
  const page = new RemotePage(app);
  page.render();
  page.writer.guess();
  return page;
}
