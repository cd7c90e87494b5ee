// Context mixing: the last word of a joined model. It learns as it reads.
//
// A token is a path of yes-or-no decisions in a tree, short for a frequent token. At each node many
// contexts (the last few letters, the word so far, the line above, ...) have counted which way the
// text went on after them. Each gives a probability; what they say, and what the network says, is
// added up with weights that are learned from what proved right:
//
//     log-odds = sum of weight * log-odds of each context
//
// models/mixer_reference.py is the same in Python, and kernels/mixer.c in C. The tables of counts
// follow from the training text, so the page has the text and counts again when it is opened.

import { Around, softmax } from "./model.js";

const CONTEXTS = 30, GIVEN = 3, DIRECT = 3, MATCHES = 2, SETS = 10, FINALS = 2, STAGES = 4;
const NETWORK_INPUT = GIVEN * CONTEXTS + 2 * (DIRECT + MATCHES); // two, then a constant one
const SUM_INPUTS = NETWORK_INPUT + 3, SUMMED = 12; // sums of what the contexts give
const INPUTS = NETWORK_INPUT + 5, ROW = NETWORK_INPUT + 12; // a row of weights has room to spare
const MATCH_STEPS = 48, BINS = 33, STAGE_CONTEXTS = 4096, ORDERS = 12, LONGEST_MATCH = 400;
const TOKENS_BACK = [3, 4, 5, 6, 7, 8, 2]; // of the first contexts
const FOLLOWER_SIZE = 1 << 16;
const RATE = 0.1, CALM = 1; // a weight's step falls as its gradients add up
const OWN = 0.2, SMALL = 0.01; // a row's share in its error, and errors that nothing is learned from
const LEVELS = 3; // of the tree in a bucket

/** A hash of 32 bits. */
function scramble(x) {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The hash of a hash and another number. */
function join(hash, more) {
  return scramble((Math.imul(hash, 0x9e3779b1) + more + 1) | 0);
}

const squash = (x) => 1 / (1 + Math.exp(-x));
const stretch = (p) => Math.log(p / (1 - p));
const between = (p, least) => Math.min(Math.max(p, least), 1 - least);
const within = (x, most) => Math.min(Math.max(x, -most), most);

/** What a slot's next outcome makes of its probability, of 12 bits. */
function moved(p, times, way) {
  return p + Math.trunc(((way ? 4095 : 0) - p) / (times + 1.5));
}

// A slot's probability after so many outcomes of one kind.
const ALWAYS = [0, 1].map((way) => {
  const found = [2048];
  while (found.length < 16) found.push(moved(found.at(-1), found.length - 1, way));
  return found;
});

/** The tree: from each node two ways, to another node or (below 0) to ~token. */
class CodeTree {
  constructor(children) {
    const nodes = children.length / 2;
    this.children = [children.subarray(0, nodes), children.subarray(nodes)];
    // A bucket has the nodes of three levels; a slot is a node's place in it.
    this.bucket = new Int32Array(nodes);
    this.slot = new Int32Array(nodes);
    this.depth = new Int32Array(nodes);
    this.paths = Array.from({ length: nodes + 1 }, () => []); // by token: 2 * node + way
    const before = [[]];
    this.above = []; // by bucket: the one that leads to it
    let buckets = 0;
    for (let node = 0; node < nodes; node++) {
      const path = before[node];
      this.depth[node] = path.length;
      const parent = path.length ? path.at(-1) >> 1 : -1;
      if (path.length % LEVELS === 0) {
        this.above.push(this.bucket[parent] ?? -1);
        this.bucket[node] = buckets++;
      } else {
        const way = path.at(-1) & 1;
        this.bucket[node] = this.bucket[parent];
        this.slot[node] = 2 * this.slot[parent] + 1 + way;
      }
      for (const way of [0, 1]) {
        const child = this.children[way][node];
        const there = [...path, 2 * node + way];
        if (child < 0) this.paths[~child] = there;
        else before[child] = there;
      }
    }
    this.nodes = nodes;
    this.buckets = buckets;
  }

  /** Which way a token's path goes at a node; -1 where it does not pass. */
  way(token, node) {
    const step = this.paths[token][this.depth[node]];
    return step >> 1 === node ? step & 1 : -1;
  }
}

/** What all contexts have counted. Texts share the tables; see `Changes`. */
export class MixerTables {
  constructor(arrays, { line_bits, counter_bits, shortest }) {
    const get = (name) => arrays.get(`mixer.${name}`).data;
    this.tree = new CodeTree(Int32Array.from(get("children")));
    this.vocabulary = this.tree.nodes + 1;
    this.folded = get("folded"); // by token: the one that stands for its upper and lower case
    this.kinds = get("kinds"); // 1 letters, 3 letters that begin a word, 2 a line's end, 0 other
    this.training = get("text");
    this.weights = get("weights");
    this.shortest = shortest;
    this.lineMask = 2 ** line_bits - 1;
    this.counterMask = 2 ** counter_bits - 1;
    // A line has four buckets, and a bucket a check and seven slots. A slot is a probability (12
    // bits) and how often it was updated (4 bits).
    this.slots = new Uint16Array(32 * 2 ** line_bits);
    // Counters of the shortest contexts, the latest places of contexts, and what followed them.
    this.words = new Uint32Array((DIRECT + MATCHES) * 2 ** counter_bits + 2 * FOLLOWER_SIZE);
    this.learned = 0;
    this.text = new Text(this, 0);
    this.buckets = new Int32Array(CONTEXTS);
    this.inside = null; // whose changes the tables have
  }

  get isReady() {
    return this.learned === this.training.length;
  }

  /** Count the training text, a piece at a time; `pause` lets the browser draw. */
  async learn(pause, report) {
    while (!this.isReady) {
      const end = Math.min(this.learned + 500, this.training.length);
      for (; this.learned < end; this.learned++) this.count(this.text, this.training[this.learned]);
      report?.(this.learned / this.training.length);
      if (await pause()) return;
    }
  }

  /** Count which way a text went on after its contexts, and go on by one token. */
  count(text, token, changes = null) {
    const { tree, slots, words, buckets } = this;
    for (const step of tree.paths[token]) {
      const node = step >> 1, way = step & 1, slot = tree.slot[node];
      if (slot === 0) for (let j = 0; j < CONTEXTS; j++) buckets[j] = this.bucketToWrite(text, j, tree.bucket[node], changes);
      for (let j = 0; j < CONTEXTS; j++) {
        const at = buckets[j] + 1 + slot, value = slots[at], times = value & 15;
        changes?.push(at, value);
        slots[at] = (moved(value >> 4, times, way) << 4) | Math.min(times + 1, 14);
      }
      for (let j = 0; j < DIRECT; j++) {
        const at = this.counterAt(text, j, node), value = words[at], times = value & 1023;
        const p = times ? value >>> 10 : 2097152;
        const moved = p + Math.trunc(((way ? 4194303 : 0) - p) / (times + 1.5));
        this.write(at, (moved << 10) | Math.min(times + 1, 400), changes);
      }
    }
    text.advance(token, changes);
  }

  write(at, value, changes) {
    changes?.push(~at, this.words[at]);
    this.words[at] = value;
  }

  counterAt(text, j, node) {
    const hash = j ? join(text.orders[j], node) : node;
    return j * (this.counterMask + 1) + (hash & this.counterMask);
  }

  followersAt(table, hash) {
    return (DIRECT + MATCHES) * (this.counterMask + 1) + table * FOLLOWER_SIZE + (hash & (FOLLOWER_SIZE - 1));
  }

  /** Where a context's line begins, and the check that names its bucket there. */
  line(text, j, bucket) {
    return 32 * (join((text.contexts[j] + Math.imul(j, 0x85ebca77)) | 0, bucket) & this.lineMask);
  }

  check(text, j, bucket) {
    return (join(text.contexts[j] ^ 0xc2b2ae3d, (bucket + Math.imul(j, 0x27d4eb2f)) | 0) >>> 16) | 1;
  }

  /** A context's bucket; -1 where it was never seen. */
  find(text, j, bucket) {
    const line = this.line(text, j, bucket), check = this.check(text, j, bucket);
    for (let at = line; at < line + 32; at += 8) if (this.slots[at] === check) return at;
    return -1;
  }

  /** A context's bucket, in place of the least used of its line where there is none. */
  bucketToWrite(text, j, bucket, changes) {
    const { slots } = this;
    const line = this.line(text, j, bucket), check = this.check(text, j, bucket);
    let least = line, fewest = Infinity;
    for (let at = line; at < line + 32; at += 8) {
      if (slots[at] === check) return at;
      const used = slots[at] ? (slots[at + 1] & 15) + 1 : 0;
      if (used < fewest) [fewest, least] = [used, at];
    }
    for (let i = 0; i < 8; i++) {
      changes?.push(least + i, slots[least + i]);
      slots[least + i] = i ? 0x8000 : check;
    }
    return least;
  }
}

/** A text so far: its tokens, words, lines and matches, and the hashes of its contexts. */
class Text {
  /** `begin` is how many training tokens stand before it, which are no contexts of it. */
  constructor(tables, begin) {
    this.tables = tables;
    this.begin = begin;
    this.own = begin ? [] : null; // the tokens after the training text
    this.length = begin;
    this.word = 0;
    this.wordsBefore = [0, 0, 0];
    this.wordLength = 0;
    // What stands since the last word; the last such gap of two tokens or more, and the words since.
    this.gap = this.gapLength = this.mark = this.since = 0;
    this.shape = new Array(8).fill(0); // words (0), marks and spaces (a token + 1), the last first
    this.lineStart = this.lineBefore = begin;
    this.lineFirst = 0;
    this.matchPlace = new Int32Array(MATCHES);
    this.matchLength = new Int32Array(MATCHES);
    this.orders = new Uint32Array(ORDERS + 1);
    this.contexts = new Uint32Array(CONTEXTS);
    this.setOrders();
    this.setContexts();
  }

  token(place) {
    return place < this.begin || !this.own ? this.tables.training[place] : this.own[place - this.begin];
  }

  /** The token so many places back, plus one; 0 before the beginning. */
  back(distance) {
    const place = this.length - distance;
    return place >= this.begin ? this.token(place) + 1 : 0;
  }

  setOrders() {
    const { orders } = this;
    for (let k = 1; k <= ORDERS; k++) orders[k] = join((orders[k - 1] + k) | 0, this.back(k));
  }

  setContexts() {
    const { orders, contexts, tables, word, wordsBefore, shape, length: here } = this;
    const last = this.back(1), second = this.back(2), third = this.back(3);
    const shapeOf = (length) => shape.slice(0, length).reduce(join, 0);
    const column = here - this.lineStart, above = this.lineBefore + column;
    const over = above + 1 < this.lineStart ? this.token(above) + 1 : 0;
    const pair = join(word, wordsBefore[0]), triple = join(pair, wordsBefore[1]);
    // The token that came where the last tokens stood before; by the longer match of two.
    let length = 0;
    this.expected = 0;
    for (let m = 0; m < MATCHES; m++) {
      if (!this.matchLength[m]) continue;
      this.expected = this.token(this.matchPlace[m]) + 1;
      length = Math.min(this.matchLength[m], 20);
    }
    const made = [
      ...TOKENS_BACK.map((tokens) => orders[tokens]), // the last few tokens
      word, pair, triple, join(triple, wordsBefore[2]), join(word, wordsBefore[1]), // the last words
      join(second, third), join(last, third), // without some
      shapeOf(5), join(shapeOf(3), Math.min(column, 100)), shapeOf(8),
      join(shapeOf(3), over), join(over, Math.min(column, 255)), // what stands above in the line before
      join(this.lineFirst, last), join(Math.min(column, 127), last), // the line's beginning, the column
      // What followed the last token, and the last two, the last times that they came.
      join(tables.words[tables.followersAt(0, join(1, last))], last),
      join(tables.words[tables.followersAt(1, orders[2])], last),
      join(this.expected, length), join(this.expected, last),
      join(word, here >>> 11), join(orders[3], here >>> 12), join(last, here >>> 10), // of late alone
      join(word, this.since), join(word, this.mark), // how far in a sentence
    ];
    contexts.set(made);
  }

  advance(token, changes) {
    const { tables } = this;
    for (let table = 0; table < 2; table++) {
      const at = tables.followersAt(table, table ? this.orders[2] : join(1, this.back(1)));
      tables.write(at, (tables.words[at] << 16) | ((token + 1) & 0xffff), changes);
    }
    this.own?.push(token);
    this.length += 1;
    const here = this.length, kind = tables.kinds[token], form = kind & 1 ? 0 : token + 1;
    if (form || this.shape[0]) this.shape = [form, ...this.shape.slice(0, -1)];
    if (kind !== 1 && this.word) {
      this.wordsBefore = [this.word, ...this.wordsBefore.slice(0, 2)];
      this.word = this.wordLength = 0;
    }
    if (kind === 1 || kind === 3) {
      if (!this.word) {
        const apart = this.gapLength > 1;
        this.since = apart ? 0 : Math.min(this.since + 1, 15);
        if (apart) this.mark = this.gap;
        this.gap = this.gapLength = 0;
      }
      this.word = join(this.word, tables.folded[token]);
      this.wordLength += 1;
    } else {
      this.gap = join(this.gap, token + 1);
      this.gapLength += 1;
    }
    if (kind === 2) {
      this.lineBefore = this.lineStart;
      this.lineStart = here;
      this.lineFirst = 0;
    } else if (here - this.lineStart === 1) this.lineFirst = token + 1;
    this.setOrders();
    for (let m = 0; m < MATCHES; m++) this.match(tables.shortest[m], m, token, changes);
    this.setContexts();
  }

  /** Follow the place where the last tokens stood before, or look for one. */
  match(shortest, m, token, changes) {
    const { tables, matchPlace, matchLength } = this;
    if (matchLength[m] && this.token(matchPlace[m]) === token) {
      matchLength[m] += 1;
      matchPlace[m] += 1;
    } else matchLength[m] = 0;
    const here = this.length;
    if (here - this.begin < shortest) return;
    const at = (DIRECT + m) * (tables.counterMask + 1) + (this.orders[shortest] & tables.counterMask);
    const found = tables.words[at];
    if (!matchLength[m] && found) {
      const most = Math.min(LONGEST_MATCH, here - this.begin, found);
      let same = 0;
      while (same < most && this.token(found - 1 - same) === this.token(here - 1 - same)) same++;
      if (same >= shortest) {
        matchPlace[m] = found;
        matchLength[m] = same;
      }
    }
    tables.write(at, here, changes);
  }
}

/** A match's length in steps. */
function lengthStep(length) {
  if (length < 16) return length;
  return length < 32 ? 16 + ((length - 16) >> 1) : Math.min(24 + ((length - 32) >> 4), 47);
}

/** A context's probability as two inputs: its log-odds, and its distance from a half. */
function give(inputs, at, p, sure, sign) {
  inputs[at] = sign * stretch(p);
  inputs[at + 1] = sign * (p - 0.5) * 3 * sure;
}

/** What was computed at a node, for learning from it. */
class Prediction {
  constructor() {
    this.inputs = new Float64Array(INPUTS);
    this.states = new Int32Array(CONTEXTS); // where a slot's probability stands; -1 for none
    this.matches = new Int32Array(MATCHES);
    this.expected = new Int32Array(MATCHES);
    this.rows = new Int32Array(SETS);
    this.dots = new Float64Array(SETS);
    this.shares = new Int32Array(FINALS); // where the weights of the rows' outputs begin
    this.finals = new Float64Array(FINALS);
    this.bins = new Int32Array(STAGES);
  }
}

/** A network (alone or with n-grams) whose probabilities a mixer corrects. */
export class Mixing extends Around {
  constructor(network, tables) {
    super(network);
    this.tables = tables;
    const { tree, vocabulary } = tables;
    const nodes = Math.min(tree.nodes, 4096);
    this.selectors = [34, nodes, 112, Math.min(vocabulary + 1, 1024), 33, 1024, 256, 1024, 1024, 1024];
    // Where each kind of weights begins.
    let next = 0;
    const take = (size) => (next += size) - size;
    this.sets = this.selectors.map((rows) => take(rows * ROW));
    this.squares = take(next); // of gradients, one for each weight above
    this.finalRows = [nodes, 34];
    this.finals = this.finalRows.map((rows) => take(rows * SETS));
    this.states = take(CONTEXTS * 1024);
    this.stateCounts = take(CONTEXTS * 1024);
    this.matchP = take(MATCHES * MATCH_STEPS);
    this.matchCounts = take(MATCHES * MATCH_STEPS);
    this.stages = take(STAGES * STAGE_CONTEXTS * BINS);
    this.weights = Float32Array.from(tables.weights);
    this.found = Array.from({ length: tree.buckets }, () => new Int32Array(CONTEXTS));
    this.path = Array.from({ length: 64 }, () => new Prediction());
    this.mass = new Float64Array(tree.nodes);
    this.changes = new Changes(tables);
    this.begin();
  }

  begin() {
    this.changes.forget();
    this.weights.set(this.tables.weights);
    this.tokens = [];
    this.given = []; // the network's logits after each token
    this.read = 0; // tokens that the mixer has learned
  }

  truncate(length) {
    this.network.truncate(length);
    if (length >= this.tokens.length) return;
    // What was learned after so many tokens cannot be unlearned alone: the text is read again.
    const tokens = this.tokens.slice(0, length), given = this.given.slice(0, length);
    this.begin();
    Object.assign(this, { tokens, given });
  }

  step(token, note) {
    let votes = null;
    const logits = this.network.step(token, note && ((name, value) => (name === "votes" ? (votes = value) : note(name, value))));
    this.tokens.push(token);
    this.given.push(logits);
    const before = note && softmax(Float64Array.from(logits));
    votes ??= [{ name: "network", p: before, weight: 1 }];
    // Until the training text is counted, and when it is off, the mixer changes nothing.
    const mixed = this.off.mixer || !this.tables.isReady ? null : this.corrected();
    if (note) {
      const p = mixed ? mixed.map(Math.exp) : before;
      const moved = p.reduce((sum, each, i) => sum + Math.abs(each - before[i]), 0) / 2;
      note("votes", [...votes, { name: "mixer", p, weight: moved }]);
      note("mixer.logits", logits.map((logit, i) => (mixed ? mixed[i] - logit : 0)));
    }
    return mixed ?? logits;
  }

  /** The logarithms of all probabilities of the next token. */
  corrected() {
    this.changes.enter();
    if (!this.read) this.text = new Text(this.tables, this.tables.training.length);
    for (; this.read < this.tokens.length; this.read++) this.learn(this.tokens[this.read], this.given[this.read - 1]);
    return this.distribution(this.given.at(-1));
  }

  /** The network's probability of way 1 at every node; null without a network's logits. */
  byNode(logits) {
    if (!logits) return null;
    const { children, nodes } = this.tables.tree;
    const highest = logits.reduce((most, each) => Math.max(most, each), -Infinity);
    const leaves = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
    const sums = new Float64Array(nodes), p = new Float64Array(nodes);
    const reached = (child) => (child < 0 ? leaves[~child] : sums[child]) + 1e-9;
    for (let node = nodes - 1; node >= 0; node--) {
      const zero = reached(children[0][node]), one = reached(children[1][node]);
      sums[node] = zero + one;
      p[node] = one / (zero + one);
    }
    return p;
  }

  /** The buckets of all contexts; where the one above was never seen, neither was this one. */
  find(bucket) {
    const { tables, found } = this;
    const above = found[tables.tree.above[bucket]];
    for (let j = 0; j < CONTEXTS; j++) found[bucket][j] = above && above[j] < 0 ? -1 : tables.find(this.text, j, bucket);
  }

  /** The probability of way 1 at a node. */
  predict(node, network, at) {
    const { tables, text, weights } = this;
    const { tree, slots, words } = tables;
    const { inputs, states, matches, expected, rows, dots, bins, shares, finals } = at;
    const found = this.found[tree.bucket[node]], slot = tree.slot[node], depth = tree.depth[node];
    inputs.fill(0);
    let next = 0, seen = 0;
    // What each context counted here. How right such counts have been was learned too.
    for (let j = 0; j < CONTEXTS; j++, next += GIVEN) {
      states[j] = -1;
      if (found[j] < 0) continue;
      if (j < 6) seen += 1;
      const value = slots[found[j] + 1 + slot], times = value & 15;
      if (!times) continue;
      states[j] = j * 1024 + times * 64 + (value >> 10);
      const counted = value >>> 4;
      inputs[next] = stretch(weights[this.states + states[j]]);
      if (counted <= ALWAYS[0][times] || counted >= ALWAYS[1][times]) inputs[next + 1] = inputs[next];
      inputs[next + 2] = (stretch((counted + 0.5) / 4096) * times) / (times + 1.5);
    }
    this.centre(at, 0);
    this.centre(at, 2);
    for (let j = 0; j < DIRECT; j++, next += 2) {
      const value = words[tables.counterAt(text, j, node)], times = value & 1023;
      if (times) give(inputs, next, between((value >>> 10) / 4194304, 1e-4), Math.min(1, times / 30), 1);
    }
    // Where the last tokens stood before: the token that came then.
    let match = 0;
    for (let m = 0; m < MATCHES; m++, next += 2) {
      matches[m] = -1;
      const way = text.matchLength[m] ? tree.way(text.token(text.matchPlace[m]), node) : -1;
      if (way < 0) continue;
      const step = lengthStep(text.matchLength[m]);
      matches[m] = m * MATCH_STEPS + step;
      expected[m] = way;
      give(inputs, next, weights[this.matchP + matches[m]], 1, way ? 1 : -1);
      match = 2 * (Math.floor(step / 3) + 1) + way;
    }
    if (network) {
      inputs[NETWORK_INPUT] = stretch(between(network[node], 1e-6));
      inputs[NETWORK_INPUT + 1] = (network[node] - 0.5) * 3;
    }
    inputs[NETWORK_INPUT + 2] = 0.3;

    // Ten sets of weights add it up, each a row that another small context chooses.
    const last = text.back(1), second = text.back(2);
    const kinds = (second ? tables.folded[second - 1] : 0) * 7 + (last ? tables.kinds[last - 1] : 0);
    const high = Math.min(depth, 7), column = text.length - text.lineStart;
    rows[0] = match;
    rows[1] = node % this.selectors[1];
    rows[2] = seen * 16 + Math.min(depth, 15);
    rows[3] = last % this.selectors[3];
    rows[4] = network ? Math.trunc(within(inputs[NETWORK_INPUT], 7.5) * 2 + 17) : 0;
    rows[5] = (kinds + 31 * high) % 1024;
    rows[6] = Math.min(text.wordLength, 15) * 16 + Math.floor(Math.min(column, 79) / 5);
    rows[7] = text.expected ? join(text.expected, high) % 1024 : 0;
    rows[8] = text.orders[2] % 1024;
    rows[9] = join(last, node) % 1024;
    for (let s = 0; s < SETS; s++) {
      const row = this.sets[s] + rows[s] * ROW;
      rows[s] = row;
      let sum = 0;
      for (let i = 0; i < INPUTS; i++) sum += inputs[i] * weights[row + i];
      dots[s] = within(sum, 12);
    }
    // Their outputs are added up too, in two ways.
    shares[0] = this.finals[0] + (node % this.finalRows[0]) * SETS;
    shares[1] = this.finals[1] + match * SETS;
    let final = 0;
    for (let f = 0; f < FINALS; f++) {
      let sum = 0;
      for (let s = 0; s < SETS; s++) sum += weights[shares[f] + s] * dots[s];
      sum = within(sum, 12);
      finals[f] = squash(sum);
      final += sum / FINALS;
    }

    // A last correction: how often such a probability was right, in four contexts.
    const place = (within(final, 7.99) + 8) * 2, bin = Math.trunc(place);
    at.share = place - bin;
    bins[0] = join(last, node);
    bins[1] = join(text.orders[2], node);
    bins[2] = match * 128 + (node % 128);
    bins[3] = join(text.word, node);
    let corrected = 0;
    for (let a = 0; a < STAGES; a++) {
      bins[a] = this.stages + (a * STAGE_CONTEXTS + (bins[a] & (STAGE_CONTEXTS - 1))) * BINS + bin;
      corrected += weights[bins[a]] * (1 - at.share) + weights[bins[a] + 1] * at.share;
    }
    at.p = between(0.3 * squash(final) + 0.175 * corrected, 1e-6);
    return at.p;
  }

  /** Contexts say nearly the same: each gives its difference from their mean, and all give a sum. */
  centre({ inputs, states }, first) {
    let sum = 0, known = 0;
    states.forEach((state, j) => {
      if (state < 0) return;
      sum += inputs[GIVEN * j + first];
      known += 1;
    });
    states.forEach((state, j) => {
      if (state >= 0) inputs[GIVEN * j + first] -= sum / known;
    });
    inputs[SUM_INPUTS + first / 2] = sum / SUMMED;
  }

  /** Learn a token: all its nodes are predicted first, then weights and counts are set right. */
  learn(token, logits) {
    const { tables, text } = this;
    const { tree } = tables;
    const network = this.byNode(logits);
    tree.paths[token].forEach((step, i) => {
      const node = step >> 1;
      if (tree.slot[node] === 0) this.find(tree.bucket[node]);
      this.predict(node, network, this.path[i]);
    });
    tree.paths[token].forEach((step, i) => this.correct(step & 1, this.path[i]));
    tables.count(text, token, this.changes);
  }

  /** Move the weights of a node towards what came. */
  correct(way, { inputs, states, matches, expected, rows, dots, bins, shares, finals, share, p: said }) {
    const { weights, squares } = this;
    for (let s = 0; s < SETS; s++) {
      const wrong = way - OWN * squash(dots[s]) - (1 - OWN) * said;
      if (Math.abs(wrong) < SMALL) continue;
      for (let i = 0, at = rows[s]; i < INPUTS; i++, at++) {
        const gradient = wrong * inputs[i];
        if (!gradient) continue;
        weights[squares + at] += gradient * gradient;
        weights[at] += (RATE * gradient) / (Math.sqrt(weights[squares + at]) + CALM);
      }
    }
    for (let f = 0; f < FINALS; f++) {
      const step = (way - finals[f]) * 0.0005;
      for (let s = 0; s < SETS; s++) weights[shares[f] + s] += step * dots[s];
    }
    for (const bin of bins) {
      weights[bin] += (way - weights[bin]) * 0.02 * (1 - share);
      weights[bin + 1] += (way - weights[bin + 1]) * 0.02 * share;
    }
    for (const state of states) {
      if (state < 0) continue;
      const p = this.states + state, count = this.stateCounts + state;
      if (weights[count] < 1000) weights[count] += 1;
      weights[p] = between(weights[p] + (way - weights[p]) / (weights[count] + 1.5), 1e-4);
    }
    matches.forEach((match, m) => {
      if (match < 0) return;
      const p = this.matchP + match, count = this.matchCounts + match;
      if (weights[count] < 250) weights[count] += 1;
      const right = expected[m] === way ? 1 : 0;
      weights[p] = Math.min(Math.max(weights[p] + (right - weights[p]) / (weights[count] + 1.5), 0.01), 0.9998);
    });
  }

  distribution(logits) {
    const { tables, mass, path: [at] } = this;
    const { tree } = tables;
    const network = this.byNode(logits);
    const found = new Float64Array(tables.vocabulary);
    mass[0] = 1;
    for (let node = 0; node < tree.nodes; node++) {
      if (tree.slot[node] === 0) this.find(tree.bucket[node]);
      const p = this.predict(node, network, at);
      for (const way of [0, 1]) {
        const child = tree.children[way][node], reached = mass[node] * (way ? p : 1 - p);
        if (child < 0) found[~child] = Math.log(reached);
        else mass[child] = reached;
      }
    }
    return found;
  }
}

/** What one text has changed in the tables that all texts share. */
class Changes {
  constructor(tables) {
    Object.assign(this, { tables, places: [], values: [] });
  }

  /** Remember a number before it is changed; counters have places below 0. */
  push(place, value) {
    this.places.push(place);
    this.values.push(value);
  }

  /** Put this text's changes into the tables, and those of another text out of them. */
  enter() {
    if (this.tables.inside === this) return;
    this.tables.inside?.leave();
    this.tables.inside = this;
    for (let i = 0; i < this.places.length; i++) this.swap(i);
  }

  leave() {
    for (let i = this.places.length - 1; i >= 0; i--) this.swap(i);
    this.tables.inside = null;
  }

  forget() {
    if (this.tables.inside === this) this.leave();
    this.places.length = this.values.length = 0;
  }

  swap(i) {
    const { slots, words } = this.tables;
    const place = this.places[i];
    const [numbers, at] = place < 0 ? [words, ~place] : [slots, place];
    [numbers[at], this.values[i]] = [this.values[i], numbers[at]];
  }
}
