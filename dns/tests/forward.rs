//! The forwarder against name servers that fail in every way the tests can think of, over real
//! sockets on loopback: what a client gets, what upstreams see, and what is said of it.

#[path = "wire/server.rs"]
#[expect(dead_code, reason = "a kit of several tests")]
mod server;

#[path = "forward/certificate.rs"]
mod certificate;
#[path = "forward/client.rs"]
mod client;
#[path = "forward/kit.rs"]
mod kit;
#[path = "forward/message.rs"]
mod message;
#[path = "forward/serve.rs"]
mod serve;
#[path = "forward/upstream.rs"]
mod upstream;

#[path = "forward/alias.rs"]
mod alias;
#[path = "forward/cache.rs"]
mod cache;
#[path = "forward/dead.rs"]
mod dead;
#[path = "forward/failures.rs"]
mod failures;
#[path = "forward/flood.rs"]
mod flood;
#[path = "forward/lies.rs"]
mod lies;
#[path = "forward/loops.rs"]
mod loops;
#[path = "forward/pipelined.rs"]
mod pipelined;
#[path = "forward/random.rs"]
mod random;
#[path = "forward/resolv.rs"]
mod resolv;
#[path = "forward/rules.rs"]
mod rules;
#[path = "forward/search.rs"]
mod search;
#[path = "forward/shared.rs"]
mod shared;
#[path = "forward/size.rs"]
mod size;
#[path = "forward/stale.rs"]
mod stale;
#[path = "forward/stopping.rs"]
mod stopping;
#[path = "forward/transports.rs"]
mod transports;
