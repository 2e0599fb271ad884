// A chat in TypeScript, by gRPC. Lines of stdin are sent, messages are printed as lines of JSON; it ends when stdin has ended and all is there.
//
// It loses nothing and doubles nothing: a message keeps its id until it is acknowledged, and goes again with it; a new connection resumes
// behind the last sequence seen.
import { once } from "node:events";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

/** Below 256: at so many unanswered sends the server stops reading a stream. */
const PENDING_MAX = 200;
const [WAIT_MIN_MS, WAIT_MAX_MS] = [250, 5000];
/** The wait before what was refused for now goes again. */
const PAUSE_MS = 1000;
const { UNAVAILABLE, RESOURCE_EXHAUSTED, UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE, UNIMPLEMENTED } = grpc.status;
/** What may be taken later, and what coming back doesn't change. The rest is a lost connection. */
const PASSES = [UNAVAILABLE, RESOURCE_EXHAUSTED];
const FINAL = [UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE, UNIMPLEMENTED];

/** The part of the API that is used here; int64 comes as a string. */
interface Event {
  event?: "joined" | "message" | "acknowledged" | "rejected" | "left" | "tokenRefreshed" | "goingAway";
  message?: { sequence: string; senderId: string; text: string };
  acknowledged?: { clientMessageId: string };
  rejected?: { frame: string; clientMessageId: string; status: { code: number; message: string } };
  goingAway?: { reconnectAfter: { seconds: string; nanos: number } };
}
type Frame = { join: { chatId: string; afterSequence: string } } | { send: { chatId: string; clientMessageId: string; text: string } };
type Stream = grpc.ClientDuplexStream<Frame, Event>;
type Client = grpc.Client & { connectChat(metadata: grpc.Metadata): Stream };

class Refused extends Error {}

class Chat {
  #pending = new Map<string, string>(); // id → text, in the order it was written
  #refused: string[] = []; // ids that the server refused for now
  #room: (() => void) | undefined; // called when something was settled
  #stream: Stream | undefined;
  #inputEnded = false;
  #awayMs = 0; // the wait that a server which goes away asks for

  constructor(
    private client: Client,
    private metadata: grpc.Metadata,
    private chatId: string,
    private last: bigint, // the last sequence seen
  ) {}

  async readInput(): Promise<void> {
    for await (const text of createInterface({ input: process.stdin })) {
      if (text.trim() === "") continue;
      while (this.#pending.size >= PENDING_MAX) await new Promise<void>((resolve) => (this.#room = resolve));
      const id = randomUUID();
      this.#pending.set(id, text);
      this.#send(id, text);
    }
    this.#inputEnded = true;
    this.#endIfDone();
  }

  #send(clientMessageId: string, text: string): void {
    this.#stream?.write({ send: { chatId: this.chatId, clientMessageId, text } });
  }

  #sendRefused(): void {
    for (const id of this.#refused) this.#send(id, this.#pending.get(id)!);
    this.#refused = [];
  }

  get #done(): boolean {
    return this.#inputEnded && this.#pending.size === 0;
  }

  /** The server then delivers what there is, and ends the stream. */
  #endIfDone(): void {
    if (this.#done) this.#stream?.end();
  }

  /** One connection: joins behind the last message seen, and sends again what has no answer. */
  async #stay(): Promise<void> {
    const stream = (this.#stream = this.client.connectChat(this.metadata));
    this.#refused = [];
    let error: Error | undefined;
    stream.on("error", (why: Error) => (error ??= why));
    stream.on("data", (event: Event) => {
      try {
        this.#take(event);
      } catch (why) {
        error ??= why as Error;
        stream.cancel();
      }
    });
    stream.write({ join: { chatId: this.chatId, afterSequence: String(this.last) } });
    for (const [id, text] of this.#pending) this.#send(id, text);
    this.#endIfDone();
    await once(stream, "status").catch(() => {}); // a failed stream has an error, and its status after it
    this.#stream = undefined;
    if (error) throw error;
  }

  #take({ event, message, acknowledged, rejected, goingAway }: Event): void {
    if (message && BigInt(message.sequence) > this.last) {
      this.last = BigInt(message.sequence);
      console.log(JSON.stringify({ sequence: Number(message.sequence), sender_id: message.senderId, text: message.text }));
    } else if (acknowledged) {
      this.#settle(acknowledged.clientMessageId);
    } else if (rejected) {
      const { code, message: why } = rejected.status;
      const passes = PASSES.includes(code);
      if (rejected.frame !== "FRAME_KIND_SEND") throw passes ? new Error(why) : new Refused(why);
      if (passes) {
        if (this.#refused.push(rejected.clientMessageId) === 1) setTimeout(() => this.#sendRefused(), PAUSE_MS);
      } else {
        console.error(`not sent: ${why}`);
        this.#settle(rejected.clientMessageId);
      }
    } else if (event === "left") {
      throw new Refused("this chat is no longer yours to read");
    } else if (goingAway) {
      // The stream's end follows.
      this.#awayMs = Number(goingAway.reconnectAfter.seconds) * 1000 + goingAway.reconnectAfter.nanos / 1e6;
    }
  }

  #settle(id: string): void {
    this.#pending.delete(id);
    this.#room?.();
    this.#endIfDone();
  }

  async run(): Promise<void> {
    for (let attempts = 0; ; attempts += 1) {
      const { last } = this;
      this.#awayMs = 0;
      try {
        await this.#stay();
        if (this.#done) return;
      } catch (error) {
        if (error instanceof Refused || FINAL.includes((error as grpc.ServiceError).code)) throw error;
        console.error(`… ${(error as Error).message}`);
      }
      if (this.last > last) attempts = 0;
      // With jitter, so that not everyone returns at once.
      await sleep(Math.max(this.#awayMs, Math.min(WAIT_MIN_MS * 2 ** attempts, WAIT_MAX_MS) * (0.5 + Math.random())));
    }
  }
}

const { values } = parseArgs({
  options: {
    addr: { type: "string", default: "localhost:50051" },
    ca: { type: "string", default: "certs/ca.pem" },
    chat: { type: "string" },
    after: { type: "string", default: "0" }, // the last sequence seen; 0: the whole history
  },
});
const proto = fileURLToPath(new URL("../../proto", import.meta.url));
const definition = loadSync("chat/v1/chat.proto", { includeDirs: [proto, `${proto}/third_party`], longs: String, enums: String, oneofs: true });
const { ChatService } = (grpc.loadPackageDefinition(definition) as any).chat.v1;
// The channel's own waits between connections are no longer than this client's.
const options = { "grpc.max_reconnect_backoff_ms": WAIT_MAX_MS, "grpc.keepalive_time_ms": 30_000 };
const client = new ChatService(values.addr, grpc.credentials.createSsl(readFileSync(values.ca!)), options) as Client;
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.CHAT_TOKEN ?? ""}`);
const chat = new Chat(client, metadata, values.chat ?? "", BigInt(values.after!));
const input = chat.readInput();
try {
  await chat.run();
  await input;
} catch (error) {
  console.error(`chat-client: ${(error as Error).message}`);
  process.exitCode = 1;
}
client.close();
process.stdin.destroy();
