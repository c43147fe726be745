//! Hot restarts through the front door: `portolan run` beside `portolan run` on the same settings,
//! under clients that never stop.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_backends::shop::Shop;
use portolan_runtime::Lifecycle;
use support::{PATIENCE, Process, free_address};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Workers of each process in turn: the same, more, fewer, one.
const WORKERS: [usize; 6] = [2, 2, 4, 3, 1, 2];
/// What each kind of client does at least while a process is in office.
const AT_LEAST: usize = 50;
const HOST: &str = "web.shop";

/// The shop's backends, and one set of addresses for whichever process is in office.
struct World {
    _shop: Shop,
    folder: tempfile::TempDir,
    addresses: Vec<String>,
}

impl World {
    fn start() -> Self {
        let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("the backends start");
        let folder = tempfile::tempdir().expect("a folder");
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).expect("a folder");
        shop.write_manifests(&manifests).expect("manifests");
        let addresses = (0..4).map(|_| free_address().to_string()).collect();
        Self { _shop: shop, folder, addresses }
    }

    fn restart_socket(&self) -> PathBuf {
        self.folder.path().join("restart")
    }

    fn http(&self) -> SocketAddr {
        self.addresses[3].parse().expect("an address")
    }

    fn process(&self, workers: usize, more: &[&str]) -> Process {
        self.process_logging(workers, more, Stdio::inherit())
    }

    fn process_logging(&self, workers: usize, more: &[&str], log: Stdio) -> Process {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let [admin, xds, dns, http] = &self.addresses[..] else { panic!("four addresses") };
        let manifests = path("manifests");
        let mut args: Vec<String> = ["run", "--manifests", &manifests, "--log", "warn"]
            .into_iter()
            .chain(["--admin", admin, "--xds-listen", xds, "--dns", dns, "--http", http])
            // Any port: another process cannot have it but by being given it.
            .chain(["--tcp", "127.0.0.1:0=shop/db:5432"])
            .map(str::to_owned)
            .collect();
        for set in [
            format!("proxy.workers={workers}"),
            format!("proxy.restart_socket={}", path("restart")),
            "drain.deadline_secs=20".to_owned(),
        ] {
            args.extend(["--set".to_owned(), set]);
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Process::start_logging(&args, log)
    }
}

/// Where a process accepts TCP for the database.
fn db(process: &mut Process) -> SocketAddr {
    process.address("proxy tcp tcp-shop/db:5432")
}

/// A client of one kind: what it has done, and when it is to stop.
#[derive(Clone)]
struct Client {
    name: &'static str,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// Clients that never stop by themselves; a failure of one is a panic of its task.
struct Load {
    clients: Vec<Client>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(http: SocketAddr, db: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Self { clients: Vec::new(), tasks: JoinSet::new() };
        let mut add = |name| {
            let client = Client { name, done: Arc::default(), stop: Arc::clone(&stop) };
            load.clients.push(client.clone());
            client
        };
        let [one, kept_one, two, kept_two, tcp, kept_tcp] =
            ["HTTP/1.1", "HTTP/1.1, kept", "HTTP/2", "HTTP/2, kept", "TCP", "TCP, kept"]
                .map(&mut add);
        for _ in 0..2 {
            load.tasks.spawn(http1(one.clone(), http, false));
            load.tasks.spawn(http1(kept_one.clone(), http, true));
            load.tasks.spawn(http2(two.clone(), http, false));
            load.tasks.spawn(http2(kept_two.clone(), http, true));
            load.tasks.spawn(lines(tcp.clone(), db, 1));
            load.tasks.spawn(lines(kept_tcp.clone(), db, 100));
        }
        load
    }

    /// Waits until every kind has done so much more.
    async fn go_on(&mut self) {
        let before: Vec<usize> =
            self.clients.iter().map(|c| c.done.load(Ordering::Relaxed)).collect();
        let deadline = Instant::now() + PATIENCE;
        for (client, before) in self.clients.iter().zip(before) {
            while client.done.load(Ordering::Relaxed) < before + AT_LEAST {
                if let Some(ended) = self.tasks.try_join_next() {
                    ended.expect("no client fails");
                }
                assert!(Instant::now() < deadline, "{} does not get on", client.name);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Stops; all must have been well to the end.
    async fn finish(mut self) {
        self.clients[0].stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client fails");
        }
    }
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn did(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(&self, at: SocketAddr) -> TcpStream {
        TcpStream::connect(at).await.unwrap_or_else(|e| panic!("{}: connect: {e}", self.name))
    }
}

/// HTTP/1.1 by hand, so that nothing is tried twice unseen. A kept connection goes on until the
/// answer says that it closes, or until it closes while it waits for a request: the one that crosses
/// that on its way is sent again on a new connection (RFC 9112 §9.3.1), where it must succeed.
async fn http1(client: Client, at: SocketAddr, keep: bool) {
    while client.goes_on() {
        let mut stream = BufReader::new(client.connect(at).await);
        let word = if keep { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: {word}\r\n\r\n");
        let mut fresh = true;
        while client.goes_on() {
            let sent = stream.get_mut().write_all(request.as_bytes()).await;
            if let Err(error) = sent.and(stream.fill_buf().await.and_then(not_the_end)) {
                assert!(!fresh, "{}: no answer: {error}", client.name);
                break;
            }
            fresh = false;
            let open = response(&client, &mut stream).await;
            client.did();
            if !open || !keep {
                break;
            }
        }
    }
}

fn not_the_end(bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Reads a response that must be 200; whether the connection stays.
async fn response(client: &Client, stream: &mut BufReader<TcpStream>) -> bool {
    let (mut length, mut stays, mut first) = (0, true, true);
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await;
        let read = read.unwrap_or_else(|e| panic!("{}: read: {e}", client.name));
        assert!(read > 0, "{}: closed within a head", client.name);
        let line = line.trim_end().to_ascii_lowercase();
        if first {
            assert!(line.starts_with("http/1.1 200"), "{}: {line}", client.name);
            first = false;
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        } else if line == "connection: close" {
            stays = false;
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    let read = stream.read_exact(&mut body).await;
    read.unwrap_or_else(|e| panic!("{}: body: {e}", client.name));
    stays
}

/// HTTP/2 with prior knowledge: a connection per request, or one until it is told to go away.
/// A request that never left is no failure, one that the server took and lost is.
async fn http2(client: Client, at: SocketAddr, keep: bool) {
    while client.goes_on() {
        let stream = TokioIo::new(client.connect(at).await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
        let (mut sender, connection) =
            handshake.unwrap_or_else(|e| panic!("{}: handshake: {e}", client.name));
        let connection = tokio::spawn(connection);
        let mut first = true;
        while client.goes_on() && (first || keep) {
            if sender.ready().await.is_err() {
                assert!(!first, "{}: closed before the first request", client.name);
                break;
            }
            let uri = format!("http://{HOST}/");
            let request = hyper::Request::get(uri).body(Empty::<Bytes>::new()).expect("valid");
            let response = match sender.send_request(request).await {
                Ok(response) => response,
                Err(error) if went_away(&error) && !first => break,
                Err(error) => panic!("{}: {error:?}", client.name),
            };
            assert_eq!(response.status(), 200, "{}", client.name);
            let body = response.into_body().collect().await;
            body.unwrap_or_else(|e| panic!("{}: body: {e:?}", client.name));
            client.did();
            first = false;
        }
        drop(sender);
        let _told = connection.await.expect("no panic");
    }
}

/// Whether a request met a GOAWAY that left it out: it was not processed (RFC 9113 §6.8).
fn went_away(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || format!("{error:?}").contains("NO_ERROR")
}

/// Lines over TCP, so many to a connection.
async fn lines(client: Client, at: SocketAddr, per_connection: usize) {
    while client.goes_on() {
        let mut stream = BufReader::new(client.connect(at).await);
        for n in 0..per_connection {
            let line = format!("line {n}\n");
            let sent = stream.get_mut().write_all(line.as_bytes()).await;
            sent.unwrap_or_else(|e| panic!("{}: write: {e}", client.name));
            let mut answer = String::new();
            let read = stream.read_line(&mut answer).await;
            read.unwrap_or_else(|e| panic!("{}: read: {e}", client.name));
            assert!(answer.ends_with(&format!(": {line}")), "{}: {answer:?}", client.name);
            client.did();
        }
        stream.get_mut().shutdown().await.expect("half-closed");
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).await;
        end.unwrap_or_else(|e| panic!("{}: end: {e}", client.name));
        assert_eq!(rest, b"", "{}", client.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_restarts_under_load_lose_no_connection_and_no_request() {
    let world = World::start();
    let mut workers = WORKERS.into_iter();
    let mut old = world.process(workers.next().expect("one"), &[]);
    let db_at = db(&mut old);
    old.reach(1).await;
    let mut load = Load::start(world.http(), db_at);
    load.go_on().await;
    for workers in workers {
        let mut new = world.process(workers, &[]);
        assert_eq!(db(&mut new), db_at, "the port that the first process chose stays");
        assert_eq!(new.address("proxy http http"), world.http());
        let begun = Instant::now();
        assert_eq!(old.wait(), Some(0), "the old process drains");
        assert!(begun.elapsed() < Duration::from_secs(20), "within its time");
        load.go_on().await;
        // Names are served again, the admin port says so.
        new.address("dns");
        new.reach(1).await;
        old = new;
    }
    load.finish().await;
    old.signal("TERM");
    assert_eq!(old.wait(), Some(0));
    assert!(!world.restart_socket().exists(), "the file goes with the last process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_dies_before_it_serves_changes_nothing() {
    let world = World::start();
    let mut old = world.process(2, &[]);
    let db_at = db(&mut old);
    old.reach(1).await;
    let mut load = Load::start(world.http(), db_at);
    load.go_on().await;
    for _ in 0..3 {
        let mut new = waiting(&world);
        new.address("admin");
        load.go_on().await;
        let mut third = world.process_logging(2, &[], Stdio::piped());
        assert_eq!(third.wait(), Some(2), "another restart is under way");
        new.signal("KILL");
        assert_eq!(new.wait(), None);
        load.go_on().await;
    }
    old.reach(1).await;
    // The next one takes over as if nothing had been.
    let mut new = world.process(2, &[]);
    assert_eq!(old.wait(), Some(0));
    load.go_on().await;
    load.finish().await;
    new.signal("TERM");
    assert_eq!(new.wait(), Some(0));
}

/// A proxy that has the sockets, and waits for a control plane that never says anything.
fn waiting(world: &World) -> Process {
    let path = world.restart_socket();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = nobody.local_addr().expect("an address").to_string();
    let set = format!("proxy.restart_socket={}", path.display());
    let args = ["proxy", "--xds", &nobody, "--admin", &world.addresses[0], "--log", "error"];
    let args: Vec<&str> = args.into_iter().chain(["--set", &set]).collect();
    Process::start(&args)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_over_the_socket_file_of_one_that_was_killed() {
    let world = World::start();
    let mut first = world.process(1, &[]);
    first.reach(1).await;
    assert!(world.restart_socket().exists());
    first.signal("KILL");
    assert_eq!(first.wait(), None);
    assert!(world.restart_socket().exists(), "it is stale");
    let mut second = world.process(1, &[]);
    second.reach(1).await;
    let db_at = db(&mut second);
    let mut load = Load::start(world.http(), db_at);
    load.go_on().await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_socket_is_left_alone_and_named() {
    let world = World::start();
    std::fs::write(world.restart_socket(), "precious").expect("written");
    let mut process = world.process_logging(1, &[], Stdio::piped());
    assert_eq!(process.wait(), Some(2));
    assert_eq!(std::fs::read(world.restart_socket()).expect("readable"), b"precious");
}
