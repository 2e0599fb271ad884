// The REST API by fetch, and the JSON of the API's messages: proto3 JSON, so names are lowerCamelCase, int64 comes as a string, and
// a field that has its default may be absent.

/** google.rpc codes of what may be taken later. */
const [RESOURCE_EXHAUSTED, UNAVAILABLE] = [8, 14];

/** An answer that is no success: a google.rpc.Status, or `code` 0 where the server could not be reached or said something else. */
export class ApiError extends Error {
  constructor(status, httpStatus = 0) {
    super(explain(status));
    this.code = status.code ?? 0;
    this.httpStatus = httpStatus;
    this.reason = reasonOf(status);
  }
}

const detail = (status, type) => (status.details ?? []).find((one) => one["@type"] === `type.googleapis.com/google.rpc.${type}`);

/** The stable reason that an error carries; the message is for people. */
export const reasonOf = (status) => detail(status, "ErrorInfo")?.reason ?? "";

/** The wait that the server asks for, in milliseconds; `undefined`: it names none. */
export const retryDelayOf = (status) => millisOf(detail(status, "RetryInfo")?.retryDelay);

/** Whether the same request may be taken later. What else is refused stays refused. */
export const passes = (status) => status.code === UNAVAILABLE || status.code === RESOURCE_EXHAUSTED;

/** A Status as a sentence, with the fields that it complains of. */
export function explain(status) {
  const fields = (detail(status, "BadRequest")?.fieldViolations ?? []).map((one) => `${one.field}: ${one.description}`);
  return [status.message || "the server refused", ...fields].join("; ");
}

/** A Duration ("0.2s") in milliseconds. */
export function millisOf(duration) {
  const seconds = Number.parseFloat(duration);
  return Number.isFinite(seconds) ? seconds * 1000 : undefined;
}

/** A Message as this page keeps it. A sequence fits a number: no chat reaches 2^53 messages. */
export const messageOf = (json) => ({
  chatId: json.chatId,
  sequence: Number(json.sequence ?? 0),
  senderId: json.senderId ?? "",
  clientMessageId: json.clientMessageId ?? "",
  createdAt: json.createdAt ?? "",
  // Later kinds of entry join the oneof: one that this page doesn't know still has its place in the order.
  text: json.text ?? null,
});

export class Api {
  #token;
  #fetch;

  constructor(token, fetch = globalThis.fetch.bind(globalThis)) {
    this.#token = token;
    this.#fetch = fetch;
  }

  /** A new token of the same user. */
  refresh(token) {
    this.#token = token;
  }

  async listChats(pageToken = "", pageSize = 50) {
    const page = await this.#call("GET", "/v1/chats", { query: { pageSize, pageToken } });
    return { chats: page.chats ?? [], nextPageToken: page.nextPageToken ?? "" };
  }

  /** With a `requestId` a retry makes no second chat. */
  async createChat(title, memberIds, requestId) {
    return (await this.#call("POST", "/v1/chats", { body: { title, memberIds, requestId } })).chat;
  }

  async getChat(chatId) {
    return (await this.#call("GET", `/v1/chats/${encodeURIComponent(chatId)}`)).chat;
  }

  async addMember(chatId, userId, role) {
    const path = `/v1/chats/${encodeURIComponent(chatId)}/members`;
    return (await this.#call("POST", path, { body: { members: [{ userId, role }] } })).chat;
  }

  /** The latest page; with `beforeSequence` the page before it. */
  async listMessages(chatId, beforeSequence) {
    const query = beforeSequence === undefined ? {} : { beforeSequence };
    const page = await this.#call("GET", `/v1/chats/${encodeURIComponent(chatId)}/messages`, { query });
    return { messages: (page.messages ?? []).map(messageOf), hasMore: page.hasMore ?? false };
  }

  async #call(method, path, { query = {}, body } = {}) {
    const parameters = new URLSearchParams(query).toString();
    return request(this.#fetch, parameters ? `${path}?${parameters}` : path, {
      method,
      headers: { authorization: `Bearer ${this.#token}`, ...(body && { "content-type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
  }
}

/** Whether this server mints tokens: one that runs on a development secret does, and only on loopback. */
export const mints = (fetch = globalThis.fetch.bind(globalThis)) =>
  request(fetch, "/v1/dev/token", { method: "GET" }).then(
    () => true,
    () => false,
  );

/** A token for a user, from a development server. */
export async function mint(sub, fetch = globalThis.fetch.bind(globalThis)) {
  const body = JSON.stringify({ sub });
  return (await request(fetch, "/v1/dev/token", { method: "POST", headers: { "content-type": "application/json" }, body })).token;
}

/** A call that hangs would leave the page waiting without a word. */
const CALL_DUE_MS = 30_000;

async function request(fetch, url, options) {
  let response;
  let text;
  try {
    response = await fetch(url, { ...options, cache: "no-store", signal: AbortSignal.timeout(CALL_DUE_MS) });
    text = await response.text();
  } catch {
    throw new ApiError({ message: "the server can't be reached" });
  }
  let json = {};
  try {
    json = text ? JSON.parse(text) : {};
  } catch {
    // A proxy's own page, say.
    throw new ApiError({ message: `the server answered ${response.status} without JSON` }, response.status);
  }
  if (!response.ok) throw new ApiError(json, response.status);
  return json;
}
