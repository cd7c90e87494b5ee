/* The page in front of the server: continue a text, and watch a run that is being trained.
 * Model output only ever becomes text (textContent), never markup. */

const WORDS = {
  en: {
    title: "Continue a text", lede: "Type the beginning; the model goes on from it.",
    model: "Model", key: "API key", language: "Language", prompt: "Beginning",
    temperature: "Temperature", top_k: "Top-k (0: all)", max_tokens: "Tokens at most",
    seed: "Seed (empty: random)", go: "Generate", stop: "Stop", training: "Training",
    sample: "A sample of the newest weights", footer: "Served by hornbook on this machine.",
    none: "No checkpoint yet: the run has just begun.",
    done: (n, s) => `${n} tokens in ${s} s`,
    progress: (step, steps, loss, val) =>
      `Step ${step} of ${steps}: training loss ${loss}` +
      (val === null ? "" : `, validation loss ${val}`) + " (nats per token)",
    chart: "Training loss (line) and validation loss (dots) by step",
  },
  ko: {
    title: "글 이어 쓰기", lede: "글의 첫머리를 입력하면 모델이 이어서 써요.",
    model: "모델", key: "API 키", language: "언어", prompt: "첫머리",
    temperature: "온도(temperature)", top_k: "Top-k (0: 전체)", max_tokens: "최대 토큰 수",
    seed: "시드 (비우면 무작위)", go: "생성", stop: "멈추기", training: "학습",
    sample: "가장 최근 가중치의 샘플", footer: "이 컴퓨터에서 hornbook이 제공해요.",
    none: "아직 체크포인트가 없어요. 학습을 막 시작했어요.",
    done: (n, s) => `토큰 ${n}개, ${s}초`,
    progress: (step, steps, loss, val) =>
      `${steps}스텝 가운데 ${step}스텝: 학습 손실 ${loss}` +
      (val === null ? "" : `, 검증 손실 ${val}`) + " (토큰당 nats)",
    chart: "스텝별 학습 손실(선)과 검증 손실(점)",
  },
};
const POLL_MS = 2000;
const SAMPLE_TOKENS = 200;

const at = (id) => document.getElementById(id);
let words = WORDS.en;
let running = null;
let sampledWeights = "";
let watching = 0;

function speak(language) {
  words = WORDS[language];
  document.documentElement.lang = language;
  for (const each of document.querySelectorAll("[data-text]"))
    each.textContent = words[each.dataset.text];
  at("chart").setAttribute("aria-label", words.chart);
}

function headers() {
  const key = at("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function ask(path, options = {}) {
  const response = await fetch(path, { headers: headers(), ...options });
  if (response.ok) return response;
  if (response.status === 401) at("key-row").hidden = false;
  const { error } = await response.json().catch(() => ({ error: { message: response.statusText } }));
  throw new Error(error.message);
}

/* The data of each event of a stream. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

async function generate(event) {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  const body = { model: at("model").value, prompt: at("prompt").value, stream: true,
                 stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_k", "max_tokens", "seed"])
    if (at(name).value !== "") body[name] = Number(at(name).value);
  const output = at("output");
  output.replaceChildren();
  const prompt = document.createElement("b");
  prompt.textContent = body.prompt;
  const text = document.createTextNode("");
  output.append(prompt, text);
  at("status").textContent = "";
  at("stop").disabled = false;
  const started = performance.now();
  try {
    const response = await ask("v1/completions",
      { method: "POST", body: JSON.stringify(body), signal: mine.signal });
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const { choices, usage, error } = JSON.parse(data);
      if (error) throw new Error(error.message);
      if (choices.length) text.appendData(choices[0].text);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      if (usage) at("status").textContent = words.done(usage.completion_tokens, seconds);
    }
  } catch (error) {
    if (error.name !== "AbortError") at("status").textContent = error.message;
  } finally {
    if (running === mine) at("stop").disabled = true;
  }
}

function draw(rows, steps) {
  const canvas = at("chart");
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  const losses = rows.map((row) => row.train_loss);
  const [low, high] = [Math.min(...losses) * 0.95, Math.max(...losses) * 1.02];
  const x = (step) => 44 + ((width - 56) * step) / Math.max(1, steps);
  const y = (loss) => 12 + ((height - 40) * (high - loss)) / Math.max(1e-9, high - low);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  for (let mark = 0; mark <= 4; mark++) {
    const loss = low + ((high - low) * mark) / 4;
    pen.fillText(loss.toFixed(2), 4, y(loss) + 4);
    pen.beginPath();
    pen.moveTo(44, y(loss));
    pen.lineTo(width - 12, y(loss));
    pen.stroke();
  }
  pen.fillText(String(steps), width - 12 - pen.measureText(String(steps)).width, height - 8);
  pen.strokeStyle = colour("--sea");
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const row of rows) pen.lineTo(x(row.step), y(row.train_loss));
  pen.stroke();
  pen.fillStyle = colour("--horn");
  for (const row of rows.filter((row) => row.val_loss !== null)) {
    pen.beginPath();
    pen.arc(x(row.step), y(row.val_loss), 3.5, 0, 2 * Math.PI);
    pen.fill();
  }
}

async function sample(model) {
  const body = { model, prompt: "", max_tokens: SAMPLE_TOKENS, temperature: 0.8, seed: 0 };
  const response = await ask("v1/completions", { method: "POST", body: JSON.stringify(body) });
  at("sample").textContent = (await response.json()).choices[0].text;
}

/* The chart of the chosen run: again and again while it is trained. */
async function watch() {
  const mine = ++watching;
  const model = at("model").value;
  let finished = true;
  if (model) {
    try {
      const found = await (await ask(`training/${encodeURIComponent(model)}`)).json();
      finished = found.finished;
      at("training").hidden = finished;
      const last = found.rows.at(-1);
      if (!finished && last) {
        const val = found.rows.findLast((row) => row.val_loss !== null)?.val_loss ?? null;
        at("progress").textContent = words.progress(last.step, found.steps,
          last.train_loss.toFixed(4), val === null ? null : val.toFixed(4));
        draw(found.rows, Math.max(found.steps, last.step));
        if (!found.weights) at("sample").textContent = words.none;
        else if (found.weights !== sampledWeights) {
          sampledWeights = found.weights;
          await sample(model);
        }
      }
    } catch (error) {
      at("status").textContent = error.message;
    }
  }
  if (!finished && mine === watching) setTimeout(watch, POLL_MS);
}

async function open() {
  try {
    const { data } = await (await ask("v1/models")).json();
    at("model").replaceChildren(...data.map(({ id }) => new Option(id, id)));
    at("status").textContent = "";
    await watch();
  } catch (error) {
    at("status").textContent = error.message;
  }
}

const language = navigator.language.startsWith("ko") ? "ko" : "en";
at("language").value = language;
speak(language);
at("language").addEventListener("change", () => speak(at("language").value));
at("model").addEventListener("change", watch);
at("key").addEventListener("change", open);
at("form").addEventListener("submit", generate);
at("stop").addEventListener("click", () => running?.abort());
open();
