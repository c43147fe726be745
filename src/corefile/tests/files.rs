//! Whole files: what ships with clusters, variables, snippets, and what is no Corefile.

use super::*;

#[test]
fn the_corefile_of_kubeadm_is_taken_over() {
    check(
        ".:53 {
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
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
",
        &[
            "zone = \"cluster.local\"",
            "[admin]",
            "address = \"0.0.0.0:9153\"",
            "[control]",
            "kubernetes = \"on\"",
            "[dns]",
            "addresses = [\"0.0.0.0:53\"]",
            "cache_negative_ttl_max_secs = 30",
            "cache_prefetch = \"off\"",
            "cache_stale_secs = 0",
            "cache_ttl_max_secs = 30",
            "forward = [\". /etc/resolv.conf\"]",
            "forward_max_inflight = 1000",
            "forward_policy = \"random\"",
            "lameduck_secs = 5",
            "pods = \"insecure\"",
            "ttl_secs = 30",
        ],
        &[
            "line 1: .:53: 0.0.0.0 is IPv4 alone: add [::] with the same port for IPv6",
            "line 3: health: /health on :8080 is /livez on admin.address",
            "line 6: ready: /ready on :8181 is /readyz on admin.address",
            "line 7: kubernetes cluster.local in-addr.arpa ip6.arpa: control.service_ranges cannot \
             be derived from in-addr.arpa ip6.arpa",
            "line 21: reload: certificates, hosts files and resolv.conf are followed; a change of \
             the configuration needs a restart",
        ],
    );
}

#[test]
fn the_corefile_of_node_local_caches_is_taken_over() {
    check(
        "cluster.local:53 {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.11 {
        force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
}
in-addr.arpa:53 {
    errors
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.11 {
        force_tcp
    }
    prometheus :9253
}
.:53 {
    errors
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . /etc/resolv.conf
    prometheus :9253
}
",
        &[
            "[admin]",
            "address = \"0.0.0.0:9253\"",
            "[dns]",
            "addresses = [",
            "\"169.254.20.10:53\",",
            "\"10.96.0.10:53\",",
            "]",
            "cache_negative_ttl_max_secs = 5",
            "cache_prefetch = \"off\"",
            "cache_stale_secs = 0",
            "cache_ttl_max_secs = 30",
            "forward = [",
            "\"cluster.local tcp://10.96.0.11\",",
            "\"in-addr.arpa tcp://10.96.0.11\",",
            "\". /etc/resolv.conf\",",
            "]",
            "forward_policy = \"random\"",
        ],
        &[
            "line 4: cache { success 9984 30 }: the size is not taken over: dns.cache_mib is in \
             bytes",
            "line 5: cache { denial 9984 5 }: the size is not taken over: dns.cache_mib is in \
             bytes",
            "line 7: reload: certificates, hosts files and resolv.conf are followed; a change of \
             the configuration needs a restart",
            "line 14: health 169.254.20.10:8080: /health on 169.254.20.10:8080 is /livez on \
             admin.address",
            "line 18: cache 30: dns.cache_negative_ttl_max_secs is one for all zones: 5, not 30",
            "line 27: cache 30: dns.cache_negative_ttl_max_secs is one for all zones: 5, not 30",
        ],
    );
}

#[test]
fn stub_domains_become_rules_and_all_zones_share_the_addresses() {
    check(
        "corp.example, example.net:1053 {
    bind 127.0.0.1
    forward . 10.1.1.1 10.1.1.2 { policy sequential }
    cache
}
tls://. 10.0.0.0/23 {
    bind ::1
    tls cert.pem key.pem
    forward sub.other 10.2.2.2
    forward corp.example 10.3.3.3
    forward . tls://9.9.9.9 { tls_servername dns.quad9.net }
}
",
        &[
            "[dns]",
            "addresses = [",
            "\"127.0.0.1:53\",",
            "\"127.0.0.1:1053\",",
            "\"[::1]:53\",",
            "]",
            "cache_negative_ttl_max_secs = 1800",
            "cache_prefetch = \"off\"",
            "cache_stale_secs = 0",
            "cache_ttl_max_secs = 3600",
            "forward = [",
            "\"corp.example 10.1.1.1 10.1.1.2\",",
            "\"example.net 10.1.1.1 10.1.1.2\",",
            "\"sub.other 10.2.2.2\",",
            "\". tls://9.9.9.9#dns.quad9.net\",",
            "]",
            "forward_policy = \"sequential\"",
            "tls_addresses = [\"[::1]:853\"]",
            "tls_certificate = \"cert.pem\"",
            "tls_key = \"key.pem\"",
        ],
        &[
            "line 6: tls://.: all zones are served on all of 127.0.0.1:53, 127.0.0.1:1053, \
             [::1]:53, [::1]:853",
            "line 9: forward sub.other 10.2.2.2: this block has no cache, but here answers are \
             cached",
            "line 10: forward corp.example 10.3.3.3: left out: corp.example has its upstreams from \
             line 3",
        ],
    );
}

#[test]
fn variables_leave_out_what_needs_their_value() {
    check(
        ".:53 {
    bind 127.0.0.1
    nsid {$HOST}
    acl {
        block net {%NET%}
        block net 10.0.0.0/8
    }
}
",
        &["[dns]", "access = [\"refuse from 10.0.0.0/8\"]", "addresses = [\"127.0.0.1:53\"]"],
        &[
            "line 3: nsid {$HOST}: left out: the value of {$HOST} is not known here",
            "line 5: acl { block net {%NET%} }: left out: the value of {%NET%} is not known here",
        ],
    );
}

#[test]
fn a_file_without_plain_dns_listens_for_none() {
    check(
        "https://.:8443 quic://. grpc://. {\nbind 127.0.0.1 eth0\n}\nimport more/*.server\n",
        &[
            "[dns]",
            "addresses = []",
            "https_addresses = [\"127.0.0.1:8443\"]",
            "quic_addresses = [\"127.0.0.1:853\"]",
        ],
        &[
            "line 1: grpc://.: left out: DNS over gRPC is not served",
            "line 2: bind 127.0.0.1 eth0: left out: \"eth0\" is not an IP address, write its \
             addresses",
            "line 4: import more/*.server: left out: other files are not read, put them into \
             this one",
        ],
    );
}

#[test]
fn a_snippet_is_noted_where_it_is_defined_and_once() {
    check(
        "(common) {\nbind 127.0.0.1\nminimal\n}\na {\nimport common\n}\nb {\nimport common\n}\n",
        &["[dns]", "addresses = [\"127.0.0.1:53\"]"],
        &["line 3: minimal: left out: what goes into an answer is built in"],
    );
}

#[test]
fn what_is_no_corefile_is_an_error_with_its_line() {
    for (text, expected) in [
        ("", "line 1: there is no server block"),
        (". {\nerrors\n", "line 1: '{' is not closed"),
        (". {\nnsid \"a\n}\n", "line 2: a quote is not closed"),
        (
            "\nhttp://. {\n}\n",
            "line 2: \"http://.\": \"http\" is not one of dns, tls, https, quic, grpc, https3",
        ),
        (".:99999 {\n}\n", "line 1: \".:99999\": \"99999\" is not a port"),
    ] {
        let error = import(text).expect_err("wrong");
        assert_eq!(error.to_string(), expected, "{text:?}");
    }
}
