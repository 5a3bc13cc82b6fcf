"use strict";
// A small holdfast.v1 client for the demo: reconnects with full jitter, resumes where it was, shows each message
// once, and repeats sends under the same `n` until their ack. The Python client does the same and more.

class HoldfastClient {
  constructor({ token, endpoint, on }) {
    this.token = token;          // async function: a token
    this.endpoint = endpoint;    // async function of a token: a WebSocket URL
    this.on = on;                // called with (name, value)
    this.id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
    this.positions = new Map();  // channel: {epoch, seq}
    this.unacked = new Map();    // n: {to, type, data, done}
    this.waiting = new Map();    // frame id: what waits for the answer
    this.n = 0;
    this.frame = 0;
    this.attempt = 0;
    this.socket = null;
    this.live = false;
  }

  async connect() {
    this.on("state", { state: "connecting", text: "connecting" });
    let socket;
    try {
      const token = await this.token();
      socket = new WebSocket(await this.endpoint(token), "holdfast.v1.json");
      socket.onopen = () => this.write({
        t: "connect", token, client: this.id, device: "web", resume: Object.fromEntries(this.positions),
      });
    } catch (error) {
      this.again(`no answer (${error.message})`);
      return;
    }
    this.socket = socket;
    socket.onmessage = (event) => {
      this.heard = Date.now();
      for (const line of event.data.split("\n")) if (socket === this.socket) this.receive(JSON.parse(line));
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.lost(event.code, event.reason);
    };
  }

  lost(code, reason) {
    this.socket = null;
    this.live = false;
    clearInterval(this.watch);
    for (const [id, asked] of this.waiting) {
      if (asked.reject) asked.reject(new Error("the connection was lost"));
      this.waiting.delete(id);
    }
    this.on("lost", { code, reason });
    // 4104 means: ended through the API, do not come back without changing something. Here the person at the
    // page may come back, with a new token; the wait makes it visible.
    if (code === 4104) this.again("ended by the server", 2000);
    else if (code >= 4100 && code < 4200) this.on("state", { state: "ended", text: `ended: ${reason || code}` });
    else this.again(code === 4005 ? "replaced by a newer connection" : "connection lost");
  }

  again(why, wait = Math.random() * Math.min(15000, 500 * 2 ** this.attempt)) {
    this.attempt = Math.min(this.attempt + 1, 6);
    this.on("state", { state: "waiting", text: `${why}, back in ${(wait / 1000).toFixed(1)} s` });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  receive(frame) {
    switch (frame.t) {
      case "connected": return this.connected(frame);
      case "message": return this.message(frame);
      case "ping": return this.write({ t: "pong" });
      case "ack": {
        const sent = this.take(frame.id);
        if (sent && this.unacked.delete(sent.n)) this.on("ack", { sent, message: frame.message });
        return;
      }
      case "reply":
      case "subscribed": {
        if (frame.t === "subscribed") this.positions.set(frame.channel, { epoch: frame.epoch, seq: frame.seq });
        const asked = this.take(frame.id);
        if (asked && asked.resolve) asked.resolve(frame.data);
        return;
      }
      case "reset":
        this.positions.set(frame.channel, { epoch: frame.epoch, seq: frame.seq });
        return this.on("reset", frame);
      case "drain":
        setTimeout(() => this.socket && this.socket.close(), frame.after * 1000 * (1 + Math.random() / 10));
        return;
      case "error": return this.error(frame);
    }
  }

  connected(frame) {
    this.live = true;
    this.attempt = 0;
    const resets = [];
    for (const [channel, { epoch, seq, recovered }] of Object.entries(frame.channels)) {
      if (this.positions.has(channel) && !recovered) resets.push({ channel, epoch, seq });
      this.positions.set(channel, { epoch, seq });
    }
    this.watch = setInterval(() => {
      const silent = (Date.now() - this.heard) / 1000;
      if (silent > 2 * frame.heartbeat) this.socket.close();
      else if (silent > frame.heartbeat) this.write({ t: "ping" });
    }, 1000);
    this.on("connected", frame);
    resets.forEach((reset) => this.on("reset", reset));
    this.on("state", { state: "connected", text: `connected to ${frame.node}` });
    for (const sent of this.unacked.values()) this.transmit(sent);
  }

  message(frame) {
    const position = this.positions.get(frame.channel);
    if (!position || (frame.epoch === position.epoch && frame.seq <= position.seq)) return;
    if (frame.seq !== position.seq + 1) {
      this.socket.close();  // a gap: resuming reads the log
      return;
    }
    this.positions.set(frame.channel, { epoch: frame.epoch, seq: frame.seq });
    this.on("message", frame);
  }

  error(frame) {
    const asked = this.take(frame.id);
    if (!asked) return this.on("error", frame);
    if (asked.reject) return asked.reject(new Error(frame.message));
    if (frame.retry === false) {
      this.unacked.delete(asked.n);
      return this.on("refused", { sent: asked, reason: frame.message });
    }
    // Everything from here on again, in order, a little later.
    clearTimeout(this.resend);
    this.resend = setTimeout(() => {
      if (this.live) for (const sent of this.unacked.values()) this.transmit(sent);
    }, frame.retry === true ? 500 : frame.retry * 1000);
  }

  take(id) {
    const asked = this.waiting.get(id);
    this.waiting.delete(id);
    return asked;
  }

  write(frame) {
    if (this.socket && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  transmit(sent) {
    const id = ++this.frame;
    this.waiting.set(id, sent);
    this.write({ t: "send", id, n: sent.n, to: sent.to, type: sent.type, data: sent.data });
  }

  send(to, type, data) {
    const sent = { n: ++this.n, to, type, data };
    this.unacked.set(sent.n, sent);
    if (this.live) this.transmit(sent);
    return sent;
  }

  ask(frame) {
    return new Promise((resolve, reject) => {
      const id = ++this.frame;
      this.waiting.set(id, { resolve, reject });
      this.write({ ...frame, id });
    });
  }

  request(type, data) { return this.ask({ t: "request", type, data }); }
  subscribe(channel) { return this.ask({ t: "subscribe", channel }); }
}
