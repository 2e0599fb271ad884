// The chat page in a real browser: people who sign in, write, lose the server and find it again. TEST_PUPPETEER is the folder that
// holds puppeteer-core, TEST_CHROMIUM the browser. The first line of stdin is JSON: where the page is, tokens, where screenshots go. A
// line `kill` or `restart` on stdout asks for that to be done to the server; a line on stdin says that it was. The last line of stdout
// is what was seen, as JSON.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const puppeteer = createRequire(join(process.env.TEST_PUPPETEER, "anchor.js"))("puppeteer-core");
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { url, out, tokens, mint } = JSON.parse((await input.next()).value);
mkdirSync(out, { recursive: true });

const MARKUP = `<img src="/x" onerror="window.hacked=1"><script>window.hacked=2</script><b>&amp; 👋🏽`;
/** What no page may say: a script that failed, or one that the policy stopped. What a killed server costs isn't among it. */
const broken = [];

async function server(does) {
  console.log(does);
  const { done } = await input.next();
  assert.ok(!done, `nobody answered ${does}`);
}

const browser = await puppeteer.launch({
  executablePath: process.env.TEST_CHROMIUM,
  // The browser ends with this script, however that ends.
  pipe: true,
  acceptInsecureCerts: true,
  // Without a sandbox: tests run in containers and as root, and the only page is the project's own.
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"],
});

/** Someone at the page, in a profile of their own. */
class Person {
  static async at(name, viewport = { width: 1100, height: 760 }) {
    const person = new Person();
    person.name = name;
    person.context = await browser.createBrowserContext();
    person.page = await person.context.newPage();
    await person.page.setViewport(viewport);
    person.page.setDefaultTimeout(60_000);
    person.page.on("pageerror", (error) => broken.push(`${name}: ${error.message}`));
    person.page.on("console", (message) => {
      if (/Content Security Policy|Refused to|Uncaught/i.test(message.text())) broken.push(`${name}: ${message.text()}`);
    });
    await person.page.goto(url);
    return person;
  }

  async signIn(token) {
    await this.type("#paste-token", token);
    await this.page.keyboard.press("Enter");
    await this.connected();
  }

  connected() {
    return this.until((state) => document.getElementById("state").dataset.state === state, "open");
  }

  until(holds, ...args) {
    return this.page.waitForFunction(holds, {}, ...args);
  }

  async type(selector, text) {
    await this.page.waitForSelector(selector, { visible: true });
    await this.page.focus(selector);
    await this.page.keyboard.sendCharacter(text);
  }

  /** Writes a message, as a person would: into the field, then Enter. */
  async write(text) {
    await this.type("#text", text);
    await this.page.keyboard.press("Enter");
  }

  async click(selector) {
    await (await this.page.waitForSelector(selector, { visible: true })).click();
  }

  /** Waits until a message with this text is shown; one that is pending isn't yet. */
  shows(text) {
    return this.until((wanted) => [...document.querySelectorAll("#messages .text")].some((one) => one.textContent === wanted), text);
  }

  pending(text, state) {
    const holds = (wanted, kind) => [...document.querySelectorAll(`#pending .${kind} .text`)].some((one) => one.textContent === wanted);
    return this.until(holds, text, state);
  }

  conversation() {
    return this.page.$$eval("#messages li", (items) =>
      items.map((item) => ({ sequence: Number(item.dataset.sequence), sender: item.querySelector("bdi").textContent, text: item.querySelector(".text").textContent })),
    );
  }

  /** Goes on by Tab until something has the focus. */
  async tabTo(selector) {
    for (let steps = 0; steps < 40; steps += 1) {
      if (await this.page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
      await this.page.keyboard.press("Tab");
    }
    assert.fail(`${this.name} can't reach ${selector} by keyboard`);
  }

  async picture(name, { dark = false, narrow = false } = {}) {
    await this.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
    await this.page.setViewport(narrow ? { width: 320, height: 640 } : { width: 1100, height: 760 });
    await this.page.screenshot({ path: join(out, `${name}.png`) });
    const wide = await this.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${name} is ${wide} pixels too wide`);
  }
}

async function signedInByMint() {
  const dave = await Person.at("dave");
  await dave.type("#mint-sub", "dave");
  await dave.picture("sign-in-mint");
  await dave.page.keyboard.press("Enter");
  await dave.connected();
  await dave.until(() => document.getElementById("me").textContent === "dave");
  await dave.context.close();
}

async function conversation() {
  const [alice, bob] = [await Person.at("alice"), await Person.at("bob")];
  await alice.picture("sign-in");
  await alice.picture("sign-in-narrow-dark", { dark: true, narrow: true });
  if (!mint) assert.equal(await alice.page.$eval("#mint", (mint) => mint.hidden), true, "tokens are made in development alone");

  // A token that isn't one is refused, and told so.
  await alice.type("#paste-token", "no-token");
  await alice.page.keyboard.press("Enter");
  await alice.until(() => document.getElementById("notices").textContent.includes("sign in again"));
  await alice.signIn(tokens.alice);
  await alice.until(() => document.getElementById("notices").textContent === "");

  await alice.click("#create summary");
  await alice.type("#create-title", "Tea <b>& bread</b>");
  await alice.type("#create-members", "bob");
  await alice.click("#create-form [type=submit]");
  await alice.until(() => document.getElementById("chat-title").textContent === "Tea <b>& bread</b>");
  await alice.until(() => document.getElementById("history").textContent === "No messages yet.");

  // Bob needs no mouse.
  await bob.signIn(tokens.bob);
  await bob.page.waitForSelector("#chats a");
  await bob.tabTo("#chats a");
  await bob.page.keyboard.press("Enter");
  await bob.until(() => document.getElementById("members-count").textContent === "Members (2)");
  await bob.tabTo("#text");
  assert.equal(await bob.page.$eval("#text", (text) => text.labels[0].textContent), "Message");

  await alice.write("Bread or scones?");
  await bob.shows("Bread or scones?");
  await bob.write("שלום! scones, בבקשה 🫖");
  await alice.shows("שלום! scones, בבקשה 🫖");
  await alice.type("#text", "first line");
  await alice.page.keyboard.down("Shift");
  await alice.page.keyboard.press("Enter");
  await alice.page.keyboard.up("Shift");
  await alice.write("second line");
  await bob.shows("first line\nsecond line");

  // Markup is text.
  await bob.write(MARKUP);
  for (const person of [alice, bob]) {
    await person.shows(MARKUP);
    const marks = await person.page.evaluate(() => [document.querySelectorAll("#messages img, #messages script, #messages b").length, window.hacked ?? "not"]);
    assert.deepEqual(marks, [0, "not"], "markup in a message does nothing");
  }
  await alice.picture("chat");
  await alice.picture("chat-dark", { dark: true });
  await alice.picture("chat-narrow", { narrow: true });
  await bob.picture("chat-other-side");

  // The server dies; what is written meanwhile waits, and comes once and in order.
  await server("kill");
  for (const person of [alice, bob]) await person.until(() => document.getElementById("state").dataset.state !== "open");
  for (const number of [1, 2, 3]) {
    await alice.write(`alice meanwhile ${number}`);
    await bob.write(`bob meanwhile ${number}`);
  }
  await alice.pending("alice meanwhile 3", "waiting");
  await bob.pending("bob meanwhile 3", "waiting");
  await alice.picture("outage");
  await alice.picture("outage-narrow-dark", { narrow: true, dark: true });
  await alice.picture("outage");
  await server("restart");
  for (const person of [alice, bob]) {
    await person.connected();
    for (const name of ["alice", "bob"]) await person.shows(`${name} meanwhile 3`);
    await person.until(() => document.querySelectorAll("#messages li").length === 10 && document.querySelectorAll("#pending li").length === 0);
  }
  const [alices, bobs] = [await alice.conversation(), await bob.conversation()];
  assert.deepEqual(alices, bobs, "both see one conversation");
  assert.deepEqual(alices.map(({ sequence }) => sequence), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  for (const name of ["alice", "bob"]) {
    const written = alices.filter(({ sender, text }) => sender === name && text.includes("meanwhile")).map(({ text }) => text);
    assert.deepEqual(written, [1, 2, 3].map((number) => `${name} meanwhile ${number}`), "each once, in the order it was written");
  }

  await reader(alice);
  await history(bob);
  await alice.shows("number 60");
  const seen = await alice.conversation();
  const chat = await alice.page.evaluate(() => location.hash.slice(1));
  // Nobody is asked whether to forget what is sent.
  await alice.click("#sign-out");
  await alice.page.waitForSelector("#paste-token", { visible: true });
  assert.equal(await alice.page.evaluate(() => JSON.stringify(sessionStorage).includes("eyJ")), false, "the token is forgotten");
  return { chat, seen };
}

/** Carol may only read, until alice lets her write: her message is kept, and goes with its id. Then she is put out. */
async function reader(alice) {
  await alice.click("#members summary");
  await alice.type("#add-user", "carol");
  await alice.page.select("#add-role", "CHAT_ROLE_READER");
  await alice.click("#add-form [type=submit]");
  await alice.until(() => document.getElementById("member-list").textContent.includes("carol – reader"));
  const carol = await Person.at("carol");
  await carol.signIn(tokens.carol);
  await carol.click("#chats a");
  await carol.shows("bob meanwhile 3");
  await carol.write("may I?");
  await carol.pending("may I?", "failed");
  await carol.picture("failed");
  await carol.picture("failed-dark", { dark: true });
  // It outlives a reload, as the open chat and the token do.
  await carol.page.reload();
  await carol.connected();
  await carol.pending("may I?", "failed");
  await alice.type("#add-user", "carol");
  await alice.page.select("#add-role", "CHAT_ROLE_MEMBER");
  await alice.click("#add-form [type=submit]");
  await alice.until(() => document.getElementById("member-list").textContent.includes("carol – member"));
  await alice.picture("members");
  await carol.click("[data-retry]");
  await carol.shows("may I?");
  await alice.shows("may I?");
  await alice.page.evaluate(async () => {
    const headers = { authorization: `Bearer ${sessionStorage.getItem("chat.token")}` };
    await fetch(`/v1/chats/${location.hash.slice(1)}/members/carol`, { method: "DELETE", headers });
  });
  await carol.until(() => document.getElementById("notices").textContent.includes("no longer a member"));
  await carol.until(() => document.getElementById("text").disabled);
  await carol.context.close();
}

/** More than a page of history: older messages come when they are asked for, in their place. */
async function history(bob) {
  await bob.page.evaluate(async () => {
    for (let number = 1; number <= 60; number += 1) {
      document.getElementById("text").value = `number ${number}`;
      document.getElementById("composer").requestSubmit();
    }
  });
  await bob.shows("number 60");
  await bob.until(() => document.querySelectorAll("#messages li").length === 71);
  await bob.page.reload();
  await bob.shows("number 60");
  assert.equal((await bob.conversation()).length, 50, "the latest page");
  await bob.click("#earlier");
  await bob.until(() => document.querySelectorAll("#messages li").length === 71);
  assert.deepEqual((await bob.conversation()).map(({ sequence }) => sequence), Array.from({ length: 71 }, (_, at) => at + 1));
  assert.equal(await bob.page.$eval("#earlier", (button) => button.hidden), true, "there is nothing earlier");
  await bob.picture("narrow-history", { narrow: true });
  await bob.click("#back");
  await bob.page.waitForSelector("#chats a", { visible: true });
  await bob.picture("narrow-chats", { narrow: true });
}

try {
  if (mint) await signedInByMint();
  const seen = mint ? {} : await conversation();
  assert.deepEqual(broken, []);
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
  process.stdin.destroy();
}
