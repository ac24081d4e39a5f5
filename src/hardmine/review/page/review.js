// The review page: which picture is shown, what was said of it, and what the keys do.

import { Grid, marker } from "./grid.js";
import { ACTIONS, Keys, nameOf, shown } from "./keys.js";
import { Pictures, Refused, Server, Thumbnails } from "./server.js";
import { Stage } from "./stage.js";

const VERDICTS = { empty: "empty", object: "contains_object", ignore: "ignore", unsure: "unsure" };
const CODES = { 0: "", 1: "empty", 2: "object", 3: "ignore", 4: "unsure", 5: "labelled" };
const CODE_OF = { empty: "1", contains_object: "2", ignore: "3", unsure: "4" };
const WORDS = { empty: "Empty", contains_object: "Object", ignore: "Ignore", unsure: "Unsure" };
const OF_LABELS = { empty: "Right", contains_object: "Wrong" }; // What they are called where labels are judged.
const STRONG = 8; // So many alarms are shown until the weaker ones are asked for,
const NEAR = 0.6; // and of these the ones with at least this share of the highest score.
const AHEAD = 5;
const MOST = 5000; // Pictures of one decision; the server takes no more.

const $ = (id) => document.getElementById(id);
const server = new Server();
const pictures = new Pictures(14);
const thumbnails = new Thumbnails();
const keys = new Keys();
const details = new Map();
const outdated = new Set(); // Their details are read again, and count until then.

let list = null; // Columns of the whole list.
let verdict = []; // A code for each picture.
let seen = []; // The number of the latest decision that this page knows of, for each picture.
let members = new Map(); // Similar pictures by the one that stands for them.
let cursor = 0;
let queue = null;
let order = []; // The pictures of this list that the filter lets through.
let placeOf = new Int32Array(0); // The place in the order of each picture; -1 for those not in it.
let undecided = new Map(); // How many pictures of each list have no verdict.
let decided = 0; // How many pictures of the order have a verdict.
let at = 0; // The place in the order.
let filter = emptyFilter();
let found = null; // Pictures whose name fits the filter.
let sort = ""; // A key of SORTS.
let box = -1; // The alarm that Tab has chosen.
let weaker = false;
let label = null; // The boxes that are being drawn: {id, boxes, chosen}.
let saving = false;
let saved = Promise.resolve(); // Over when the decision that is being saved is.
let view = "single";
let progress = null;
let pendingLabel = 0;
let started = false; // A picture has been shown.
let advised = false; // The page has said that further candidates bring little.

function emptyFilter() {
  return { verdicts: null, class: "", round: "", group: "", low: "", high: "", name: "" };
}

// How two pictures are ordered; without a sort they come as they were handed out.
const SORTS = {
  "": null,
  high: (a, b) => (list.score[b] ?? -1) - (list.score[a] ?? -1) || a - b,
  low: (a, b) => (list.score[a] ?? 2) - (list.score[b] ?? 2) || a - b,
  group: (a, b) => groupRank[list.group[a]] - groupRank[list.group[b]] || a - b,
};
let groupRank = []; // The place of each group when they are sorted by name.

const stage = new Stage($("canvas"), {
  drawn: (drawn) => addBox(drawn),
  clicked: (hit) => clickBox(hit),
  sharper: () => loadSharp(),
  swiped: (way) => act(way > 0 ? "next" : "previous"),
});

const grid = new Grid($("tiles"), $("tiles-space"), $("marquee"), {
  thumbnail: (id) => thumbnails.get(id),
  details: (ids) => getDetails(ids),
  describe: (id) => ({
    code: CODES[verdict[id]] || "undecided",
    text: wordOfCode(verdict[id]) || (list.score[id] === null ? "" : score(list.score[id])),
    count: members.get(id)?.length ?? 0,
    name: details.get(id)?.name ?? `picture ${id + 1}`,
  }),
  open: (id) => { show(placeOf[id]); setView("single"); },
  changed: () => gridText(),
});

// ---- Start, list, progress

async function start() {
  const [session] = await Promise.all([server.start(), loadList()]);
  $("store-text").textContent = `Decisions are written to ${session.store}.`;
  $("who").placeholder = session.who;
  document.title = `Review · ${session.pool.split("/").pop() || session.pool}`;
  $("class-choice").replaceChildren(...session.classes.map((name) => option(name, name)));
  $("class-label").hidden = session.classes.length < 2;
  if (!session.queues.length) {
    $("question").textContent = "There is nothing to look at: no image of this run was handed out.";
    return;
  }
  const kept = wordsOfReload(session.store);
  if (kept !== null) history.replaceState(null, "", `#${kept}`);
  await restore(location.hash.slice(1));
  addEventListener("hashchange", () => { restore(location.hash.slice(1)); });
  setInterval(poll, 3000);
  poll();
}

async function loadList() {
  const columns = await server.get("/api/list");
  list = columns.fixed;
  verdict = [...columns.verdict];
  seen = new Array(verdict.length).fill(0);
  for (const [id, number] of Object.entries(columns.seen)) seen[id] = number;
  cursor = columns.cursor;
  groupRank = [];
  list.groups.map((name, i) => [name, i]).sort().forEach(([, i], rank) => { groupRank[i] = rank; });
  members = new Map();
  undecided = new Map();
  list.leader.forEach((leader, id) => {
    if (leader >= 0) members.set(leader, [...(members.get(leader) ?? []), id]);
    else if (verdict[id] === "0") count(id, 1);
  });
}

function count(id, more) {
  const name = list.queues[list.queue[id]];
  undecided.set(name, (undecided.get(name) ?? 0) + more);
}

function queueNow() {
  return server.session.queues.find((each) => each.name === queue);
}

function setQueue(name, id = null) {
  queue = name;
  drawQueues();
  reorderOrShowAll();
  const place = id === null ? -1 : (placeOf[id] ?? -1);
  const first = order.findIndex((each) => verdict[each] === "0");
  show(place >= 0 ? place : Math.max(0, first));
  if (view === "grid") grid.show(order, order[at]);
  else if (place < 0 && first < 0) showDone();
}

function drawQueues() {
  $("queues").replaceChildren(...server.session.queues.map((each) => {
    const button = element("button", "", each.title);
    button.type = "button";
    button.title = each.help;
    button.setAttribute("aria-current", String(each.name === queue));
    button.append(element("span", "count", number(undecided.get(each.name) ?? 0)));
    button.addEventListener("click", () => { leaveLabel(); setQueue(each.name); setView("single"); });
    return button;
  }));
  const now = $("queues").querySelector('[aria-current="true"]'); // Beside others on a phone.
  if (now) $("queues").scrollLeft = now.offsetLeft - $("queues").offsetLeft - 40;
}

function reorder() {
  const number = list.queues.indexOf(queue);
  order = [];
  placeOf = new Int32Array(verdict.length).fill(-1);
  decided = 0;
  list.queue.forEach((each, id) => {
    if (each !== number || list.leader[id] >= 0 || !passes(id)) return;
    order.push(id);
    decided += verdict[id] !== "0";
  });
  if (SORTS[sort]) order.sort(SORTS[sort]);
  order.forEach((id, place) => { placeOf[id] = place; });
  const filtered = JSON.stringify(filter) !== JSON.stringify(emptyFilter());
  $("filter-button").setAttribute("aria-pressed", String(filtered));
}

// An empty list helps nobody: a filter that nothing fits is dropped.
function reorderOrShowAll() {
  reorder();
  if (order.length) return;
  say("No picture fits this filter; all are shown.", "warning");
  filter = emptyFilter();
  found = null;
  reorder();
}

function passes(id) {
  const { verdicts, low, high } = filter;
  if (verdicts && !verdicts.includes(verdict[id])) return false;
  if (filter.class && list.classes[list.class[id]] !== filter.class) return false;
  if (filter.round && list.rounds[list.round[id]] !== filter.round) return false;
  if (filter.group && list.groups[list.group[id]] !== filter.group) return false;
  if ((low !== "" || high !== "") && list.score[id] === null) return false; // Drawn at random: no model ranked it.
  if (low !== "" && !(list.score[id] >= Number(low))) return false;
  if (high !== "" && !(list.score[id] <= Number(high))) return false;
  return found === null || found.has(id);
}

async function poll() {
  try {
    const told = await server.get(`/api/changes?run=${server.session.run}&after=${cursor}&queue=${queue}`);
    if (told.restarted) return await restarted();
    cursor = told.cursor;
    const here = apply(told.changes).has(order[at]);
    progress = told.progress;
    document.body.classList.toggle("scanning", told.scanning);
    if (here && !saving) {
      await getDetails([order[at]]);
      drawFacts();
      drawVerdicts();
    }
    if (told.changes.length) drawStrip();
    drawProgress();
    if ($("notice").dataset.kind === "gone") say("The server answers again.");
  } catch (error) {
    if (error instanceof Refused && error.status === 401) say(error.message, "gone");
    else if (!(error instanceof Refused)) say("The server does not answer. What was decided is kept; start hardmine review again, and this page goes on.", "gone");
  }
  return undefined;
}

// A server that was started again has another key, and its list may have grown.
async function restarted() {
  const path = details.get(order[at])?.path;
  await server.start();
  await loadList();
  details.clear();
  pictures.forget();
  thumbnails.forget();
  reorder();
  const now = order[at] === undefined ? null : (await getDetails([order[at]])).get(order[at])?.path;
  show(now === path ? at : Math.max(0, order.findIndex((id) => verdict[id] === "0")));
  if (view === "grid") grid.show(order, order[at]);
  drawQueues();
  return now === path;
}

function wordOf(said, of = queue) {
  return (of === "labels" && OF_LABELS[said]) || WORDS[said];
}

// The same for a code, in small letters: "empty", "labelled", "right"; "" for none.
function wordOfCode(code) {
  const said = Object.keys(CODE_OF).find((each) => CODE_OF[each] === code);
  return (queue === "labels" && OF_LABELS[said]?.toLowerCase()) || CODES[code];
}

function setVerdict(id, code) {
  const closed = (code !== "0") - (verdict[id] !== "0");
  verdict[id] = code;
  if (list.leader[id] < 0) count(id, -closed);
  if (placeOf[id] >= 0) decided += closed;
}

// Takes in changes; returns the pictures that they are about.
function apply(changes) {
  const touched = new Set();
  for (const [id, code, number] of changes) {
    setVerdict(id, code);
    seen[id] = number;
    touched.add(id);
    outdated.add(id);
  }
  if (touched.size) {
    if (view === "grid") grid.refresh(touched);
    drawQueues();
  }
  return touched;
}

function drawProgress() {
  const all = order.length;
  const done = decided;
  $("bar").setAttribute("aria-valuemax", String(all));
  $("bar").setAttribute("aria-valuenow", String(done));
  $("bar-done").style.width = `${all ? (100 * done) / all : 0}%`;
  const parts = [`${number(done)} of ${number(all)}`];
  if (progress?.seconds) {
    parts.push(`${number(Math.round(60 / progress.seconds))} per minute`);
    if (done < all) parts.push(`${duration(progress.seconds * (all - done))} left`);
  }
  if (document.body.classList.contains("scanning")) parts.push("a run is using this store");
  const advice = (done < all && progress?.advice?.[0]) || "";
  if (advice) parts.push("more of these bring little");
  $("pace").textContent = parts.join(" · ");
  if (advice && !advised && !$("notice").textContent) {
    advised = true;
    say(advice, "advice");
  }
  $("bar").title = $("pace").title = advice;
}

// ---- One picture

async function getDetails(ids) {
  const missing = ids.filter((id) => !details.has(id) || outdated.has(id));
  for (let from = 0; from < missing.length; from += 100) {
    const some = missing.slice(from, from + 100);
    for (const id of some) outdated.delete(id); // A decision that comes meanwhile marks it again.
    try {
      for (const each of await server.get(`/api/images?ids=${some.join(",")}`)) details.set(each.id, each);
    } catch (error) {
      for (const id of some) outdated.add(id);
      throw error;
    }
  }
  if (details.size > 3000) {
    for (const id of [...details.keys()].slice(0, 1000)) if (!ids.includes(id)) details.delete(id);
  }
  return details;
}

function picturePath(id, full = false) {
  const stamp = details.get(id)?.stamp ?? "";
  return full ? `/picture/${id}/full?v=${encodeURIComponent(stamp)}` : `/picture/${id}?side=${stage.side}&v=${encodeURIComponent(stamp)}`;
}

// Shows a place of the order; resolves when the picture is painted.
async function show(place, began = null) {
  if (place < 0 || place >= order.length) return;
  leaveLabel();
  at = place;
  const id = order[at];
  box = -1;
  $("done").hidden = true;
  if (view === "single") $("single").hidden = false;
  $("question").textContent = queueNow().question;
  $("fault").hidden = true;
  drawVerdicts();
  drawStrip(false); // Its thumbnails come after the picture.
  drawProgress();
  remember();
  const waiting = setTimeout(() => { if (order[at] === id) $("loading").hidden = false; }, 150);
  try {
    await getDetails([id]);
    if (order[at] !== id) return;
    const entry = pictures.get(picturePath(id));
    const picture = entry.ready ? entry.value : await entry.promise;
    if (order[at] !== id) return;
    stage.show(picture);
    $("canvas").dataset.picture = String(id);
    drawFacts();
    if (!started) performance.mark("first picture");
    started = true;
    setFault(details.get(id).fault);
    if (began !== null) {
      requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => performance.measure("decision to next picture", { start: began, end: performance.now() });
        channel.port2.postMessage(0);
      });
    }
  } catch (error) {
    if (order[at] !== id) return;
    stage.show(null);
    $("canvas").dataset.picture = String(id);
    drawFacts();
    setFault(details.get(id)?.fault || `This picture cannot be shown: ${error.message}`);
  } finally {
    clearTimeout(waiting);
    if (order[at] === id) $("loading").hidden = true;
  }
  fillStrip();
  ahead();
}

function setFault(text) {
  $("fault").textContent = text;
  $("fault").hidden = !text;
}

// Loads the pictures that come next, and the one before.
async function ahead() {
  const wanted = [];
  for (let place = at + 1; place < order.length && wanted.length < AHEAD; place += 1) {
    if (verdict[order[place]] === "0" || place === at + 1) wanted.push(order[place]);
  }
  if (at > 0) wanted.push(order[at - 1]);
  const here = order[at];
  try {
    await getDetails(wanted);
    for (const id of wanted) {
      if (order[at] !== here) return;
      await pictures.get(picturePath(id)).promise.catch(() => {});
    }
  } catch { /* shown when its turn comes */ }
}

async function loadSharp() {
  const id = order[at];
  const path = picturePath(id, true);
  try {
    const picture = await pictures.get(path).promise;
    if (order[at] === id && stage.picture !== picture) stage.sharpen(picture);
  } catch { /* the smaller one stays */ }
}

function shownAlarms() {
  return alarmsOf(details.get(order[at])?.boxes ?? [], weaker);
}

function alarmsOf(all, withWeaker) {
  return withWeaker ? all : all.slice(0, STRONG).filter((row) => row[4] >= NEAR * all[0][4]);
}

function drawFacts() {
  const found = details.get(order[at]);
  if (!found) return;
  const alarms = shownAlarms();
  const boxes = alarms.map((row, i) => ({
    box: row.slice(0, 4), kind: "alarm", text: `${row[5]} ${score(row[4])}`, selected: i === box, dim: label !== null || (box >= 0 && i !== box),
  }));
  for (const row of found.labels) {
    const kind = row[4] === 0 ? "lost" : "label";
    boxes.push({ box: row.slice(0, 4), kind, text: kind === "lost" ? `${row[5]}: not found` : row[5] });
  }
  const drawn = label ? label.boxes : found.drawn;
  drawn.forEach((row, i) => boxes.push({
    box: row.slice(0, 4), kind: "drawn", text: row[row.length - 1], selected: label !== null && i === label.chosen,
  }));
  stage.setBoxes(boxes);
  $("name").textContent = found.name;
  $("name").title = found.path;
  const where = [`${at + 1} of ${number(order.length)}`];
  if (found.round) where.push(`round ${found.round}`);
  if (found.group && found.group !== "." && list.groups.length > 1) where.push(found.group);
  if (found.score === null) where.push("drawn at random");
  if (found.labels.length) {
    const lost = found.labels.filter((row) => row[4] === 0).length;
    where.push(`${found.labels.length} ${found.labels.length === 1 ? "label" : "labels"}${lost ? `, ${lost} not found` : ""}`);
  }
  $("where").textContent = where.join(" · ");
  $("alarms").replaceChildren(...alarms.map((row, i) => {
    const button = element("button", i === box ? "chosen" : "", `${row[5]} ${score(row[4])}`);
    button.type = "button";
    button.addEventListener("click", () => { choose(i === box ? -1 : i); });
    const line = document.createElement("li");
    line.append(button);
    return line;
  }));
  const strong = alarmsOf(found.boxes, false).length;
  const rest = found.boxes.length - strong;
  const many = rest === 1 ? "1 weaker alarm" : `${rest} weaker alarms`;
  $("weaker").hidden = rest === 0;
  $("weaker-text").textContent = weaker ? "Strong alarms only" : `Show ${many}`;
  drawSimilar(found);
  drawHistory(found);
  describe(found);
}

function drawSimilar(found) {
  $("similar").hidden = found.members.length === 0;
  if (!found.members.length) return;
  const count = found.members.length;
  $("similar-text").textContent = `Decide together with ${count} similar ${count === 1 ? "picture" : "pictures"}: near-copies, or the same alarm in the same place`;
  const place = $("similar-pictures");
  if (place.dataset.of === String(found.id)) return;
  place.dataset.of = String(found.id);
  place.replaceChildren(...found.members.slice(0, 24).map((id) => thumbnail(id)));
  if (count > 24) place.append(element("p", "quiet", `and ${count - 24} more`));
}

function thumbnail(id) {
  const frame = element("figure", "frame", "");
  thumbnails.get(id).then(async (thumb) => {
    const img = document.createElement("img");
    img.src = thumb.url;
    const found = (await getDetails([id])).get(id);
    img.alt = found.name;
    frame.title = found.name;
    frame.style.aspectRatio = `${thumb.width} / ${thumb.height}`;
    frame.append(img, ...found.boxes.slice(0, 3).map((row) => marker(row, thumb)));
  }, () => { frame.textContent = "cannot be shown"; });
  return frame;
}

function drawHistory(found) {
  $("history-box").hidden = found.history.length === 0;
  $("history").replaceChildren(...found.history.map((said) => {
    const boxes = said.boxes ? `, ${said.boxes} ${said.boxes === 1 ? "box" : "boxes"}` : "";
    return element("li", "", `${wordOf(said.verdict)}${boxes}: ${said.who}, ${said.when.slice(0, 16).replace("T", " ")}`);
  }));
}

let spokenOf = null; // The list whose question has been spoken.

function describe(found) {
  const first = found.boxes[0];
  const alarms = found.boxes.length === 1 ? "1 alarm" : `${found.boxes.length} alarms`;
  const text = `${found.name}, ${at + 1} of ${order.length}. ${alarms}${first ? `, the strongest ${first[5]} ${score(first[4])}` : ""}. ${wordOfCode(verdict[found.id]) || "undecided"}.`;
  $("canvas").setAttribute("aria-label", text);
  $("spoken").textContent = spokenOf === queue ? text : `${queueNow().question} ${text}`;
  spokenOf = queue;
}

function drawVerdicts() {
  const code = verdict[order[at]];
  for (const button of $("verdicts").children) {
    const name = button.dataset.action;
    const on = CODES[code] === name || (code === "5" && name === "object");
    button.setAttribute("aria-pressed", String(on));
  }
  const labels = queue === "labels";
  for (const word of document.querySelectorAll("[data-word]")) word.textContent = wordOf(VERDICTS[word.dataset.word]);
  $("verdicts").querySelector(".empty span").textContent = labels ? "the labels are right" : "a true negative";
  $("verdicts").querySelector(".object span").textContent = labels ? "a box is missing or wrong" : "it is really there";
}

function drawStrip(filled = true) {
  const strip = $("filmstrip");
  const side = Math.max(2, Math.floor(stripWidth / 92 / 2));
  const from = Math.max(0, Math.min(at - side, order.length - 2 * side - 1));
  const places = [];
  for (let place = from; place < Math.min(order.length, from + 2 * side + 1); place += 1) places.push(place);
  const old = new Map([...strip.children].map((each) => [each.dataset.id, each]));
  strip.replaceChildren(...places.map((place) => {
    const id = order[place];
    const button = old.get(String(id)) ?? frameOf(id);
    button.dataset.verdict = CODES[verdict[id]] || "undecided";
    button.setAttribute("aria-current", String(place === at));
    button.setAttribute("aria-label", `Picture ${place + 1}, ${wordOfCode(verdict[id]) || "undecided"}`);
    return button;
  }));
  if (filled) fillStrip();
}

function fillStrip() {
  for (const img of $("filmstrip").querySelectorAll("img[data-src]")) {
    img.src = img.dataset.src;
    delete img.dataset.src;
  }
}

let stripWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  stripWidth = contentRect.width;
  if (order.length && view === "single") drawStrip();
}).observe($("filmstrip"));

function frameOf(id) {
  const button = element("button", "", "");
  button.type = "button";
  button.tabIndex = -1;
  button.dataset.id = String(id);
  button.addEventListener("click", () => { show(placeOf[id]); });
  const img = document.createElement("img");
  img.alt = "";
  img.decoding = "async";
  img.addEventListener("error", () => { button.classList.add("broken"); });
  img.dataset.src = `/thumbnail/${id}?v=${server.session.run}`;
  button.append(img);
  return button;
}

// ---- Deciding

function group(ids) {
  if (!$("similar-on").checked) return ids;
  return [...ids, ...ids.flatMap((id) => members.get(id) ?? [])];
}

// Sends a decision until the server has it on disk; returns what it changed, or null where it was not taken.
async function send(body) {
  for (;;) {
    try {
      const told = await server.post("/api/decide", body);
      if (["gone", "busy"].includes($("notice").dataset.kind)) say("");
      return apply(told.changes);
    } catch (error) {
      if (error instanceof Refused && error.status === 409) return conflict(error.body.conflicts, body);
      if (error instanceof Refused && error.status === 403) {
        if (await restarted()) continue;
        say("The list has changed since the server was started again: please decide once more.", "warning");
        return null;
      }
      if (error instanceof Refused && ![503, 507].includes(error.status)) {
        say(`Not saved: ${error.message}`, "warning");
        return null;
      }
      const why = error instanceof Refused ? error.message : "the server does not answer; start hardmine review again";
      say(`Not saved yet: ${why}. This is tried again every second.`, error instanceof Refused ? "busy" : "gone");
      await new Promise((done) => { setTimeout(done, 1000); });
    }
  }
}

function conflict(conflicts, body) {
  for (const said of conflicts) {
    const item = body.images.find((each) => each.id === said.id);
    seen[said.id] = said.number;
    setVerdict(said.id, CODE_OF[said.verdict]);
    outdated.add(said.id);
    if (item) item.seen = said.number;
  }
  const { who, verdict: other } = conflicts[0];
  const more = conflicts.length > 1 ? ` (and ${conflicts.length - 1} more)` : "";
  say(`${who} has decided “${wordOf(other)}” in the meantime${more}. Press the key again to replace it.`, "warning");
  apply([]);
  if (view === "grid") grid.refresh();
  else getDetails([order[at]]).then(() => { drawFacts(); drawVerdicts(); drawStrip(); });
  return null;
}

function bodyOf(ids, name, boxes = null) {
  return {
    images: ids.map((id) => ({ id, seen: seen[id], ...(boxes && id === ids[0] ? { boxes } : {}) })),
    verdict: VERDICTS[name],
    who: $("who").value,
    shown: view === "grid" ? 3 : stage.boxesHidden ? 0 : shownAlarms().length,
  };
}

function decide(name, began, onward = true) {
  const before = saving;
  const done = decideHere(name, began, onward);
  if (saving && !before) saved = done;
  return done;
}

async function decideHere(name, began, onward) {
  if (saving || !order.length) return;
  if (view === "grid") return void decideMany(name);
  if (!$("done").hidden) return;
  const id = order[at];
  if (Number($("canvas").dataset.picture) !== id) return; // Nobody has seen it yet.
  if (name === "object" && label !== null && onward === false) return void finish(began);
  saving = true;
  try {
    await flushLabel();
    leaveLabel();
    const ids = group([id]);
    const known = name === "object" && ids.every((each) => verdict[each] === "2" || verdict[each] === "5");
    const touched = known ? new Set() : await send(bodyOf(ids, name)); // Boxes that were drawn stay.
    if (touched === null) return;
    tell(name, ids.length);
    flash(name);
    if (name === "object" && !onward) {
      await getDetails([id]);
      enterLabel(id);
      drawVerdicts();
      drawStrip();
      drawFacts();
      return;
    }
    next(began);
  } finally {
    saving = false;
  }
}

function tell(name, count) {
  if ($("notice").dataset.kind !== "advice") say(count > 1 ? `${wordOf(VERDICTS[name])}: ${count} pictures.` : "");
}

// A short frame in the verdict's colour: what was pressed, seen without looking away.
function flash(name) {
  const stage_ = $("stage");
  stage_.dataset.flash = name;
  setTimeout(() => { delete stage_.dataset.flash; }, 180);
}

function next(began = null) {
  const n = order.length;
  for (let step = 1; step <= n; step += 1) {
    const place = (at + step) % n;
    if (verdict[order[place]] === "0") return void show(place, began);
  }
  return void showDone();
}

async function decideMany(name) {
  const chosen = grid.chosen();
  const ids = group(chosen);
  if (!ids.length) return;
  if (ids.length > MOST) {
    say(`${number(ids.length)} pictures are more than the ${number(MOST)} that can be decided together.`, "warning");
    return;
  }
  if (ids.length > chosen.length && !(await preview(name, chosen, ids))) return;
  saving = true;
  try {
    const touched = await send(bodyOf(ids, name));
    if (touched === null) return;
    say(`${wordOf(VERDICTS[name])}: ${ids.length === 1 ? "1 picture" : `${number(ids.length)} pictures`}. ${shown(keys.keyOf.get("undo"))} takes it back.`);
    const last = chosen[chosen.length - 1];
    grid.selected.clear();
    const start = placeOf[last];
    const place = order.findIndex((id, i) => i > start && verdict[id] === "0");
    grid.focus = place >= 0 ? place : start;
    grid.refresh();
    gridText();
    drawProgress();
  } finally {
    saving = false;
  }
}

function preview(name, chosen, ids) {
  const dialog = $("preview");
  $("preview-title").textContent = `${wordOf(VERDICTS[name])} for these ${ids.length} pictures: ${chosen.length} chosen, and ${ids.length - chosen.length} similar to them?`;
  const shownIds = ids.slice(0, 60);
  $("preview-pictures").replaceChildren(...shownIds.map((id) => thumbnail(id)));
  if (ids.length > shownIds.length) $("preview-pictures").append(element("p", "quiet", `and ${ids.length - shownIds.length} more`));
  dialog.returnValue = "no";
  dialog.showModal();
  $("preview-yes").focus();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}

async function undo() {
  if (saving) return;
  saving = true;
  try {
    await flushLabel();
    leaveLabel();
    const told = await server.post("/api/undo", { who: $("who").value });
    if (!told.action) return say("There is nothing of yours to take back.");
    apply(told.changes);
    await goTo(told.ids);
    const name = details.get(order[at])?.name ?? "";
    const more = told.images > 1 ? ` and ${told.images - 1} more` : "";
    say(`Taken back: “${wordOf(told.verdict, told.queue)}” on ${name}${more}.`);
  } catch (error) {
    say(error instanceof Refused ? `Not taken back: ${error.message}` : "The server does not answer: nothing was taken back.", "warning");
  } finally {
    saving = false;
  }
  return undefined;
}

async function goTo(ids) {
  const leaders = ids.map((id) => (list.leader[id] >= 0 ? list.leader[id] : id));
  const wanted = leaders.find((id) => list.queues[list.queue[id]] === queue) ?? leaders[0];
  if (wanted === undefined) return;
  if (list.queues[list.queue[wanted]] !== queue) queue = list.queues[list.queue[wanted]];
  if (!(placeOf[wanted] >= 0)) {
    filter = emptyFilter();
    found = null;
  }
  drawQueues();
  reorder();
  if (view === "grid") grid.show(order, wanted);
  await show(placeOf[wanted]);
}

function showDone() {
  $("single").hidden = true;
  $("done").hidden = false;
  const counts = new Map();
  for (const id of order) counts.set(verdict[id], (counts.get(verdict[id]) ?? 0) + 1);
  $("done-title").textContent = `All ${number(order.length)} pictures here have a verdict.`;
  $("done-counts").replaceChildren(...[...counts].map(([code, count]) => element("li", CODES[code], `${number(count)} ${wordOfCode(code)}`)));
  const other = server.session.queues.find((each) => each.name !== queue && undecided.get(each.name) > 0);
  $("done-next").textContent = other ? `The list “${other.title}” still has pictures without a verdict.` : "This page can be closed: every decision is on the disk.";
  const toLabel = counts.get("2") ?? 0;
  $("done-label").hidden = !toLabel || queue === "labels";
  const some = toLabel === 1 ? "1 picture holds an object and has" : `${number(toLabel)} pictures hold an object and have`;
  $("done-label").replaceChildren(`${some} no box yet. For a labelling program: `, element("code", "", server.session.export));
  $("done-command").hidden = Boolean(other);
  $("done-command").replaceChildren(
    server.session.next.includes(" loop ") ? "The loop goes on with: " : "Into your own data: ", element("code", "", server.session.next),
  );
  drawProgress();
  $("done-back").focus();
}

// ---- Boxes

function choose(i) {
  const alarms = shownAlarms();
  box = i;
  if (box >= 0 && box < alarms.length) stage.closeUpOn(alarms[box]);
  else stage.wholePicture();
  drawFacts();
}

function clickBox(hit) {
  const alarms = shownAlarms().length;
  if (hit === null) box = -1;
  else if (hit < alarms) box = box === hit ? -1 : hit;
  else if (label) label.chosen = hit - alarms - (details.get(order[at])?.labels.length ?? 0);
  drawFacts();
}

function enterLabel(id) {
  label = { id, boxes: (details.get(id)?.drawn ?? []).map((row) => [...row.slice(0, 4), row[5]]), chosen: -1 };
  stage.drawing = true;
  document.body.classList.add("labelling");
  labelText();
}

function leaveLabel() {
  if (!label) return;
  flushLabel();
  label = null;
  stage.drawing = false;
  document.body.classList.remove("labelling");
  $("label-bar").hidden = true;
}

function labelText() {
  $("label-bar").hidden = false;
  const count = label.boxes.length;
  const has = count ? `${count} ${count === 1 ? "box" : "boxes"}: labelled.` : "Saved: to be labelled later.";
  $("label-text").textContent = `${has} Or drag a box${label.chosen >= 0 ? "; the arrows move this one" : ""}.`;
}

function addBox(rectangle, name = null) {
  if (!label) return;
  label.boxes.push([...rectangle.map((value) => Math.round(value * 100) / 100), name ?? $("class-choice").value]);
  label.chosen = label.boxes.length - 1;
  labelChanged(0);
}

function accept() {
  if (!label) {
    if (verdict[order[at]] !== "2" && verdict[order[at]] !== "5") return say(`First say that the object is there: ${shown(keys.keyOf.get("object"))}.`);
    enterLabel(order[at]);
  }
  const row = shownAlarms()[Math.max(0, box)];
  if (!row) return say("There is no alarm on this picture: draw a box.");
  if (label.boxes.some((each) => each.slice(0, 4).every((value, i) => Math.abs(value - row[i]) < 0.02))) return say("This alarm has been taken already.");
  const { width, height } = stage.picture ?? { width: Infinity, height: Infinity };
  const [x1, y1, x2, y2] = row;
  addBox([Math.max(0, x1), Math.max(0, y1), Math.min(width, x2), Math.min(height, y2)], row[5]);
  return undefined;
}

function newBox() {
  if (!label || !stage.picture) return;
  const { width, height } = stage.picture;
  addBox([width * 0.35, height * 0.35, width * 0.65, height * 0.65]);
}

function deleteBox() {
  if (!label || !label.boxes.length) return;
  label.boxes.splice(label.chosen >= 0 ? label.chosen : label.boxes.length - 1, 1);
  label.chosen = label.boxes.length - 1;
  labelChanged(0);
}

// Moves the chosen box, or its far corner, by a hundredth of the picture.
function nudge(event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way || !label || label.chosen < 0 || !stage.picture) return false;
  const row = label.boxes[label.chosen];
  const { width, height } = stage.picture;
  const [dx, dy] = [(way[0] * width) / 100, (way[1] * height) / 100];
  const keep = (value, low, high) => Math.round(Math.min(high, Math.max(low, value)) * 100) / 100;
  if (event.shiftKey) {
    row[2] = keep(row[2] + dx, row[0] + 2, width);
    row[3] = keep(row[3] + dy, row[1] + 2, height);
  } else {
    const [w, h] = [row[2] - row[0], row[3] - row[1]];
    row[0] = keep(row[0] + dx, 0, width - w);
    row[1] = keep(row[1] + dy, 0, height - h);
    row[2] = row[0] + w;
    row[3] = row[1] + h;
  }
  labelChanged(400);
  return true;
}

function labelChanged(wait) {
  labelText();
  drawFacts();
  clearTimeout(pendingLabel);
  pendingLabel = setTimeout(() => { flushLabel(); }, wait);
}

// Writes the boxes as a further decision on this picture.
async function flushLabel() {
  if (!pendingLabel || !label) return;
  clearTimeout(pendingLabel);
  pendingLabel = 0;
  const { id, boxes } = label;
  const before = order[at];
  await send(bodyOf([id], "object", boxes));
  if (order[at] === before) {
    await getDetails([id]).catch(() => {});
    drawVerdicts();
    drawStrip();
  }
}

async function finish(began = null) {
  if (!label) return;
  await flushLabel();
  leaveLabel();
  next(began);
}

// ---- Views, filter, keys

function setView(name) {
  view = name;
  leaveLabel();
  const many = name === "grid";
  document.body.classList.toggle("in-grid", many);
  $("grid").hidden = !many;
  $("done").hidden = true;
  $("single").hidden = many;
  $("grid-button").setAttribute("aria-pressed", String(many));
  if (many) {
    grid.show(order, order[at]);
    gridText();
  } else {
    show(at);
    $("canvas").focus({ preventScroll: true });
  }
  remember(true);
}

function gridText() {
  const chosen = grid.selected.size;
  const all = chosen ? group([...grid.selected]).length : 0;
  const more = all > chosen ? ` and ${number(all - chosen)} similar to them` : "";
  const way = matchMedia("(pointer: coarse)").matches ? "touch to choose" : "drag, or click and ⇧ click, to choose";
  $("grid-text").textContent = chosen ? `${number(chosen)} chosen${more}` : `${number(order.length)} pictures: ${way}`;
}

// ---- The address says what is shown: list, picture, view, order and filter

let remembering = 0;
let replaced = ""; // The words of the address, as far as this page has written them.

function wordsNow() {
  const words = { list: queue, picture: String(order[at]), view: view === "grid" ? view : "", sort, ...filter, verdicts: filter.verdicts?.join("") ?? "" };
  return `${new URLSearchParams(Object.entries(words).filter(([, value]) => value !== ""))}`;
}

// A new list, view, order or filter is a step that the browser's "back" takes back; a new picture is none.
function remember(step = false) {
  const words = wordsNow();
  try {
    sessionStorage.setItem(`hardmine.place ${server.session.store}`, words); // For a reload; at once.
  } catch { /* a browser that keeps nothing */ }
  clearTimeout(remembering);
  const write = (how) => {
    if (how === "replaceState" && location.hash.slice(1) !== replaced) return; // Somebody went elsewhere.
    replaced = words;
    history[how](null, "", `#${words}`);
  };
  const same = (text) => `${new URLSearchParams([...new URLSearchParams(text)].filter(([name]) => name !== "picture"))}`;
  if (step && same(words) !== same(replaced)) write("pushState");
  else remembering = setTimeout(() => { write("replaceState"); }, 300);
}

function wordsOfReload(store) {
  if (performance.getEntriesByType("navigation")[0]?.type !== "reload") return null;
  try {
    return sessionStorage.getItem(`hardmine.place ${store}`);
  } catch {
    return null; // A browser that keeps nothing.
  }
}

// Shows what an address says; what does not exist here is left out of it.
async function restore(words) {
  if (words && words === replaced) return;
  const wanted = new URLSearchParams(words);
  const known = (name, names) => (names.includes(wanted.get(name)) ? wanted.get(name) : "");
  const amount = (name) => (Number.isFinite(Number(wanted.get(name) || NaN)) ? wanted.get(name) : "");
  const codes = [...new Set(wanted.get("verdicts") ?? "")].filter((code) => code in CODES);
  filter = {
    verdicts: codes.length ? codes : null,
    class: known("class", list.classes),
    round: known("round", list.rounds),
    group: known("group", list.groups),
    low: amount("low"),
    high: amount("high"),
    name: (wanted.get("name") ?? "").slice(0, 100),
  };
  sort = known("sort", Object.keys(SORTS));
  found = filter.name ? new Set(await server.get(`/api/search?q=${encodeURIComponent(filter.name)}`)) : null;
  const names = server.session.queues.map((each) => each.name);
  replaced = words;
  leaveLabel();
  setQueue(known("list", names) || names[0], wanted.has("picture") ? Number(wanted.get("picture")) : null);
  const asked = wanted.get("view") === "grid" ? "grid" : "single";
  if (asked !== view) setView(asked);
}

function openFilter() {
  const choose = (place, names, value) => {
    $(place).replaceChildren(option("", "all"), ...names.filter(Boolean).sort().slice(0, 2000).map((name) => option(name, name)));
    $(place).value = value;
    $(place).closest("label").hidden = names.filter(Boolean).length < 2;
  };
  choose("filter-class", list.classes, filter.class);
  choose("filter-round", list.rounds, filter.round);
  choose("filter-group", list.groups, filter.group);
  $("filter-sort").value = sort;
  const legend = $("filter-verdicts").querySelector("legend");
  $("filter-verdicts").replaceChildren(legend, ...[..."012534"].map((code) => {
    const word = wordOfCode(code);
    const line = element("label", "", "");
    const tick = document.createElement("input");
    tick.type = "checkbox";
    tick.value = code;
    tick.checked = filter.verdicts === null || filter.verdicts.includes(code);
    line.append(tick, ` ${word || "undecided"}`);
    return line;
  }));
  $("filter-low").value = filter.low;
  $("filter-high").value = filter.high;
  $("filter-name").value = filter.name;
  $("filter").showModal();
  $("filter-verdicts").querySelector("input").focus();
  readFilter();
}

let counting = 0;
async function readFilter() {
  const ticks = [...$("filter-verdicts").querySelectorAll("input")];
  const on = ticks.filter((tick) => tick.checked).map((tick) => tick.value);
  filter = {
    verdicts: on.length === ticks.length ? null : on,
    class: $("filter-class").value,
    round: $("filter-round").value,
    group: $("filter-group").value,
    low: $("filter-low").value,
    high: $("filter-high").value,
    name: $("filter-name").value,
  };
  sort = $("filter-sort").value;
  counting += 1;
  const turn = counting;
  const named = filter.name ? new Set(await server.get(`/api/search?q=${encodeURIComponent(filter.name)}`)) : null;
  if (turn !== counting) return;
  found = named;
  const number_ = list.queues.indexOf(queue);
  const count = list.queue.reduce((sum, each, id) => sum + (each === number_ && list.leader[id] < 0 && passes(id)), 0);
  $("filter-count").textContent = count === 1 ? "1 picture" : `${number(count)} pictures`;
}

async function applyFilter() {
  await readFilter();
  const id = order[at];
  reorderOrShowAll();
  const place = placeOf[id];
  await show(place >= 0 ? place : 0);
  remember(true);
  if (view === "grid") {
    grid.show(order, order[at]);
    gridText();
  }
}

function openHelp() {
  drawKeys();
  $("help").showModal();
}

function drawKeys(note = "") {
  const tables = [];
  let table = null;
  let heading = "";
  for (const [name, , words, title] of ACTIONS) {
    if (title !== heading) {
      heading = title;
      table = document.createElement("table");
      table.createCaption().textContent = title;
      tables.push(table);
    }
    const row = table.insertRow();
    const button = element("button", "key", shown(keys.keyOf.get(name)));
    button.type = "button";
    button.setAttribute("aria-label", `Change the key of: ${words}`);
    button.addEventListener("click", () => listen(button, name));
    row.insertCell().append(button);
    row.insertCell().textContent = words;
  }
  $("keys").replaceChildren(...tables);
  $("keys-note").textContent = note;
  drawKeyHints();
}

function listen(button, name) {
  button.textContent = "press a key";
  const take = (event) => {
    event.preventDefault();
    event.stopPropagation();
    if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    removeEventListener("keydown", take, true);
    drawKeys(event.key === "Escape" ? "" : keys.set(name, nameOf(event)));
  };
  addEventListener("keydown", take, true);
}

function drawKeyHints() {
  for (const button of document.querySelectorAll("[data-action]")) {
    const key = keys.keyOf.get(button.dataset.action);
    if (!key || button.dataset.action === "theme") continue;
    let hint = button.querySelector("kbd");
    if (!hint) {
      hint = document.createElement("kbd");
      hint.setAttribute("aria-hidden", "true");
      button.append(hint);
    }
    hint.textContent = shown(key);
    button.setAttribute("aria-keyshortcuts", key);
  }
}

function act(name, event = null) {
  const began = event?.timeStamp ?? performance.now();
  switch (name) {
    case "empty": case "ignore": case "unsure": return decide(name, began);
    case "object": return decide(name, began, false);
    case "object_on": return decide("object", began);
    case "similar": $("similar-on").checked = !$("similar-on").checked; return gridText();
    case "undo": return undo();
    case "previous": return show(at - 1, began);
    case "next": return label ? finishTo(at + 1) : show(at + 1, began);
    case "undecided": return next(began);
    case "grid": return setView(view === "grid" ? "single" : "grid");
    case "filter": return openFilter();
    case "queue": return nextQueue();
    case "box": return choose(shownAlarms().length ? (box + 1) % shownAlarms().length : -1);
    case "box_back": return choose(box <= 0 ? shownAlarms().length - 1 : box - 1);
    case "zoom_in": return stage.zoomBy(1.5);
    case "zoom_out": return stage.zoomBy(1 / 1.5);
    case "fit": box = -1; stage.fit(); return drawFacts();
    case "hide": return stage.hideBoxes(true);
    case "weaker": weaker = !weaker; box = -1; return drawFacts();
    case "accept": return accept();
    case "new_box": return newBox();
    case "delete_box": return deleteBox();
    case "finish": return finish(began);
    case "theme": return theme();
    case "help": return openHelp();
    default: return undefined;
  }
}

async function finishTo(place) {
  await flushLabel();
  leaveLabel();
  return show(place);
}

function nextQueue() {
  const names = server.session.queues.map((each) => each.name);
  leaveLabel();
  setQueue(names[(names.indexOf(queue) + 1) % names.length]);
  setView("single");
}

const ONCE = new Set(["empty", "object", "object_on", "ignore", "unsure", "undo", "grid", "filter", "help", "similar", "accept", "finish", "theme", "queue", "weaker", "new_box"]);
const AFTER_OBJECT = new Set(["accept", "new_box", "finish"]); // They wait until the object is saved.
let tabLeaves = false;

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (typing || !list || queue === null) return;
  if (event.key === "Escape") {
    if (label) { finishLabelling(); }
    else if (box >= 0) choose(-1);
    else { tabLeaves = true; if ($("notice").textContent) say(""); }
    return;
  }
  if (view === "single" && label && nudge(event)) return void event.preventDefault();
  const name = keys.action(event);
  if (name === undefined) return;
  const onStage = document.activeElement === $("canvas") || document.activeElement === document.body;
  if (event.key === "Tab" && (!onStage || tabLeaves || view === "grid" || !shownAlarms().length)) return;
  if (event.key === "Enter" && ((!label && !saving) || event.target.closest("button"))) return;
  if (["accept", "new_box", "delete_box", "previous", "next", "box", "box_back", "weaker"].includes(name) && view === "grid") return;
  event.preventDefault();
  if (event.repeat && ONCE.has(name)) return;
  if (saving && view === "single" && AFTER_OBJECT.has(name)) return void saved.then(() => act(name));
  if (Object.hasOwn(VERDICTS, name) && view === "single") $("canvas").focus({ preventScroll: true });
  act(name, event);
});

function finishLabelling() {
  flushLabel().then(() => { leaveLabel(); drawFacts(); });
}

// Shift may have been pressed or let go meanwhile.
addEventListener("keyup", (event) => {
  const plain = (key) => key.replace("Shift+", "");
  if (plain(nameOf(event)) === plain(keys.keyOf.get("hide"))) stage.hideBoxes(false);
});
addEventListener("blur", () => stage.hideBoxes(false));
$("canvas").addEventListener("focus", () => { tabLeaves = false; });
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (button && list) act(button.dataset.action, event);
});
$("done-back").addEventListener("click", () => { $("done").hidden = true; show(at); });
$("tile-size").addEventListener("input", (event) => grid.resize(Number(event.target.value)));
$("select-all").addEventListener("click", () => grid.selectAll());
$("select-none").addEventListener("click", () => grid.selectNone());
$("similar-on").addEventListener("change", () => gridText());
$("filter").addEventListener("input", () => readFilter());
$("filter").addEventListener("close", () => applyFilter());
$("filter-clear").addEventListener("click", () => {
  filter = emptyFilter();
  found = null;
  for (const tick of $("filter-verdicts").querySelectorAll("input")) tick.checked = true;
  for (const place of ["class", "round", "group", "low", "high", "name", "sort"]) $(`filter-${place}`).value = "";
  $("filter").close();
});
$("keys-reset").addEventListener("click", () => { keys.reset(); drawKeys(); });

// ---- Small things

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

let fading = 0;
function say(text, kind = "") {
  clearTimeout(fading);
  $("notice").textContent = text;
  $("notice").dataset.kind = kind;
  const seconds = { "": 4, warning: 8, advice: 15 }[kind]; // The others stay until they are over.
  if (text && seconds) fading = setTimeout(() => { $("notice").textContent = ""; }, 1000 * seconds);
}

function score(value) {
  return value === null ? "" : value.toFixed(2).replace(/^0/, "");
}

function number(value) {
  return value.toLocaleString("en");
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function stored(name, value = null) {
  try {
    if (value !== null) localStorage.setItem(name, value);
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function theme(change = true) {
  const choices = ["", "dark", "light"];
  let now = stored("hardmine.theme");
  if (change) now = stored("hardmine.theme", choices[(choices.indexOf(now) + 1) % choices.length]);
  document.documentElement.dataset.theme = now;
  stage.paint();
}

$("who").value = stored("hardmine.who");
$("who").addEventListener("input", () => stored("hardmine.who", $("who").value));
theme(false);
drawKeyHints();
start().catch((error) => {
  $("question").textContent = error instanceof Refused ? error.message : "The server does not answer.";
});
