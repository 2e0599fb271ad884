// What a client has to remember to lose nothing: the last sequence that it saw, and what it sent without an answer. Pure: no network,
// no document; what is pending outlives a reload in `storage` (the tab's sessionStorage).
//
// The rules, from the service's promises:
// - Each message gets an id of its own, is kept until it is acknowledged, and is sent again with the same id: it is stored once.
// - A chat's messages are numbered without holes, so the last sequence seen is where to resume; what is numbered lower is known.

/** Messages of the open chat that are kept; the oldest go first, and can be loaded again. */
export const MESSAGES_MAX = 2000;
/** Pending messages. Below 256: at so many unanswered sends the server stops reading a stream. */
export const PENDING_MAX = 200;
/** The service's own limit, in characters (Unicode code points). */
export const TEXT_CHARS_MAX = 4096;

const KEY = "chat.pending";

export class Store {
  /** The signed-in user's id; empty where the token doesn't tell. */
  me = "";
  /** The open chat: `{ id, messages, last, hasEarlier, closed }`; `last` is null until its history is loaded. */
  chat = null;
  #pending = [];
  #storage;
  #newId;

  constructor(storage, newId) {
    this.#storage = storage;
    this.#newId = newId;
    this.#load();
  }

  // The open chat.

  open(chatId) {
    this.chat = { id: chatId, messages: [], last: null, hasEarlier: false, closed: false };
    // Their messages come with the history.
    this.#pending = this.#pending.filter((pending) => pending.state !== "stored");
  }

  close() {
    this.chat = null;
  }

  /** The latest page: live messages follow behind it. */
  latest({ messages, hasMore }) {
    this.chat.messages = messages;
    this.chat.hasEarlier = hasMore;
    this.chat.last = messages.at(-1)?.sequence ?? 0;
    for (const message of messages) this.#arrived(message);
  }

  /** The page before what is here. Returns the messages that are new. */
  earlier({ messages, hasMore }) {
    const first = this.chat.messages[0]?.sequence ?? Infinity;
    const added = messages.filter((message) => message.sequence < first);
    this.chat.messages.unshift(...added);
    this.chat.hasEarlier = hasMore;
    return added;
  }

  /** Whether older messages exist and there is room for them. */
  canLoadEarlier() {
    return this.chat !== null && this.chat.hasEarlier && this.chat.messages.length < MESSAGES_MAX;
  }

  /**
   * A delivered message is `new`, `old` (seen before), `elsewhere` (of a chat that isn't open), or behind a `hole`. The server promises
   * that there is none on a stream; a client that meets one all the same resumes behind what it has.
   */
  see(message) {
    this.#arrived(message);
    if (this.chat === null || message.chatId !== this.chat.id || this.chat.last === null) return "elsewhere";
    if (message.sequence <= this.chat.last) return "old";
    if (message.sequence > this.chat.last + 1) return "hole";
    this.chat.messages.push(message);
    this.chat.last = message.sequence;
    return "new";
  }

  /** Drops the oldest messages beyond the bound, and returns how many. */
  trim() {
    const over = Math.max(0, (this.chat?.messages.length ?? 0) - MESSAGES_MAX);
    if (over > 0) {
      this.chat.messages.splice(0, over);
      this.chat.hasEarlier = true;
    }
    return over;
  }

  // What is pending: `{ id, chatId, text, state, why }`, `state` being `waiting` for an answer, `stored` (acknowledged, but its message
  // has not been delivered yet) or `failed` for good.

  /** Takes a message on, or returns null where too many are pending. */
  write(chatId, text) {
    if (this.#pending.length >= PENDING_MAX) return null;
    const pending = { id: this.#newId(), chatId, text, state: "waiting", why: "" };
    this.#pending.push(pending);
    this.#save();
    return pending;
  }

  pendingOf(chatId) {
    return this.#pending.filter((pending) => pending.chatId === chatId);
  }

  /** What a new connection has to send again: in the order it was written, with the ids it had. */
  toSend() {
    return this.#pending.filter((pending) => pending.state === "waiting");
  }

  /** Messages that would be lost if they were forgotten now. */
  unsettled() {
    return this.#pending.filter((pending) => pending.state !== "stored").length;
  }

  acknowledged({ chatId, clientMessageId, sequence }) {
    const pending = this.#find(chatId, clientMessageId);
    if (!pending) return;
    const { chat } = this;
    const comes = chat?.id === chatId && !chat.closed && chat.last !== null && Number(sequence) > chat.last;
    // Its text stays on the page until its message is there.
    if (comes) pending.state = "stored";
    else this.#remove(pending);
    this.#save();
  }

  /** The server refuses it: sending it again changes nothing until the user does something. */
  failed(chatId, clientMessageId, why) {
    const pending = this.#find(chatId, clientMessageId);
    if (!pending) return;
    Object.assign(pending, { state: "failed", why });
    this.#save();
  }

  /** A failed message once more, with its id; a retry is a new send, so it takes its place behind the others. */
  retry(id) {
    const pending = this.#pending.find((one) => one.id === id && one.state === "failed");
    if (!pending) return null;
    this.#remove(pending);
    Object.assign(pending, { state: "waiting", why: "" });
    this.#pending.push(pending);
    this.#save();
    return pending;
  }

  discard(id) {
    this.#pending = this.#pending.filter((one) => one.id !== id);
    this.#save();
  }

  /**
   * Somebody has signed in. What is pending is for the user who wrote it: another one's is forgotten, and where the tokens don't tell
   * who it is, it goes out only when the user says so. `same`: it is the same token.
   */
  signIn(user, same = false) {
    if (user !== this.me) this.#pending = [];
    else if (user === "" && !same) {
      for (const pending of this.toSend()) Object.assign(pending, { state: "failed", why: "it was written before you signed in" });
    }
    this.me = user;
    this.#save();
  }

  signOut() {
    this.me = "";
    this.#pending = [];
    this.#save();
  }

  /** A message that is delivered is stored, whether or not its acknowledgement came. */
  #arrived(message) {
    if (this.me !== "" && message.senderId !== this.me) return;
    const pending = this.#find(message.chatId, message.clientMessageId);
    if (!pending) return;
    this.#remove(pending);
    this.#save();
  }

  #find(chatId, id) {
    return this.#pending.find((pending) => pending.chatId === chatId && pending.id === id);
  }

  #remove(pending) {
    this.#pending = this.#pending.filter((one) => one !== pending);
  }

  #save() {
    try {
      this.#storage.setItem(KEY, JSON.stringify({ user: this.me, pending: this.#pending }));
    } catch {
      // Storage that is full or forbidden costs only what a reload would have kept.
    }
  }

  #load() {
    try {
      const { user, pending } = JSON.parse(this.#storage.getItem(KEY));
      this.me = user;
      this.#pending = pending.filter((one) => one.state !== "stored");
    } catch {
      // Nothing was kept, or nothing that can be read.
    }
  }
}
