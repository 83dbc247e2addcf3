"use strict";
// The choice is in the address (#kind=dyck&pairs=3), so that a link repeats it. Nothing is ever written as HTML.

const by = id => document.getElementById(id);
const SHOWN = ["length", "first", "count"];
let kinds = [], kind = null, start = "", asking = 0, waiting = 0;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function ask(what, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(what, options);
  } catch {
    return { error: "the server does not answer: start `trajmill explore` again and take the address that it prints" };
  }
  return answer.json();
}

// --- the form ---

function texts() {
  return kind.starts[start];
}

function input(field) {
  const id = `field-${field.name}`, text = texts()[field.name];
  let control;
  if (field.choices.length) {
    control = make("select", {}, ...field.choices.map(word => make("option", { value: word, textContent: word })));
  } else {
    control = make(field.json ? "textarea" : "input", { spellcheck: false });
    if (text === null) Object.assign(control, { disabled: true, placeholder: "long: as in the preset" });
    else if (text === "" || text === undefined) control.placeholder = "none";
  }
  control.id = id;
  control.value = text ?? "";
  control.setAttribute("aria-describedby", `${id}-about ${id}-error`);
  const box = make("div", { className: "field" },
    make("label", { htmlFor: id, textContent: field.name }), control,
    make("p", { className: "about", id: `${id}-about`, textContent: field.about }),
    make("p", { className: "error", id: `${id}-error` }));
  box.dataset.field = field.name;
  return box;
}

function choose(name, wanted) {
  kind = kinds.find(each => each.kind === name) ?? kinds[0];
  start = wanted in kind.starts ? wanted : Object.keys(kind.starts)[0];
  by("kind").value = kind.kind;
  by("about").textContent = kind.about;
  const names = { "": "defaults", example: "an example" };
  by("start").replaceChildren(...Object.keys(kind.starts).map(each => make("option", { value: each, textContent: names[each] ?? each })));
  by("start").value = start;
  by("start").disabled = Object.keys(kind.starts).length === 1;
  by("fields").replaceChildren(...kind.fields.map(input));
}

function changes() {
  const found = {};
  for (const field of kind.fields) {
    const control = by(`field-${field.name}`);
    if (!control.disabled && control.value !== (texts()[field.name] ?? "")) found[field.name] = control.value;
  }
  return found;
}

function asked() {
  const choice = { kind: kind.kind, start, fields: changes() };
  for (const name of SHOWN) if (by(name).value.trim()) choice[name] = by(name).value.trim();
  return choice;
}

function write_address() {
  const { fields, ...shown } = asked();
  if (!shown.start) delete shown.start;
  const said = new URLSearchParams(shown);
  for (const [name, text] of Object.entries(fields)) said.set(`.${name}`, text);
  history.replaceState(null, "", `#${said}`);
}

function read_address() {
  const said = new URLSearchParams(location.hash.slice(1));
  choose(said.get("kind"), said.get("start") ?? "");
  for (const name of SHOWN) by(name).value = said.get(name) ?? "";
  for (const field of kind.fields) {
    const text = said.get(`.${field.name}`), control = by(`field-${field.name}`);
    if (text !== null && !control.disabled) control.value = text;
  }
  update();
}

function show_fault(fault) {
  for (const each of document.querySelectorAll(".field")) {
    const control = each.querySelector("input, select, textarea"), place = each.querySelector(".error");
    const wrong = Boolean(fault) && each.dataset.field === fault.field;
    control.toggleAttribute("aria-invalid", wrong);
    if (wrong) control.setAttribute("aria-invalid", "true");
    if (place) place.textContent = wrong ? fault.error : "";
  }
  by("status").className = fault ? "fault" : "";
}

function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(update, 300);
}

async function update() {
  clearTimeout(waiting);
  write_address();
  const own = ++asking, choice = asked();
  by("results").classList.add("old");
  const found = await ask("see", choice);
  if (own !== asking) return;  // another choice has been made since
  show_fault(found.error ? found : null);
  if (found.error) {
    by("status").textContent = found.error;
    return;
  }
  by("results").hidden = false;
  by("results").classList.remove("old");
  show(found);
  by("status").textContent = `${kind.name}: ${[...by("facts").querySelectorAll("dt")].slice(0, 3).map(each => `${each.textContent} ${each.nextSibling.textContent}`).join("; ")}.`;
  document.body.dataset.shown = String(own);
  const rate = await ask("rate", choice);
  if (own !== asking) return;
  const told = rate.error ?? `${amount(rate.tokens_per_second)} tokens a second, by one thread, measured just now on this machine for a moment`;
  by("rate").textContent = told;
  document.body.dataset.timed = String(own);
}

// --- what is shown ---

const nats = value => value === null ? "unlimited" : `${value.toFixed(4)} nats`;

function amount(value) {
  const [size, word] = value >= 1e9 ? [1e9, " billion"] : value >= 1e6 ? [1e6, " million"] : [1, ""];
  return (value / size).toLocaleString("en", { maximumSignificantDigits: 3 }) + word;
}

function show(found) {
  show_facts(found);
  by("length").placeholder = found.length;
  by("length-about").textContent = `tokens of a row; ${found.stable ? "a longer row begins with the shorter one" : "rows depend on their length"}`;
  by("rows").replaceChildren(...found.rows.map((row, number) => sequence(row, found, number)));
  show_losses(found);
  show_pictures(found);
  by("command").textContent = found.command;
  by("python").textContent = found.python;
}

function show_facts(found) {
  const facts = { vocabulary: `${found.vocabulary.toLocaleString("en")} ${found.actions === null ? "tokens" : `states, ${found.actions.toLocaleString("en")} actions`}` };
  if ("in long rows" in found.exact) facts["entropy rate"] = `${nats(found.exact["in long rows"])} a token, exact`;
  for (const [of, value] of Object.entries(found.exact)) if (of !== "in long rows") facts[`optimal loss, ${of}`] = `${nats(value)} a token, exact`;
  const { columns, reason, rows, with_task } = found.predicted;
  for (const [name, told] of Object.entries(columns ?? {})) {
    const knowing = with_task ? ", of one who knows the task" : "";
    facts[`best loss on ${rows} sequences (${name})`] = `${nats(told.mean)} a token${knowing}`;
    if (told.targets !== null) facts["on targets alone (loss_mask 1)"] = `${nats(told.targets)} a token${knowing}`;
  }
  if (reason) facts[columns ? "without the task" : "no best predictor"] = reason;
  if (!Object.keys(found.exact).length) facts["entropy rate"] = "not in closed form, or too large for this page";
  facts.columns = found.columns.join(", ");
  facts.rate = "being measured";
  by("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  by("facts").lastChild.id = "rate";
}

const hue = value => (value * 137.508) % 360;

function sequence(row, found, number) {
  const longest = Math.max(...Object.values(row).map(values => values.length));
  const places = make("tr", {}, make("th", { scope: "row", textContent: "place" }));
  for (let t = 0; t < longest; t++) places.append(make("td", { className: "place", textContent: t % 8 ? "" : t }));
  const lines = Object.entries(row).map(([name, values]) => {
    const line = make("tr", {}, make("th", { scope: "row", textContent: name }));
    values.forEach((value, t) => {
      const cell = make("td", { textContent: value });
      if (row.loss_mask && name === "tokens" && !row.loss_mask[t] || name === "loss_mask" && !value) cell.className = "off";
      else cell.style.setProperty("--hue", hue(value + (name === "tokens" ? 0 : 5)));
      if (values.length === 1 && longest > 1) cell.style.textAlign = "left";
      line.append(cell);
    });
    return line;
  });
  const title = `Sequence ${found.first + number}`;
  const table = make("table", {}, make("caption", { textContent: title }), make("tbody", {}, places, ...lines));
  const box = make("div", { className: "scroll", tabIndex: 0 }, table);
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", title);
  return box;
}

function draw(tag, properties, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function show_losses(found) {
  const { columns, reason, rows } = found.predicted;
  if (!columns) return by("loss").replaceChildren(make("p", { textContent: `There is none to draw: ${reason}.` }));
  by("loss").replaceChildren(...Object.entries(columns).map(([name, told]) => {
    const limit = name === "tokens" ? found.exact["in long rows"] : name === "actions" ? found.exact["an action, in long rows"] : found.exact["a next state, in long rows"];
    const words = `Mean loss of ${name} over ${rows} sequences, nats${limit === undefined ? "" : `; dashed: the entropy rate, ${limit.toFixed(4)}`}`;
    return make("figure", {}, make("figcaption", { textContent: words }), curve(told.curve, limit, words));
  }));
}

function curve(values, limit, words) {
  const wide = Math.max(280, by("loss").clientWidth), high = 220, left = 46, below = 28;
  const known = values.filter(value => value !== null);
  const top = Math.max(0.1, limit ?? 0, ...known) * 1.05;
  const x = t => left + (values.length > 1 ? t / (values.length - 1) : 0.5) * (wide - left - 12);
  const y = value => 8 + (1 - value / top) * (high - below - 8);
  const parts = [];
  for (let k = 0; k <= 4; k++) {
    const value = top * k / 4;
    parts.push(draw("line", { class: "axis-line", x1: left, x2: wide, y1: y(value), y2: y(value) }));
    parts.push(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  for (let k = 0; k <= 4; k++) {
    const t = Math.round((values.length - 1) * k / 4);
    if (k && t === Math.round((values.length - 1) * (k - 1) / 4)) continue;
    parts.push(draw("text", { x: x(t), y: high - 8, "text-anchor": k === 4 ? "end" : "middle" }, t));
  }
  if (limit !== undefined) parts.push(draw("line", { class: "limit", x1: left, x2: wide, y1: y(limit), y2: y(limit) }));
  const points = values.map((value, t) => value === null ? null : `${x(t).toFixed(1)},${y(value).toFixed(1)}`).filter(Boolean);
  parts.push(draw("polyline", { class: "curve", points: points.join(" ") }));
  const said = `${words}. At the first place ${known[0]?.toFixed(2)}, at the last ${known.at(-1)?.toFixed(2)}.`;
  return draw("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": said }, ...parts);
}

function show_pictures(found) {
  const drawn = found.pictures.map(each => heat_map(each.title, each.heat, each.of || "row", each.values, []));
  for (const [name, told] of Object.entries(found.predicted.columns ?? {})) {
    const across = told.heat[0].map((_, band) => told.heat.map(line => line[band]));
    const title = `What the best predictor expects of the ${name} of sequence ${found.first}, place by place; dots are what came`;
    const width = Math.ceil(told.values / across.length);
    drawn.push(heat_map(title, across, "value", told.values, told.seen.map(value => Math.floor(value / width)), told.from, width));
  }
  by("pictures").replaceChildren(...drawn.length ? drawn : [make("p", { textContent: "There are none to draw: this law has no exact predictor." })]);
}

function heat_map(title, lines, of, values, marks, from = 0, width = 0) {
  const high = lines.length, wide = lines[0].length, scale = Math.max(1, Math.floor(720 / wide)), tall = Math.max(1, Math.floor(384 / high));
  const canvas = make("canvas", { width: wide * scale, height: high * tall });
  const pen = canvas.getContext("2d"), largest = Math.max(1e-9, ...lines.flat());
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  lines.forEach((line, row) => line.forEach((chance, column) => {
    const part = Math.sqrt(Math.max(0, chance) / largest);
    pen.fillStyle = dark ? `hsl(210 60% ${10 + 65 * part}%)` : `hsl(214 65% ${97 - 62 * part}%)`;
    pen.fillRect(column * scale, row * tall, scale, tall);
  }));
  pen.fillStyle = dark ? "#ffb070" : "#c2410c";
  marks.forEach((row, column) => {
    const size = Math.max(2, Math.min(scale, tall) / 2);
    pen.fillRect((column + 0.5) * scale - size / 2, (row + 0.5) * tall - size / 2, size, size);
  });
  const sums = Math.ceil(values / (width ? high : wide));
  const bands = sums > 1 ? `; ${sums} values are summed into one` : "";
  const words = `${title}. Largest ${largest.toPrecision(3)}${bands}.`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  const [up, across] = width ? [`down: ${of} 0 to ${values - 1}`, `across: place ${from} to ${from + wide - 1}`] : [`down: ${of}`, `across: value 0 to ${values - 1}`];
  return make("figure", {}, make("figcaption", { textContent: words }), canvas, make("div", { className: "axis" }, make("span", { textContent: up }), make("span", { textContent: across })));
}

// --- it begins ---

async function begin() {
  const found = await ask("forms");
  if (found.error) {
    by("status").className = "fault";
    by("status").textContent = found.error;
    return;
  }
  kinds = found.kinds;
  by("kind").append(...kinds.map(each => make("option", { value: each.kind, textContent: `${each.name} (${each.kind})` })));
  by("kind").addEventListener("change", () => { choose(by("kind").value, ""); by("length").value = ""; update(); });
  by("start").addEventListener("change", () => { choose(kind.kind, by("start").value); update(); });
  by("form").addEventListener("submit", event => { event.preventDefault(); update(); });
  by("form").addEventListener("input", event => { if (!["kind", "start"].includes(event.target.id)) soon(); });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(by(button.dataset.copy).textContent);
      by("status").textContent = "Copied.";
    });
  }
  addEventListener("hashchange", read_address);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  read_address();
}

begin();
