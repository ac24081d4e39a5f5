// Talking to the server: the key of its run, answers as values, and what to do when it does not answer.

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

export class Server {
  #key = "";
  session = null;

  async start() {
    this.session = await this.get("/api/session");
    this.#key = this.session.key;
    return this.session;
  }

  async get(path) {
    return this.#answer(await fetch(path, { cache: "no-store" }));
  }

  async post(path, value) {
    const headers = { "content-type": "application/json", "x-hardmine-key": this.#key };
    return this.#answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(value) }));
  }

  async #answer(response) {
    const text = await response.text();
    let body;
    try {
      body = JSON.parse(text);
    } catch {
      body = { error: text };
    }
    if (!response.ok) throw new Refused(response.status, body);
    return body;
  }
}

// Pictures as the browser draws them, decoded ahead of time; the least recently used go first.
export class Pictures {
  #kept = new Map();

  constructor(limit) {
    this.limit = limit;
  }

  // Returns {bitmap, width, height}: the size is that of the whole image, to which boxes refer.
  get(path) {
    let found = this.#kept.get(path);
    this.#kept.delete(path);
    if (found === undefined) {
      found = { ready: false, promise: this.#load(path) };
      found.promise.then(
        (value) => { found.value = value; found.ready = true; },
        () => { this.#kept.delete(path); },
      );
    }
    this.#kept.set(path, found);
    for (const [old, entry] of this.#kept) {
      if (this.#kept.size <= this.limit) break;
      this.#kept.delete(old);
      entry.promise.then((value) => value.bitmap.close?.(), () => {});
    }
    return found;
  }

  forget() {
    this.#kept.clear();
  }

  async #load(path) {
    const response = await fetch(path);
    if (!response.ok) {
      const body = await response.json().catch(() => ({}));
      throw new Refused(response.status, body);
    }
    const size = (name) => Number(response.headers.get(name));
    const bitmap = await createImageBitmap(await response.blob());
    return { bitmap, width: size("x-image-width") || bitmap.width, height: size("x-image-height") || bitmap.height };
  }
}

// Thumbnails as addresses of pictures in memory, with the size of the whole image.
export class Thumbnails {
  #kept = new Map();

  get(id, stamp = "") {
    const path = `/thumbnail/${id}?v=${encodeURIComponent(stamp)}`;
    let found = this.#kept.get(id);
    if (found === undefined) {
      found = this.#load(path);
      this.#kept.set(id, found);
      if (this.#kept.size > 1500) {
        const [old, entry] = this.#kept.entries().next().value;
        this.#kept.delete(old);
        entry.then((value) => URL.revokeObjectURL(value.url), () => {});
      }
    }
    return found;
  }

  forget() {
    this.#kept.clear();
  }

  async #load(path) {
    const response = await fetch(path);
    if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
    const width = Number(response.headers.get("x-image-width")) || 1;
    const height = Number(response.headers.get("x-image-height")) || 1;
    return { url: URL.createObjectURL(await response.blob()), width, height };
  }
}
