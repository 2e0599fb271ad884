// The page put together: who is signed in, what is open, and what happens when. Where messages come from and go to is decided here:
// history by REST, everything live by the WebSocket, resumed behind the last sequence seen.

import { Api, ApiError, explain, messageOf, mint, mints, passes, reasonOf, retryDelayOf } from "./api.js";
import { Connection } from "./connection.js";
import { Store, TEXT_CHARS_MAX } from "./store.js";
import { View } from "./view.js";

/** In sessionStorage alone: it is the tab's, and gone with it. */
const TOKEN_KEY = "chat.token";
const MINTED_KEY = "chat.minted";
/** How long before its end a minted token is replaced. */
const REFRESH_AHEAD_MS = 60_000;
/** The least wait after a refusal that may pass. The server names the wait for one request, and there may be many. */
const RETRY_MS = 1000;
/** The longest that a timer can wait; later ends are looked at again then. */
const TIMER_MAX_MS = 2 ** 31 - 1;

// crypto.randomUUID needs a secure context, and a development server may be plain http on another name.
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const store = new Store(sessionStorage, newId);
let api = null;
let connection = null;
let chats = { list: [], next: "" };
/** A new chat's request id is kept until it is made, so that trying again makes no second one. */
let creating = null;
/** Chats that were joined on this connection. Frames act in their order, so it needn't wait for the answers. */
let joins = new Set();
/** Sends that the server asked to bring again later. */
let refused = new Set();
const timers = {};

const view = new View({
  mint: (sub) => reporting(async () => enter(await mint(sub), true)),
  signIn: (token) => enter(token, false),
  replaceToken,
  signOut,
  hurry: () => connection?.hurry(),
  refreshChats: () => reporting(() => loadChats()),
  moreChats: () => reporting(() => loadChats(chats.next)),
  createChat: (title, members) => reporting(() => createChat(title, members)),
  addMember: (user, role) => reporting(() => addMember(user, role)),
  loadEarlier: () => reporting(loadEarlier),
  send,
  retry,
  discard: (id) => {
    store.discard(id);
    showPending();
  },
});

/** Tells the user of an error; the token's end is told by signing in again. Who has signed out meanwhile isn't told. */
async function reporting(work) {
  const session = api;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (session !== api) return;
    if (error.httpStatus === 401 && api) refusedToken("token");
    else view.notice(sentence(error.message));
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Signing in and out.

/** What a token says of itself; the server is who verifies it. An Auth Service's token may be opaque. */
function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const json = new TextDecoder().decode(Uint8Array.from(atob(payload), (char) => char.charCodeAt(0)));
    const { sub, exp } = JSON.parse(json);
    return { sub: String(sub ?? ""), expiresAt: Number.isFinite(exp) ? new Date(exp * 1000) : null };
  } catch {
    return { sub: "", expiresAt: null };
  }
}

function enter(token, minted, same = false) {
  const { sub, expiresAt } = claimsOf(token);
  store.signIn(sub, same);
  keepToken(token, minted);
  api = new Api(token);
  connection = new Connection({
    url: new URL("/v1/connect", location.href.replace(/^http/, "ws")).href,
    token,
    handlers: { state: (state) => view.state(state), ready, event, refused: refusedToken },
    probe,
  });
  view.clearNotices();
  view.signedIn(sub, expiresAt);
  connection.connect();
  reporting(() => loadChats());
  openFromAddress();
}

/** Whether REST takes the token; where it can't be asked that is unknown, so not a no. */
const probe = () =>
  api.listChats("", 1).then(
    () => true,
    (error) => error.httpStatus !== 401,
  );

function keepToken(token, minted) {
  sessionStorage.setItem(TOKEN_KEY, token);
  if (minted) sessionStorage.setItem(MINTED_KEY, "yes");
  else sessionStorage.removeItem(MINTED_KEY);
  const { expiresAt } = claimsOf(token);
  if (minted && expiresAt) timer("refresh", Math.max(expiresAt - Date.now() - REFRESH_AHEAD_MS, RETRY_MS), renew);
}

/** A minted token is replaced before it ends, and the connection goes on. */
async function renew() {
  const { expiresAt } = claimsOf(sessionStorage.getItem(TOKEN_KEY));
  // The timer may have ended at the longest that timers can.
  if (expiresAt - Date.now() > 2 * REFRESH_AHEAD_MS) return keepToken(sessionStorage.getItem(TOKEN_KEY), true);
  try {
    useToken(await mint(store.me), true);
  } catch {
    timer("refresh", 10 * RETRY_MS, renew);
  }
}

function replaceToken(token) {
  const { sub } = claimsOf(token);
  if (sub !== store.me) return view.notice("This token is another user's: sign out first.");
  useToken(token, false);
}

function useToken(token, minted) {
  api.refresh(token);
  connection.refresh(token);
  keepToken(token, minted);
  view.tokenEnds(claimsOf(token).expiresAt);
}

function signOut() {
  const unsettled = store.unsettled();
  const question = unsettled === 1 ? "A message has not been sent. Forget it?" : `${unsettled} messages have not been sent. Forget them?`;
  if (unsettled > 0 && !confirm(question)) return;
  store.signOut();
  leaveRooms();
  view.clearNotices();
  history.replaceState(null, "", location.pathname);
  showSignIn();
}

/** Pending messages stay: they go out when the same user signs in again. */
function refusedToken(why) {
  leaveRooms();
  const texts = { token: "Your token has ended, or isn't accepted: sign in again.", forbidden: "The server doesn't take connections from this page." };
  view.notice(texts[why]);
  showSignIn();
}

function leaveRooms() {
  sessionStorage.removeItem(TOKEN_KEY);
  sessionStorage.removeItem(MINTED_KEY);
  for (const name of Object.keys(timers)) {
    clearTimeout(timers[name]);
    delete timers[name];
  }
  connection?.close();
  connection = api = null;
  refused = new Set();
  chats = { list: [], next: "" };
  store.close();
  view.closeChat();
}

async function showSignIn() {
  view.signIn();
  if ((await mints()) && !api) view.offerMint();
}

// Chats.

async function loadChats(pageToken = "") {
  const session = api;
  const page = await session.listChats(pageToken);
  if (session !== api) return;
  // Newest first: a chat made meanwhile moves the rest, and may bring one again.
  const before = pageToken === "" ? [] : chats.list.filter((chat) => !page.chats.some(({ chatId }) => chatId === chat.chatId));
  chats = { list: [...before, ...page.chats], next: page.nextPageToken };
  showChats();
}

const showChats = () => view.chats(chats.list, chats.next !== "", store.chat?.id);

async function createChat(title, members) {
  const content = JSON.stringify([title, members]);
  if (creating?.content !== content) creating = { content, requestId: newId() };
  const chat = await api.createChat(title, members, creating.requestId);
  creating = null;
  view.chatCreated();
  location.hash = chat.chatId;
  await loadChats();
}

async function addMember(user, role) {
  const { id } = store.chat;
  const chat = await api.addMember(id, user, role);
  if (store.chat?.id !== id) return;
  view.chat(chat);
  view.memberAdded();
}

// The address names the open chat, so that links, the back button and a reload work. The token is never in it.
function openFromAddress() {
  if (!api) return;
  const chatId = decodeURIComponent(location.hash.slice(1));
  if (chatId === store.chat?.id) return;
  if (joins.delete(store.chat?.id)) connection.send({ leave: { chatId: store.chat.id } });
  if (chatId === "") {
    store.close();
    view.closeChat();
    view.toChats();
  } else {
    open(chatId);
  }
  showChats();
}

function open(chatId) {
  store.open(chatId);
  view.openChat(chats.list.find((chat) => chat.chatId === chatId)?.title ?? "");
  view.canLoadEarlier(false);
  showPending();
  loadHistory();
}

/** The latest page by REST; what comes after it is the connection's. Where it fails it is tried again with the next connection. */
async function loadHistory() {
  const chat = store.chat;
  try {
    const [info, page] = await Promise.all([api.getChat(chat.id), api.listMessages(chat.id)]);
    if (store.chat !== chat || chat.last !== null) return;
    store.latest(page);
    view.chat(info);
    view.showHistory(chat.messages);
    view.chatHas(chat.last);
    view.history(chat.messages.length === 0 ? "No messages yet." : "");
    view.canLoadEarlier(store.canLoadEarlier());
    showPending();
    join();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (store.chat !== chat) return;
    if (error.httpStatus === 401) return refusedToken("token");
    if (error.code === 0 || passes(error)) {
      view.history(`${sentence(error.message)}; trying again…`);
      timer("history", 2 * RETRY_MS, () => store.chat === chat && chat.last === null && loadHistory());
    } else {
      closed(sentence(error.message));
    }
  }
}

async function loadEarlier() {
  const chat = store.chat;
  const page = await api.listMessages(chat.id, chat.messages[0].sequence);
  if (store.chat !== chat) return;
  const added = store.earlier(page);
  view.canLoadEarlier(store.canLoadEarlier());
  view.prepend(added);
}

/** The open chat is lost to this user: what is shown stays. */
function closed(why) {
  store.chat.closed = true;
  view.canWrite(false);
  if (store.chat.last === null) view.history(why);
  else view.notice(why);
}

// The connection.

function join() {
  const { chat } = store;
  if (chat === null || chat.last === null || chat.closed || joins.has(chat.id)) return;
  if (connection.send({ join: { chatId: chat.id, afterSequence: String(chat.last) } })) joins.add(chat.id);
}

/** A new connection knows nothing: join behind what was seen, and send again what has no answer, with the ids it had. */
function ready() {
  joins = new Set();
  refused = new Set();
  join();
  for (const pending of store.toSend()) transmit(pending);
}

const transmit = ({ id, chatId, text }) => connection.send({ send: { chatId, clientMessageId: id, text } });

function event(event) {
  if (event.message) seen(messageOf(event.message));
  else if (event.acknowledged) store.acknowledged(event.acknowledged);
  else if (event.rejected) rejected(event.rejected);
  else if (event.left) left(event.left);
  else if (event.tokenRefreshed) view.notice(`The new token is good until ${new Date(event.tokenRefreshed.expiresAt).toLocaleString()}.`, true);
  // What this page doesn't know is passed over.
  if (event.message || event.acknowledged || event.rejected) showPending();
}

function seen(message) {
  const kind = store.see(message);
  if (kind === "hole") return connection.restart();
  if (kind !== "new") return;
  view.append(message, store.trim());
  view.chatHas(message.sequence);
  view.history("");
  view.canLoadEarlier(store.canLoadEarlier());
}

function rejected({ frame, chatId, clientMessageId, status = {} }) {
  const delay = Math.max(retryDelayOf(status) ?? 0, RETRY_MS);
  if (frame === "FRAME_KIND_SEND") {
    if (!passes(status)) return store.failed(chatId, clientMessageId, explain(status));
    refused.add(clientMessageId);
    if (!timers.again) timer("again", delay, sendRefused);
  } else if (frame === "FRAME_KIND_JOIN") {
    joins.delete(chatId);
    if (chatId !== store.chat?.id) return;
    if (passes(status)) timer("join", delay, join);
    // The store was restored from an older state: what was seen is no longer true.
    else if (reasonOf(status) === "SEQUENCE_AHEAD") open(chatId);
    else closed(sentence(explain(status)));
  } else if (frame !== "FRAME_KIND_LEAVE") {
    view.notice(sentence(explain(status)));
  }
}

/** In the order that they were written. With no connection they wait for the next one, which sends all that is pending. */
function sendRefused() {
  const again = store.toSend().filter(({ id }) => refused.has(id));
  refused = new Set();
  again.forEach(transmit);
}

function left({ chatId, reason }) {
  const texts = { LEFT_REASON_REMOVED: "You are no longer a member of this chat.", LEFT_REASON_DELETED: "This chat was deleted." };
  if (!texts[reason]) return;
  joins.delete(chatId);
  if (chatId === store.chat?.id) closed(texts[reason]);
  reporting(() => loadChats());
}

// Writing.

function send(written) {
  // Half of a surrogate pair is no character, and its JSON no text: the server would end the connection.
  const text = written.toWellFormed?.() ?? written;
  // Characters as the server counts them: code points.
  const { length } = [...text];
  if (text.trim() === "") return;
  if (length > TEXT_CHARS_MAX) return view.notice(`A message has at most ${TEXT_CHARS_MAX} characters; this one has ${length}.`);
  const pending = store.write(store.chat.id, text);
  if (pending === null) return view.notice("Too many messages wait to be sent: wait, or discard some.");
  transmit(pending);
  view.written();
  showPending();
}

function retry(id) {
  const pending = store.retry(id);
  if (pending) transmit(pending);
  showPending();
}

const showPending = () => view.pending(store.chat ? store.pendingOf(store.chat.id) : []);

function timer(name, ms, run) {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(() => {
    delete timers[name];
    run();
  }, Math.min(ms, TIMER_MAX_MS));
}

addEventListener("hashchange", openFromAddress);
addEventListener("online", () => connection?.hurry());

const kept = sessionStorage.getItem(TOKEN_KEY);
if (kept) {
  enter(kept, sessionStorage.getItem(MINTED_KEY) !== null, true);
} else {
  showSignIn();
}
