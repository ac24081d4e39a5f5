// What every key does; each can be changed, and is kept in this browser.

const STORED = "hardmine.keys";

// name, key, what it does, heading
export const ACTIONS = [
  ["empty", "e", "Empty: a true negative", "Verdict"],
  ["object", "o", "Object: it is really there; then draw a box, accept an alarm, or go on", "Verdict"],
  ["object_on", "Shift+o", "Object, and go on at once", "Verdict"],
  ["ignore", "i", "Ignore: an unusable picture", "Verdict"],
  ["unsure", "u", "Unsure", "Verdict"],
  ["similar", "m", "Decide on the similar pictures too, or not", "Verdict"],
  ["undo", "z", "Undo, and go there", "Verdict"],
  ["previous", "ArrowLeft", "The picture before", "Browse"],
  ["next", "ArrowRight", "The picture after", "Browse"],
  ["undecided", "n", "The next picture without a verdict", "Browse"],
  ["grid", "g", "Grid, or one picture", "Browse"],
  ["filter", "/", "Filter", "Browse"],
  ["queue", "q", "The next list", "Browse"],
  ["box", "Tab", "The next alarm, zoomed in", "Look"],
  ["box_back", "Shift+Tab", "The alarm before", "Look"],
  ["zoom_in", "+", "Zoom in", "Look"],
  ["zoom_out", "-", "Zoom out", "Look"],
  ["fit", "0", "The whole picture", "Look"],
  ["hide", "h", "Hide the boxes while held", "Look"],
  ["weaker", "w", "Show the weaker alarms too, or not", "Look"],
  ["accept", "a", "The alarm is the object", "Label, after Object"],
  ["new_box", "b", "A new box; the arrows move it, with Shift they change its size", "Label, after Object"],
  ["delete_box", "Delete", "Delete the box", "Label, after Object"],
  ["finish", "Enter", "Go on to the next picture", "Label, after Object"],
  ["theme", "t", "Dark or light", "Page"],
  ["help", "?", "All keys", "Page"],
];

const SHOWN = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space", Delete: "Del", Escape: "Esc",
};

export function shown(key) {
  const shift = key.startsWith("Shift+") ? "⇧ " : "";
  const plain = key.replace("Shift+", "");
  return shift + (SHOWN[plain] ?? (plain.length === 1 ? plain.toUpperCase() : plain));
}

// The name of a key as it is stored: "e", "Shift+e", "?", "ArrowLeft", "Shift+Tab".
export function nameOf(event) {
  if (event.key.length === 1) {
    const letter = event.key.toLowerCase() !== event.key.toUpperCase();
    return letter ? (event.shiftKey ? "Shift+" : "") + event.key.toLowerCase() : event.key;
  }
  return (event.shiftKey ? "Shift+" : "") + event.key;
}

export class Keys {
  constructor() {
    this.changed = {};
    try {
      this.changed = JSON.parse(localStorage.getItem(STORED)) ?? {};
    } catch { /* a browser that keeps nothing */ }
    this.#index();
  }

  #index() {
    this.keyOf = new Map(ACTIONS.map(([name, key]) => [name, this.changed[name] ?? key]));
    this.actionOf = new Map([...this.keyOf].map(([name, key]) => [key, name]));
  }

  action(event) {
    const key = nameOf(event);
    const found = this.actionOf.get(key);
    if (found !== undefined) return found;
    // The same key without the shift that some keyboards need, and the other key that deletes.
    const other = { "=": "+", _: "-", Backspace: "Delete" }[key];
    return other === undefined ? undefined : this.actionOf.get(other);
  }

  // Returns what is wrong with a key, or nothing once it is set.
  set(name, key) {
    const holder = this.actionOf.get(key);
    if (holder !== undefined && holder !== name) {
      const [, , words] = ACTIONS.find(([other]) => other === holder);
      return `${shown(key)} is the key of “${words}”; give that one another key first.`;
    }
    if (["Escape", "Shift", "Control", "Alt", "Meta"].includes(key.replace("Shift+", ""))) {
      return `${shown(key)} cannot be used.`;
    }
    this.changed[name] = key;
    this.#keep();
    return "";
  }

  reset() {
    this.changed = {};
    this.#keep();
  }

  #keep() {
    try {
      localStorage.setItem(STORED, JSON.stringify(this.changed));
    } catch { /* a browser that keeps nothing */ }
    this.#index();
  }
}
