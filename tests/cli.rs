//! The command line: exit codes, configuration, and the demo's own instructions.

mod support;

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};

use support::{Process, output, portolan};

const FREE: [&str; 6] =
    ["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0", "--dns", "127.0.0.1:0"];

fn refused(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

fn config_file(text: &str, name: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

#[test]
fn what_cannot_start_says_why_and_ends_with_code_2() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let taken = tcp.local_addr().expect("an address").to_string();
    let taken_udp = udp.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().to_str().expect("UTF-8");
    let in_use = "Address already in use";
    let cases: [(&[&str], [&str; 2]); 12] = [
        (
            &["run", "--manifests", "/no/such/folder"],
            ["cannot read manifests from /no/such/folder", "No such file"],
        ),
        (
            &["check", "/no/such/folder"],
            ["cannot read manifests from /no/such/folder", "No such file"],
        ),
        (&["run"], ["there is no source", "--manifests"]),
        (&["dns"], ["there is no source", "--manifests"]),
        (
            &["run", "--kubeconfig", "/no/such/kubeconfig"],
            ["cannot use the kubeconfig /no/such/kubeconfig", "No such file"],
        ),
        (
            &["run", "--manifests", manifests, "--set", "control.kubernetes=on"],
            ["control.manifests", "not used with control.kubernetes"],
        ),
        (&["proxy"], ["proxy.control is not set", "--xds"]),
        (&["run", "--manifests", manifests, "--admin", &taken], [&taken, in_use]),
        (&["run", "--manifests", manifests, "--dns", &taken_udp], [&taken_udp, in_use]),
        (&["run", "--config", "/no/such/file.toml"], ["/no/such/file.toml", "No such file"]),
        (&["run", "--set", "dns.ttl_secs"], ["--set dns.ttl_secs", "expected KEY=VALUE"]),
        (&["no-such-command"], ["no-such-command", "Usage"]),
    ];
    for (args, expected) in cases {
        let mut all = args.to_vec();
        // Whatever the case does not name listens on free ports.
        if ["run", "dns", "proxy"].contains(&args[0]) {
            for pair in FREE.chunks(2).filter(|pair| !args.contains(&pair[0])) {
                let proxy_has_it = args[0] != "proxy" || pair[0] == "--admin";
                if proxy_has_it {
                    all.extend(pair);
                }
            }
        }
        let said = refused(&output(&all));
        for text in expected {
            assert!(said.contains(text), "{args:?}: {said}");
        }
    }
}

#[test]
fn every_problem_of_a_configuration_is_reported_at_once() {
    let text = "\
zone = \"not a zone\"
colour = 1
[dns]
ttl_secs = 99999
addresses = [\"nowhere\"]
tll = 1
[control]
service_ranges = [\"10.0.0.0/8\", \"10.1.0.0/16\"]
[[listeners]]
name = \"a\"
address = \"127.0.0.1:0\"
protocol = \"smtp\"
";
    let (_folder, path) = config_file(text, "portolan.toml");
    let mut command = portolan();
    command.args(["config", "print", "--config", &path, "--set", "x=1"]);
    command.env("PORTOLAN_DNS_WORKERS", "many").env("PORTOLAN_DSN", "1");
    let said = refused(&command.output().expect("runs"));
    let expected = [
        "zone: \"not a zone\": \"not a zone\" is not a DNS label: it may hold a-z, 0-9 and '-', \
         and must start and end with a letter or digit (in the file)",
        "control.service_ranges: service ranges 10.0.0.0/8 and 10.1.0.0/16 are of the same IP \
         family",
        "dns.addresses: \"nowhere\": invalid socket address syntax (in the file)",
        "dns.ttl_secs: expected a whole number in 0..=3600, found 99999 (in the file)",
        "dns.workers: expected a whole number in 0..=1024, found \"many\" (in \
         PORTOLAN_DNS_WORKERS)",
        "listeners[0]: protocol: \"smtp\" is not http, tcp or detect (in the file)",
        "colour: unknown setting (in the file)",
        "dns.tll: unknown setting (in the file)",
        "PORTOLAN_DSN: unknown setting (in the environment)",
        "x: unknown setting (in --set)",
    ];
    let problems: Vec<&str> = said.lines().skip(1).map(str::trim).collect();
    assert_eq!(problems, expected, "{said}");
}

#[test]
fn what_is_wrong_with_a_setting_of_dns_is_named() {
    for (setting, expected) in [
        ("dns.forward=.", "dns.forward: \".\": no upstream after the zone"),
        ("dns.forward=. nowhere", "\"nowhere\" is not an IP address or IP:PORT"),
        ("dns.forward=. quic://10.0.0.1", "\"quic\" is not udp, tcp, tls or https"),
        ("dns.access=deny", "dns.access: \"deny\": \"deny\" is not allow, refuse or drop"),
        ("dns.records=a.b 5 MX 1", "type \"MX\" is not A, AAAA, CNAME, PTR, SRV or TXT"),
        ("dns.rewrites=a.example", "dns.rewrites: \"a.example\": expected FROM=TO"),
        ("dns.extra_zones=a b", "dns.extra_zones: \"a b\" is not a DNS label"),
        ("dns.search_namespaces=shop=on", "\"on\" is not off, prefetch or complete"),
        ("dns.pods=all", "expected one of disabled, insecure, verified, found \"all\""),
        ("dns.tls_addresses=127.0.0.1:0", "encrypted DNS needs one, and dns.tls_key"),
        ("dns.tls_key=key.pem", "dns.tls_certificate: missing: the key has no certificate"),
        ("dns.forward_timeout_ms=5000", "expected a whole number in 100..=4900"),
    ] {
        let said = refused(&output(&["config", "print", "--set", setting]));
        assert!(said.contains(expected), "{setting}: {said}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_of_listeners_is_named() {
    let text = "\
[[certificates]]
name = \"web\"
chain = \"c\"
key = \"k\"
[[certificates]]
name = \"web\"
chain = \"c\"
key = \"k\"
[[certificates]]
name = \"a/b\"
chain = \"c\"
key = \"k\"
[[certificates]]
name = \"c\"
chain = \"c\"
[[listeners]]
name = \"one\"
address = \"127.0.0.1:0\"
protocol = \"http\"
tls = \"nobody\"
[[listeners]]
name = \"two\"
address = \"127.0.0.1:0\"
protocol = \"http\"
tls = \"web\"
client_ca = true
[[listeners]]
name = \"three\"
address = \"127.0.0.1:0\"
protocol = \"http\"
client_ca = true
[[listeners]]
name = \"four\"
address = \"127.0.0.1:0\"
protocol = \"http\"
tls = \"web\"
client_ca = \"yes\"
";
    let (_folder, path) = config_file(text, "portolan.toml");
    let said = refused(&output(&["config", "print", "--config", &path]));
    let problems: Vec<&str> = said.lines().skip(1).map(str::trim).collect();
    let expected = [
        "certificates[2]: name: \"a/b\" is not up to 253 letters, digits, '-', '.' and '_' (in the \
         file)",
        "certificates[3]: key: missing (in the file)",
        "certificates: the name \"web\" stands twice",
        "listeners[2]: client_ca: only a listener with tls has one (in the file)",
        "listeners[3]: client_ca: expected true or false, found \"yes\" (in the file)",
        "listeners: \"one\": tls: there is no certificate \"nobody\"",
        "listeners: \"two\": client_ca: the certificate \"web\" has no trusted_ca",
    ];
    assert_eq!(problems, expected, "{said}");

    let missing = "[[certificates]]\nname = \"web\"\nchain = \"/no/such/chain\"\nkey = \"k\"\n";
    let (_folder, path) = config_file(missing, "portolan.toml");
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().to_str().expect("UTF-8");
    let mut args = vec!["control", "--config", &path, "--manifests", manifests];
    args.extend(&FREE[..4]);
    let said = refused(&output(&args));
    assert!(
        said.contains("certificate \"web\": cannot use /no/such/chain: No such file"),
        "{said}"
    );
}

#[test]
fn dns_that_cannot_be_served_as_asked_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().to_str().expect("UTF-8");
    let (_kept, empty) = config_file("", "empty.pem");
    let certificate = format!("dns.tls_certificate={empty}");
    let key = format!("dns.tls_key={empty}");
    let cases: [(&[&str], &str); 6] = [
        (&["dns.forward=. /no/such/resolv.conf"], "cannot use /no/such/resolv.conf"),
        (&["dns.hosts_file=/no/such/hosts"], "cannot use /no/such/hosts"),
        (&[&certificate, &key, "dns.tls_addresses=127.0.0.1:0"], "it holds no certificate"),
        (&["dns.records=a.n.svc.cluster.local 5 A 10.0.0.1"], "are those of the cluster"),
        (&["dns.extra_zones=cluster.local"], "cannot be two of the zones at once"),
        (
            &["dns.forward=. tls://127.0.0.1", "dns.forward_ca=/no/such/ca.pem"],
            "cannot use /no/such/ca.pem",
        ),
    ];
    for (settings, expected) in cases {
        let mut args = vec!["dns", "--manifests", manifests, "--dns", "127.0.0.1:0"];
        args.extend(["--admin", "127.0.0.1:0"]);
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let said = refused(&output(&args));
        assert!(said.contains(expected), "{settings:?}: {said}");
    }
}

#[test]
fn the_printed_configuration_can_be_used_and_says_the_same() {
    let print = |args: &[&str]| {
        let output = output(&[&["config", "print"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = "\
[dns]
ttl_secs = 7
[proxy]
http = [\"127.0.0.1:81\"]
[[certificates]]
name = \"web\"
chain = \"chain.pem\"
key = \"key.pem\"
trusted_ca = \"ca.pem\"
[[listeners]]
name = \"db\"
address = \"127.0.0.1:15432\"
protocol = \"tcp\"
service = \"shop/db:5432\"
tls = \"web\"
client_ca = true
";
    let (_folder, path) = config_file(text, "portolan.toml");
    let printed = print(&["--config", &path, "--zone", "example.test"]);
    for line in ["ttl_secs = 7", "zone = \"example.test\"", "service = \"shop/db:5432\""] {
        assert!(printed.lines().any(|l| l == line), "{line} in {printed}");
    }
    let (_again, path) = config_file(&printed, "printed.toml");
    assert_eq!(print(&["--config", &path]), printed);

    let yaml = "dns: {ttl_secs: 7}\nproxy: {http: [\"127.0.0.1:81\"]}\nzone: example.test\n\
                listeners:\n- {name: db, address: \"127.0.0.1:15432\", protocol: tcp, service: \
                \"shop/db:5432\", tls: web, client_ca: true}\ncertificates:\n- {name: web, chain: \
                chain.pem, key: key.pem, trusted_ca: ca.pem}\n";
    let (_yaml, path) = config_file(yaml, "portolan.yaml");
    assert_eq!(print(&["--config", &path]), printed, "TOML and YAML say the same");
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let printed = String::from_utf8(output(&["config", "print"]).stdout).expect("UTF-8");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let documented = std::fs::read_to_string(path).expect("readable");
    assert!(documented.contains(&printed), "docs/configuration.md is to hold:\n{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_run_apart_with_the_proxy_fed_over_xds() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().to_str().expect("UTF-8");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}\n";
    std::fs::write(folder.path().join("web.yaml"), service).expect("written");
    let admin = ["--admin", "127.0.0.1:0", "--log", "warn"];
    let control = ["control", "--manifests", manifests, "--xds-listen", "127.0.0.1:0"];
    let more = ["--http", "127.0.0.1:0"];
    let mut control = Process::start(&[&control[..], &admin, &more].concat());
    let xds = control.address("xds").to_string();
    let mut proxy = Process::start(&[&["proxy", "--xds", &xds][..], &admin].concat());
    proxy.reach(1).await;
    let at = proxy.address("proxy http http");
    let dns = ["dns", "--manifests", manifests, "--dns", "127.0.0.1:0"];
    let mut dns = Process::start(&[&dns[..], &admin].concat());
    dns.reach(1).await;

    // The service has no endpoint: the proxy knows it, and says so.
    let url = format!("http://{at}/");
    let response = reqwest::Client::new().get(url).header("host", "web.shop").send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-portolan-reason"], "no_endpoints");
    let at = dns.address("dns");
    let name = "web.shop.svc.cluster.local";
    use domain::base::iana::Rtype;
    use domain::resolv::stub::conf::Transport;
    let answer = support::dns::ask(at, Transport::UdpTcp, name, Rtype::A).await;
    assert_eq!(answer.records, [format!("{name} A 10.96.0.80")].into());

    // Without its control plane the proxy keeps what it has.
    drop(control);
    let url = format!("http://{}/", proxy.address("proxy http http"));
    let again = reqwest::Client::new().get(url).header("host", "web.shop").send().await;
    assert_eq!(again.expect("an answer").headers()["x-portolan-reason"], "no_endpoints");
    for mut process in [proxy, dns] {
        process.signal("TERM");
        assert_eq!(process.wait(), Some(0));
    }
}

/// Whether a program is there. In CI all are to be.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|o| o.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is to be installed in CI");
    found
}

#[test]
fn the_commands_that_the_demo_prints_work_as_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let sockets = ["--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0=shop/db:5432", "--dir", dir];
    let mut demo = Process::start(&[&["demo"][..], &FREE, &sockets].concat());
    let guide = demo.lines_until("Press Ctrl-C");
    let commands: Vec<&str> = guide.iter().filter_map(|l| l.strip_prefix("    ")).collect();
    assert!(commands.len() >= 12, "{guide:?}");
    for command in commands {
        let program = command.split(' ').next().expect("a word");
        if !program.starts_with('/') && !has(program) {
            eprintln!("skipped, {program} is not installed: {command}");
            continue;
        }
        let output = Command::new("bash").args(["-c", command]).output().expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let start: String = said.chars().take(300).collect();
        assert!(output.status.success(), "{command}: {start} {:?}", output.status);
        assert!(program == "sed" || !start.trim().is_empty(), "{command} says nothing");
        let web = command.contains("Host: web.shop");
        assert!(!web || start.contains("\"service\":\"web\""), "{command}: {start}");
    }
    demo.signal("TERM");
    assert_eq!(demo.wait(), Some(0));
}
