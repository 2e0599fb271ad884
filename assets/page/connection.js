// The WebSocket /v1/connect: ConnectChat's frames as JSON. It connects, tells when frames may be sent, and connects again by itself; what
// is to be joined and sent then is its owner's matter.
//
// The rules, from the service's promises:
// - `goingAway` says how long to wait before the next connection; otherwise waits grow, with jitter, so that not everyone returns at once.
// - A browser doesn't tell why a handshake failed, so `probe` asks REST: a token that is refused there won't be taken here either.
// - A connection can die without a word. A frame that gets no answer for long says so.

import { millisOf } from "./api.js";

export const BACKOFF_MS = 250;
export const BACKOFF_MAX_MS = 10_000;
/** How long a handshake may take. */
export const CONNECT_DUE_MS = 10_000;
/** How long the server may be silent after a frame that it has to answer. */
export const ANSWER_DUE_MS = 20_000;

/** Close codes after which coming back with the same token is of no use. */
const REFUSALS = { 4401: "token", 4403: "forbidden" };

/** What may stand in Sec-WebSocket-Protocol. JWTs do; an Auth Service's tokens may not. */
const PROTOCOL = /^[\w!#$%&'*+.^`|~-]+$/;

export class Connection {
  #url;
  #token;
  #handlers;
  #tools;
  #socket = null;
  #state = "closed";
  #attempts = 0;
  #awayMs;
  #timers = {};

  /**
   * `handlers`: `state(state)` with `connecting`, `open`, `waiting`, `refused` or `closed`; `ready()`: frames may be sent, and none of an
   * earlier connection counts; `event(event)`; `refused(why)` with `token` or `forbidden`: it doesn't come back by itself.
   * `probe()` resolves to whether the token is good as far as REST can tell.
   */
  constructor({ url, token, handlers, probe, tools = {} }) {
    this.#url = url;
    this.#token = token;
    this.#handlers = { ...handlers, probe };
    this.#tools = {
      makeSocket: (address, protocols) => new WebSocket(address, protocols),
      setTimer: (run, ms) => setTimeout(run, ms),
      clearTimer: (timer) => clearTimeout(timer),
      random: Math.random,
      ...tools,
    };
  }

  get open() {
    return this.#state === "open";
  }

  connect() {
    this.#drop();
    this.#awayMs = undefined;
    this.#enter("connecting");
    const inProtocol = PROTOCOL.test(this.#token);
    const socket = this.#tools.makeSocket(this.#url, inProtocol ? ["chat.v1", `bearer.${this.#token}`] : ["chat.v1"]);
    this.#socket = socket;
    // Events of a socket that was given up count no more.
    const current = (act) => (event) => {
      if (socket === this.#socket) act(event);
    };
    socket.onopen = current(() => {
      if (inProtocol) this.#ready();
      else socket.send(JSON.stringify({ refreshToken: { token: this.#token } }));
    });
    socket.onmessage = current(({ data }) => this.#event(JSON.parse(data)));
    socket.onclose = current(({ code }) => this.#lost(code));
    this.#timer("connect", CONNECT_DUE_MS, () => this.#lost());
  }

  /** Sends a frame now, or returns false: the owner sends it when the next connection is ready. */
  send(frame) {
    if (!this.open) return false;
    this.#socket.send(JSON.stringify(frame));
    if (!this.#timers.answer) this.#timer("answer", ANSWER_DUE_MS, () => this.#lost());
    return true;
  }

  /** A new token of the same user: for this connection, and for those to come. */
  refresh(token) {
    this.#token = token;
    this.send({ refreshToken: { token } });
  }

  /** Doesn't wait any longer for the next try. */
  hurry() {
    if (this.#state === "waiting") this.connect();
  }

  /** Gives this connection up and makes another: what was received makes no sense. */
  restart() {
    this.#lost();
  }

  close() {
    this.#drop();
    this.#enter("closed");
  }

  #ready() {
    this.#stop("connect");
    this.#enter("open");
    this.#handlers.ready();
  }

  #event(event) {
    this.#stop("answer");
    if (this.#state === "connecting") {
      // The answer to the token that was sent as the first frame.
      if (event.tokenRefreshed) this.#ready();
      else if (event.rejected) this.#refuse("token");
      return;
    }
    // Only now: a server that takes connections and closes them again must not be rushed.
    this.#attempts = 0;
    if (event.goingAway) this.#awayMs = millisOf(event.goingAway.reconnectAfter);
    this.#handlers.event(event);
  }

  /** Without a code: this side has given up. */
  async #lost(code) {
    const opened = this.open;
    this.#drop();
    if (REFUSALS[code]) return this.#refuse(REFUSALS[code]);
    this.#enter("waiting");
    this.#timer("retry", this.#waitMs(), () => this.connect());
    this.#attempts += 1;
    if (!opened && !(await this.#handlers.probe()) && this.#state === "waiting") this.#refuse("token");
  }

  /** What `goingAway` asked for is the least; a wait of this side's own is spread around its value. */
  #waitMs() {
    if (this.#awayMs !== undefined) return Math.min(this.#awayMs, BACKOFF_MAX_MS) * (1 + this.#tools.random() / 2);
    return Math.min(BACKOFF_MS * 2 ** this.#attempts, BACKOFF_MAX_MS) * (0.5 + this.#tools.random());
  }

  #refuse(why) {
    this.#drop();
    this.#enter("refused");
    this.#handlers.refused(why);
  }

  #drop() {
    for (const name of Object.keys(this.#timers)) this.#stop(name);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
  }

  #enter(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#handlers.state(state);
  }

  #timer(name, ms, run) {
    this.#stop(name);
    this.#timers[name] = this.#tools.setTimer(() => {
      delete this.#timers[name];
      run();
    }, ms);
  }

  #stop(name) {
    if (name in this.#timers) this.#tools.clearTimer(this.#timers[name]);
    delete this.#timers[name];
  }
}
