// What the page remembers: assets/page/store.js.
import assert from "node:assert/strict";
import { test } from "node:test";

import { MESSAGES_MAX, PENDING_MAX, Store } from "../../assets/page/store.js";

function storage(content = new Map()) {
  return { getItem: (key) => content.get(key) ?? null, setItem: (key, value) => content.set(key, value) };
}

function storeOf(kept = storage()) {
  let ids = 0;
  const store = new Store(kept, () => `id ${(ids += 1)}`);
  if (store.me === "") store.signIn("alice");
  return store;
}

const message = (sequence, more = {}) => ({ chatId: "c", sequence, senderId: "bob", clientMessageId: `b ${sequence}`, text: "x", ...more });
const messages = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => message(from + at));
const sequences = (store) => store.chat.messages.map(({ sequence }) => sequence);
const states = (store) => store.pendingOf("c").map(({ text, state }) => `${text} ${state}`);

/** A store whose chat has the messages 1–3. */
function opened() {
  const store = storeOf();
  store.open("c");
  store.latest({ messages: messages(1, 3), hasMore: false });
  return store;
}

test("what is delivered is shown once and in order, and a hole is seen", () => {
  const store = opened();
  assert.equal(store.see(message(3)), "old");
  assert.equal(store.see(message(4)), "new");
  assert.equal(store.see(message(4)), "old");
  assert.equal(store.see(message(6)), "hole");
  assert.equal(store.see(message(5)), "new");
  assert.equal(store.see(message(6, { chatId: "other" })), "elsewhere");
  assert.deepEqual([sequences(store), store.chat.last], [[1, 2, 3, 4, 5], 5]);
});

test("nothing is taken before the history is there: it could be out of order", () => {
  const store = storeOf();
  store.open("c");
  assert.equal(store.see(message(4)), "elsewhere");
  store.latest({ messages: [], hasMore: false });
  assert.equal(store.see(message(1)), "new");
});

test("earlier pages come before what is here, and overlaps once", () => {
  const store = storeOf();
  store.open("c");
  store.latest({ messages: messages(51, 100), hasMore: true });
  assert.ok(store.canLoadEarlier());
  assert.equal(store.earlier({ messages: messages(2, 51), hasMore: true }).length, 49);
  store.earlier({ messages: messages(1, 1), hasMore: false });
  assert.deepEqual(sequences(store), messages(1, 100).map(({ sequence }) => sequence));
  assert.ok(!store.canLoadEarlier());
});

test("a chat takes a bounded room, and what was dropped can be loaded again", () => {
  const store = storeOf();
  store.open("c");
  store.latest({ messages: messages(1, MESSAGES_MAX), hasMore: false });
  store.see(message(MESSAGES_MAX + 1));
  assert.equal(store.trim(), 1);
  assert.equal(store.chat.messages.length, MESSAGES_MAX);
  assert.equal(store.chat.messages[0].sequence, 2);
  assert.ok(store.chat.hasEarlier && !store.canLoadEarlier());
});

test("what has no answer is sent again in order, with its id", () => {
  const store = opened();
  for (const text of ["one", "two", "three"]) store.write("c", text);
  store.acknowledged({ chatId: "c", clientMessageId: "id 2", sequence: "5" });
  assert.deepEqual(store.toSend().map(({ id, text }) => `${id} ${text}`), ["id 1 one", "id 3 three"]);
});

test("an acknowledged text stays until its message is there, and no longer", () => {
  const store = opened();
  store.write("c", "one");
  store.acknowledged({ chatId: "c", clientMessageId: "id 1", sequence: "4" });
  assert.deepEqual(states(store), ["one stored"]);
  assert.equal(store.unsettled(), 0);
  store.see(message(4, { senderId: "alice", clientMessageId: "id 1" }));
  assert.deepEqual(states(store), []);

  store.write("c", "two");
  store.see(message(5, { senderId: "alice", clientMessageId: "id 2" }));
  assert.deepEqual(states(store), [], "the message may come before its acknowledgement");
  store.acknowledged({ chatId: "c", clientMessageId: "id 2", sequence: "5" });
  assert.deepEqual(states(store), []);
});

test("an acknowledgement for what is shown already, or of a chat that isn't open, settles at once", () => {
  const store = opened();
  store.write("c", "retried");
  store.write("elsewhere", "there");
  store.acknowledged({ chatId: "c", clientMessageId: "id 1", sequence: "2" });
  store.acknowledged({ chatId: "elsewhere", clientMessageId: "id 2", sequence: "9" });
  assert.deepEqual([states(store), store.pendingOf("elsewhere")], [[], []]);
});

test("another's message with the same id settles nothing", () => {
  const store = opened();
  store.write("c", "mine");
  store.see(message(4, { clientMessageId: "id 1" }));
  assert.deepEqual(states(store), ["mine waiting"]);
});

test("a failed message waits for its user, and goes again with its id behind the others", () => {
  const store = opened();
  store.write("c", "one");
  store.write("c", "two");
  store.failed("c", "id 1", "you may only read");
  assert.deepEqual(states(store), ["one failed", "two waiting"]);
  assert.equal(store.retry("id 2"), null, "what waits is sent already");
  assert.equal(store.retry("id 1").id, "id 1");
  assert.deepEqual(states(store), ["two waiting", "one waiting"]);
  store.failed("c", "id 1", "no");
  store.discard("id 1");
  assert.deepEqual(states(store), ["two waiting"]);
});

test("what is pending is bounded", () => {
  const store = opened();
  for (let count = 0; count < PENDING_MAX; count += 1) assert.ok(store.write("c", "x"));
  assert.equal(store.write("c", "x"), null);
});

test("what is pending outlives a reload, and what is stored needn't", () => {
  const kept = storage();
  const store = storeOf(kept);
  store.open("c");
  store.latest({ messages: [], hasMore: false });
  store.write("c", "waiting");
  store.write("c", "failed");
  store.write("c", "stored");
  store.failed("c", "id 2", "no");
  store.acknowledged({ chatId: "c", clientMessageId: "id 3", sequence: "1" });
  const again = storeOf(kept);
  again.signIn("alice", true);
  assert.deepEqual(states(again), ["waiting waiting", "failed failed"]);
  again.open("c");
  again.latest({ messages: [message(1, { senderId: "alice", clientMessageId: "id 1" })], hasMore: false });
  assert.deepEqual(states(again), ["failed failed"], "the history tells that it was stored");
});

test("what is pending goes out for the user who wrote it alone", () => {
  const kept = storage();
  storeOf(kept).write("c", "alice's");
  const same = storeOf(kept);
  same.signIn("alice");
  assert.deepEqual(states(same), ["alice's waiting"]);
  same.signIn("bob");
  assert.deepEqual(states(same), []);

  const opaque = new Store(storage(), () => "id");
  opaque.signIn("");
  opaque.write("c", "whose");
  opaque.signIn("", true);
  assert.deepEqual(states(opaque), ["whose waiting"]);
  opaque.signIn("");
  assert.deepEqual(states(opaque), ["whose failed"], "who it is isn't known: the user decides");
});

test("storage that fails or holds nonsense costs nothing but the reload", () => {
  const broken = { getItem: () => "{", setItem: () => { throw new Error("full"); } };
  const store = storeOf(broken);
  assert.ok(store.write("c", "x"));
});
