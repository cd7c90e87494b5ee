// What follows from the notes of a model: the logit lens, each part's share of a logit, and what
// every part of it proposes. A position is what a `Reader` has seen there: token, logits and notes.

import { multiply, range, row, softmax } from "./model.js";

/** The residual stream of a position: after the embedding, and after each block. */
export function residuals({ notes }, model) {
  const before = notes.get("blocks.0.hook_resid_pre") ?? notes.get("hook_embed");
  const after = range(layers(model)).map((layer) => notes.get(`blocks.${layer}.hook_resid_post`));
  return [before, ...after].filter(Boolean);
}

/** How many blocks a model has. */
export function layers(model) {
  return model.anatomy?.blocks.length ?? (model.sums ? 1 : 0);
}

/** The attention of a position by layer and head; each has a weight for every token so far. */
export function attention({ notes }, model) {
  return range(layers(model)).map((layer) => notes.get(`blocks.${layer}.attn.hook_pattern`));
}

/** The logits that a residual stream would give if it were the last. */
export function lens(x, model) {
  const { finalNorm, head } = model.anatomy ?? { head: model.head };
  if (head.weight.shape[1] !== x.length) return null;
  return multiply(head.weight, finalNorm ? finalNorm.apply(x) : x, head.bias);
}

/**
 * The share of each part of a model in one token's logit, as [name, share]; they sum to the logit.
 * The last norm divides by a number that depends on all parts together: it is taken as given.
 */
export function attribution(position, model, token) {
  const { notes, logits } = position;
  if (model.levels) return [["ngrams", logits[token]]];
  if (!model.anatomy && !model.head) return [["embed", logits[token]]];
  const shares = model.anatomy ? transformerShares(notes, model.anatomy, token) : averageShares(notes, model.head, token);
  for (const part of ["ngrams", "mixer"]) {
    if (notes.has(`${part}.logits`)) shares.push([part, notes.get(`${part}.logits`)[token]]);
  }
  return shares;
}

function averageShares(notes, head, token) {
  const fits = row(head.weight, token);
  const own = notes.get("hook_embed");
  return [
    ["embed", dot(fits.subarray(0, own.length), own)],
    ["blocks.0.attn.head.0", dot(fits.subarray(own.length), notes.get("blocks.0.attn.hook_z")[0])],
    ["bias", head.bias.data[token]],
  ];
}

function transformerShares(notes, { positions, blocks, finalNorm, head }, token) {
  const fits = row(head.weight, token);
  const shares = [];
  let bias = head.bias?.data[token] ?? 0;
  const last = notes.get(`blocks.${blocks.length - 1}.hook_resid_post`);
  const scale = finalNorm?.measure(last).scale ?? 1;
  const gained = finalNorm ? fits.map((value, i) => value * finalNorm.gain[i]) : fits;
  if (finalNorm?.bias) bias += dot(fits, finalNorm.bias);
  const share = (x) => {
    const mean = finalNorm?.centred ? x.reduce((sum, value) => sum + value, 0) / x.length : 0;
    return x.reduce((sum, value, i) => sum + gained[i] * (value - mean), 0) / scale;
  };
  const everyBlockAdds = blocks.every((block) => block.residual);
  if (everyBlockAdds) {
    shares.push(["embed", share(notes.get("hook_embed"))]);
    if (positions) shares.push(["pos_embed", share(notes.get("hook_pos_embed"))]);
  }
  blocks.forEach((block, layer) => {
    if (everyBlockAdds || !block.mlp) {
      notes.get(`blocks.${layer}.attn.hook_z`).forEach((z, h) => {
        shares.push([`blocks.${layer}.attn.head.${h}`, share(headOutput(block, z, h, last.length))]);
      });
      if (block.output?.bias) shares.push([`blocks.${layer}.attn.bias`, share(block.output.bias.data)]);
    }
    if (block.mlp) shares.push([`blocks.${layer}.mlp`, share(notes.get(`blocks.${layer}.hook_mlp_out`))]);
  });
  if (bias !== 0) shares.push(["bias", bias]);
  return shares;
}

/** What one head adds to the residual stream. */
function headOutput(block, z, h, width) {
  const first = h * z.length;
  if (!block.output) {
    const alone = new Float32Array(width);
    alone.set(z, first);
    return alone;
  }
  const { data, shape } = block.output.weight;
  return Float32Array.from({ length: shape[0] }, (_, i) => dot(data.subarray(i * shape[1] + first), z));
}

function dot(x, y) {
  return y.reduce((sum, value, i) => sum + value * x[i], 0);
}

/** What each part proposes at a position; a network alone has all the weight. */
export function votes({ notes, logits }) {
  return notes.get("votes") ?? [{ name: "network", p: softmax(logits), weight: 1 }];
}

/** Everything about a text as arrays, named as `model.look` of the Python package names them. */
export function everything(seen, model) {
  const tokens = seen.map(({ token }) => token);
  const turned = (rows) => range(rows[0].length).map((i) => rows.map((each) => each[i]));
  const lists = (rows) => rows.map((each) => Array.from(each));
  const residual = turned(seen.map((each) => residuals(each, model)));
  const shares = seen.map((each, t) => attribution(each, model, tokens[t + 1] ?? highest(each.logits)));
  const full = (weights) => tokens.map((_, s) => weights[s] ?? 0);
  return {
    tokens,
    probs: lists(seen.map(({ logits }) => softmax(Float64Array.from(logits)))),
    attention: turned(seen.map((each) => attention(each, model))).map((layer) => turned(layer).map((head) => head.map(full))),
    residual: residual.map(lists),
    logit_lens: residual.slice(1).map((layer) => lists(layer.map((x) => logSoftmax(lens(x, model))))),
    components: shares[0].map(([name]) => name),
    attribution: turned(shares).map((component) => component.map(([, share]) => share)),
    votes: turned(seen.map(votes)).map((rows) => ({
      name: rows[0].name,
      probs: lists(rows.map(({ p }) => p)),
      weight: rows.map(({ weight }) => weight),
    })),
  };
}

function logSoftmax(logits) {
  return softmax(Float64Array.from(logits)).map(Math.log);
}

export function highest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
