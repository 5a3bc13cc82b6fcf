"use strict";
// The demo page. Every bubble but those on their way is drawn from a channel's log: the lobby from room:lobby,
// conversations from the inbox user:ME, into which the demo's handler also puts a copy of what ME writes.

const LOBBY = "room:lobby";
const $ = (id) => document.getElementById(id);
const ui = { me: "", open: LOBBY, conversations: new Map(), people: new Map(), cutAt: 0, missed: 0, client: null };

const conversation = (key) => {
  if (!ui.conversations.has(key)) ui.conversations.set(key, { items: [], unread: 0 });
  return ui.conversations.get(key);
};

async function post(path, body, key) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail || answer.title || `HTTP ${response.status}`);
  return answer;
}

async function endpoint(token) {
  const response = await fetch("/v1/access", { headers: { Authorization: `Bearer ${token}` } });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const { endpoints } = await response.json();
  const url = new URL(endpoints.find((one) => one.protocol === "websocket").url);
  url.hostname = location.hostname;  // the page may be looked at through a forwarded port
  return url.href;
}

// --- what comes in ---------------------------------------------------------------------------------------

const handlers = {
  state({ state, text }) {
    $("state").dataset.state = state;
    $("state").replaceChildren(element("span", "", text));
    $("cut").disabled = state !== "connected";
  },
  async connected(frame) {
    if (ui.cutAt) {
      ui.backAt = Date.now();
      ui.missed = 0;
      // What was missed follows `connected` at once; count it, then say so.
      setTimeout(() => {
        const away = ((ui.backAt - ui.cutAt) / 1000).toFixed(1);
        const caught = ui.missed ? `${ui.missed} message${ui.missed > 1 ? "s" : ""} caught up` : "nothing was missed";
        note(`back after ${away} s, resumed: ${caught}`, "back");
        ui.cutAt = 0;
      }, 400);
    } else {
      await ui.client.subscribe(LOBBY);
      const { messages } = await ui.client.request("chat.history");
      for (const message of messages) place(message, true);
      draw();
    }
    const { people } = await ui.client.request("chat.people");
    for (const name of people) ui.people.set(name, true);
    for (const name of ui.people.keys()) ui.people.set(name, people.includes(name));
    drawPeople();
  },
  lost({ code, reason }) {
    if (!ui.cutAt) ui.cutAt = Date.now();
    note(`connection ended, code ${code}${reason ? ` (${reason})` : ""}`, "cut");
  },
  message(frame) {
    if (frame.type === "chat.presence") {
      ui.people.set(frame.data.user, frame.data.online);
      drawPeople();
      drawPosition();
      return;
    }
    if (ui.cutAt && frame.from !== ui.me) ui.missed += 1;
    place(frame, false);
  },
  ack({ sent, message }) {
    const item = find((one) => one.sent === sent);
    if (!item) return;
    item.cause = message;
    const arrived = find((one) => one.frame && one.frame.cause === message);
    if (arrived) remove(item); else mark(item, "✓ in the queue");
  },
  refused({ sent, reason }) {
    const item = find((one) => one.sent === sent);
    if (item) { item.refused = true; mark(item, reason); }
  },
  error(frame) {
    // What ends the connection is told by `lost`.
    if (frame.id !== undefined || frame.channel !== undefined) note(frame.message, "cut");
  },
  reset(frame) { note(`${frame.channel} goes on at #${frame.seq}: what came before is not kept any more`, "cut"); },
};

function keyOf(frame) {
  if (frame.channel === LOBBY) return LOBBY;
  return frame.from === ui.me ? frame.data.to : `user:${frame.from}`;
}

function place(frame, old) {
  if (!frame.data || typeof frame.data.text !== "string") return;
  const key = keyOf(frame);
  const { items } = conversation(key);
  if (items.some((one) => one.frame && one.frame.seq === frame.seq && one.frame.epoch === frame.epoch)) return;
  const pending = items.find((one) => one.cause && one.cause === frame.cause);
  if (pending) items.splice(items.indexOf(pending), 1);
  let at = items.length;
  while (at > 0 && (!items[at - 1].frame ? items[at - 1].sent : items[at - 1].frame.seq > frame.seq)) at -= 1;
  items.splice(at, 0, { frame });
  if (frame.from && frame.from !== ui.me && !ui.people.has(frame.from)) ui.people.set(frame.from, !old);
  if (key !== ui.open && !old) conversation(key).unread += 1;
  if (key === ui.open) draw();
  drawPeople();
}

function find(test) {
  for (const { items } of ui.conversations.values()) for (const item of items) if (test(item)) return item;
  return null;
}

function remove(item) {
  for (const { items } of ui.conversations.values()) if (items.includes(item)) items.splice(items.indexOf(item), 1);
  draw();
}

function mark(item, state) { item.state = state; draw(); }

function note(text, kind) {
  conversation(ui.open).items.push({ note: text, kind });
  draw();
}

// --- drawing ---------------------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bubble(item) {
  if (item.note) return element("li", `note ${item.kind}`, item.note);
  const { frame, sent } = item;
  const mine = !frame || frame.from === ui.me;
  const made = element("li", `message${mine ? " mine" : ""}${frame ? "" : item.refused ? " refused" : " pending"}`);
  if (!mine) made.append(element("div", "from", frame.from || "the API"));
  made.append(element("div", "body", (frame || sent).data.text));
  const meta = element("div", "meta");
  if (frame) {
    meta.append(element("span", "", new Date(frame.ts).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })));
    const seq = element("span", "", `#${frame.seq}`);
    seq.title = `seq ${frame.seq} of ${frame.channel}, epoch ${frame.epoch}`;
    meta.append(seq);
  } else meta.append(element("span", "", item.state || "sending"));
  made.append(meta);
  return made;
}

// Elements are kept and moved, so that screen readers announce only what is new.
function draw() {
  const list = $("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  const wanted = conversation(ui.open).items.map((item) => {
    const look = JSON.stringify([item.state, item.refused]);
    if (!item.element || item.look !== look) { item.element = bubble(item); item.look = look; }
    return item.element;
  });
  for (const child of [...list.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((child, at) => { if (list.children[at] !== child) list.insertBefore(child, list.children[at] || null); });
  if (atEnd) list.scrollTop = list.scrollHeight;
  drawPosition();
}

function drawPosition() {
  const channel = ui.open === LOBBY ? LOBBY : `user:${ui.me}`;
  const position = ui.client && ui.client.positions.get(channel);
  $("position").textContent = position ? `${channel} at #${position.seq}` : "";
}

function entry(key, label, online) {
  const item = element("li");
  const button = element("button");
  button.type = "button";
  button.setAttribute("aria-current", String(key === ui.open));
  if (online !== undefined) {
    const dot = element("span", `dot${online ? " online" : ""}`);
    dot.setAttribute("role", "img");
    dot.setAttribute("aria-label", online ? "online" : "offline");
    button.append(dot);
  }
  button.append(element("span", "label", label));
  const { unread } = conversation(key);
  if (unread) {
    const badge = element("span", "unread", String(unread));
    badge.setAttribute("aria-label", `${unread} unread`);
    button.append(badge);
  }
  button.onclick = () => show(key);
  item.append(button);
  return item;
}

function drawPeople() {
  $("rooms").replaceChildren(entry(LOBBY, "# lobby"));
  const others = [...ui.people].filter(([name]) => name !== ui.me).sort(([a, x], [b, y]) => y - x || a.localeCompare(b));
  $("people").replaceChildren(...others.map(([name, online]) => entry(`user:${name}`, name, online)));
  $("alone").hidden = others.some(([, online]) => online);
}

function show(key) {
  ui.open = key;
  conversation(key).unread = 0;
  $("title").textContent = key === LOBBY ? "# lobby" : key.slice(5);
  $("text").placeholder = key === LOBBY ? "Write to the lobby" : `Write to ${key.slice(5)}`;
  drawPeople();
  draw();
  $("messages").scrollTop = $("messages").scrollHeight;
  $("text").focus();
}

// --- what people do --------------------------------------------------------------------------------------

async function join(name) {
  ui.me = name;
  const token = async () => (await post("/demo/token", { user: name })).token;
  await token();  // a name that is not allowed shows here, on the form
  sessionStorage.setItem("name", name);
  document.title = `${name}, Holdfast`;
  $("me").textContent = name;
  $("welcome").hidden = true;
  $("chat").hidden = false;
  ui.client = new HoldfastClient({ token, endpoint, on: (event, value) => handlers[event](value) });
  show(LOBBY);
  await ui.client.connect();
}

$("join").onsubmit = async (event) => {
  event.preventDefault();
  $("join-error").textContent = "";
  try {
    await join($("name").value.trim());
  } catch (error) {
    $("join-error").textContent = error.message;
  }
};

$("compose").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  conversation(ui.open).items.push({ sent: ui.client.send(ui.open, "chat.text", { text }) });
  draw();
  $("messages").scrollTop = $("messages").scrollHeight;
};

$("cut").onclick = async () => {
  $("cut").disabled = true;
  try {
    await post(`/v1/users/${encodeURIComponent(ui.me)}/disconnect`, { reason: "the button on the page" }, "dev");
  } catch (error) {
    note(`the API said: ${error.message}`, "cut");
    $("cut").disabled = false;
  }
};

const known = sessionStorage.getItem("name") || new URLSearchParams(location.search).get("name");
if (known) join(known).catch((error) => {
  $("welcome").hidden = false;
  $("chat").hidden = true;
  $("join-error").textContent = error.message;
});
