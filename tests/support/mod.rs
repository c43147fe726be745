//! The test kit: the real binary in a process of its own, found by the lines it prints.
#![allow(dead_code, clippy::allow_attributes, reason = "each test target uses a part of the kit")]

pub(crate) mod apiserver;
pub(crate) mod dns;
pub(crate) mod envoy;
pub(crate) mod foreign;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time that anything here is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) fn portolan() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    // What the developer has set must not decide a test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PORTOLAN_")) {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub(crate) fn output(args: &[&str]) -> Output {
    portolan().args(args).output().expect("the binary starts")
}

/// A port that nobody listens at, and that the system gives to nobody by itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 100).expect("small") * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2_500;
        // At any address: some programs listen at all of them.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A loopback address with such a port.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// A running `portolan`, killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    announced: Vec<(String, SocketAddr)>,
}

impl Process {
    /// Starts it with every socket on a free loopback port.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_logging(args, Stdio::inherit())
    }

    /// The same, its log lines going to `log`.
    pub(crate) fn start_logging(args: &[&str], log: Stdio) -> Self {
        let mut child = portolan()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have seen enough.
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, announced: Vec::new() }
    }

    /// All roles over a folder.
    pub(crate) fn run(manifests: &Path, more: &[&str]) -> Self {
        let manifests = manifests.to_str().expect("UTF-8");
        let mut args = vec!["run", "--manifests", manifests, "--log", "warn"];
        args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
        args.extend(["--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        args.extend(more);
        Self::start(&args)
    }

    /// Where it listens for something, as it said itself; waits for the line.
    pub(crate) fn address(&mut self, what: &str) -> SocketAddr {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((_, address)) = self.announced.iter().find(|(w, _)| w == what) {
                return *address;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|e| {
                panic!("no line for {what:?} ({e}); so far {:?}", self.announced)
            });
            let said = line.strip_prefix("listening ").and_then(|rest| rest.rsplit_once(' '));
            if let Some((what, address)) = said {
                let address = address.parse().expect("an address");
                self.announced.push((what.to_owned(), address));
            }
        }
    }

    /// What it prints from now on, up to a line that holds this text.
    pub(crate) fn lines_until(&mut self, text: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.contains(text)) {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            lines.push(line.unwrap_or_else(|e| panic!("no line with {text:?} ({e}): {lines:?}")));
        }
        lines
    }

    /// A page of the admin port.
    pub(crate) async fn admin(&mut self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address("admin"));
        let response = reqwest::get(url).await.expect("the admin port answers");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    /// A page of the admin port, as JSON.
    pub(crate) async fn json(&mut self, path: &str) -> Value {
        serde_json::from_str(&self.admin(path).await.1).expect("JSON")
    }

    /// The value of a metric, all labels included in its name.
    pub(crate) async fn metric(&mut self, name: &str) -> Option<f64> {
        let (_, text) = self.admin("/metrics").await;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Waits until every role has applied a generation of at least this number.
    pub(crate) async fn reach(&mut self, generation: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.admin("/readyz").await;
            let applied = text.lines().filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok());
            if status == 200 && applied.min().is_some_and(|least| least >= generation) {
                return;
            }
            assert!(Instant::now() < deadline, "generation {generation} was not reached: {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The TCP ports it listens on, as the system knows them (IPv4).
    pub(crate) fn listening(&self) -> Vec<u16> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("Linux");
        let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let sockets: Vec<String> = links.map(|link| link.display().to_string()).collect();
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Columns: number, local address, other end, state (0A: LISTEN), …, inode at the tenth.
        rows.filter(|row| row[3] == "0A" && sockets.contains(&format!("socket:[{}]", row[9])))
            .filter_map(|row| u16::from_str_radix(row[1].rsplit_once(':')?.1, 16).ok())
            .collect()
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("Linux").count()
    }

    /// Memory it has in use, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("Linux");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a row");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for its end; the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process did not end");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Writes a file the way careful writers do: whole, then renamed into place.
pub(crate) fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).expect("written");
    std::fs::rename(&draft, path).expect("renamed");
}
