// Tokens by jose, one of each algorithm, each as a line of JSON with the key that verifies it.
// TEST_NODE_MODULES is the folder that holds jose.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const resolve = createRequire(join(process.env.TEST_NODE_MODULES, "anchor.js")).resolve;
const { SignJWT, exportJWK, exportSPKI, generateKeyPair } = await import(pathToFileURL(resolve("jose")));

const SECRET = "a secret of the tests, long enough for HS256";

// jose writes the audience as it is given: here a list.
const sign = (alg, key) =>
  new SignJWT({ roles: "reader openid" })
    .setProtectedHeader({ alg, kid: `node ${alg}`, typ: "JWT" })
    .setSubject("alice")
    .setIssuer("https://id.example")
    .setAudience(["mail", "chat"])
    .setNotBefore("0s")
    .setExpirationTime("1h")
    .sign(key);

const emit = (line) => console.log(JSON.stringify(line));

emit({ alg: "HS256", secret: SECRET, token: await sign("HS256", new TextEncoder().encode(SECRET)) });
for (const alg of ["RS256", "PS256", "ES256", "EdDSA"]) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid: `node ${alg}`, alg, use: "sig" };
  emit({ alg, key_pem: await exportSPKI(publicKey), jwk, token: await sign(alg, privateKey) });
}
