// Reads a text with a model, token by token, and remembers what it has seen.

// How many of the last positions keep everything that the model noted there.
export const WATCHED = 48;

export class Reader {
  /** `context` is how many tokens the model reads at once. */
  constructor(model, context) {
    // With `watchesAll`, all positions keep their notes.
    Object.assign(this, { model, context, watching: false, watchesAll: false });
    this.forget();
  }

  forget() {
    this.tokens = [];
    this.start = 0;
    // By position: the token, the logits after it, and the notes while they are watched.
    this.seen = [];
    this.model.truncate(0);
  }

  get logits() {
    return this.seen.at(-1)?.logits;
  }

  /** Where the watched positions begin. */
  get watchedFrom() {
    return Math.max(this.start, this.tokens.length - WATCHED);
  }

  /**
   * The logits after a text of at least one token. What was read before is not read again. `pause`
   * is awaited now and then; if it returns true the reading stops, and the result is null.
   */
  async read(tokens, pause = leaveTime()) {
    let same = 0;
    while (same < this.tokens.length && same < tokens.length && this.tokens[same] === tokens[same]) same++;
    if (same < this.tokens.length) {
      if (same > this.start) this.cut(same);
      else this.begin([], 0);
    }
    if (tokens.length - this.tokens.length > this.context) {
      this.begin(tokens, tokens.length - this.context);
    }
    while (this.tokens.length < tokens.length) {
      if (await pause()) return null;
      this.next(tokens[this.tokens.length]);
    }
    return this.logits;
  }

  /** Have everything noted from now on, and at the last positions too. */
  async watch(pause = leaveTime()) {
    const from = this.watchedFrom;
    this.watching = true;
    if (this.seen.slice(from).every(({ notes }) => notes)) return;
    const { tokens } = this;
    this.cut(from);
    await this.read(tokens, pause);
  }

  /** Read one more token. When the context is full, its older half is dropped. */
  next(token) {
    if (this.tokens.length - this.start === this.context) {
      const { tokens } = this;
      this.begin(tokens, tokens.length + 1 - Math.max(1, Math.floor(this.context / 2)));
      for (const each of tokens.slice(this.start)) this.next(each);
    }
    const notes = this.watching ? new Map() : null;
    const logits = this.model.step(token, notes && ((name, value) => notes.set(name, value)));
    this.tokens.push(token);
    this.seen.push({ token, logits, notes });
    if (this.watching && !this.watchesAll && this.watchedFrom > this.start) this.seen[this.watchedFrom - 1].notes = null;
  }

  begin(tokens, start) {
    this.forget();
    this.start = start;
    this.tokens = tokens.slice(0, start);
    this.seen = this.tokens.map((token) => ({ token, logits: null, notes: null }));
  }

  cut(length) {
    this.tokens = this.tokens.slice(0, length);
    this.seen.length = length;
    this.model.truncate(length - this.start);
  }
}

/** Lets the browser draw and listen whenever 12 milliseconds were computed. */
export function leaveTime(stop = () => false) {
  let since = performance.now();
  return async () => {
    if (performance.now() - since > 12) {
      await nextTask();
      since = performance.now();
    }
    return stop();
  };
}

export function nextTask() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}
