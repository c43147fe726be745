//! What the tests of this target share: a proxy under a scripted control plane, and its clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::endpoint::ClusterLoadAssignment;
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::route::RouteConfiguration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::backend::{Backend, DELAY, ENDPOINT, FORWARDED, SECURED, VERSION, addresses};
use crate::control_plane::resources::{
    action, all, assignment, eds_cluster, http_listener, manager, route, table,
};
use crate::control_plane::{CDS, ControlPlane, EDS, LDS, RDS};
use crate::support::{PATIENCE, Process, free_address};

/// Names that most tests use: the cluster, and the route table.
pub(crate) const WEB: &str = "web";
pub(crate) const ROUTES: &str = "routes";
/// Longest that one request of a test takes.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A proxy and its control plane.
pub(crate) struct World {
    pub(crate) plane: ControlPlane,
    pub(crate) process: Process,
    /// Where most tests have their HTTP listener.
    pub(crate) http: SocketAddr,
    one: reqwest::Client,
    two: reqwest::Client,
}

/// An answer; a status of 0 stands for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Why the proxy answered itself.
    pub(crate) reason: String,
    pub(crate) endpoint: String,
    /// What HTTP the endpoint was spoken to in.
    pub(crate) version: String,
    pub(crate) forwarded: String,
    pub(crate) cookie: String,
    /// What the endpoint knows of its TLS.
    pub(crate) secured: String,
    pub(crate) body: String,
}

impl World {
    /// A proxy that was told nothing yet.
    pub(crate) async fn start() -> Self {
        let plane = ControlPlane::start().await;
        let at = plane.address;
        Self::under(plane, at, &[])
    }

    /// The same with one worker, so that what is counted per worker can be counted.
    pub(crate) async fn single() -> Self {
        let plane = ControlPlane::start().await;
        let at = plane.address;
        Self::under(plane, at, &["--set", "proxy.workers=1"])
    }

    /// The same whose way to the control plane leads over another address.
    pub(crate) fn under(plane: ControlPlane, at: SocketAddr, more: &[&str]) -> Self {
        let xds = at.to_string();
        let mut args = vec!["proxy", "--xds", &xds, "--admin", "127.0.0.1:0"];
        args.extend(["--log", "error", "--set", "proxy.node_id=tested"]);
        args.extend(more);
        let process = Process::start_logging(&args, Stdio::inherit());
        let client = || reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT);
        Self {
            plane,
            process,
            http: free_address(),
            one: client().http1_only().build().expect("a client"),
            two: client().http2_prior_knowledge().build().expect("a client"),
        }
    }

    /// One HTTP listener whose routes all lead to one EDS cluster with these endpoints; waits until
    /// it serves.
    pub(crate) async fn web(&mut self, backends: &[Backend]) {
        let endpoints = assignment(WEB, &addresses(backends));
        self.serve(&eds_cluster(WEB), &endpoints, &all_to_web(), &manager(ROUTES)).await;
    }

    /// The same of these resources.
    pub(crate) async fn serve(
        &mut self,
        cluster: &Cluster,
        endpoints: &ClusterLoadAssignment,
        routes: &RouteConfiguration,
        manager: &HttpConnectionManager,
    ) {
        self.plane.set(CDS, all([cluster]));
        self.plane.set(EDS, all([endpoints]));
        self.plane.set(LDS, all([&http_listener("main", self.http, manager)]));
        let version = self.plane.set(RDS, all([routes]));
        self.plane.acked(RDS, &version).await;
        self.process.reach(1).await;
        self.until("the listener serves", |answer| answer.status != 0).await;
    }

    /// GET over HTTP/1.1, from a pool of connections.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(path, &[]).await
    }

    /// The same with more headers.
    pub(crate) async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        fetch(&self.one, self.http, path, headers).await
    }

    /// GET over HTTP/2 with prior knowledge.
    pub(crate) async fn get_http2(&self, path: &str) -> Answer {
        fetch(&self.two, self.http, path, &[]).await
    }

    /// Asks until an answer fits. What stands in the way is said when it never does.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&Answer) -> bool) -> Answer {
        until(what, async || {
            let answer = self.get("/").await;
            if fits(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await
    }

    /// How many of so many requests, one after the other, each endpoint answered; those that none
    /// did by their reason.
    pub(crate) async fn count(
        &self,
        requests: usize,
        headers: &[(&str, &str)],
    ) -> BTreeMap<String, usize> {
        let mut answers = Vec::with_capacity(requests);
        for _ in 0..requests {
            answers.push(self.ask("/", headers).await);
        }
        counted(answers)
    }

    /// The same, all at once.
    pub(crate) async fn count_at_once(
        &self,
        requests: usize,
        headers: &[(&str, &str)],
    ) -> BTreeMap<String, usize> {
        let asked = (0..requests).map(|_| self.ask("/", headers));
        counted(futures_util::future::join_all(asked).await)
    }

    /// All at once to an endpoint that answers none until so many were answered without it.
    pub(crate) async fn over_limit(
        &self,
        backend: &Backend,
        requests: usize,
        refused: usize,
    ) -> BTreeMap<String, usize> {
        backend.hold();
        let mut asked: FuturesUnordered<_> = (0..requests).map(|_| self.ask("/", &[])).collect();
        let mut answers: Vec<_> = asked.by_ref().take(refused).collect().await;
        backend.release();
        answers.extend(asked.collect::<Vec<_>>().await);
        counted(answers)
    }

    /// Requests that each take so long, all at once, and how they went.
    pub(crate) async fn slow(&self, requests: usize, time: Duration) -> BTreeMap<String, usize> {
        let millis = time.as_millis().to_string();
        self.count_at_once(requests, &[(DELAY, &millis)]).await
    }

    /// A counter or gauge of the proxy, 0 while it is not there.
    pub(crate) async fn metric(&mut self, name: &str) -> f64 {
        self.process.metric(name).await.unwrap_or_default()
    }
}

fn counted(answers: Vec<Answer>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(who(answer)).or_default() += 1;
    }
    counts
}

fn who(answer: Answer) -> String {
    if answer.endpoint.is_empty() {
        format!("{} {}", answer.status, answer.reason)
    } else if answer.status == 200 {
        answer.endpoint
    } else {
        format!("{} {}", answer.status, answer.endpoint)
    }
}

/// Counts by name, for comparing.
pub(crate) fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// A table that leads everything to the cluster `web`.
pub(crate) fn all_to_web() -> RouteConfiguration {
    table(ROUTES, vec![route("/", action(WEB))])
}

pub(crate) async fn fetch(
    client: &reqwest::Client,
    at: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = client.get(format!("http://{at}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer { body: format!("{error:?}"), ..Answer::default() },
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = |name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    match response.text().await {
        Ok(body) => Answer {
            status,
            reason: text("x-portolan-reason"),
            endpoint: text(ENDPOINT),
            version: text(VERSION),
            forwarded: text(FORWARDED),
            cookie: text("set-cookie"),
            secured: text(SECURED),
            body,
        },
        Err(error) => Answer { body: format!("{error:?}"), ..Answer::default() },
    }
}

/// Tries until something is so; says what was wrong the last time if it never is.
pub(crate) async fn until<T>(what: &str, check: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, check).await
}

pub(crate) async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(wrong) => assert!(Instant::now() < deadline, "not so: {what}: {wrong}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A TCP connection through the proxy, and the name of its endpoint.
pub(crate) struct Line {
    stream: BufReader<TcpStream>,
    pub(crate) endpoint: String,
}

impl Line {
    pub(crate) async fn open(at: SocketAddr, first: &[u8]) -> std::io::Result<Self> {
        let mut stream = BufReader::new(TcpStream::connect(at).await?);
        stream.write_all(first).await?;
        let endpoint = line(&mut stream).await?;
        Ok(Self { stream, endpoint })
    }

    /// Sends a line and returns what comes back.
    pub(crate) async fn echo(&mut self, text: &str) -> std::io::Result<String> {
        self.stream.write_all(format!("{text}\n").as_bytes()).await?;
        line(&mut self.stream).await
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    let read = tokio::time::timeout(REQUEST_LIMIT, stream.read_line(&mut text)).await??;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}
