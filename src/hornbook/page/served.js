// The page of a server: its models to choose from, each in the page where it fits.

import { Server } from "./api.js";
import { Speaker } from "./app.js";
import { inflate } from "./arrays.js";
import { h } from "./elements.js";
import { show } from "./main.js";
import { Progress } from "./progress.js";
import { showRemote } from "./remote.js";

const POLL_MS = 2000;

class Serving {
  constructor() {
    this.server = new Server();
    this.speaker = new Speaker();
    this.progress = new Progress();
    this.page = null;
    this.names = [];
    this.name = "";
    this.needsKey = false;
    this.finished = true;
    this.weights = ""; // those that the page shows
    this.watching = 0; // the number of the latest watch; earlier ones end
    this.choice = h("select", { id: "model", onChange: () => this.choose(this.choice.value) });
    this.key = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false" });
    this.message = h("p", { class: "alert", role: "alert", hidden: true });
  }

  /** Whose language is spoken. */
  get words() {
    return this.page?.app ?? this.speaker;
  }

  render() {
    const { words } = this;
    document.documentElement.lang = words.language;
    this.choice.replaceChildren(...this.names.map((name) => h("option", { value: name }, name)));
    this.choice.value = this.name;
    const submit = (event) => {
      event.preventDefault();
      this.server.key = this.key.value.trim();
      this.open();
    };
    document.getElementById("serving").replaceChildren(
      h("div", { class: "buttons" }, this.names.length ? h("label", {}, h("span", {}, words.t("model")), this.choice) : ""),
      this.needsKey ? h("form", { class: "buttons", onSubmit: submit }, h("label", {}, h("span", {}, words.t("key")), this.key), h("button", { type: "submit" }, words.t("useKey"))) : "",
      this.message,
      this.progress.root,
    );
  }

  async open() {
    try {
      this.names = (await this.server.json("v1/models")).data.map(({ id }) => id);
      this.tell(null);
    } catch (error) {
      this.tell(error);
      return;
    }
    await this.choose(this.names.includes(this.name) ? this.name : this.names[0]);
  }

  async choose(name) {
    this.name = name;
    this.weights = "";
    await this.watch(++this.watching);
  }

  /** Show the model's newest weights: again and again while it is trained. */
  async watch(mine) {
    try {
      const found = await this.server.json(`training/${encodeURIComponent(this.name)}`);
      if (mine !== this.watching) return;
      this.finished = found.finished;
      this.progress.show(this.words, found);
      if (found.weights && found.weights !== this.weights && !(this.page?.writer.writing && this.weights)) await this.load(mine, found);
      if (mine === this.watching) this.tell(null);
    } catch (error) {
      if (mine === this.watching) this.tell(error);
    }
    if (!this.finished && mine === this.watching) setTimeout(() => mine === this.watching && this.watch(mine), POLL_MS);
  }

  async load(mine, { weights, finished }) {
    const { name } = this;
    document.getElementById("page").setAttribute("aria-busy", "true");
    let page = null;
    try {
      const { about, numbers } = await this.server.json(`page/${encodeURIComponent(name)}`);
      const bytes = await inflate(numbers);
      if (mine !== this.watching) return;
      page = await show(about, bytes, this.page);
    } catch (error) {
      if (error.code !== "no_page") throw error;
      if (mine !== this.watching) return;
      page = showRemote({ name, why: error.message }, this.server, this.page);
    } finally {
      document.getElementById("page").removeAttribute("aria-busy");
    }
    page.app.listen((what) => what === "language" && this.render());
    this.page = page;
    this.weights = weights;
    if (!finished) {
      const { choices } = await this.server.json("v1/completions", { model: name, prompt: "", max_tokens: 200, temperature: 0.8, seed: 0 });
      this.progress.sample.textContent = choices[0].text;
    }
  }

  /** What went wrong, or null. */
  tell(error) {
    if (error?.status === 401) this.needsKey = true;
    // Before a key was given, the form says what is needed.
    const shown = error && (error.status !== 401 || this.server.key);
    this.message.hidden = !shown;
    this.message.textContent = shown ? error.message : "";
    this.render();
    document.documentElement.dataset.ready = "true";
  }
}

new Serving().open();
