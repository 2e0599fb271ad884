// The page's connection, at a socket and a clock of the test's: assets/page/connection.js.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ANSWER_DUE_MS, BACKOFF_MAX_MS, BACKOFF_MS, CONNECT_DUE_MS, Connection } from "../../assets/page/connection.js";
import { Store } from "../../assets/page/store.js";

/** A clock that stands until it is told, and sockets that do what the test says. */
function stage({ token = "a.b.c", probe = async () => true, random = 0.5, onReady = () => {} } = {}) {
  const sockets = [];
  const told = [];
  const timers = new Set();
  let now = 0;
  const tools = {
    makeSocket(url, protocols) {
      const socket = { url, protocols, sent: [], closed: undefined, send: (text) => socket.sent.push(JSON.parse(text)), close: (code) => (socket.closed = code) };
      sockets.push(socket);
      return socket;
    },
    setTimer(run, ms) {
      const timer = { run, at: now + ms };
      timers.add(timer);
      return timer;
    },
    clearTimer: (timer) => timers.delete(timer),
    random: () => random,
  };
  const handlers = {
    state: (state) => told.push(state),
    ready: () => onReady(connection),
    event: (event) => told.push(event),
    refused: (why) => told.push(`refused: ${why}`),
  };
  const connection = new Connection({ url: "wss://chat/v1/connect", token, handlers, probe, tools });
  const pass = (ms) => {
    now += ms;
    for (const timer of [...timers].sort((a, b) => a.at - b.at)) {
      if (timer.at <= now && timers.delete(timer)) timer.run();
    }
  };
  const socket = () => sockets.at(-1);
  const receive = (event) => socket().onmessage({ data: JSON.stringify(event) });
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  return { connection, sockets, socket, told, pass, receive, settle };
}

/** The milliseconds until the next socket is made. */
function waited(at) {
  const before = at.sockets.length;
  for (let ms = 0; ms <= 2 * BACKOFF_MAX_MS; ms += 1) {
    if (at.sockets.length > before) return ms;
    at.pass(1);
  }
  return Infinity;
}

test("the token goes with the handshake, and frames after it", () => {
  const at = stage();
  at.connection.connect();
  assert.deepEqual(at.socket().protocols, ["chat.v1", "bearer.a.b.c"]);
  assert.equal(at.connection.send({ join: {} }), false, "not yet");
  at.socket().onopen();
  assert.equal(at.connection.send({ join: { chatId: "c" } }), true);
  assert.deepEqual([at.socket().sent, at.told], [[{ join: { chatId: "c" } }], ["connecting", "open"]]);
});

test("a token that can't stand in the handshake goes as the first frame, and others wait for its answer", () => {
  const at = stage({ token: "opaque/token=" });
  at.connection.connect();
  assert.deepEqual(at.socket().protocols, ["chat.v1"]);
  at.socket().onopen();
  assert.deepEqual(at.socket().sent, [{ refreshToken: { token: "opaque/token=" } }]);
  assert.equal(at.connection.open, false);
  at.receive({ tokenRefreshed: { expiresAt: "2030-01-01T00:00:00Z" } });
  assert.equal(at.connection.open, true);
});

test("waits grow up to a bound, and begin anew once the server has answered", async () => {
  const at = stage();
  at.connection.connect();
  const waits = [];
  for (let count = 0; count < 8; count += 1) {
    at.socket().onclose({ code: 1006 });
    await at.settle();
    waits.push(waited(at));
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, BACKOFF_MAX_MS, BACKOFF_MAX_MS]);
  at.socket().onopen();
  at.socket().onclose({ code: 1011 });
  assert.equal(waited(at), BACKOFF_MAX_MS, "a connection that said nothing proves nothing");
  at.socket().onopen();
  at.receive({ joined: {} });
  at.socket().onclose({ code: 1011 });
  assert.equal(waited(at), BACKOFF_MS);
});

test("going away: the server's wait is the least, and spread", () => {
  for (const [random, ms] of [[0, 200], [1, 300]]) {
    const at = stage({ random });
    at.connection.connect();
    at.socket().onopen();
    at.receive({ goingAway: { reconnectAfter: "0.2s" } });
    at.socket().onclose({ code: 1001 });
    assert.equal(waited(at), ms);
  }
});

test("a refused token ends it, by close code or by what REST says; no answer from REST doesn't", async () => {
  const at = stage();
  at.connection.connect();
  at.socket().onopen();
  at.socket().onclose({ code: 4401 });
  assert.deepEqual(at.told.slice(-2), ["refused", "refused: token"]);
  assert.equal(waited(at), Infinity);

  const unopened = stage({ probe: async () => false });
  unopened.connection.connect();
  unopened.socket().onclose({ code: 1006 });
  await unopened.settle();
  assert.deepEqual(unopened.told, ["connecting", "waiting", "refused", "refused: token"]);
  assert.equal(waited(unopened), Infinity);

  const foreign = stage();
  foreign.connection.connect();
  foreign.socket().onclose({ code: 4403 });
  assert.deepEqual(foreign.told.at(-1), "refused: forbidden");
});

test("a handshake that hangs and a server that falls silent are given up", async () => {
  const at = stage();
  at.connection.connect();
  at.pass(CONNECT_DUE_MS);
  await at.settle();
  assert.equal(at.socket().closed, 1000);
  assert.equal(waited(at), BACKOFF_MS);
  at.socket().onopen();
  at.pass(10 * ANSWER_DUE_MS);
  assert.equal(at.connection.open, true, "a quiet chat is no dead connection");
  at.connection.send({ send: {} });
  at.pass(ANSWER_DUE_MS - 1);
  at.receive({ acknowledged: {} });
  at.pass(ANSWER_DUE_MS);
  assert.equal(at.connection.open, true, "it has answered");
  at.connection.send({ send: {} });
  at.pass(ANSWER_DUE_MS);
  assert.equal(at.connection.open, false);
});

test("what an old socket says counts no more", () => {
  const at = stage();
  at.connection.connect();
  const [old] = at.sockets;
  old.onopen();
  at.connection.restart();
  waited(at);
  at.socket().onopen();
  old.onmessage({ data: JSON.stringify({ message: {} }) });
  old.onclose({ code: 4401 });
  assert.deepEqual(at.told, ["connecting", "open", "waiting", "connecting", "open"]);
});

test("a new token goes to this connection and to the next", () => {
  const at = stage();
  at.connection.connect();
  at.socket().onopen();
  at.connection.refresh("d.e.f");
  assert.deepEqual(at.socket().sent, [{ refreshToken: { token: "d.e.f" } }]);
  at.socket().onclose({ code: 1006 });
  at.connection.hurry();
  assert.deepEqual(at.socket().protocols[1], "bearer.d.e.f");
});

test("closed means closed", () => {
  const at = stage();
  at.connection.connect();
  at.socket().onopen();
  at.connection.close();
  assert.equal(at.socket().closed, 1000);
  assert.equal(waited(at), Infinity);
});

/** A server that stores by id and delivers in order, and dies at random: after a frame was stored or before, with its answers or without. */
test("whatever is lost on the way, each message is stored and shown once and in order", async () => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const random = numbers(seed);
    const log = [];
    let joinedAfter = null;
    const store = new Store({ getItem: () => null, setItem: () => {} }, () => `${seed} ${random()}`);
    store.signIn("alice");
    store.open("c");
    store.latest({ messages: [], hasMore: false });
    const sendOf = ({ id, chatId, text }) => ({ send: { chatId, clientMessageId: id, text } });
    const at = stage({
      onReady(connection) {
        joinedAfter = null;
        connection.send({ join: { chatId: "c", afterSequence: String(store.chat.last) } });
        for (const pending of store.toSend()) connection.send(sendOf(pending));
      },
    });
    const take = (event) => {
      at.receive(event);
      if (event.message && store.see({ ...event.message, sequence: Number(event.message.sequence) }) === "hole") assert.fail("a hole");
      if (event.acknowledged) store.acknowledged(event.acknowledged);
    };
    at.connection.connect();
    at.socket().onopen();
    let written = 0;
    while (written < 30 || store.toSend().length > 0 || store.chat.last < 30) {
      if (written < 30 && random() < 0.5) {
        const pending = store.write("c", String((written += 1)));
        at.connection.send(sendOf(pending));
      }
      const dies = random() < 0.1;
      const frame = at.socket().sent.shift();
      if (frame?.join) joinedAfter = Number(frame.join.afterSequence);
      if (frame?.send) {
        const { clientMessageId, text } = frame.send;
        let stored = log.find((message) => message.clientMessageId === clientMessageId);
        if (!stored) log.push((stored = { chatId: "c", sequence: String(log.length + 1), senderId: "alice", clientMessageId, text }));
        if (!dies) take({ acknowledged: { chatId: "c", clientMessageId, sequence: stored.sequence } });
      }
      if (!dies && joinedAfter !== null && random() < 0.7) {
        for (; joinedAfter < log.length; joinedAfter += 1) take({ message: log[joinedAfter] });
      }
      if (dies) {
        at.socket().onclose({ code: 1006 });
        at.connection.hurry();
        at.socket().onopen();
      }
    }
    const texts = Array.from({ length: 30 }, (_, number) => String(number + 1));
    assert.deepEqual(log.map(({ text }) => text), texts, `seed ${seed}: stored once, in order`);
    assert.deepEqual(store.chat.messages.map(({ text }) => text), texts, `seed ${seed}: shown once, in order`);
    assert.deepEqual(store.pendingOf("c"), [], `seed ${seed}: nothing is left`);
  }
});

/** Repeatable numbers in [0, 1). */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
