// The page's REST calls, at a fetch of the test's: assets/page/api.js.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, ApiError, explain, messageOf, millisOf, passes, retryDelayOf } from "../../assets/page/api.js";

/** A fetch that keeps what it was asked, and gives one answer. */
function answering(status, body) {
  const asked = [];
  const fetch = async (url, options) => {
    asked.push({ url, ...options });
    return { ok: status < 400, status, text: async () => body };
  };
  return { fetch, asked };
}

test("ids are encoded, so that none reaches another path", async () => {
  const { fetch, asked } = answering(200, '{"chat":{}}');
  await new Api("t", fetch).getChat("../chats?x#y");
  assert.equal(asked[0].url, "/v1/chats/..%2Fchats%3Fx%23y");
  assert.equal(asked[0].headers.authorization, "Bearer t");
});

test("absent fields are defaults, and int64 comes as a string", async () => {
  const { fetch } = answering(200, "{}");
  assert.deepEqual(await new Api("t", fetch).listMessages("c"), { messages: [], hasMore: false });
  assert.deepEqual(await new Api("t", fetch).listChats(), { chats: [], nextPageToken: "" });
  assert.equal(messageOf({ sequence: "7" }).sequence, 7);
  assert.equal(messageOf({ sequence: "7", image: {} }).text, null);
});

test("an error is a Status with its fields and its wait, whatever else the answer is", async () => {
  const status = {
    code: 3,
    message: "the request is invalid",
    details: [
      { "@type": "type.googleapis.com/google.rpc.BadRequest", fieldViolations: [{ field: "title", description: "is empty" }] },
      { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "1.5s" },
      { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "INVALID" },
    ],
  };
  const { fetch } = answering(400, JSON.stringify(status));
  await assert.rejects(new Api("t", fetch).createChat("", [], "r"), (error) => {
    assert.ok(error instanceof ApiError);
    assert.deepEqual([error.code, error.httpStatus, error.reason, error.message], [3, 400, "INVALID", "the request is invalid; title: is empty"]);
    return true;
  });
  assert.equal(retryDelayOf(status), 1500);
  assert.equal(retryDelayOf({}), undefined);
  assert.equal(explain({}), "the server refused");
  const proxy = answering(502, "<html>Bad gateway</html>");
  await assert.rejects(new Api("t", proxy.fetch).getChat("c"), { code: 0, httpStatus: 502, message: "the server answered 502 without JSON" });
  const down = async () => {
    throw new TypeError("failed to fetch");
  };
  await assert.rejects(new Api("t", down).getChat("c"), { code: 0, httpStatus: 0, message: "the server can't be reached" });
});

test("what may pass is told from what won't", () => {
  assert.deepEqual([8, 14, 3, 5, 7, 16].map((code) => passes({ code })), [true, true, false, false, false, false]);
  assert.deepEqual([millisOf("0.2s"), millisOf("3s"), millisOf("x"), millisOf(undefined)], [200, 3000, undefined, undefined]);
});
