"use strict";
// Shows the streams once a second and follows one of them. Values reach the page as text, never as markup.
const byId = (id) => document.getElementById(id);
const LINES_MAX = 200;
let source = null;
let paused = false;

const cell = (text, name) => {
  const td = document.createElement("td");
  td.textContent = text;
  if (name) td.className = name;
  return td;
};

const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at ? n.toFixed(1) : n} ${units[at]}`;
};

async function look() {
  try {
    const health = await (await fetch("health")).json();
    const resting = health.streams.filter((stream) => stream.state === "PAUSED").length;
    const well = resting ? `nothing failed, ${resting} paused` : "all streams are well";
    byId("health").textContent = health.status === "SERVING" ? well : "something failed";
    byId("health").className = health.status.toLowerCase();
    const { streams } = await (await fetch("v1/streams")).json();
    byId("streams").replaceChildren(...streams.map((stream) => {
      const row = document.createElement("tr");
      row.append(
        cell(stream.name), cell(stream.state, stream.state.toLowerCase()), cell(stream.visible_offset.toLocaleString()),
        cell(`${stream.lag_bytes === null ? "" : `${bytes(stream.lag_bytes)}, `}${stream.lag_seconds.toFixed(1)} s`), cell(bytes(stream.log_bytes)),
        cell(`${stream.events_received.toLocaleString()} events`));
      return row;
    }));
    byId("errors").textContent = streams.filter((s) => s.error && (s.state === "FAILED" || s.state === "PAUSED")).map((s) => `${s.name}: ${s.error}`).join("\n");
    const select = byId("stream");
    const names = streams.map((stream) => stream.name);
    if (names.join() !== [...select.options].map((option) => option.value).join()) {
      const chosen = select.value;
      select.replaceChildren(...names.map((name) => new Option(name, name)));
      if (names.includes(chosen)) select.value = chosen;
      follow();
    }
  } catch {
    byId("health").textContent = "the daemon does not answer";
    byId("health").className = "failed";
  }
}

const span = (text, name) => {
  const node = document.createElement("span");
  node.textContent = text;
  node.className = name;
  return node;
};

function show(message) {
  if (paused) return;
  const event = JSON.parse(message.data);
  const line = document.createElement("li");
  const table = event.table === null || event.table === undefined ? (event.prefix ?? "") : `${event.schema}.${event.table}`;
  const row = event.after ?? event.before ?? event.content ?? "";
  line.append(
    span(`${event.offset} `, "dim"), span(event.op, `op ${event.op}`), span(`${table} `, "table"),
    span(typeof row === "string" ? row : JSON.stringify(row), "row"));
  const tail = byId("tail");
  tail.prepend(line);
  while (tail.childElementCount > LINES_MAX) tail.lastElementChild.remove();
}

function follow() {
  if (source) source.close();
  byId("tail").replaceChildren();
  const name = byId("stream").value;
  if (!name) return;
  const table = byId("table").value.trim();
  const query = table ? `?table=${encodeURIComponent(table)}` : "";
  source = new EventSource(`v1/streams/${encodeURIComponent(name)}/events${query}`);
  source.onmessage = show;
}

byId("stream").addEventListener("change", follow);
byId("table").addEventListener("change", follow);
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").textContent = paused ? "Go on" : "Pause";
});
look();
setInterval(look, 1000);
