//! `portolan dns explain` and `portolan dns import-corefile`.

use std::path::Path;
use std::process::Output;

use crate::server::{SHOP, SHOP_SETTINGS, Server};
use crate::support::output;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Checks what is said of names: arguments, and lines in their order, each somewhere in the output.
async fn check_explanations(server: &mut Server, cases: &[(&[&str], &[&str])]) {
    let admin = server.process().address("admin").to_string();
    for (args, lines) in cases {
        let said = output(&[&["dns", "explain", "--admin", &admin], *args].concat());
        assert!(said.status.success(), "{args:?}: {}", text(&said.stderr));
        let said = text(&said.stdout);
        let mut rest = said.as_str();
        for line in *lines {
            let at = rest.find(line);
            let at = at.unwrap_or_else(|| panic!("{args:?}: {line:?} is missing or early: {said}"));
            rest = &rest[at + line.len()..];
        }
    }
}

#[tokio::test]
async fn an_explanation_says_step_by_step_what_the_answer_comes_from() {
    let mut server = Server::start(SHOP, SHOP_SETTINGS).await;
    check_explanations(
        &mut server,
        &[
            (
                &["web.shop.svc.cluster.local"],
                &[
                    "1. web.shop.svc.cluster.local. A, asked by 127.0.0.1, from generation 1",
                    "2. access: allowed",
                    "zone: cluster.local. is served here",
                    "snapshot: web.shop.svc.cluster.local. 5 IN A 10.96.0.1",
                    "answer:",
                    "authoritative",
                    "10.96.0.1",
                ],
            ),
            (
                &["none.idle.svc.cluster.local.", "AAAA", "--from", "10.1.2.3"],
                &[
                    "asked by 10.1.2.3",
                    "snapshot: service idle/none exists, 0 of 3 endpoints ready",
                    "answer:",
                    "authority: cluster.local.",
                    "extended error 0: service idle/none exists, 0 of 3 endpoints ready",
                ],
            ),
            (
                &["out.shop.svc.cluster.local", "a"],
                &["5 IN CNAME www.example.com.", "upstream: nothing is forwarded", "answer:"],
            ),
            (&["example.com"], &["zone: none of ours", "answer:", "extended error 20"]),
            (
                &["www.example.com.shop.svc.cluster.local"],
                &[
                    "search path: its pod goes on with www.example.com.svc.cluster.local., \
                     www.example.com.cluster.local., www.example.com. itself",
                    "answer:",
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_explanation_shows_access_rules_rewrites_and_places() {
    let settings = [
        "control.service_ranges=10.96.0.0/16,fd00:96::/112",
        "dns.access=refuse from 10.5.0.0/16,drop from 10.6.0.0/16",
        "dns.rewrites=old.example=svc.cluster.local",
        "dns.topology=prefer",
        "dns.node_name=n1",
    ];
    let mut server = Server::start(SHOP, &settings).await;
    let web = "web.shop.svc.cluster.local";
    check_explanations(
        &mut server,
        &[
            (
                &[web, "--from", "10.5.1.1"],
                &["access: refused by a rule of dns.access", "answer:", "extended error 18"],
            ),
            (
                &[web, "--from", "10.6.1.1"],
                &["access: dropped by a rule of dns.access", "answer:", "no answer is given"],
            ),
            (
                &["web.shop.old.example"],
                &[
                    "rewritten: web.shop.svc.cluster.local. is looked up in its place",
                    "client: on node n1, in zone unknown",
                    "answer:",
                    "web.shop.old.example. 5 IN A 10.96.0.1",
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_no_question_is_said_with_the_reason() {
    let mut server = Server::start(SHOP, SHOP_SETTINGS).await;
    let admin = server.process().address("admin").to_string();
    for (args, reason) in [
        (["a..b", "A"], "\"a..b\" is not a domain name"),
        (["web.shop", "NOPE"], "\"NOPE\" is not a record type"),
    ] {
        let said = output(&[&["dns", "explain", "--admin", &admin][..], &args].concat());
        let error = text(&said.stderr);
        assert!(!said.status.success() && error.contains(reason), "{args:?}: {error}");
    }
}

/// What kubeadm installs.
const KUBEADM: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
corp.example:53 {
    errors
    cache 30
    forward . 10.0.0.53
}
";

fn import(folder: &Path, corefile: &str, more: &[&str]) -> Output {
    let path = folder.join("Corefile");
    std::fs::write(&path, corefile).expect("written");
    let path = path.to_str().expect("UTF-8");
    output(&[&["dns", "import-corefile", path], more].concat())
}

#[test]
fn an_imported_corefile_is_a_configuration_that_is_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let imported = import(folder.path(), KUBEADM, &[]);
    assert_eq!(imported.status.code(), Some(0), "{}", text(&imported.stderr));
    let config = folder.path().join("portolan.toml");
    std::fs::write(&config, &imported.stdout).expect("written");
    let printed = output(&["config", "print", "--config", config.to_str().expect("UTF-8")]);
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    let printed = text(&printed.stdout);
    for line in [
        "zone = \"cluster.local\"",
        "kubernetes = \"on\"",
        "addresses = [\"0.0.0.0:53\"]",
        "pods = \"insecure\"",
        "ttl_secs = 30",
        "cache_ttl_max_secs = 30",
        "forward_max_inflight = 1000",
        "lameduck_secs = 5",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line:?} is not in {printed}");
    }
    let forward = printed.lines().find(|l| l.starts_with("forward = ")).expect("forwarding");
    for rule in ["\". /etc/resolv.conf\"", "\"corp.example 10.0.0.53\""] {
        assert!(forward.contains(rule), "{rule} is not in {forward}");
    }
}

#[test]
fn what_is_lost_of_a_corefile_is_listed_by_line_and_is_a_failure_where_that_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let lossy =
        ". {\n    bind 127.0.0.1\n    dnssec\n    log . {\n        class denial\n    }\n}\n";
    let lossless = ". {\n    bind 127.0.0.1\n    errors\n    loop\n    loadbalance\n}\n";
    for (corefile, more, code, lines) in [
        (lossy, &[][..], 0, &["line 3: dnssec", "line 5: log"][..]),
        (lossy, &["--strict"], 1, &["line 3: dnssec", "line 5: log"]),
        (lossless, &["--strict"], 0, &[]),
        (". {\n    errors\n", &[], 2, &["Corefile: line "]),
    ] {
        let imported = import(folder.path(), corefile, more);
        let said = text(&imported.stderr);
        assert_eq!(imported.status.code(), Some(code), "{more:?} {corefile}: {said}");
        for line in lines {
            assert!(said.contains(line), "{line:?} is not in {said}");
        }
        assert_eq!(said.is_empty(), lines.is_empty(), "{said}");
    }
}
