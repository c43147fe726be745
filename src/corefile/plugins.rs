//! Which plugin goes where, and those that have no counterpart.

use super::importer::{Importer, Scope};
use super::parse::Directive;
use super::{access, cache, forward, hosts, kubernetes, listen, observe, rewrite};

/// Plugins without a counterpart, and what that means.
const WITHOUT: [(&str, &str); 37] = [
    ("auto", "zone files are not served"),
    ("azure", "zones of Azure DNS are not served"),
    ("chaos", "names of the class CHAOS are not answered"),
    ("clouddns", "zones of Google Cloud DNS are not served"),
    ("debug", "there is no such mode: see log.filter"),
    ("dns64", "AAAA records are not made from A records"),
    ("dnssec", "answers are not signed"),
    ("dnstap", "queries are not sent anywhere: see dns.query_log"),
    ("erratic", "left out: it is for tests"),
    ("etcd", "records in etcd are not served"),
    ("file", "zone files are not served: single records go into dns.records"),
    ("geoip", "places of clients are not looked up"),
    ("grpc", "nothing is forwarded over gRPC: see dns.forward"),
    ("grpc_server", "DNS over gRPC is not served"),
    ("header", "flags of answers are not changed"),
    ("https", "limits of DNS over HTTPS are built in"),
    ("https3", "DNS over HTTP/3 is not served"),
    ("import", "left out: other files are not read, put them into this one"),
    ("k8s_external", "addresses outside the cluster are not served below another zone"),
    ("local", "names below localhost are not answered, unless in dns.records"),
    ("metadata", "there are no metadata"),
    ("minimal", "left out: what goes into an answer is built in"),
    ("nomad", "services of Nomad are not served"),
    ("on", "commands are not run"),
    ("pprof", "there is no profile over HTTP"),
    ("proxyproto", "the PROXY protocol is not read"),
    ("quic", "limits of DNS over QUIC are built in"),
    ("root", "paths are taken as they are written"),
    ("route53", "zones of Route 53 are not served"),
    ("secondary", "zones are not transferred from elsewhere"),
    ("shed", "limits of load are built in"),
    ("sign", "zone files are not signed"),
    ("template", "answers are not made from templates: single records go into dns.records"),
    ("trace", "queries are not traced"),
    ("transfer", "zones are not transferred"),
    ("tsig", "messages with a TSIG are not checked or signed"),
    ("whoami", "left out: clients are not told their address"),
];

/// Takes in one plugin of a server block.
pub(super) fn import(importer: &mut Importer, scope: &Scope, directive: &Directive) {
    match directive.name.as_str() {
        "kubernetes" => kubernetes::import(importer, scope, directive),
        "forward" => forward::import(importer, scope, directive),
        "cache" => cache::import(importer, scope, directive),
        "hosts" => hosts::import(importer, scope, directive),
        "rewrite" => rewrite::import(importer, scope, directive),
        "acl" => access::import(importer, scope, directive),
        "autopath" => rewrite::import_autopath(importer, directive),
        "tls" => listen::import_tls(importer, directive),
        "bufsize" => listen::import_bufsize(importer, directive),
        "multisocket" => listen::import_multisocket(importer, directive),
        "timeouts" => listen::import_timeouts(importer, directive),
        "nsid" => listen::import_nsid(importer, directive),
        "log" => observe::import_log(importer, scope, directive),
        "errors" => observe::import_errors(importer, directive),
        "health" => observe::import_health(importer, directive),
        "ready" => observe::import_ready(importer, directive),
        "prometheus" => observe::import_prometheus(importer, directive),
        "reload" => {
            let text = "certificates, hosts files and resolv.conf are followed; a change of the \
                        configuration needs a restart";
            importer.note(&directive.at(), text);
        }
        "loadbalance" => import_loadbalance(importer, directive),
        "view" => importer.note(
            &directive.at(),
            "clients are not told apart: this block is taken as one for all",
        ),
        // The listener reads the first; the others are built in.
        "bind" | "any" | "cancel" | "loop" => {}
        name => {
            let known = WITHOUT.iter().find(|(plugin, _)| *plugin == name);
            let text = known.map_or("no such plugin known here", |(_, text)| text);
            importer.note(&directive.at(), text);
        }
    }
}

/// Addresses are shuffled anyway.
fn import_loadbalance(importer: &mut Importer, directive: &Directive) {
    match directive.words().as_slice() {
        [] | ["round_robin"] => {}
        _ => importer.note(&directive.at(), "addresses are shuffled evenly"),
    }
    for property in &directive.body {
        let at = directive.at_property(property);
        importer.note(&at, "addresses are shuffled evenly");
    }
}
