//! Clients that are not ours against the real binary: gRPC's own xDS clients, the example of the
//! plain API in Python and a real Envoy; and our proxy under a control plane that is not ours.
//!
//! Owns starting `portolan demo` and the scripts of `tests/interop/`, each of which says what it
//! proves. `tests/interop/setup.sh` installs what they need. Where that is missing the tests are
//! skipped, and with `CI=true` they fail.

#[path = "support/foreign.rs"]
#[expect(dead_code, reason = "a kit of several tests")]
mod foreign;

use std::io::{BufRead, BufReader, Read, pipe};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest start of the demo, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest run of a script; its own waits are shorter.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
/// Longest end of the demo, past its drain.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Lines that may wait to be read.
const LINES_WAITING: usize = 64;

/// What the scripts with an Envoy import.
const ENVOY: [&str; 4] = ["grpc", "grpc_tools.protoc", "envoy", "cryptography"];

#[test]
fn grpc_clients_find_their_endpoints_over_xds_without_a_proxy() {
    let Some(mut python) = foreign::python(&["grpc", "grpc_tools.protoc"]) else { return };
    let demo = Demo::start();
    demo.run(&mut python, "grpc_xds.py", &[]);
}

#[test]
fn grpc_for_python_follows_the_endpoints_of_a_service() {
    grpc_follows_the_endpoints_of_a_service("python");
}

#[test]
fn grpc_for_node_follows_the_endpoints_of_a_service() {
    grpc_follows_the_endpoints_of_a_service("node");
}

#[test]
fn grpc_for_go_follows_the_endpoints_of_a_service() {
    grpc_follows_the_endpoints_of_a_service("go");
}

#[test]
fn grpc_for_java_follows_the_endpoints_of_a_service() {
    grpc_follows_the_endpoints_of_a_service("java");
}

fn grpc_follows_the_endpoints_of_a_service(language: &str) {
    let Some(mut python) = foreign::python(&["grpc", "grpc_tools.protoc"]) else { return };
    if language != "python" && foreign::peer(language).is_none() {
        return;
    }
    let demo = Demo::start();
    demo.run(&mut python, "grpc_clients.py", &["--language", language, "--failover", "--server"]);
}

#[test]
fn grpc_goes_by_the_routes_of_a_service() {
    let Some(mut python) = foreign::python(&["grpc", "grpc_tools.protoc"]) else { return };
    run(script(&mut python, "grpc_routes.py").args(["--proto", "proto"]));
}

#[test]
fn grpc_servers_in_python_go_by_the_policies_of_their_service() {
    grpc_servers_go_by_policies("python");
}

#[test]
fn grpc_servers_in_go_go_by_the_policies_of_their_service() {
    grpc_servers_go_by_policies("go");
}

#[test]
fn grpc_servers_in_java_go_by_the_policies_of_their_service() {
    grpc_servers_go_by_policies("java");
}

fn grpc_servers_go_by_policies(language: &str) {
    let modules = ["grpc", "grpc_tools.protoc", "cryptography"];
    let Some(mut python) = foreign::python(&modules) else { return };
    if language != "python" && foreign::peer(language).is_none() {
        return;
    }
    let arguments = ["--proto", "proto", "--language", language];
    run(script(&mut python, "grpc_access.py").args(arguments));
}

#[test]
fn a_client_in_python_follows_endpoints_over_the_plain_api() {
    let modules = ["grpc", "grpc_tools.protoc", "grpc_health.v1", "grpc_reflection.v1alpha"];
    let Some(mut python) = foreign::python(&modules) else { return };
    let demo = Demo::start();
    demo.run(&mut python, "plain_api.py", &[]);
}

#[test]
fn envoy_takes_every_resource_and_carries_the_traffic() {
    envoy_on_the_demo("envoy_xds.py", &[]);
}

#[test]
fn envoy_takes_every_resource_by_delta_and_carries_the_traffic() {
    envoy_on_the_demo("envoy_xds.py", &["--delta"]);
}

#[test]
fn envoy_never_meets_a_route_without_its_cluster() {
    envoy_on_the_demo("envoy_order.py", &[]);
}

#[test]
fn envoy_never_meets_a_route_without_its_cluster_by_delta() {
    envoy_on_the_demo("envoy_order.py", &["--delta"]);
}

fn envoy_on_the_demo(name: &str, arguments: &[&str]) {
    let Some(mut python) = foreign::python(&ENVOY) else { return };
    let demo = Demo::start();
    demo.run(&mut python, name, arguments);
}

#[test]
fn envoy_keeps_the_traffic_while_the_control_plane_is_away() {
    envoy_on_its_own("envoy_outage.py", &[]);
}

#[test]
fn envoy_keeps_the_traffic_while_a_control_plane_of_delta_is_away() {
    envoy_on_its_own("envoy_outage.py", &["--delta"]);
}

#[test]
fn envoy_calls_the_endpoints_of_its_zone_while_there_are_any() {
    envoy_on_its_own("envoy_places.py", &[]);
}

#[test]
fn envoy_has_its_certificates_from_the_control_plane_and_shows_it_its_own() {
    envoy_over_tls(&[]);
}

#[test]
fn envoy_has_its_certificates_by_delta() {
    envoy_over_tls(&["--delta"]);
}

fn envoy_over_tls(arguments: &[&str]) {
    if foreign::program("curl").is_some() {
        let arguments = [&["--proto", "proto"][..], arguments].concat();
        envoy_on_its_own("envoy_tls.py", &arguments);
    }
}

#[test]
fn envoy_and_grpc_report_their_load() {
    envoy_on_its_own("envoy_load.py", &["--proto", "proto"]);
}

#[test]
fn what_envoy_refuses_is_shown_and_stops_nothing_else() {
    envoy_on_its_own("envoy_clients.py", &["--proto", "proto"]);
}

/// A script that starts a control plane of its own: the one of the demo would take the backends
/// along when it ends, and is configured in one way.
fn envoy_on_its_own(name: &str, arguments: &[&str]) {
    let Some(mut python) = foreign::python(&ENVOY) else { return };
    run(script(&mut python, name).args(arguments));
}

#[test]
fn envoy_and_grpc_take_every_bootstrap_that_is_printed_for_them() {
    envoy_on_its_own("bootstrap_accepted.py", &[]);
}

#[test]
fn the_proxy_works_under_go_control_plane() {
    // The script needs nothing but Python itself.
    let Some(mut python) = foreign::python(&["json"]) else { return };
    if foreign::peer("control").is_some() {
        run(&mut *script(&mut python, "go_control.py"));
    }
}

/// A running `portolan demo`, every address of it a free one.
struct Demo {
    child: Child,
    dir: tempfile::TempDir,
    /// Its standard output and error.
    lines: Lines,
    xds: String,
    admin: String,
}

impl Demo {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.arg("demo").arg("--dir").arg(dir.path()).args(["--log", "warn"]);
        for address in ["--dns", "--admin", "--xds-listen", "--http"] {
            command.args([address, "127.0.0.1:0"]);
        }
        command.args(["--tcp", "127.0.0.1:0=shop/db:5432"]);
        let (mut child, mut lines) = spawn(&mut command);
        let deadline = Instant::now() + START_LIMIT;
        // The guide that is printed once every role is ready ends with this.
        while lines.next(deadline).is_some_and(|line| !line.ends_with("Press Ctrl-C to stop.")) {}
        let address = |what: &str| {
            let start = format!("listening {what} ");
            lines.seen.iter().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
        };
        let ready = lines.seen.last().is_some_and(|line| line.ends_with("to stop."));
        if let (true, Some(xds), Some(admin)) = (ready, address("xds"), address("admin")) {
            return Self { child, dir, lines, xds, admin };
        }
        let status = end(&mut child, Instant::now());
        panic!("the demo is not ready ({status}):\n{}", lines.seen.join("\n"));
    }

    /// Runs a script on it, with arguments of its own.
    fn run(&self, python: &mut Command, name: &str, arguments: &[&str]) {
        run(script(python, name)
            .args(arguments)
            .args(["--xds", &self.xds, "--admin", &self.admin, "--dir"])
            .arg(self.dir.path())
            .arg("--proto")
            .arg(root().join("proto")));
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Without `kill` it is ended below all the same.
        let _status = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + STOP_LIMIT;
        let shown = self.lines.seen.len();
        while self.lines.next(deadline).is_some() {}
        let status = end(&mut self.child, deadline);
        println!("the demo ended: {status}\n{}", self.lines.seen[shown..].join("\n"));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `tests/interop/` for an interpreter.
fn script<'a>(python: &'a mut Command, name: &str) -> &'a mut Command {
    python.arg(root().join("tests/interop").join(name));
    // For `portolan bootstrap` (bootstraps.py) and `portolan control` (control_process.py).
    python.env("INTEROP_PORTOLAN", env!("CARGO_BIN_EXE_portolan"));
    // A proxy of the machine's has no part in what is said on the loopback.
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"];
    for name in proxies.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]) {
        python.env_remove(name);
    }
    python
}

/// Runs a script to its end and shows what it says, under its name, as it says it; panics unless
/// it ends with 0.
fn run(command: &mut Command) {
    let (mut child, mut lines) = spawn(command);
    let deadline = Instant::now() + SCRIPT_LIMIT;
    let name = Path::new(command.get_args().next().unwrap_or_default()).file_stem();
    let name = name.unwrap_or_default().display().to_string();
    while let Some(line) = lines.next(deadline) {
        println!("{name}: {line}");
    }
    let status = end(&mut child, deadline);
    assert!(status.success(), "{command:?}: {status} (the limit is {SCRIPT_LIMIT:?})");
}

/// Starts a process, the head of a group of its own; its output and errors are one stream.
fn spawn(command: &mut Command) -> (Child, Lines) {
    let (reader, writer) = pipe().expect("a pipe");
    let errors = writer.try_clone().expect("a handle");
    command.stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0);
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The command holds on to the pipe's writing end: it would never be closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    (child, Lines::of(reader))
}

/// The end of a process whose output has ended; past the deadline it is killed, and whatever it
/// has started with it.
fn end(child: &mut Child, deadline: Instant) -> ExitStatus {
    if Instant::now() >= deadline {
        // It was not waited for yet, so that the group is still its own.
        let group = format!("-{}", child.id());
        let _status = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    child.wait().expect("a child can be waited for")
}

/// The lines a process writes, with a deadline for each.
struct Lines {
    receiver: Receiver<String>,
    seen: Vec<String>,
    /// Ends when the writing end is closed.
    _reader: JoinHandle<()>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(LINES_WAITING);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { receiver, seen: Vec::new(), _reader: reader }
    }

    /// The next line; `None` at the end of the stream or when the deadline has passed.
    fn next(&mut self, deadline: Instant) -> Option<&str> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.receiver.recv_timeout(left) {
            Ok(line) => {
                self.seen.push(line);
                self.seen.last().map(String::as_str)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}
