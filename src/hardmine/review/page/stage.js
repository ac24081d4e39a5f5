// One picture, large, with boxes on it: zoom, pan, pinch, and drawing a box.

const MAX_ZOOM = 24;
const TAGS = 6; // So many boxes get a tag with their class and score.
const MAX_ENLARGED = 4; // A small picture is not blown up by more than this to fill the stage.

export class Stage {
  #pointers = new Map();
  #drag = null;
  #hidden = false;

  constructor(canvas, { drawn, clicked, sharper, swiped }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.on = { drawn, clicked, sharper, swiped };
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.closeUp = null; // The view of one box; goes when another picture comes.
    this.picture = null;
    this.boxes = [];
    this.drawing = false;
    this.sketch = null;
    this.area = { w: 1, h: 1 };
    new ResizeObserver(([{ contentRect }]) => {
      this.area = { w: Math.max(1, contentRect.width), h: Math.max(1, contentRect.height) };
      this.paint();
    }).observe(canvas.parentElement);
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event));
    canvas.addEventListener("dblclick", () => this.fit());
  }

  // The boxes come next, by setBoxes, which paints.
  show(picture) {
    this.picture = picture;
    this.closeUp = null;
    this.sketch = null;
    this.boxes = [];
    if (picture === null) this.paint();
  }

  sharpen(picture) {
    this.picture = picture;
    this.paint();
  }

  setBoxes(boxes) {
    this.boxes = boxes;
    this.paint();
  }

  hideBoxes(hidden) {
    if (hidden === this.#hidden) return;
    this.#hidden = hidden;
    this.paint();
  }

  get boxesHidden() {
    return this.#hidden;
  }

  // The longest side that the stage shows of a picture, in the screen's own pixels; one of few sizes, so
  // that a window that grows a little does not need all pictures anew.
  get side() {
    const side = Math.max(this.area.w, this.area.h) * (window.devicePixelRatio || 1);
    return Math.min(2048, Math.max(1024, Math.ceil(side / 512) * 512));
  }

  fit() {
    this.closeUp = null;
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.paint();
  }

  zoomBy(factor, at = null) {
    const before = this.#now();
    const zoom = Math.min(MAX_ZOOM, Math.max(1, before.zoom * factor));
    let { x, y } = before;
    if (at !== null && this.picture) {
      const [px, py] = this.toImage(at.x, at.y);
      const ratio = before.zoom / zoom;
      x = px / this.picture.width + (x - px / this.picture.width) * ratio;
      y = py / this.picture.height + (y - py / this.picture.height) * ratio;
    }
    this.#set({ zoom, x, y });
  }

  // Zooms in on a box so that it fills half of the stage.
  closeUpOn([x1, y1, x2, y2]) {
    if (!this.picture) return;
    const { width, height } = this.picture;
    const fitted = this.#fitted();
    const { w, h } = this.#size();
    const wanted = 0.5 * Math.min(w / Math.max(1, x2 - x1), h / Math.max(1, y2 - y1));
    const zoom = Math.min(MAX_ZOOM, Math.max(1, wanted / fitted));
    this.closeUp = this.#inside({ zoom, x: (x1 + x2) / 2 / width, y: (y1 + y2) / 2 / height });
    this.paint();
  }

  wholePicture() {
    this.closeUp = null;
    this.paint();
  }

  toImage(x, y) {
    const { left, top, scale } = this.#place();
    return [(x - left) / scale, (y - top) / scale];
  }

  paint() {
    const { canvas, context, picture } = this;
    const ratio = window.devicePixelRatio || 1;
    const { w, h } = this.#size();
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, w, h);
    canvas.dataset.zoom = this.#now().zoom.toFixed(3);
    if (!picture) return;
    const { left, top, scale } = this.#place();
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = scale * ratio * picture.width < picture.bitmap.width ? "medium" : "low";
    context.drawImage(picture.bitmap, left, top, picture.width * scale, picture.height * scale);
    if (scale * ratio > (1.2 * picture.bitmap.width) / picture.width && picture.bitmap.width < picture.width) {
      this.on.sharper();
    }
    if (this.#hidden) return;
    const style = getComputedStyle(canvas);
    const ordered = [...this.boxes].map((box, at) => ({ ...box, at })).reverse();
    if (this.sketch) ordered.push({ box: this.sketch, kind: "drawn", text: "", at: 0, selected: true });
    ordered.sort((a, b) => Boolean(a.selected) - Boolean(b.selected));
    const place = { left, top, scale, w, h };
    for (const box of ordered) this.#outline(box, style, place);
    const taken = []; // The strongest box, which is drawn last, has the first choice of a place.
    for (const box of ordered.reverse()) this.#tag(box, style, place, taken);
  }

  #outline({ box, kind, selected, dim }, style, { left, top, scale }) {
    const { context } = this;
    const [x1, y1, x2, y2] = [left + box[0] * scale, top + box[1] * scale, left + box[2] * scale, top + box[3] * scale];
    const colour = style.getPropertyValue(`--${kind}`).trim();
    context.globalAlpha = dim ? 0.45 : 1;
    context.setLineDash([]);
    context.strokeStyle = "rgba(0, 0, 0, .55)";
    context.lineWidth = selected ? 6 : 4;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.strokeStyle = colour;
    context.lineWidth = selected ? 3.5 : 2;
    if (kind === "label" || kind === "lost") context.setLineDash([7, 5]);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  #tag({ box, kind, text, selected, at, dim }, style, { left, top, scale, w, h }, taken) {
    if (!text || (((kind === "alarm" && at >= TAGS) || dim) && !selected)) return;
    const { context } = this;
    const colour = style.getPropertyValue(`--${kind}`).trim();
    const [x1, y1] = [left + box[0] * scale, top + box[1] * scale];
    context.font = "600 13px system-ui, sans-serif";
    const wide = context.measureText(text).width + 12;
    const x = Math.max(0, Math.min(x1 - 1, w - wide));
    let y = y1 >= 22 ? y1 - 21 : Math.min(Math.max(0, y1), h - 20);
    const covers = (other) => x < other.x + other.wide && other.x < x + wide && Math.abs(y - other.y) < 20;
    for (let other = taken.find(covers); other; other = taken.find(covers)) {
      y = other.y + 21;
      if (y > h - 20) return; // No room; the list beside the picture names it.
    }
    taken.push({ x, y, wide });
    context.fillStyle = colour;
    context.fillRect(x, y, wide, 20);
    context.fillStyle = style.getPropertyValue("--on-mark").trim();
    context.textBaseline = "middle";
    context.fillText(text, x + 6, y + 10.5);
  }

  #now() {
    return this.closeUp ?? this.view;
  }

  #set(view) {
    const inside = this.#inside(view);
    if (this.closeUp) this.closeUp = inside;
    else this.view = inside;
    this.paint();
  }

  // Keeps the picture on the stage.
  #inside({ zoom, x, y }) {
    if (!this.picture) return { zoom, x, y };
    const { w, h } = this.#size();
    const scale = this.#fitted() * zoom;
    const limit = (value, shown, whole) => {
      const half = Math.min(0.5, shown / whole / 2);
      return Math.min(1 - half, Math.max(half, value));
    };
    return { zoom, x: limit(x, w, this.picture.width * scale), y: limit(y, h, this.picture.height * scale) };
  }

  #size() {
    return this.area;
  }

  #fitted() {
    const { w, h } = this.#size();
    return Math.min(MAX_ENLARGED, w / this.picture.width, h / this.picture.height);
  }

  #place() {
    const { w, h } = this.#size();
    const { zoom, x, y } = this.#inside(this.#now());
    const scale = this.#fitted() * zoom;
    return { left: w / 2 - x * this.picture.width * scale, top: h / 2 - y * this.picture.height * scale, scale };
  }

  #wheel(event) {
    event.preventDefault();
    const step = event.deltaMode === 1 ? event.deltaY * 20 : event.deltaY;
    this.zoomBy(Math.exp(-step / 300), { x: event.offsetX, y: event.offsetY });
  }

  #down(event) {
    this.canvas.setPointerCapture?.(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    this.#drag = { x: event.offsetX, y: event.offsetY, view: { ...this.#now() }, moved: false, touch: event.pointerType === "touch" };
  }

  #move(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer || !this.picture) return;
    const before = [...this.#pointers.values()].map((each) => ({ ...each }));
    pointer.x = event.offsetX;
    pointer.y = event.offsetY;
    if (this.#pointers.size === 2) {
      const after = [...this.#pointers.values()];
      const spread = (pair) => Math.hypot(pair[0].x - pair[1].x, pair[0].y - pair[1].y);
      const middle = { x: (after[0].x + after[1].x) / 2, y: (after[0].y + after[1].y) / 2 };
      this.#drag.moved = true;
      this.zoomBy(spread(after) / Math.max(1, spread(before)), middle);
      return;
    }
    const [dx, dy] = [pointer.x - this.#drag.x, pointer.y - this.#drag.y];
    if (Math.hypot(dx, dy) > 4) this.#drag.moved = true;
    if (!this.#drag.moved) return;
    if (this.drawing) {
      this.sketch = this.#sketched(pointer);
      this.paint();
      return;
    }
    const { scale } = this.#place();
    const { zoom, x, y } = this.#drag.view;
    this.#set({ zoom, x: x - dx / scale / this.picture.width, y: y - dy / scale / this.picture.height });
  }

  #up(event) {
    const pointer = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (!pointer || !this.#drag || !this.picture || this.#pointers.size > 0) return;
    const drag = this.#drag;
    this.#drag = null;
    if (this.drawing && drag.moved && this.sketch) {
      const box = this.sketch;
      this.sketch = null;
      this.paint();
      if (box[2] - box[0] >= 2 && box[3] - box[1] >= 2) this.on.drawn(box);
    } else if (!drag.moved) {
      this.#click(pointer);
    } else if (drag.touch && this.#now().zoom === 1 && Math.abs(pointer.x - drag.x) > 60) {
      this.on.swiped(pointer.x < drag.x ? 1 : -1);
    }
  }

  #sketched(pointer) {
    const [ax, ay] = this.toImage(this.#drag.x, this.#drag.y);
    const [bx, by] = this.toImage(pointer.x, pointer.y);
    const { width, height } = this.picture;
    const keep = (value, most) => Math.min(most, Math.max(0, value));
    return [
      keep(Math.min(ax, bx), width), keep(Math.min(ay, by), height),
      keep(Math.max(ax, bx), width), keep(Math.max(ay, by), height),
    ];
  }

  #click({ x, y }) {
    const [px, py] = this.toImage(x, y);
    const hit = this.boxes
      .map((each, at) => ({ each, at, area: (each.box[2] - each.box[0]) * (each.box[3] - each.box[1]) }))
      .filter(({ each: { box } }) => box[0] <= px && px <= box[2] && box[1] <= py && py <= box[3])
      .sort((a, b) => a.area - b.area)[0];
    this.on.clicked(hit === undefined ? null : hit.at);
  }
}
