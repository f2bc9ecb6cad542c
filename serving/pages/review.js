"use strict";
// What comes from the service is hostile: it becomes text, attributes that are set one by one, or points of a line.

const AT_ONCE = 20; // picks that are asked for
const FIGURES = "1234567890"; // keys of the first ten classes
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
const show = (id, shown = true) => { at(id).hidden = !shown; };

const done = new Set(); // ids that were labelled or skipped in this tab
const passed = []; // the picks before this one, for going back
let labels = []; // classes; none where numbers are forecast
let waiting = []; // picks still to be shown
let current = null;
let counts = { recent: 0, labelled: 0, here: 0 };
let busy = false;
let again = () => {}; // what "Try again" does

class Refusal extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (sessionStorage.labline) headers["X-API-Key"] = sessionStorage.labline;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refusal(0, "the service does not answer");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refusal(response.status, String(told.error ?? `the service answered ${response.status}`));
}

// Runs one action at a time, and says what went wrong.
async function act(action) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  show("problem", false);
  try {
    await action();
  } catch (error) {
    failed(error, action);
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

function failed(error, action) {
  again = () => act(action);
  if (error instanceof Refusal && error.status === 401) {
    delete sessionStorage.labline;
    show("item", false);
    show("key-form");
    at("status").textContent = at("key").value ? "This is not the key." : "";
    at("key").value = "";
    at("key").focus();
    return;
  }
  if (!(error instanceof Refusal)) console.error(error);
  at("problem-text").textContent = error.message;
  show("problem");
}

async function look() {
  const queue = await (await ask(`/review/queue?count=${AT_ONCE + Math.min(done.size, 80)}`)).json();
  labels = queue.labels;
  counts = { ...counts, recent: queue.recent, labelled: queue.labelled };
  at("title").textContent = queue.title ? `${queue.usecase}: ${queue.title}` : queue.usecase;
  document.title = `Review: ${queue.usecase}`;
  waiting = queue.picks.filter((pick) => !done.has(pick.id));
  show("key-form", false);
}

async function next() {
  if (!waiting.length) await look();
  const pick = waiting[0] ?? null;
  const drawn = pick && await draw(pick);
  waiting.shift();
  current = pick;
  present(drawn);
}

function present(drawn) {
  show("item", current !== null);
  show("empty", current === null);
  at("back").disabled = !passed.length;
  const recent = `${counts.labelled} of the ${counts.recent} newest predictions had a label`;
  at("progress").textContent = `${counts.here} labelled by you · ${recent}`;
  if (current === null) return;
  at("input").replaceChildren(...drawn);
  at("said").textContent = said(current);
  at("reasons").replaceChildren(...current.reasons.map((reason) => element("li", reason)));
  presentClasses();
  presentFacts();
  at("said").focus({ preventScroll: true });
}

function said(pick) {
  if (!labels.length) return `Version ${pick.version} forecasts ${Number(pick.answer).toPrecision(4)}`;
  const sure = pick.confidence === null ? "" : `, ${(100 * pick.confidence).toFixed(0)} % sure`;
  return `Version ${pick.version} says ${pick.answer}${sure}`;
}

function presentClasses() {
  show("number-form", !labels.length);
  show("classes", labels.length > 0);
  at("number").value = "";
  at("classes").replaceChildren(...labels.map((label, place) => {
    const button = element("button", "", label === current.answer ? "answer" : "");
    button.type = "button";
    const share = Object.hasOwn(current.probabilities ?? {}, label) ? current.probabilities[label] : undefined;
    const bar = element("span", "", "bar");
    bar.style.width = `${100 * (share ?? 0)}%`;
    button.append(bar);
    button.append(place < FIGURES.length ? element("kbd", FIGURES[place]) : element("span"));
    button.append(element("span", label, "name"));
    button.append(element("span", share === undefined ? "" : `${(100 * share).toFixed(1)} %`, "share"));
    if (place < FIGURES.length) button.setAttribute("aria-keyshortcuts", FIGURES[place]);
    button.addEventListener("click", () => act(() => labelAs(label)));
    return button;
  }));
}

function presentFacts() {
  const facts = { Answered: new Date(1000 * current.at).toLocaleString() };
  if (current.reference) facts["Client's reference"] = current.reference;
  for (const [name, value] of Object.entries(current.features)) facts[name] = String(Number(value.toPrecision(4)));
  if (current.label !== undefined) facts["Your label"] = String(current.label);
  facts.Id = current.id;
  at("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
}

// What the model saw, as elements: an image, a line for each feature of a window, or words.
async function draw(pick) {
  if (pick.input === null) {
    return [element("p", "The input was not kept: the use case declares keep = \"features\", or it was deleted. " +
      "What is known of it stands beside the answer.")];
  }
  let response;
  try {
    response = await ask(`/review/input/${encodeURIComponent(pick.id)}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    return [element("p", "The input is not kept any more.")];
  }
  if (pick.input === "image") return [await picture(await response.blob())];
  const { window: rows } = await response.json();
  if (!Array.isArray(rows[0])) return [element("p", "The input is no window of a series: it cannot be drawn.")];
  const names = Object.keys(pick.features);
  return rows[0].map((_, column) => line(
    names.length === rows[0].length ? names[column] : `feature ${column + 1}`, rows.map((row) => row[column]),
  ));
}

async function picture(blob) {
  const image = element("img");
  image.alt = "The image that the model saw, enlarged";
  image.src = URL.createObjectURL(blob);
  await image.decode();
  URL.revokeObjectURL(image.src);
  return image;
}

function line(name, values) {
  const known = values.filter(Number.isFinite);
  const low = Math.min(...known), high = Math.max(...known);
  const range = `${low.toPrecision(3)} to ${high.toPrecision(3)}`;
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", `0 0 ${Math.max(values.length - 1, 1)} 100`);
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `${name}: ${values.length} values from ${range}`);
  const points = values.map((value, x) => [x, high > low ? 95 - 90 * (value - low) / (high - low) : 50]);
  const path = document.createElementNS(SVG, "polyline");
  path.setAttribute("points", points.filter(([, y]) => Number.isFinite(y)).map((point) => point.join(",")).join(" "));
  chart.append(path);
  const figure = element("figure");
  figure.append(element("figcaption", `${name}: ${range}`), chart);
  return figure;
}

async function labelAs(label) {
  if (current === null) return next(); // saved before, and only the next one could not be had
  // The same label sent again, after an answer that got lost, is stored once.
  current.sending = current.sending?.label === label ? current.sending : { label, label_id: fresh() };
  const body = JSON.stringify({ id: current.id, source: current.source, ...current.sending });
  await ask("/feedback", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (current.label === undefined) counts.here += 1;
  current.label = label;
  current.sending = undefined;
  at("status").textContent = `Saved: ${label}`;
  leave();
  await next();
}

async function skip() {
  if (current === null) return next();
  at("status").textContent = current.label === undefined ? "Skipped" : `Left as it was: ${current.label}`;
  leave();
  await next();
}

function leave() {
  done.add(current.id);
  passed.push(current);
  current = null;
}

async function back() {
  const pick = passed.at(-1);
  if (!pick) return;
  const drawn = await draw(pick);
  passed.pop();
  if (current !== null) waiting.unshift(current);
  current = pick;
  present(drawn);
  at("status").textContent = pick.label === undefined ? "Skipped before" :
    `Your label is ${pick.label}: another one takes its place`;
}

const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.labline = at("key").value;
  at("status").textContent = "";
  act(next);
});
at("number-form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(() => labelAs(at("number").valueAsNumber));
});
at("skip").addEventListener("click", () => act(skip));
at("back").addEventListener("click", () => act(back));
at("retry").addEventListener("click", () => again());
at("look-again").addEventListener("click", () => act(next));
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey || at("item").hidden) return;
  const label = labels[FIGURES.indexOf(event.key)];
  const action = label !== undefined ? () => labelAs(label) : { s: skip, b: back }[event.key];
  if (action) act(action);
});
act(next);
