"use strict";
// Labels: a person marks the first wrong token of each answer, using only the keyboard.
// viewer.js uses this.

const NAME_KEY = "assay-annotator";
const marking = { on: false, names: new Map(), done: [], queue: Promise.resolve() };

/// Whether rewards, everything computed from them and other people's labels are hidden, because
/// they would influence the person.
const blind = () => marking.on && at("blind").checked;

function storedName() {
  try { return localStorage.getItem(NAME_KEY) || ""; } catch { return ""; }
}

function storeName(name) {
  try { localStorage.setItem(NAME_KEY, name); } catch { /* The name is then asked for again. */ }
}

/// Loads the existing labels; if the server takes no labels, the page stays unchanged.
async function loadMarks() {
  const answer = await ask("/v1/labels");
  marking.on = answer.enabled;
  for (const id of ["marking", "marking-keys", "marking-help"]) at(id).hidden = !answer.enabled;
  for (const label of answer.data) keep(label);
}

/// The labels of a text by name: the first wrong token, or null where all of it is right.
const marksOf = (trace) => marking.names.get(trace) ?? new Map();

function keep(label) {
  const own = marksOf(label.trace);
  if (label.verdict === "withdrawn") own.delete(label.annotator);
  else own.set(label.annotator, label.first_error);
  marking.names.set(label.trace, own);
}

// ---- the token of a label, by its bytes: other rewards have other tokens

function placeOf(trace, index) {
  // A token with part of a character has no bytes; the token that completes the character has them.
  const whole = trace.offsets.findIndex(([start, end], token) => token >= index && end > start);
  const [start, end] = trace.offsets[whole < 0 ? trace.offsets.length - 1 : whole];
  return { start, end, token: index };
}

function tokenOf(trace, place) {
  const token = trace.offsets.findIndex(([, end]) => end > place.start);
  return token < 0 ? trace.offsets.length - 1 : token;
}

const shownToken = (trace, index) => (trace.tokens[index] === "" ? "the end" : "“" + trace.tokens[index].trim() + "”");
const readingOf = (box) => state.readings[box.dataset.which].traces[box.dataset.place];

// ---- showing labels

/// The labels of a text that are shown: while others' are hidden, the person's own.
function shownMarks(trace) {
  const me = at("annotator").value.trim();
  return [...marksOf(trace.trace)].filter(([name]) => name === me || !blind());
}

function paintMarks() {
  if (!marking.on) return;
  const me = at("annotator").value.trim();
  for (const box of document.querySelectorAll(".tokens")) {
    const trace = readingOf(box);
    for (const token of box.children) token.classList.remove("marked", "marked-other");
    const badges = shownMarks(trace).map(([name, place]) => {
      const token = place && tokenOf(trace, place);
      if (place) box.children[token].classList.add(name === me ? "marked" : "marked-other");
      const text = place ? "first wrong token " + (token + 1) + ", " + shownToken(trace, token) : "all correct";
      return make("span", { class: name === me ? "mark-badge own" : "mark-badge" }, (name === me ? "you" : name) + ": " + text);
    });
    const row = box.parentElement.querySelector(".mark-row");
    row.replaceChildren(...(badges.length ? badges : [make("span", { class: "mark-badge none" }, "not marked")]));
    [...box.children].forEach((token, index) => token.setAttribute("aria-label", spoken(trace, index)));
  }
}

/// What a screen reader says about the labels of a token.
function spokenMarks(trace, index) {
  const me = at("annotator").value.trim();
  const here = shownMarks(trace).filter(([, place]) => place && tokenOf(trace, place) === index);
  return here.map(([name]) => ", marked as the first wrong token by " + (name === me ? "you" : name)).join("");
}

// ---- making labels

/// The person's name, asked for once.
function annotatorName() {
  const name = at("annotator").value.trim();
  if (name) return Promise.resolve(name);
  at("who-name").value = "";
  at("who").showModal();
  return new Promise((resolve) => {
    at("who").addEventListener("close", () => {
      at("annotator").value = at("who-name").value.trim();
      storeName(at("annotator").value);
      resolve(at("annotator").value);
    }, { once: true });
  });
}

/// Labels are sent one after the other, in the order in which they were made.
function send(label) {
  marking.queue = marking.queue.then(async () => {
    const before = marksOf(label.trace).get(label.annotator);
    const { trace, ...body } = label;
    const kept = await ask("/v1/labels", body);
    keep(kept);
    paintMarks();
    return before;
  });
  const sent = marking.queue;
  marking.queue = sent.catch(() => {});
  return sent;
}

async function mark(box, wrong) {
  const trace = readingOf(box);
  const index = Number(box.dataset.here ?? 0);
  const annotator = await annotatorName();
  if (!annotator) return say("Nothing is marked without a name.", true);
  const body = { trace: trace.trace, question: state.question, text: trace.text, annotator };
  const label = wrong ? { ...body, verdict: "wrong", first_error: placeOf(trace, index) } : { ...body, verdict: "correct" };
  try {
    const before = await send(label);
    marking.done.push({ body, before, place: box.dataset.place });
    const rank = Number(box.closest(".card").dataset.rank) + 1;
    say(wrong ? "Answer " + rank + ": token " + (index + 1) + ", " + shownToken(trace, index) + ", is marked as the first wrong one." : "Answer " + rank + " is marked as all correct.");
  } catch (error) {
    say(error.message, true);
  }
}

async function undo() {
  const last = marking.done.pop();
  if (!last) return say("There is nothing to undo.");
  const { body, before } = last;
  const label = before ? { ...body, verdict: "wrong", first_error: before } : { ...body, verdict: before === null ? "correct" : "withdrawn" };
  try {
    await send(label);
    say("The last mark is undone.");
  } catch (error) {
    marking.done.push(last);
    return say(error.message, true);
  }
  const boxes = [...document.querySelectorAll(".tokens")];
  const box = boxes.find((other) => readingOf(other).trace === body.trace);
  if (box) box.focus();
}

// ---- keys

/// Acts on a key in an answer's tokens; returns whether it did.
function markKey(box, event) {
  if (!marking.on || event.ctrlKey || event.metaKey || event.altKey) return false;
  const here = Number(box.dataset.here ?? 0);
  const last = box.children.length - 1;
  const acts = {
    h: () => pick(box, Math.max(0, here - 1)),
    l: () => pick(box, Math.min(last, here + 1)),
    w: () => mark(box, true),
    enter: () => mark(box, true),
    c: () => mark(box, false),
  };
  const act = acts[event.key.toLowerCase()];
  if (!act) return false;
  event.preventDefault();
  act();
  return true;
}

/// Acts on a key anywhere on the page outside fields.
function pageKey(event) {
  if (!marking.on) return;
  const acts = { n: () => otherAnswer(1), p: () => otherAnswer(-1), u: undo };
  acts[event.key.toLowerCase()]?.();
}

function startMarks() {
  at("annotator").value = storedName();
  at("annotator").addEventListener("change", () => { storeName(at("annotator").value.trim()); paintMarks(); });
  at("annotator").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.ctrlKey) event.preventDefault(); });
  at("blind").addEventListener("change", () => { if (state.shown) show(...state.shown); });
}
