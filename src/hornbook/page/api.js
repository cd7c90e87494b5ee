// The server's API, as its page uses it.

export class Server {
  constructor() {
    this.key = "";
  }

  /** A response; an error has the server's message, its `status` and its `code`. */
  async ask(path, body, signal) {
    const headers = { "Content-Type": "application/json", ...(this.key && { Authorization: `Bearer ${this.key}` }) };
    const response = await fetch(path, { headers, signal, ...(body && { method: "POST", body: JSON.stringify(body) }) });
    if (response.ok) return response;
    const answer = await response.json().catch(() => ({}));
    const { message = response.statusText, code = null } = answer.error ?? {};
    throw Object.assign(new Error(message), { status: response.status, code });
  }

  async json(path, body, signal) {
    return (await this.ask(path, body, signal)).json();
  }

  /** The choices of a completion as they come. */
  async *completion(body, signal) {
    const response = await this.ask("v1/completions", { ...body, stream: true }, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: {")) continue;
        const { choices, error } = JSON.parse(part.slice(6));
        if (error) throw new Error(error.message);
        if (choices.length) yield choices[0];
      }
    }
  }
}
