// A model reads one token at a time, and says how likely each token of the vocabulary is to be next.
//
// Every model has `step(token, note)`, which returns a logit for each token of the vocabulary, and
// `truncate(length)`, which forgets what was read after so many tokens. `note(name, numbers)` is
// told every intermediate result by its name in TransformerLens. `off` says what is switched off.
//
// Letters: V vocabulary, C channels of the residual stream, H heads, D channels of a head.

// ---------------------------------------------------------------------------------------------
// The few operations that all models are made of.

/** The product of a matrix with a vector, and the bias added: each row gives one number. */
export function multiply(matrix, x, bias = null) {
  const { data, shape } = matrix;
  const [rows, columns] = shape;
  const y = new Float32Array(rows);
  for (let row = 0, at = 0; row < rows; row++, at += columns) {
    // Four sums at once: the processor need not wait for one addition to begin the next.
    let a = 0, b = 0, c = 0, d = 0, i = 0;
    for (; i + 3 < columns; i += 4) {
      a += data[at + i] * x[i];
      b += data[at + i + 1] * x[i + 1];
      c += data[at + i + 2] * x[i + 2];
      d += data[at + i + 3] * x[i + 3];
    }
    for (; i < columns; i++) a += data[at + i] * x[i];
    y[row] = a + b + (c + d) + (bias ? bias.data[row] : 0);
  }
  return y;
}

export function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

/** Positive numbers that sum to 1; the largest score gets the most. */
export function softmax(scores) {
  const highest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** A row of a table: an embedding. */
export function row(table, number) {
  const width = table.shape[1];
  return table.data.slice(number * width, (number + 1) * width);
}

function silu(x) {
  return x / (1 + Math.exp(-x));
}

/**
 * A norm in the two steps that the logit lens needs apart: what is subtracted and divided by, which
 * depends on x, and the learned gain and bias, which do not.
 */
class Norm {
  constructor({ gain, bias = null, epsilon, centred }) {
    Object.assign(this, { gain: gain.data, bias: bias?.data, epsilon, centred });
  }

  measure(x) {
    const mean = this.centred ? x.reduce((sum, value) => sum + value, 0) / x.length : 0;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
    return { mean, scale: Math.sqrt(variance + this.epsilon) };
  }

  apply(x, { mean, scale } = this.measure(x)) {
    return x.map((value, i) => ((value - mean) / scale) * this.gain[i] + (this.bias?.[i] ?? 0));
  }
}

// ---------------------------------------------------------------------------------------------
// The rungs of the ladder.

/** The first rung: a table that has a row of logits for each token, and sees nothing else. */
export class Bigram {
  constructor(arrays) {
    this.table = arrays.get("token_embedding_table.weight");
    this.length = 0;
    this.off = nothingOff();
  }

  step(token, note) {
    this.length += 1;
    const logits = row(this.table, token);
    note?.("hook_embed", logits);
    return logits;
  }

  truncate(length) {
    this.length = length;
  }
}

/** The second rung: the token itself, and beside it the mean of all tokens so far. */
export class Average {
  constructor(arrays) {
    this.table = arrays.get("token_embedding_table.weight");
    this.head = { weight: arrays.get("lm_head.weight"), bias: arrays.get("lm_head.bias") };
    this.sums = [];
    this.off = nothingOff();
  }

  get length() {
    return this.sums.length;
  }

  step(token, note) {
    const own = row(this.table, token);
    const before = this.sums.at(-1);
    this.sums.push(before ? add(before, own) : own);
    const { length } = this.sums;
    const weights = new Float32Array(length).fill(1 / length);
    let mean = this.sums[length - 1].map((sum) => sum / length);
    if (this.off.heads.has("0.0")) mean = mean.fill(0);
    note?.("hook_embed", own);
    note?.("blocks.0.hook_resid_pre", new Float32Array([...own, ...new Float32Array(own.length)]));
    note?.("blocks.0.attn.hook_pattern", [weights]);
    note?.("blocks.0.attn.hook_z", [mean]);
    const beside = new Float32Array([...own, ...mean]);
    note?.("blocks.0.hook_resid_post", beside);
    return multiply(this.head.weight, beside, this.head.bias);
  }

  truncate(length) {
    this.sums.length = Math.min(length, this.sums.length);
  }
}

/**
 * Everything from one attention head to the GPT. They differ in their parts only, which `anatomy`
 * lists: a rung leaves out what it does not have yet.
 */
export class Transformer {
  constructor(anatomy) {
    this.anatomy = anatomy;
    this.length = 0;
    this.off = nothingOff();
    // The keys and values of every token read so far, by layer and head.
    this.memory = anatomy.blocks.map((block) => block.heads.map(() => ({ keys: [], values: [] })));
  }

  step(token, note) {
    const { embedding, positions, blocks, finalNorm, head } = this.anatomy;
    const position = this.length++;

    // Who is it, and (in the lecture's models) where does it stand?
    let x = row(embedding, token);
    note?.("hook_embed", x);
    if (positions) {
      const where = row(positions, position);
      note?.("hook_pos_embed", where);
      x = add(x, where);
    }

    blocks.forEach((block, layer) => {
      const name = `blocks.${layer}`;
      note?.(`${name}.hook_resid_pre`, x);

      // Attention: look back, and add what was found to the residual stream.
      const asking = block.norm1 ? block.norm1.apply(x) : x;
      note?.(`${name}.ln1.hook_normalized`, asking);
      const found = this.attend(block, layer, asking, position, note);
      const attention = block.output ? multiply(block.output.weight, found, block.output.bias) : found;
      note?.(`${name}.hook_attn_out`, attention);
      x = block.residual ? add(x, attention) : attention;
      note?.(`${name}.hook_resid_mid`, x);

      // MLP: think about what is there, at this position alone.
      if (block.mlp) {
        const reading = block.norm2 ? block.norm2.apply(x) : x;
        note?.(`${name}.ln2.hook_normalized`, reading);
        const thought = this.off.mlps.has(layer) ? new Float32Array(x.length) : block.mlp(reading);
        note?.(`${name}.hook_mlp_out`, thought);
        x = block.residual ? add(x, thought) : thought;
      }
      note?.(`${name}.hook_resid_post`, x);
    });

    // A logit for each token of the vocabulary: how well does x fit its row?
    const last = finalNorm ? finalNorm.apply(x) : x;
    note?.("ln_final.hook_normalized", last);
    return multiply(head.weight, last, head.bias);
  }

  /** What every head of a block finds, side by side. */
  attend(block, layer, x, position, note) {
    const { window } = this.anatomy;
    const first = Math.max(0, position + 1 - window);
    const everything = { q: [], k: [], v: [], scores: [], pattern: [], z: [] };
    block.heads.forEach((head, number) => {
      // What am I looking for? What do I offer? What do I say?
      let q = multiply(head.query, x);
      let k = multiply(head.key, x);
      const v = multiply(head.value, x);
      if (block.queryNorm) {
        q = block.queryNorm.apply(q);
        k = block.keyNorm.apply(k);
      }
      if (this.anatomy.rotaryBase) {
        q = rotate(q, position, this.anatomy.rotaryBase);
        k = rotate(k, position, this.anatomy.rotaryBase);
      }
      const { keys, values } = this.memory[layer][number];
      keys[position] = k;
      values[position] = v;

      // How well does each earlier key fit the query? The future is not there to be seen.
      const D = q.length;
      const scores = new Float32Array(position + 1 - first);
      for (let s = first; s <= position; s++) {
        let product = 0;
        for (let d = 0; d < D; d++) product += q[d] * keys[s][d];
        scores[s - first] = this.off.mean ? 0 : product / Math.sqrt(D);
      }
      const pattern = softmax(scores);

      // Listen to each as much as it fits.
      const z = new Float32Array(D);
      for (let s = first; s <= position; s++) {
        for (let d = 0; d < D; d++) z[d] += pattern[s - first] * values[s][d];
      }
      if (this.off.heads.has(`${layer}.${number}`)) z.fill(0);
      for (const [what, numbers] of Object.entries({ q, k, v, scores, pattern, z })) everything[what].push(numbers);
    });
    const name = `blocks.${layer}.attn.hook_`;
    for (const what of ["q", "k", "v", "z"]) note?.(name + what, everything[what]);
    note?.(`${name}attn_scores`, everything.scores.map((each) => fromThePast(each, first, -Infinity)));
    note?.(`${name}pattern`, everything.pattern.map((each) => fromThePast(each, first, 0)));
    return concatenate(everything.z);
  }

  truncate(length) {
    this.length = Math.min(length, this.length);
  }
}

/** Numbers of the visible positions, after `hidden` for those before the window. */
function fromThePast(numbers, first, hidden) {
  const all = new Float32Array(first + numbers.length).fill(hidden);
  all.set(numbers, first);
  return all;
}

/** Turn each pair (i, i + D/2) by an angle that grows with the position. */
function rotate(x, position, base) {
  const half = x.length / 2;
  const turned = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    const angle = position * base ** (-i / half);
    const cosine = Math.cos(angle), sine = Math.sin(angle);
    turned[i] = x[i] * cosine - x[i + half] * sine;
    turned[i + half] = x[i + half] * cosine + x[i] * sine;
  }
  return turned;
}

function concatenate(vectors) {
  const all = new Float32Array(vectors.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of vectors) {
    all.set(each, at);
    at += each.length;
  }
  return all;
}

/** What is switched off: heads as "layer.head", MLPs by layer, `mean` for plain means in all heads. */
export function nothingOff() {
  return { heads: new Set(), mlps: new Set(), mean: false, network: false, ngrams: false, cache: false, gate: false, mixer: false };
}

// ---------------------------------------------------------------------------------------------
// The parts of each model, by the names of its weights.

/** The parts of a model of this kind; `get` finds a weight by its name. */
export function anatomy(kind, shape, get) {
  return kind === "gpt" ? gptAnatomy(shape, get) : lectureAnatomy(kind, shape, get);
}

function gptAnatomy({ n_layer, n_head, head_width, window, epsilon, rotary_base }, get) {
  const norm = (name) => new Norm({ gain: get(`${name}.weight`), epsilon, centred: false });
  const blocks = range(n_layer).map((layer) => {
    const part = (name) => get(`blocks.${layer}.${name}.weight`);
    const [query, key, value] = ["query", "key", "value"].map((name) =>
      splitRows(part(`attention.${name}`), n_head),
    );
    const gate = part("mlp.gate"), up = part("mlp.up"), down = part("mlp.down");
    return {
      norm1: norm(`blocks.${layer}.attention_norm`),
      heads: range(n_head).map((h) => ({ query: query[h], key: key[h], value: value[h] })),
      queryNorm: norm(`blocks.${layer}.attention.query_norm`),
      keyNorm: norm(`blocks.${layer}.attention.key_norm`),
      output: { weight: part("attention.output") },
      residual: true,
      norm2: norm(`blocks.${layer}.mlp_norm`),
      mlp: (x) => {
        const opened = multiply(gate, x).map(silu);
        const raised = multiply(up, x);
        return multiply(down, opened.map((value, i) => value * raised[i]));
      },
    };
  });
  return {
    embedding: get("embedding.weight"),
    blocks,
    finalNorm: norm("norm"),
    head: { weight: get("logits.weight") },
    window: window ?? Infinity,
    rotaryBase: rotary_base,
    headWidth: head_width,
  };
}

function lectureAnatomy(kind, { n_layer, n_head, epsilon }, get) {
  const linear = (name) => ({ weight: get(`${name}.weight`), bias: get(`${name}.bias`) });
  const norm = (name) =>
    new Norm({ gain: get(`${name}.weight`), bias: get(`${name}.bias`), epsilon, centred: true });
  const head = (name) => ({
    query: get(`${name}.query.weight`),
    key: get(`${name}.key.weight`),
    value: get(`${name}.value.weight`),
  });
  const heads = (name) => range(n_head).map((h) => head(`${name}.heads.${h}`));
  const relu = (x) => x.map((value) => Math.max(0, value));

  let blocks;
  if (kind === "head") blocks = [{ heads: [head("blocks")] }];
  else if (kind === "heads") blocks = [{ heads: heads("blocks") }];
  else if (kind === "feedforward") {
    const { weight, bias } = linear("blocks.1");
    blocks = [{ heads: heads("blocks.0"), mlp: (x) => relu(multiply(weight, x, bias)) }];
  } else {
    const normed = kind === "layernorm";
    blocks = range(n_layer).map((layer) => {
      const wide = linear(`blocks.${layer}.ffwd.0`), back = linear(`blocks.${layer}.ffwd.2`);
      return {
        norm1: normed ? norm(`blocks.${layer}.ln1`) : null,
        heads: heads(`blocks.${layer}.sa`),
        output: linear(`blocks.${layer}.sa.proj`),
        residual: true,
        norm2: normed ? norm(`blocks.${layer}.ln2`) : null,
        mlp: (x) => multiply(back.weight, relu(multiply(wide.weight, x, wide.bias)), back.bias),
      };
    });
  }
  return {
    embedding: get("token_embedding_table.weight"),
    positions: get("position_embedding_table.weight"),
    blocks,
    finalNorm: kind === "layernorm" ? norm(`blocks.${n_layer}`) : null,
    head: linear("lm_head"),
    window: Infinity,
  };
}

/** The rows of a matrix in equal parts: one for each head. */
function splitRows({ data, shape: [rows, columns] }, parts) {
  const size = rows / parts;
  return range(parts).map((i) => ({
    data: data.subarray(i * size * columns, (i + 1) * size * columns),
    shape: [size, columns],
  }));
}

export function range(count) {
  return Array.from({ length: count }, (_, i) => i);
}

/** A model around a network, which adds to its logits: length, parts and switches are the network's. */
export class Around {
  constructor(network) {
    this.network = network;
  }

  get length() {
    return this.network.length;
  }

  get anatomy() {
    return this.network.anatomy;
  }

  get off() {
    return this.network.off;
  }

  set off(off) {
    this.network.off = off;
  }
}
