// Prints every payload of @octokit/webhooks-examples as a JSON line {event, body, signature}, signed by
// @octokit/webhooks-methods with the secret in WEBHOOK_SECRET. Argument: where node_modules stands.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.argv[2] + "/"));
const examples = require("@octokit/webhooks-examples").default ?? require("@octokit/webhooks-examples");
const { sign } = await import(
  pathToFileURL(process.argv[2] + "/node_modules/@octokit/webhooks-methods/dist-node/index.js")
);

const lines = [];
for (const { name, examples: payloads } of examples) {
  for (const payload of payloads) {
    const body = JSON.stringify(payload);
    lines.push(JSON.stringify({ event: name, body, signature: await sign(process.env.WEBHOOK_SECRET, body) }));
  }
}
process.stdout.write(lines.join("\n") + "\n");
