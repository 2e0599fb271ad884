// The document. Whatever comes from others is put in as text, never as markup, so there is nothing to escape; names and texts that run
// from right to left keep to themselves (`bdi`, dir=auto).

const byId = (id) => document.getElementById(id);

/** An element with properties, attributes (`aria-…`, `data-…`) and children; strings become text. */
function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

const STATES = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Connection lost; trying again…",
  refused: "Not connected: the server refuses",
  closed: "Not connected",
};

const ROLES = {
  CHAT_ROLE_OWNER: "owner",
  CHAT_ROLE_MODERATOR: "moderator",
  CHAT_ROLE_MEMBER: "member",
  CHAT_ROLE_READER: "reader",
};

/** Notices that are shown at once. */
const NOTICES_MAX = 3;
/** Pixels from the end at which a reader still counts as reading the newest. */
const NEAR_END_PX = 60;

export class View {
  #me = "";
  /** Whether the newest message is what is being read. */
  #following = true;

  /** `actions`: what the user does, by name. */
  constructor(actions) {
    const submit = (id, act) =>
      byId(id).addEventListener("submit", (event) => {
        event.preventDefault();
        act(event.target);
      });
    const click = (id, act) => byId(id).addEventListener("click", act);
    submit("mint-form", () => actions.mint(byId("mint-sub").value.trim()));
    submit("paste-form", (form) => {
      actions.signIn(byId("paste-token").value.trim());
      form.reset();
    });
    submit("token-form", (form) => {
      actions.replaceToken(byId("token-new").value.trim());
      form.reset();
      this.#showTokenForm(false);
    });
    submit("create-form", () => {
      const members = byId("create-members").value.split("\n").map((line) => line.trim());
      actions.createChat(byId("create-title").value.trim(), members.filter((line) => line !== ""));
    });
    submit("add-form", () => actions.addMember(byId("add-user").value.trim(), byId("add-role").value));
    submit("composer", () => actions.send(byId("text").value));
    click("token-open", () => this.#showTokenForm(byId("token-form").hidden));
    click("sign-out", actions.signOut);
    click("hurry", actions.hurry);
    click("refresh", actions.refreshChats);
    click("more-chats", actions.moreChats);
    click("earlier", actions.loadEarlier);
    click("newest", () => this.#toEnd());
    byId("text").addEventListener("keydown", (event) => {
      // Enter also ends a composition of an input method: then it is not for sending.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    byId("log").addEventListener("scroll", () => {
      this.#following = this.#atEnd();
      if (this.#following) byId("newest").hidden = true;
    });
    // A keyboard on the screen, the window or the list of members makes the log smaller from below.
    new ResizeObserver(() => this.#following && this.#toEnd()).observe(byId("log"));
    byId("pending").addEventListener("click", ({ target }) => {
      const { retry, discard } = target.dataset;
      if (!retry && !discard) return;
      if (retry) actions.retry(retry);
      else actions.discard(discard);
      // The button is gone; the keyboard goes on where the next message is written.
      byId("text").focus();
    });
  }

  // Signing in and out.

  signIn() {
    byId("sign-in").hidden = false;
    for (const id of ["mint", "rooms", "account", "state", "hurry", "token-form"]) byId(id).hidden = true;
    byId("paste-token").focus();
  }

  offerMint() {
    byId("mint").hidden = false;
    if (byId("paste-token").value === "") byId("mint-sub").focus();
  }

  signedIn(me, expiresAt) {
    this.#me = me;
    byId("me").textContent = me || "(an opaque token)";
    byId("sign-in").hidden = true;
    for (const id of ["rooms", "account", "state"]) byId(id).hidden = false;
    this.toChats();
    this.tokenEnds(expiresAt);
  }

  tokenEnds(expiresAt) {
    byId("token-end").textContent = expiresAt ? `The present one is good until ${expiresAt.toLocaleString()}.` : "";
  }

  #showTokenForm(show) {
    byId("token-form").hidden = !show;
    byId("token-open").setAttribute("aria-expanded", String(show));
    if (show) byId("token-new").focus();
  }

  state(state) {
    byId("state").textContent = STATES[state];
    byId("state").dataset.state = state;
    byId("hurry").hidden = state !== "waiting";
  }

  /** A line that stays until it is dismissed. */
  notice(text, good = false) {
    const line = el("p", { className: good ? "good" : "" }, el("span", { dir: "auto" }, text));
    line.append(el("button", { type: "button", onclick: () => line.remove() }, "Dismiss"));
    byId("notices").append(line);
    while (byId("notices").children.length > NOTICES_MAX) byId("notices").firstChild.remove();
  }

  clearNotices() {
    byId("notices").replaceChildren();
  }

  // The list of chats.

  chats(chats, hasMore, openId) {
    const item = (chat) => {
      const link = el("a", { href: `#${chat.chatId}` }, el("bdi", {}, chat.title), el("small", {}, count(chat.lastSequence)));
      if (chat.chatId === openId) link.setAttribute("aria-current", "page");
      return el("li", {}, link);
    };
    byId("chats").replaceChildren(...chats.map(item));
    byId("no-chats").hidden = chats.length > 0;
    byId("more-chats").hidden = !hasMore;
  }

  /** The open chat has grown. */
  chatHas(sequence) {
    const small = document.querySelector("#chats [aria-current] small");
    if (small) small.textContent = count(sequence);
  }

  chatCreated() {
    byId("create-form").reset();
    byId("create").open = false;
  }

  /** The keyboard goes on where chats are chosen. */
  toChats() {
    byId("chats-title").focus();
  }

  // The open chat.

  openChat(title) {
    byId("no-chat").hidden = true;
    byId("open-chat").hidden = false;
    byId("chat-title").textContent = title || "…";
    byId("member-list").replaceChildren();
    byId("members-count").textContent = "Members";
    byId("messages").replaceChildren();
    byId("newest").hidden = true;
    this.history("Loading…");
    this.canWrite(true);
    document.body.dataset.pane = "chat";
    byId("chat-title").focus();
  }

  closeChat() {
    byId("no-chat").hidden = false;
    byId("open-chat").hidden = true;
    document.body.dataset.pane = "chats";
    document.title = "Chat";
  }

  chat(chat) {
    byId("chat-title").textContent = chat.title;
    document.title = `${chat.title} – Chat`;
    byId("members-count").textContent = `Members (${chat.members.length})`;
    const item = (member) => el("li", {}, el("bdi", {}, member.userId), ` – ${ROLES[member.role] ?? "member"}`);
    byId("member-list").replaceChildren(...chat.members.map(item));
  }

  memberAdded() {
    byId("add-form").reset();
    byId("add-user").focus();
  }

  /** What stands where messages are not (yet). */
  history(text) {
    byId("history").textContent = text;
    byId("history").hidden = text === "";
  }

  canWrite(can) {
    for (const element of byId("composer").elements) element.disabled = !can;
  }

  canLoadEarlier(can) {
    byId("earlier").hidden = !can;
  }

  /** A whole page of history; a screen reader isn't made to read it all. */
  showHistory(messages) {
    this.#quietly(() => byId("messages").replaceChildren(...messages.map((message) => this.#item(message))));
    this.#toEnd();
  }

  prepend(messages) {
    const log = byId("log");
    const fromEnd = log.scrollHeight - log.scrollTop;
    this.#quietly(() => byId("messages").prepend(...messages.map((message) => this.#item(message))));
    log.scrollTop = log.scrollHeight - fromEnd;
    // The button may be gone now.
    if (byId("earlier").hidden) log.focus();
  }

  append(message, trimmed) {
    const stay = this.#following;
    byId("messages").append(this.#item(message));
    for (let dropped = 0; dropped < trimmed; dropped += 1) byId("messages").firstChild.remove();
    if (stay || message.senderId === this.#me) this.#toEnd();
    else byId("newest").hidden = false;
  }

  pending(list) {
    const stay = this.#following;
    byId("pending").replaceChildren(...list.map(pendingItem));
    if (stay) this.#toEnd();
  }

  written() {
    byId("text").value = "";
    this.#toEnd();
  }

  #item(message) {
    const mine = message.senderId === this.#me;
    const at = new Date(message.createdAt);
    const time = Number.isNaN(at.getTime()) ? "" : el("time", { dateTime: message.createdAt, title: at.toLocaleString() }, clock(at));
    const text =
      message.text === null
        ? el("p", { className: "unknown" }, "A kind of message that this page doesn't know")
        : el("p", { className: "text", dir: "auto" }, message.text);
    const byline = el("p", { className: "byline" }, el("bdi", {}, message.senderId), time);
    return el("li", { className: mine ? "mine" : "", "data-sequence": message.sequence }, byline, text);
  }

  /** Adds without announcing. */
  #quietly(change) {
    const region = byId("messages").parentElement;
    region.setAttribute("aria-live", "off");
    change();
    // Announcements are decided on when the change is drawn.
    setTimeout(() => region.setAttribute("aria-live", "polite"), 1000);
  }

  #atEnd() {
    const log = byId("log");
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  }

  #toEnd() {
    this.#following = true;
    byId("log").scrollTop = byId("log").scrollHeight;
    byId("newest").hidden = true;
  }
}

const count = (messages) => (Number(messages ?? 0) === 1 ? "1 message" : `${messages ?? 0} messages`);

function pendingItem(pending) {
  const failed = pending.state === "failed";
  const states = { waiting: "Sending…", stored: "Sent", failed: `Not sent: ${pending.why}` };
  const byline = el("p", { className: "byline" }, states[pending.state]);
  const item = el("li", { className: pending.state }, byline, el("p", { className: "text", dir: "auto" }, pending.text));
  if (!failed) return item;
  const button = (label, name) => el("button", { type: "button", [`data-${name}`]: pending.id }, label);
  item.append(el("div", { className: "buttons" }, button("Send again", "retry"), button("Discard", "discard")));
  return item;
}

/** The time, with the date where it is another day's. */
function clock(at) {
  const time = { hour: "2-digit", minute: "2-digit" };
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString([], time) : at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
