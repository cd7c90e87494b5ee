// The state of the page, which the writer and the panels share.

import { Average, Bigram, Transformer, anatomy, nothingOff, softmax } from "./model.js";
import { MixerTables, Mixing } from "./mixer.js";
import { Mixture } from "./mixture.js";
import { NGrams, readTables } from "./ngram.js";
import { Reader, leaveTime } from "./reader.js";
import { ranked } from "./sampling.js";
import { strings } from "./strings.js";
import { Tokenizer } from "./tokenizer.js";

/** What speaks the reader's language. */
export class Speaker {
  constructor() {
    this.language = navigator.language.startsWith("ko") ? "ko" : "en";
  }

  t(key, values = {}) {
    const text = strings[this.language][key] ?? key;
    return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  }

  count(number) {
    return number.toLocaleString(this.language);
  }
}

/** How tokens are drawn unless the reader says otherwise. */
export function firstSettings() {
  return { temperature: 0.8, topK: 0, topP: 1, minP: 0, seed: 1 };
}

export class App extends Speaker {
  constructor(about, arrays) {
    super();
    this.about = about;
    this.language = about.language ?? this.language;
    this.arrays = arrays;
    this.tables = about.ngrams && readTables(arrays, about.ngrams);
    this.mixer = about.mixer && new MixerTables(arrays, about.mixer);
    this.tokenizer = new Tokenizer(about.tokenizer);
    this.labels = this.tokenizer.bytes.map((_, token) => this.tokenizer.label(token));
    this.settings = firstSettings();
    this.off = nothingOff();
    this.reader = new Reader(this.newModel(), about.context);
    this.tokens = [];
    this.position = 0; // of the token after which the next is predicted
    this.readColours();
    this.listeners = [];
    this.readings = 0;
    this.turn = Promise.resolve(); // the end of the last reading
  }

  /** A model with a memory of its own; the weights are shared. */
  newModel() {
    const { about, arrays } = this;
    const get = (name) => arrays.get(about.joined ? `network.${name}` : name) ?? arrays.get(name);
    if (about.kind === "ngram") return new NGrams(this.tables, about.ngrams);
    if (about.kind === "bigram") return new Bigram(arrays);
    if (about.kind === "average") return new Average(arrays);
    const network = new Transformer(anatomy(about.kind, about.shape, get));
    const joined = about.joined ? new Mixture(network, new NGrams(this.tables, about.ngrams), arrays) : network;
    return this.mixer ? new Mixing(joined, this.mixer) : joined;
  }

  /** Count the training text for the mixer; until then the model predicts without it. */
  async learn(report) {
    if (!this.mixer) return;
    await this.mixer.learn(leaveTime(), report);
    await this.readAgain({ anew: true });
    this.changed("text");
  }

  label(token) {
    return this.labels[token];
  }

  ranked(p) {
    return ranked(p);
  }

  /** The colours of what is drawn, from the style sheet. */
  readColours() {
    const style = getComputedStyle(document.documentElement);
    const [heat, sea] = ["--heat", "--look"].map((name) => style.getPropertyValue(name).trim());
    this.colours = { heat, sea };
  }

  /** The text that the model reads: an empty one stands for the end of a line. */
  get readTokens() {
    return this.tokens.length ? this.tokens : [this.about.start];
  }

  get text() {
    return this.tokenizer.decode(this.tokens);
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  /** Tell all parts of the page what has changed: "text", "position", "off", "settings". */
  changed(what) {
    for (const listener of this.listeners) listener(what);
  }

  /** Replace the text, read it, and look at its end, or at another position. */
  async setTokens(tokens, position = Infinity) {
    this.tokens = tokens;
    await this.readAgain();
    this.position = Math.min(position, this.readTokens.length - 1);
    this.changed("text");
  }

  /** Read the text as it is now, or `anew` from its beginning; a later call stops an earlier one. */
  async readAgain({ anew = false } = {}) {
    const reading = ++this.readings;
    const stopped = () => reading !== this.readings;
    await this.inTurn(async () => {
      if (anew) this.reader.forget();
      if (stopped()) return;
      const pause = leaveTime(stopped);
      await this.reader.read(this.readTokens, pause);
      if (this.reader.watching) await this.reader.watch(pause);
    });
    return !stopped();
  }

  /** Read when those before have ended: two readings at once would cut each other's text. */
  inTurn(read) {
    const turn = this.turn.then(read);
    this.turn = turn.catch(() => {});
    return turn;
  }

  /** Look at what follows another token of the text. */
  choose(position) {
    this.position = position;
    this.changed("position");
  }

  /** What was seen at the position that is looked at. */
  get here() {
    return this.reader.seen[Math.min(this.position, this.reader.seen.length - 1)];
  }

  async watch() {
    await this.inTurn(() => this.reader.watch());
    this.position = Math.max(this.position, this.reader.watchedFrom);
  }

  /** Switch parts of the model off, or on again. */
  async setOff(off) {
    this.off = off;
    this.reader.model.off = off;
    await this.readAgain({ anew: true });
    this.changed("off");
  }

  get isWhole() {
    const { heads, mlps, ...flags } = this.off;
    return !heads.size && !mlps.size && !Object.values(flags).some(Boolean);
  }

  /** The mean loss of a text in nats per token, and the loss of each token but the first. */
  async losses(model, tokens, pause) {
    const reader = new Reader(model, this.about.context);
    const nats = [];
    for (let t = 0; t + 1 < tokens.length; t++) {
      if (await pause()) return null;
      reader.next(tokens[t]);
      nats.push(-Math.log(softmax(Float64Array.from(reader.logits))[tokens[t + 1]]));
      reader.seen[t].logits = null;
    }
    return nats;
  }
}
