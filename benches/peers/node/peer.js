// A receiver of webhooks as one would write it for Node instead of Hookline's ingest: it verifies GitHub's signature
// over the raw body, appends the webhook to Kafka under its entity, and answers 200 once all in-sync replicas have it.
// One process for each of PEER_WORKERS cores. Started by the benchmarks.

import cluster from 'node:cluster';
import { createHmac, timingSafeEqual } from 'node:crypto';
import Fastify from 'fastify';
import { CompressionTypes, Kafka, logLevel, Partitioners } from 'kafkajs';

const BODY_BYTES_MAX = 1 << 20;
const REQUEST_TIMEOUT_MS = 10_000;
const KAFKA_TIMEOUT_MS = 10_000;
/** Records in one request to Kafka. */
const BATCH_RECORDS_MAX = 1_000;

const setting = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} must be set`);
  return value;
};

/**
 * Appends records in batches, since kafkajs sends a request for each call: what comes while one request is under way
 * goes with the next.
 */
class Appender {
  #producer;
  #topic;
  #waiting = [];
  #isSending = false;

  constructor(producer, topic) {
    this.#producer = producer;
    this.#topic = topic;
  }

  /** Resolves once all in-sync replicas have the record. */
  append(record) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ record, resolve, reject });
      if (!this.#isSending) {
        this.#isSending = true;
        // Requests that were read together go together.
        setImmediate(() => this.#send());
      }
    });
  }

  async #send() {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, BATCH_RECORDS_MAX);
      try {
        await this.#producer.send({
          topic: this.#topic,
          acks: -1,
          compression: CompressionTypes.None,
          messages: batch.map(({ record }) => record),
        });
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#isSending = false;
  }
}

const isSigned = (secret, header, body) => {
  if (typeof header !== 'string') return false;
  const expected = Buffer.from(`sha256=${createHmac('sha256', secret).update(body).digest('hex')}`);
  const given = Buffer.from(header);
  return given.length === expected.length && timingSafeEqual(given, expected);
};

/** What the webhook is ordered by; undefined where the body does not say. */
const entityOf = (body) => {
  try {
    const { number } = JSON.parse(body);
    return typeof number === 'string' && number !== '' ? number : undefined;
  } catch {
    return undefined;
  }
};

const serve = async () => {
  const secret = setting('PEER_SECRET');
  const kafka = new Kafka({
    brokers: setting('PEER_BOOTSTRAP').split(','),
    requestTimeout: KAFKA_TIMEOUT_MS,
    logLevel: logLevel.ERROR,
  });
  // Idempotence would allow one request at a time, which is all that this sends.
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    allowAutoTopicCreation: false,
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  await producer.connect();
  const appender = new Appender(producer, setting('PEER_TOPIC'));

  const app = Fastify({ bodyLimit: BODY_BYTES_MAX, requestTimeout: REQUEST_TIMEOUT_MS });
  // The signature is over the bytes as they came.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.post('/webhooks/:source', async (request, reply) => {
    const { headers, body, params } = request;
    if (!isSigned(secret, headers['x-hub-signature-256'], body)) return reply.code(401).send();
    const key = entityOf(body);
    if (key === undefined) return reply.code(422).send();
    const record = {
      key,
      value: body,
      headers: { id: headers['x-github-delivery'], type: headers['x-github-event'], source: params.source },
    };
    try {
      await appender.append(record);
    } catch (error) {
      console.error(`not appended: ${error.message}`);
      return reply.code(503).send();
    }
    return reply.code(200).send();
  });
  const [host, port] = setting('PEER_LISTEN').split(':');
  await app.listen({ host, port: Number(port) });
  process.on('SIGTERM', async () => {
    await app.close();
    await producer.disconnect();
    process.exit(0);
  });
};

if (cluster.isPrimary) {
  for (let n = Number(setting('PEER_WORKERS')); n > 0; n--) cluster.fork();
  // A worker that dies by itself is an error here, not something to hide.
  cluster.on('exit', (worker, code) => {
    if (code !== 0) process.exit(1);
  });
  process.on('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM');
  });
} else {
  await serve();
}
