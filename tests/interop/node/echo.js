// Our Echo with gRPC for Node.js, for tests/interop/grpc_clients.py: a client whose target, or a
// server whose listener, comes over xDS. grpc_process.py says what stands in the lines.
//
//     node echo.js call TARGET ROOT_OF_OUR_PROTO_FILES
//     node echo.js serve ADDRESS ROOT_OF_OUR_PROTO_FILES

'use strict';

const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const xds = require('@grpc/grpc-js-xds');

const [word, at, includeDir] = process.argv.slice(2);
const file = protoLoader.loadSync('portolan/demo/v1/echo.proto', { includeDirs: [includeDir] });
const { Echo } = grpc.loadPackageDefinition(file).portolan.demo.v1;
const lines = readline.createInterface({ input: process.stdin });
// A watch on a control plane never ends by itself.
lines.on('close', () => process.exit(0));

xds.register();
if (word === 'serve') {
  serve();
} else {
  call();
}

function call() {
  const echo = new Echo(at, grpc.credentials.createInsecure());
  lines.on('line', (line) => {
    const [how, limitMs] = line.split(' ');
    const metadata = new grpc.Metadata({ waitForReady: how === 'wait' });
    const deadline = Date.now() + Number(limitMs);
    echo.Say({ text: 'ahoy' }, metadata, { deadline }, (error, reply) => {
      if (error) {
        tell({ code: grpc.status[error.code], message: error.details });
      } else {
        tell({ text: reply.text, endpoint: reply.endpoint });
      }
    });
  });
  tell({ peer: versions() });
}

function serve() {
  const server = new xds.XdsServer();
  server.addService(Echo.service, {
    Say: ({ request }, answer) => answer(null, { text: request.text, endpoint: at }),
    Count: (stream) => stream.end(),
    Chat: (stream) => stream.end(),
  });
  server.bindAsync(at, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) {
      throw error;
    }
  });
  tell({ peer: versions() });
}

function tell(line) {
  process.stdout.write(JSON.stringify(line) + '\n');
}

function versions() {
  const names = ['@grpc/grpc-js', '@grpc/grpc-js-xds'];
  return names.map((name) => `${name} ${require(`${name}/package.json`).version}`).join(', ');
}
