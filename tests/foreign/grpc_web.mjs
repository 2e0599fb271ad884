// A gRPC-web client by connect-web: calls, an error, and listening on ConnectChat. It prints what it saw as one line of JSON.
// TEST_NODE_MODULES: the folder that holds connect-web. URL, TOKEN: of the server. DESCRIPTORS: the file with the API's descriptors.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.env.TEST_NODE_MODULES, "anchor.js"));
const { create, createFileRegistry, fromBinary } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const { createGrpcWebTransport } = require("@connectrpc/connect-web");

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(process.env.DESCRIPTORS)));
const service = registry.getService("chat.v1.ChatService");
const withToken = (next) => (request) => {
  request.header.set("authorization", `Bearer ${process.env.TOKEN}`);
  return next(request);
};
const transport = createGrpcWebTransport({ baseUrl: process.env.URL, interceptors: [withToken] });
const client = createClient(service, transport);

const { chat } = await client.createChat({ title: "Tea ☕" });
const send = (number) => client.sendMessage({ chatId: chat.chatId, text: `message ${number}`, clientMessageId: String(number) });
await send(1);

let code = "none";
try {
  await client.getChat({ chatId: crypto.randomUUID() });
} catch (error) {
  code = Code[ConnectError.from(error).code];
}

// Browsers can't stream a request, so that a listener sends its frames at once: to them it is a server's stream.
const method = { ...service.method.connectChat, methodKind: "server_streaming" };
const frame = create(method.input, { frame: { case: "join", value: { chatId: chat.chatId, afterSequence: 0n, follow: true } } });
const frames = (async function* () {
  yield frame;
})();
const listening = await transport.stream(method, undefined, undefined, undefined, frames);
const texts = [];
for await (const { event } of listening.message) {
  if (event.case !== "message") continue;
  texts.push(event.value.content.value);
  if (texts.length === 3) break;
  await send(texts.length + 1);
}
console.log(JSON.stringify({ title: chat.title, code, texts }));
process.exit(0);
