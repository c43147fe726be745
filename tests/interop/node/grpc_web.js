// Our Echo by the client of gRPC for the web, as a browser has it, for tests/gateway/grpc_web.rs. Ends with
// 0 if every call came to what it should.
//
//     node grpc_web.js http://ADDRESS ROOT_OF_OUR_PROTO_FILES

'use strict';

const assert = require('node:assert');
const path = require('node:path');
// What stands for the browser's own way to ask.
global.XMLHttpRequest = require('xhr2');
const { GrpcWebClientBase, MethodDescriptor, MethodType } = require('grpc-web');
const protobuf = require('protobufjs');

const [at, includeDir] = process.argv.slice(2);
const root = new protobuf.Root();
root.resolvePath = (_origin, target) => path.join(includeDir, target);
root.loadSync('portolan/demo/v1/echo.proto');
const [SayRequest, CountRequest, SayReply] = ['SayRequest', 'CountRequest', 'SayReply'].map(
  (name) => root.lookupType(`portolan.demo.v1.${name}`),
);

function method(name, kind, request) {
  return new MethodDescriptor(
    `/portolan.demo.v1.Echo/${name}`,
    kind,
    request.ctor,
    SayReply.ctor,
    (message) => request.encode(message).finish(),
    (bytes) => SayReply.decode(bytes),
  );
}

const SAY = method('Say', MethodType.UNARY, SayRequest);
const COUNT = method('Count', MethodType.SERVER_STREAMING, CountRequest);

async function main() {
  for (const format of ['binary', 'text']) {
    const client = new GrpcWebClientBase({ format });
    const say = (fields) =>
      client.unaryCall(`${at}${SAY.getName()}`, SayRequest.create(fields), {}, SAY);
    const reply = await say({ text: 'ahoy' });
    assert.deepStrictEqual([reply.text, reply.endpoint], ['ahoy', 'echo-1']);
    const error = await say({ text: 'gone: ü', failWith: 5 }).then(assert.fail, (error) => error);
    assert.deepStrictEqual([error.code, error.message], [5, 'gone: ü']);
    const late = await client
      .unaryCall(`${at}${SAY.getName()}`, SayRequest.create({ delayMs: 5000 }), {
        deadline: String(Date.now() + 200),
      }, SAY)
      .then(assert.fail, (error) => error);
    assert.strictEqual(late.code, 4);
    console.log(`${format}: replies, statuses and deadlines`);
  }
  // Streams are of text alone with XMLHttpRequest.
  const client = new GrpcWebClientBase({ format: 'text' });
  const request = CountRequest.create({ text: 'n', count: 5, intervalMs: 20 });
  const stream = client.serverStreaming(`${at}${COUNT.getName()}`, request, {}, COUNT);
  const said = [];
  const status = await new Promise((resolve, reject) => {
    let last;
    stream.on('data', (reply) => said.push(reply.text));
    stream.on('status', (status) => (last = status));
    stream.on('error', reject);
    stream.on('end', () => resolve(last));
  });
  assert.strictEqual(said.length, 5);
  assert.strictEqual(status.code, 0);
  console.log('text: a stream of replies');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
