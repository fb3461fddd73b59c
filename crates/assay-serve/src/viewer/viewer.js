"use strict";
// The viewer: a question and its answers ranked by a reward; each token is coloured by its reward.

const at = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

const EXAMPLES = [
  {
    name: "Eggs: one answer has a wrong product",
    question: "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much in dollars does she make every day at the farmers' market?",
    answers: [
      "Janet eats 3 + 4 = 7 eggs a day.\nThat leaves 16 - 7 = 9 eggs.\nShe makes 9 * 2 = $18 every day.\n#### 18",
      "Janet eats 3 + 4 = 7 eggs a day.\nThat leaves 16 - 7 = 9 eggs.\nShe makes 9 * 2 = $28 every day.\n#### 28",
      "She has 16 eggs and sells each for $2.\n16 * 2 = $32\n#### 32",
    ],
  },
  {
    name: "Fabric: half as much",
    question: "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    answers: [
      "It takes 2 / 2 = 1 bolt of white fiber.\nSo the total is 2 + 1 = 3 bolts of fabric.\n#### 3",
      "It takes 2 * 2 = 4 bolts of white fiber.\nSo the total is 2 + 4 = 6 bolts of fabric.\n#### 6",
    ],
  },
  {
    name: "Sprints: a slip in the last step",
    question: "James decides to run 3 sprints 3 times a week. He runs 60 meters each sprint. How many total meters does he run a week?",
    answers: [
      "He sprints 3 * 3 = 9 times a week.\nSo he runs 9 * 60 = 540 meters.\n#### 540",
      "He sprints 3 * 3 = 9 times a week.\nSo he runs 9 * 60 = 450 meters.\n#### 450",
      "He sprints 3 + 3 = 6 times a week.\nSo he runs 6 * 60 = 360 meters.\n#### 360",
    ],
  },
  {
    name: "Clock of seven hours: the task of assay quickstart",
    question: "start 3 take 6 times 3 times 4 add 4:",
    answers: [
      "then 3-6=4\nnow 4*3=5\n5*4=6\n6+4=3\n#### 3",
      "then 3-6=4\nnow 4*3=5\n5*4=1\n1+4=5\n#### 5",
    ],
  },
];
// A model with fewer positions cannot read the other examples.
const SHORT_EXAMPLE = 3;
const SHORT_POSITIONS = 400;

const state = { models: [], readings: [], scales: [], question: "", shown: null };

// ---- talking to the server

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  const token = at("token").value.trim();
  if (token) headers.Authorization = "Bearer " + token;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  if (response.status === 401) at("token-row").hidden = false;
  const answer = await response.json().catch(() => null);
  if (!response.ok || !answer) {
    const wait = response.headers.get("Retry-After");
    const said = answer && answer.error ? answer.error.message : "the server answered " + response.status;
    throw new Error(wait ? said + " (" + wait + " s)" : said);
  }
  return answer;
}

async function rewardsOf(model, question, texts) {
  const predictor = at("predictor").value;
  const answer = await ask("/v1/rewards", { model, question, text: texts, predictor });
  return answer.data;
}

async function sampled(question) {
  const body = {
    model: state.upstream ? at("upstream-model").value : "policy",
    messages: [{ role: "user", content: question }],
    temperature: Number(at("temperature").value),
    max_tokens: Number(at("limit").value),
    assay: { n: Number(at("count").value), selector: at("selector").value, reward: at("reward").value, predictor: at("predictor").value, return_candidates: true },
  };
  const answer = await ask("/v1/chat/completions", body);
  const { candidates, chosen } = answer.assay;
  return { texts: candidates.map((candidate) => candidate.text), traces: candidates.map((candidate) => candidate.rewards), chosen };
}

async function loadModels() {
  const list = (await ask("/v1/models")).data;
  state.models = list.filter((model) => model.kind === "reward").map((model) => model.id);
  state.upstream = list.some((model) => model.kind === "upstream");
  const samples = state.upstream || list.some((model) => model.kind === "policy");
  at("reward").replaceChildren(...state.models.map((name) => make("option", { value: name }, name)));
  const none = make("option", { value: "" }, "nothing");
  at("compare").replaceChildren(none, ...state.models.map((name) => make("option", { value: name }, name)));
  at("compare-row").hidden = state.models.length < 2;
  at("upstream-row").hidden = !state.upstream;
  const isShort = list.some((model) => model.kind === "reward" && model.max_model_len < SHORT_POSITIONS);
  if (isShort && at("question").value === EXAMPLES[0].question) example(SHORT_EXAMPLE);
  at("tab-sample").disabled = !samples;
  at("tab-sample").title = samples ? "" : "Start the server with --policy or --upstream to sample answers.";
}

/// Loads what the server offers; called again once an access token is entered.
async function load() {
  await loadMarks();
  await loadModels();
}

// ---- scoring

async function run() {
  const question = at("question").value.trim();
  const sampling = at("tab-sample").getAttribute("aria-selected") === "true";
  const pasted = at("answers").value.split(/^\s*---\s*$/m).map((text) => text.trim()).filter(Boolean);
  if (!question) return say("A question is needed.", true);
  if (!sampling && !pasted.length) return say("Paste at least one answer.", true);
  at("go").disabled = true;
  at("results").setAttribute("aria-busy", "true");
  say(sampling ? "Sampling …" : "Scoring …");
  const started = performance.now();
  try {
    if (!state.models.length) await load();
    const answers = sampling ? await sampled(question) : { texts: pasted, chosen: null };
    const kept = answers.texts.map((text, index) => ({ text, index })).filter((answer) => answer.text.trim());
    if (!kept.length) return say("Every sampled answer is empty.", true);
    const names = [at("reward").value];
    if (at("compare").value && at("compare").value !== names[0]) names.push(at("compare").value);
    const texts = kept.map((answer) => answer.text);
    const readings = [];
    // Samples are scored with the token ids drawn; a truncated sample has no end-of-turn token.
    const own = answers.traces && kept.map((answer) => answers.traces[answer.index]);
    for (const name of names) readings.push({ name, traces: (name === names[0] && own) || (await rewardsOf(name, question, texts)) });
    state.question = question;
    show(readings, kept, answers.chosen);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const empty = answers.texts.length - kept.length;
    const left = empty ? ", " + empty + " empty left out" : "";
    say(texts.length + (texts.length === 1 ? " answer" : " answers") + left + (blind() ? ", rewards hidden, in " : ", best first, in ") + seconds + " s");
  } catch (error) {
    say(error.message, true);
  } finally {
    at("go").disabled = false;
    at("results").removeAttribute("aria-busy");
  }
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", wrong);
}

// ---- colours: one scale per reward, shared by all answers; its median is uncoloured

function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

function scaleOf(traces) {
  const rewards = traces.flatMap((trace) => trace.rewards).filter((reward) => reward !== null).sort((a, b) => a - b);
  if (!rewards.length) return { centre: 0, reach: 1 };
  const centre = quantile(rewards, 0.5);
  const distances = rewards.map((reward) => Math.abs(reward - centre)).sort((a, b) => a - b);
  return { centre, reach: quantile(distances, 0.95) || 1 };
}

function colour(scale, reward) {
  const place = Math.max(-1, Math.min(1, (reward - scale.centre) / scale.reach));
  return "h" + Math.round(5 + 5 * place);
}

// ---- drawing

function show(readings, answers, chosen) {
  state.shown = [readings, answers, chosen];
  state.readings = readings;
  state.scales = readings.map((reading) => scaleOf(reading.traces));
  const score = (place) => readings[0].traces[place].score ?? -Infinity;
  const order = answers.map((_, place) => place);
  if (!blind()) order.sort((a, b) => score(b) - score(a));
  legend();
  at("cards").replaceChildren(...order.map((place, rank) => card(place, rank, !blind() && answers[place].index === chosen)));
  paintMarks();
  at("inspector").hidden = true;
}

function legend() {
  const scales = state.readings.map((reading, which) => {
    const { centre, reach } = state.scales[which];
    const cells = Array.from({ length: 11 }, (_, step) => make("i", { class: "h" + step }));
    const label = reading.name + ": orange is a reward of " + signed(centre - reach) + " or less, blue " + signed(centre + reach) + " or more, uncoloured " + signed(centre);
    return make("span", { class: "scale", role: "img", "aria-label": label },
      reading.name, make("b", {}, signed(centre - reach)), make("span", { class: "cells" }, ...cells), make("b", {}, signed(centre + reach)));
  });
  const mark = make("span", {}, make("span", { class: "sample-mark" }, "outlined"), " predicted error");
  at("legend").replaceChildren(...scales, mark);
  at("legend").hidden = blind();
}

function card(place, rank, isChosen) {
  const trace = state.readings[0].traces[place];
  const fact = (name, value) => (value === null || value === undefined ? null : make("span", {}, name + " ", make("b", {}, value)));
  const header = make("header", {},
    make("span", { class: "rank" }, String(rank + 1)),
    blind() ? null : fact("score", trace.score === null ? "none" : signed(trace.score)),
    fact("P(correct)", blind() || trace.probability === null ? null : (100 * trace.probability).toFixed(0) + " %"),
    fact("answer", trace.predicted_answer),
    fact("tokens", String(trace.tokens.length)),
    isChosen ? make("span", { class: "badge" }, "chosen") : null);
  const readings = state.readings.map((_, which) => reading(which, place, rank));
  return make("li", { class: isChosen ? "card chosen" : "card", "data-rank": rank }, header, ...readings);
}

function reading(which, place, rank) {
  const { name, traces } = state.readings[which];
  const trace = traces[place];
  const wrong = blind() ? null : trace.predicted_error;
  const id = "t" + which + "-" + place;
  const tokens = trace.tokens.map((text, index) => {
    const reward = trace.rewards[index];
    const classes = [reward === null || blind() ? "" : colour(state.scales[which], reward)];
    if (wrong && wrong.token === index) classes.push("error-mark");
    if (text === "") classes.push("end");
    const shown = text === "" ? "end" : text;
    return make("span", { id: id + "-" + index, role: "option", class: classes.join(" ").trim(), "aria-label": spoken(trace, index) }, shown);
  });
  const label = blind()
    ? "Answer " + (rank + 1) + ". Arrow keys move, Enter marks the first wrong token, C marks all correct."
    : "Answer ranked " + (rank + 1) + ", token rewards by " + name + ". Arrow keys move, E goes to the predicted error.";
  const box = make("div", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": label, "data-which": which, "data-place": place }, ...tokens);
  const title = state.readings.length > 1
    ? make("h3", {}, name, blind() ? null : make("span", {}, "score ", make("b", {}, trace.score === null ? "none" : signed(trace.score))))
    : null;
  const marks = marking.on ? make("div", { class: "mark-row" }) : null;
  const section = make("div", { class: "reading" }, title, box, marks);
  box.addEventListener("keydown", (event) => moveIn(box, event));
  box.addEventListener("focus", () => pick(box, Number(box.dataset.here ?? 0)));
  box.addEventListener("blur", () => unpick(box));
  box.addEventListener("pointermove", (event) => {
    const index = [...box.children].indexOf(event.target);
    if (index >= 0 && document.activeElement !== box) inspect(box, index);
  });
  box.addEventListener("pointerleave", () => { if (document.activeElement !== box) at("inspector").hidden = true; });
  box.addEventListener("pointerdown", (event) => {
    const index = [...box.children].indexOf(event.target);
    if (index >= 0) box.dataset.here = index;
    if (index >= 0 && document.activeElement === box) pick(box, index);
  });
  return section;
}

function drop(trace, index) {
  for (let before = index - 1; before >= 0; before -= 1) {
    if (trace.rewards[before] !== null) return trace.rewards[before] - trace.rewards[index];
  }
  return null;
}

function spoken(trace, index) {
  const reward = trace.rewards[index];
  const text = trace.tokens[index] === "" ? "end of answer" : JSON.stringify(trace.tokens[index]);
  if (blind()) return text + spokenMarks(trace, index);
  const fall = reward === null ? null : drop(trace, index);
  const wrong = trace.predicted_error && trace.predicted_error.token === index ? ", predicted error" : "";
  const value = reward === null ? ", no reward" : ", reward " + reward.toFixed(2);
  return text + value + (fall === null ? "" : ", drop " + fall.toFixed(2)) + wrong + spokenMarks(trace, index);
}

// ---- moving and inspecting

function moveIn(box, event) {
  if (markKey(box, event)) return;
  const here = Number(box.dataset.here ?? 0);
  const last = box.children.length - 1;
  const trace = state.readings[box.dataset.which].traces[box.dataset.place];
  const moves = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: last };
  let next = moves[event.key];
  if (event.key.toLowerCase() === "e" && !event.ctrlKey && !event.metaKey && trace.predicted_error && !blind()) next = trace.predicted_error.token;
  if (next === undefined) return;
  event.preventDefault();
  pick(box, Math.max(0, Math.min(last, next)));
}

function pick(box, index) {
  for (const marked of box.querySelectorAll(".here")) unmark(marked);
  const token = box.children[index];
  if (!token) return;
  token.classList.add("here");
  token.setAttribute("aria-selected", "true");
  box.dataset.here = index;
  box.setAttribute("aria-activedescendant", token.id);
  token.scrollIntoView({ block: "nearest" });
  inspect(box, index);
}

function unmark(token) {
  token.classList.remove("here");
  token.removeAttribute("aria-selected");
}

function unpick(box) {
  for (const marked of box.querySelectorAll(".here")) unmark(marked);
  at("inspector").hidden = true;
}

function inspect(box, index) {
  const place = box.dataset.place;
  const parts = blind() ? [] : state.readings.flatMap(({ name, traces }, which) => {
    const trace = traces[place];
    const reward = trace.rewards[index];
    if (reward === null || reward === undefined) return [];
    const fall = drop(trace, index);
    const swatch = make("span", { class: "cells" }, make("i", { class: colour(state.scales[which], reward) }));
    const wrong = trace.predicted_error && trace.predicted_error.token === index ? make("b", {}, " · predicted error") : null;
    return [make("span", { class: "scale" }, swatch, make("span", {}, name + " ", make("b", {}, signed(reward)),
      fall === null ? null : " drop ", fall === null ? null : make("b", {}, signed(fall)), wrong))];
  });
  const trace = state.readings[box.dataset.which].traces[place];
  const text = trace.tokens[index] === "" ? "end of answer" : trace.tokens[index].replaceAll("\n", "⏎");
  at("inspector").replaceChildren(make("code", {}, text), make("span", {}, "token ", make("b", {}, index + 1 + " of " + trace.tokens.length)), ...parts);
  at("inspector").hidden = false;
}

function otherAnswer(step) {
  const boxes = [...document.querySelectorAll(".card")].map((item) => item.querySelector(".tokens"));
  if (!boxes.length) return;
  const here = boxes.findIndex((box) => box.closest(".card").contains(document.activeElement));
  const next = boxes[Math.max(0, Math.min(boxes.length - 1, here + step))];
  next.focus();
  next.closest(".card").scrollIntoView({ block: "nearest" });
}

// ---- the form

function example(index) {
  at("examples").value = String(index);
  at("question").value = EXAMPLES[index].question;
  at("answers").value = EXAMPLES[index].answers.join("\n---\n");
}

function tab(name) {
  for (const other of ["paste", "sample"]) {
    const selected = other === name;
    at("tab-" + other).setAttribute("aria-selected", String(selected));
    at("tab-" + other).tabIndex = selected ? 0 : -1;
    at("panel-" + other).hidden = !selected;
  }
  at("go").firstChild.textContent = name === "sample" ? "Sample and score " : "Score ";
}

function dark(on) {
  document.documentElement.classList.toggle("dark", on);
  at("theme").textContent = on ? "Light" : "Dark";
}

function start() {
  at("examples").replaceChildren(...EXAMPLES.map((one, index) => make("option", { value: index }, one.name)));
  at("examples").addEventListener("change", () => example(Number(at("examples").value)));
  example(0);
  const system = matchMedia("(prefers-color-scheme: dark)");
  dark(system.matches);
  system.addEventListener("change", () => dark(system.matches));
  at("theme").addEventListener("click", () => dark(!document.documentElement.classList.contains("dark")));
  at("help-open").addEventListener("click", () => at("help").showModal());
  for (const name of ["paste", "sample"]) at("tab-" + name).addEventListener("click", () => tab(name));
  at("source").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const name = at("tab-paste").getAttribute("aria-selected") === "true" ? "sample" : "paste";
    if (at("tab-" + name).disabled) return;
    tab(name);
    at("tab-" + name).focus();
  });
  at("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); return; }
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") at("help").showModal();
    if (event.key === "j") otherAnswer(1);
    if (event.key === "k") otherAnswer(-1);
    pageKey(event);
  });
  const hint = make("div", { class: "empty" }, make("b", {}, "No answers yet"), "Pick an example or paste your own, then score: each token is coloured by what the reward says after it.");
  at("cards").replaceChildren(make("li", {}, hint));
  startMarks();
  load().catch((error) => say(error.message, true));
}

start();
