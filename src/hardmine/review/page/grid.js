// Many pictures at once: only those in sight exist; select by click, shift, drag or keys.

export class Grid {
  #tiles = new Map();
  #drag = null;
  #frame = 0;
  #from = 0;

  // on: thumbnail(id) -> promise, describe(id) -> {code, text, count, name}, details(ids) -> promise,
  // open(id), changed()
  constructor(place, space, marquee, on) {
    Object.assign(this, { place, space, marquee, on });
    this.ids = [];
    this.selected = new Set();
    this.focus = 0;
    this.side = 160;
    place.addEventListener("scroll", () => this.#later());
    new ResizeObserver(() => this.#later()).observe(place);
    space.addEventListener("pointerdown", (event) => this.#down(event));
    space.addEventListener("pointermove", (event) => this.#move(event));
    space.addEventListener("pointerup", (event) => this.#up(event));
    space.addEventListener("pointercancel", () => this.#end());
    space.addEventListener("dblclick", (event) => {
      const at = this.#at(event);
      if (at !== null) this.on.open(this.ids[at]);
    });
    place.addEventListener("keydown", (event) => this.#key(event));
  }

  show(ids, current) {
    this.ids = ids;
    const known = new Set(ids);
    this.selected = new Set([...this.selected].filter((id) => known.has(id)));
    this.focus = Math.max(0, ids.indexOf(current));
    this.#from = this.focus;
    for (const tile of this.#tiles.values()) tile.remove();
    this.#tiles.clear();
    this.#draw();
    this.#reveal();
    this.place.setAttribute("aria-activedescendant", `tile-${this.focus}`);
    this.place.focus({ preventScroll: true });
  }

  resize(side) {
    this.side = side;
    this.#draw();
    this.#reveal();
  }

  refresh(ids = null) {
    for (const [at, tile] of this.#tiles) {
      if (ids === null || ids.has(this.ids[at])) this.#dress(tile, at);
    }
  }

  selectAll() {
    this.selected = new Set(this.ids);
    this.#selectionChanged();
  }

  selectNone() {
    this.selected.clear();
    this.#selectionChanged();
  }

  // What a verdict is about: the selection, or the tile in focus.
  chosen() {
    if (this.selected.size) return this.ids.filter((id) => this.selected.has(id));
    return this.ids.length ? [this.ids[this.focus]] : [];
  }

  #columns() {
    return Math.max(1, Math.floor((this.place.clientWidth - 24) / (this.side + 8)));
  }

  // From one tile to the next, pixels: the tiles fill the width.
  #step() {
    return Math.max(this.side + 8, Math.floor((this.place.clientWidth - 24) / this.#columns()));
  }

  #later() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => { this.#frame = 0; this.#draw(); });
  }

  #rect(at) {
    const columns = this.#columns();
    const step = this.#step();
    return { x: 8 + (at % columns) * step, y: 8 + Math.floor(at / columns) * step };
  }

  #draw() {
    if (this.place.clientHeight === 0) return;
    const columns = this.#columns();
    const step = this.#step();
    this.space.style.height = `${Math.ceil(this.ids.length / columns) * step + 8}px`;
    const first = Math.max(0, Math.floor(this.place.scrollTop / step) - 1) * columns;
    const last = Math.min(this.ids.length, (Math.ceil((this.place.scrollTop + this.place.clientHeight) / step) + 1) * columns);
    for (const [at, tile] of this.#tiles) {
      if (at < first || at >= last) {
        tile.remove();
        this.#tiles.delete(at);
      }
    }
    const fresh = [];
    for (let at = first; at < last; at += 1) {
      let tile = this.#tiles.get(at);
      if (!tile) {
        tile = this.#make(at);
        this.#tiles.set(at, tile);
        this.space.append(tile);
        fresh.push(at);
      }
      const { x, y } = this.#rect(at);
      tile.style.transform = `translate(${x}px, ${y}px)`;
      tile.style.width = tile.style.height = `${step - 8}px`;
    }
    if (fresh.length) this.#fill(fresh);
  }

  #make(at) {
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.id = `tile-${at}`;
    tile.setAttribute("role", "option");
    tile.setAttribute("aria-posinset", String(at + 1)); // Only those in sight exist.
    tile.setAttribute("aria-setsize", String(this.ids.length));
    const frame = document.createElement("div");
    frame.className = "frame";
    const mark = document.createElement("span");
    mark.className = "mark";
    const count = document.createElement("span");
    count.className = "count";
    tile.append(frame, mark, count);
    this.#dress(tile, at);
    return tile;
  }

  #dress(tile, at) {
    const id = this.ids[at];
    const { code, text, count, name } = this.on.describe(id);
    tile.dataset.verdict = code;
    tile.setAttribute("aria-selected", String(this.selected.has(id)));
    tile.setAttribute("aria-label", `${name}, ${text}${count ? `, with ${count} similar` : ""}`);
    tile.classList.toggle("focus", at === this.focus);
    tile.querySelector(".mark").textContent = text;
    tile.querySelector(".count").textContent = count ? `+${count}` : "";
  }

  async #fill(places) {
    const ids = this.ids;
    const details = this.on.details(places.map((at) => ids[at]));
    for (const at of places) {
      const tile = this.#tiles.get(at);
      this.on.thumbnail(ids[at]).then(
        async (thumb) => {
          if (this.ids !== ids || !tile?.isConnected) return;
          const frame = tile.querySelector(".frame");
          const img = document.createElement("img");
          img.src = thumb.url;
          img.alt = "";
          img.draggable = false;
          frame.style.aspectRatio = `${thumb.width} / ${thumb.height}`;
          frame.classList.toggle("tall", thumb.height > thumb.width);
          frame.append(img);
          const found = (await details).get(ids[at]);
          if (found) {
            tile.setAttribute("aria-label", tile.getAttribute("aria-label").replace(/^picture \d+/, found.name));
            for (const box of strongest(found.boxes)) frame.append(marker(box, thumb));
          }
        },
        () => { if (tile?.isConnected) tile.querySelector(".frame").textContent = "cannot be shown"; },
      );
    }
  }

  #selectionChanged() {
    for (const [at, tile] of this.#tiles) {
      tile.setAttribute("aria-selected", String(this.selected.has(this.ids[at])));
      tile.classList.toggle("focus", at === this.focus);
    }
    this.place.setAttribute("aria-activedescendant", `tile-${this.focus}`);
    this.on.changed();
  }

  #point(event) {
    const box = this.space.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #at(event) {
    const { x, y } = this.#point(event);
    const step = this.#step();
    const [column, row] = [Math.floor((x - 8) / step), Math.floor((y - 8) / step)];
    const at = row * this.#columns() + column;
    const inside = column >= 0 && column < this.#columns() && x - 8 - column * step <= step - 8 && y - 8 - row * step <= step - 8;
    return inside && at >= 0 && at < this.ids.length ? at : null;
  }

  #down(event) {
    if (event.button !== 0) return;
    const touch = event.pointerType === "touch";
    this.#drag = { ...this.#point(event), at: this.#at(event), keep: new Set(event.ctrlKey || event.metaKey || event.shiftKey ? this.selected : []), touch, moved: false };
    if (!touch) this.space.setPointerCapture?.(event.pointerId);
  }

  #move(event) {
    if (!this.#drag || this.#drag.touch) return;
    const { x, y } = this.#point(event);
    const drag = this.#drag;
    if (!drag.moved && Math.hypot(x - drag.x, y - drag.y) < 6) return;
    drag.moved = true;
    const [x1, y1, x2, y2] = [Math.min(x, drag.x), Math.min(y, drag.y), Math.max(x, drag.x), Math.max(y, drag.y)];
    Object.assign(this.marquee.style, { left: `${x1}px`, top: `${y1}px`, width: `${x2 - x1}px`, height: `${y2 - y1}px` });
    this.marquee.hidden = false;
    const step = this.#step();
    const columns = this.#columns();
    this.selected = new Set(drag.keep);
    const lastRow = Math.floor((y2 - 8) / step);
    for (let row = Math.max(0, Math.floor((y1 - step) / step)); row <= lastRow; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const at = row * columns + column;
        const { x: tx, y: ty } = this.#rect(at);
        if (at < this.ids.length && tx < x2 && tx + step - 8 > x1 && ty < y2 && ty + step - 8 > y1) {
          this.selected.add(this.ids[at]);
        }
      }
    }
    this.#selectionChanged();
  }

  #up(event) {
    const drag = this.#drag;
    this.#end();
    if (!drag || drag.moved) return;
    const at = this.#at(event);
    if (at === null) return this.selectNone();
    if (event.shiftKey) this.#range(at);
    else if (event.ctrlKey || event.metaKey || drag.touch) this.#toggle(at);
    else {
      const only = this.selected.size === 1 && this.selected.has(this.ids[at]);
      this.selected = new Set(only ? [] : [this.ids[at]]);
      this.#from = at;
    }
    this.focus = at;
    this.#selectionChanged();
    return undefined;
  }

  #end() {
    this.#drag = null;
    this.marquee.hidden = true;
  }

  #toggle(at) {
    const id = this.ids[at];
    if (!this.selected.delete(id)) this.selected.add(id);
    this.#from = at;
  }

  #range(at) {
    for (let i = Math.min(at, this.#from); i <= Math.max(at, this.#from); i += 1) this.selected.add(this.ids[i]);
  }

  #key(event) {
    const columns = this.#columns();
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -this.ids.length, End: this.ids.length, PageUp: -4 * columns, PageDown: 4 * columns }[event.key];
    if (step !== undefined) {
      if (!event.shiftKey) this.#from = Math.min(this.ids.length - 1, Math.max(0, this.focus + step));
      this.focus = Math.min(this.ids.length - 1, Math.max(0, this.focus + step));
      if (event.shiftKey) this.#range(this.focus);
    } else if (event.key === " ") this.#toggle(this.focus);
    else if (event.key === "Enter" && this.ids.length) this.on.open(this.ids[this.focus]);
    else if (event.key === "Escape") this.selected.clear();
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.selected = new Set(this.ids);
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.#selectionChanged();
    this.#reveal();
  }

  #reveal() {
    if (!this.ids.length) return;
    const { y } = this.#rect(this.focus);
    const side = this.#step() - 8;
    if (y < this.place.scrollTop) this.place.scrollTop = y - 8;
    else if (y + side > this.place.scrollTop + this.place.clientHeight) this.place.scrollTop = y + side + 8 - this.place.clientHeight;
    this.#draw();
    for (const [at, tile] of this.#tiles) tile.classList.toggle("focus", at === this.focus);
  }
}

const MARKED = 3; // So many alarms are marked on a thumbnail,
const NEAR = 0.6; // and of these the ones with at least this share of the highest score.

function strongest(boxes) {
  return boxes.slice(0, MARKED).filter((row) => row[4] === null || row[4] >= NEAR * boxes[0][4]);
}

// A box on a thumbnail, in shares of the picture.
export function marker([x1, y1, x2, y2], { width, height }) {
  const box = document.createElement("span");
  box.className = "marker";
  const share = (value, whole) => `${(100 * Math.min(whole, Math.max(0, value))) / whole}%`;
  box.style.left = share(x1, width);
  box.style.top = share(y1, height);
  box.style.right = share(width - x2, width);
  box.style.bottom = share(height - y2, height);
  return box;
}
