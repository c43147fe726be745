//! `portolan demo`: the whole product on one machine, with backends inside this process, and
//! commands to try that work as printed.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use portolan_backends::shop::Shop;
use portolan_runtime::Lifecycle;

use crate::cli::DemoArgs;
use crate::config::Config;
use crate::exit::cannot_start;
use crate::roles::{self, Process, Roles};

/// Where the demo listens unless told otherwise; a port that is taken is replaced by a free one.
const DNS: &str = "127.0.0.1:5353";
const HTTP: &str = "127.0.0.1:8080";
const DB: &str = "127.0.0.1:15432";
/// The service and port behind [`DB`].
const DB_SERVICE: &str = "shop/db:5432";
/// How often readiness is looked at while starting.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where the parts of the running demo are.
struct Addresses {
    dns: SocketAddr,
    http: SocketAddr,
    db: SocketAddr,
    admin: SocketAddr,
}

/// Runs the demo until a signal.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let (dir, temporary) = folder(args.dir.as_deref()).map_err(cannot_start)?;
    let config = config(args, &dir)?;
    roles::init(&config)?;
    let result = roles::runtime()?.block_on(serve(&config, &dir));
    if temporary {
        // Left behind it would only take up room; nothing depends on its removal.
        let _left_behind = std::fs::remove_dir_all(&dir);
    }
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: &Config, dir: &Path) -> anyhow::Result<()> {
    // The backends outlive the proxy's drain, so that what is in flight can be answered.
    let shop_life = Lifecycle::new();
    let shop = Shop::start(shop_life.clone()).map_err(cannot_start)?;
    shop.write_manifests(dir).map_err(cannot_start)?;
    let process = Process::start(config, Roles::ALL).await?;
    let greeting = greet(&process, dir);
    let addresses = tokio::select! {
        addresses = greeting => addresses?,
        () = process.lifecycle.draining() => None,
    };
    if let Some(addresses) = addresses {
        print!("{}", guide(&addresses, dir));
    }
    tokio::select! {
        ended = process.finish() => ended?,
        ended = shop.run() => ended.context("the demo's backends")?,
    }
    shop_life.drain();
    Ok(())
}

/// Waits until every role is ready; the addresses, unless a listener could not be bound.
async fn greet(process: &Process, dir: &Path) -> anyhow::Result<Option<Addresses>> {
    while process.readiness.check().is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let view = process.proxy.as_ref().context("the demo runs a proxy")?.view();
    let bound = |name: &str| {
        let listener = view.listeners.iter().find(|(n, _)| n.starts_with(name));
        listener.and_then(|(_, l)| l.bound)
    };
    match (process.dns.first().copied(), bound("http"), bound("tcp-shop/db")) {
        (Some(dns), Some(http), Some(db)) => {
            Ok(Some(Addresses { dns, http, db, admin: process.admin }))
        }
        _ => {
            println!(
                "not every listener could be bound; see the log. Manifests: {}",
                dir.display()
            );
            Ok(None)
        }
    }
}

/// What to try. Every line that is indented is a command for a shell.
fn guide(at: &Addresses, dir: &Path) -> String {
    let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("portolan"));
    let (exe, dir) = (exe.display(), dir.display());
    let (dns, http, db, admin) = (at.dns, at.http, at.db, at.admin);
    let (dns_ip, dns_port, db_ip, db_port) = (dns.ip(), dns.port(), db.ip(), db.port());
    format!(
        "
Portolan is running. Try, in another terminal:

  Names
    dig +short @{dns_ip} -p {dns_port} web.shop.svc.cluster.local
    dig +short @{dns_ip} -p {dns_port} _redis._tcp.cache.shop.svc.cluster.local SRV
    dig +short @{dns_ip} -p {dns_port} -x 10.96.0.80
    {exe} dns explain nope.shop.svc.cluster.local --admin {admin}
  HTTP, balanced over the ready endpoints of web (run it a few times)
    curl -s http://{http}/ -H 'Host: web.shop'
    curl -s --http2-prior-knowledge http://{http}/ -H 'Host: web.shop'
  gRPC
    {exe} call {http} --authority greeter.shop:50051
    {exe} call {http} --authority greeter.shop:50051 portolan.demo.v1.Echo/Say '{{\"text\":\"hello\"}}'
  TCP
    bash -c 'exec 3<>/dev/tcp/{db_ip}/{db_port}; echo hello >&3; head -n 1 <&3'
  A change: takes web-1 out; names and traffic follow at once
    sed -i '0,/ready: true/s//ready: false/' {dir}/web.yaml
  What is going on
    {exe} get services --admin {admin}
    {exe} get endpoints web --admin {admin}
    curl -s http://{admin}/readyz
    curl -s http://{admin}/metrics

The manifests are in {dir}. Press Ctrl-C to stop.

"
    )
}

/// The configuration: what the flags say, and the demo's own addresses for the rest.
fn config(args: &DemoArgs, dir: &Path) -> anyhow::Result<Config> {
    let mut settings = args.settings.clone();
    let port = |address: &str, udp: bool| free(address, udp).to_string();
    settings.default_to("control.manifests", dir.to_string_lossy());
    settings.default_to("dns.addresses", port(DNS, true));
    settings.default_to("proxy.http", port(HTTP, false));
    settings.default_to("proxy.tcp", format!("{}={DB_SERVICE}", port(DB, false)));
    settings.default_to("admin.address", port("127.0.0.1:15000", false));
    settings.default_to("xds.address", port("127.0.0.1:15010", false));
    settings.default_to("log.filter", "warn");
    settings.load()
}

/// The address, or the same with port 0 if it is taken.
fn free(address: &str, udp: bool) -> SocketAddr {
    let wanted: SocketAddr = address.parse().expect("the demo's own addresses are valid");
    let taken = TcpListener::bind(wanted).is_err() || (udp && UdpSocket::bind(wanted).is_err());
    if taken { SocketAddr::new(wanted.ip(), 0) } else { wanted }
}

/// The folder for the manifests, and whether it is a temporary one.
fn folder(wanted: Option<&Path>) -> anyhow::Result<(PathBuf, bool)> {
    let dir = wanted.map_or_else(
        || std::env::temp_dir().join(format!("portolan-demo-{}", std::process::id())),
        Path::to_owned,
    );
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok((dir, wanted.is_none()))
}
