//! Plugins: what each becomes, and what is noted.

use super::*;

#[test]
fn kubernetes_has_zones_and_ways_to_answer() {
    check(
        "10.0.0.0/24 cluster.local {
    bind 127.0.0.1
    kubernetes {
        kubeconfig /etc/kube staging
        endpoint_pod_names
        ignore empty_service
        namespaces a b
        labels a=b
        noendpoints
        ttl 4000
        fallthrough
        nothing
    }
}
. {
    bind 127.0.0.1
    kubernetes other.local shared.local 10.1.0.0/16 {
        pods verified
        multicluster shared.local
        fallthrough 10.1.0.0/16
    }
}
",
        &[
            "cluster_set_zone = \"shared.local\"",
            "zone = \"cluster.local\"",
            "[control]",
            "context = \"staging\"",
            "kubeconfig = \"/etc/kube\"",
            "kubernetes = \"on\"",
            "[dns]",
            "addresses = [\"127.0.0.1:53\"]",
            "endpoint_names = \"pod\"",
            "extra_zones = [\"other.local\"]",
            "pods = \"disabled\"",
        ],
        &[
            "line 3: kubernetes: control.service_ranges cannot be derived from 0.0.10.in-addr.arpa",
            "line 6: kubernetes { ignore empty_service }: services without endpoints have an empty \
             answer, not NXDOMAIN",
            "line 7: kubernetes { namespaces a b }: all namespaces are answered",
            "line 8: kubernetes { labels a=b }: services of all labels are answered",
            "line 9: kubernetes { noendpoints }: endpoints are always watched and answered",
            "line 10: kubernetes { ttl 4000 }: left out: \"4000\" is not a whole number in \
             0..=3600",
            "line 11: kubernetes { fallthrough }: names in the cluster's zones that do not exist \
             are not looked up further; reverse names are",
            "line 12: kubernetes { nothing }: no such property known here",
            "line 17: kubernetes other.local shared.local 10.1.0.0/16: control.service_ranges \
             cannot be derived from 1.10.in-addr.arpa",
            "line 18: kubernetes { pods verified }: left out: dns.pods is one for all blocks and \
             \"disabled\" already",
        ],
    );
}

#[test]
fn lines_of_hosts_become_records() {
    check_block(
        "hosts {\n10.1.1.1 db.corp DB2.corp\nfd00::1 db.corp\nttl 300\nfallthrough\nx y\n\
         10.1.1.2 *.corp\n}",
        &[
            "hosts_file = \"/etc/hosts\"",
            "records = [",
            "\"db.corp 300 A 10.1.1.1\",",
            "\"1.1.1.10.in-addr.arpa 300 PTR db.corp\",",
            "\"db2.corp 300 A 10.1.1.1\",",
            "\"1.1.1.10.in-addr.arpa 300 PTR db2.corp\",",
            "\"db.corp 300 AAAA fd00::1\",",
            "\"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa 300 PTR \
             db.corp\",",
            "]",
        ],
        &[
            "line 6: hosts { ttl 300 }: holds for the lines of this block, not for the file",
            "line 8: hosts { x y }: left out: expected an IP address and names, or a property",
            "line 9: hosts { 10.1.1.2 *.corp }: left out: \"*.corp\" is not a host name",
        ],
    );
    check_block(
        "hosts /x corp {\n10.1.1.1 db.corp other\nno_reverse\n}",
        &["hosts_file = \"/x\"", "records = [\"db.corp 3600 A 10.1.1.1\"]"],
        &[
            "line 3: hosts /x corp: names of the file are answered outside corp as well",
            "line 3: hosts /x corp: what is not listed is looked up further, as with fallthrough",
            "line 4: hosts { 10.1.1.1 db.corp other }: left out: other is not in corp",
            "line 5: hosts { no_reverse }: holds for the lines of this block, not for the file",
        ],
    );
}

#[test]
fn access_rules_of_narrow_blocks_come_before_wide_ones() {
    check(
        ". {
    bind 127.0.0.1
    acl {
        allow net 10.0.0.0/8 192.168.1.1
        filter net 172.16.0.0/12
        block type ANY
        block type * net *
    }
}
corp.example {
    bind 127.0.0.1
    acl sub.corp.example {
        drop net fd00::/8
    }
}
free.example {
    bind 127.0.0.1
}
",
        &[
            "[dns]",
            "access = [",
            "\"drop from fd00::/8 for sub.corp.example\",",
            "\"allow for corp.example\",",
            "\"allow for free.example\",",
            "\"allow from 10.0.0.0/8 192.168.1.1/32\",",
            "\"refuse\",",
            "]",
            "addresses = [\"127.0.0.1:53\"]",
        ],
        &[
            "line 5: acl { filter net 172.16.0.0/12 }: left out: no empty answer is given in place \
             of refusing",
            "line 6: acl { block type ANY }: left out: rules are not about types of records",
        ],
    );
    check_block(
        "acl corp {\nblock net 10.0.0\nblock 10.0.0.0/8\nblock net 10.0.0.0/8 *\ndeny\n}",
        &["access = [\"refuse for corp\"]"],
        &[
            "line 4: acl { block net 10.0.0 }: left out: \"10.0.0\" is not a network",
            "line 5: acl { block 10.0.0.0/8 }: left out: \"10.0.0.0/8\" is not `type` or `net`",
            "line 7: acl { deny }: left out: expected allow, block, filter or drop",
        ],
    );
}

#[test]
fn names_are_rewritten_by_suffix() {
    for (rule, settings, note) in [
        ("name suffix .a.example. .b.example.", "a.example=b.example", None),
        ("stop name suffix a b answer auto", "a=b", None),
        ("name exact a.x b.y answer auto", "a.x=b.y", Some("names below it are rewritten as well")),
        ("name a.x b.y", "a.x=b.y", Some("names below it are rewritten as well")),
        ("continue name suffix a b", "a=b", Some("the first rule that fits is the last")),
        (
            "name suffix a b answer name (.*).b {1}.a",
            "a=b",
            Some("answers are rewritten back by the same suffixes, not as written"),
        ),
        ("name suffix a a", "", Some("left out: both names are the same")),
        ("name suffix . a", "", Some("left out: \".\" is the root")),
        ("name a", "", Some("left out: expected a name and what stands for it")),
        ("name regex (.*) {1}", "", Some("left out: names are rewritten by suffix, not by regex")),
        ("type ANY HINFO", "", Some("left out: type is not rewritten")),
        ("edns0 local set 0xffee abc", "", Some("left out: edns0 is not rewritten")),
    ] {
        let settings =
            if settings.is_empty() { vec![] } else { vec![format!("rewrites = [\"{settings}\"]")] };
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let notes: Vec<String> =
            note.iter().map(|note| format!("line 3: rewrite {rule}: {note}")).collect();
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        check_block(&format!("rewrite {rule}"), &settings, &notes);
    }
    check_block(
        "rewrite stop {\nname suffix a b\nanswer auto\n}\nrewrite name suffix a c",
        &["rewrites = [\"a=b\"]"],
        &["line 7: rewrite name suffix a c: left out: a=b already"],
    );
}

#[test]
fn properties_of_forward_are_taken_over_or_noted() {
    check_block(
        "cache\nforward . 10.0.0.1 tls://9.9.9.9%q:8853 dns.q {\nexcept corp lan.\nexpire 5s\n\
         max_fails 3\nmax_concurrent 10\nnext NXDOMAIN\ntls\npolicy round_robin\nzzz\n}\n\
         forward corp 10.0.0.2 10.0.0.3 {\nmax_concurrent 20\n}",
        &[
            "cache_negative_ttl_max_secs = 1800",
            "cache_prefetch = \"off\"",
            "cache_stale_secs = 0",
            "cache_ttl_max_secs = 3600",
            "forward = [",
            "\". 10.0.0.1 tls://9.9.9.9:8853#q\",",
            "\"corp 10.0.0.2 10.0.0.3\",",
            "]",
            "forward_max_inflight = 20",
            "forward_policy = \"round_robin\"",
        ],
        &[
            "line 4: forward . 10.0.0.1 tls://9.9.9.9%q:8853 dns.q: left out: \"dns.q\" is not an \
             IP address or an absolute path, names are not resolved",
            "line 5: forward { except corp lan. }: lan is forwarded as well",
            "line 6: forward { expire 5s }: left out: how long idle connections are kept is \
             built in",
            "line 7: forward { max_fails 3 }: left out: upstreams are judged by their failures and \
             probed until well",
            "line 8: forward { max_concurrent 10 }: dns.forward_max_inflight is one for all rules: \
             20, the most",
            "line 9: forward { next NXDOMAIN }: left out: an answer of the upstreams is the answer",
            "line 12: forward { zzz }: no such property known here",
            "line 14: forward corp 10.0.0.2 10.0.0.3: left out: dns.forward_policy is one for all \
             blocks and \"round_robin\" already",
        ],
    );
}

#[test]
fn exceptions_of_forward_that_are_answered_here_need_no_note() {
    check_block(
        "kubernetes cluster.local\nforward . 10.0.0.1 {\nexcept svc.cluster.local\n}\ncache 5 a",
        &[
            "zone = \"cluster.local\"",
            "[control]",
            "kubernetes = \"on\"",
            "cache_negative_ttl_max_secs = 5",
            "cache_prefetch = \"off\"",
            "cache_stale_secs = 0",
            "cache_ttl_max_secs = 5",
            "forward = [\". 10.0.0.1\"]",
            "pods = \"disabled\"",
        ],
        &["line 7: cache 5 a: answers of all zones are cached"],
    );
}

#[test]
fn properties_of_cache_are_taken_over_or_noted() {
    type Case = (&'static str, (u32, u32, u32, &'static str), &'static [&'static str]);
    let cases: [Case; 9] = [
        (
            "success 10 60",
            (60, 1800, 0, "off"),
            &["the size is not taken over: dns.cache_mib is in bytes"],
        ),
        (
            "denial 10 60 7",
            (3600, 60, 0, "off"),
            &[
                "the size is not taken over: dns.cache_mib is in bytes",
                "the shortest time is not taken over",
            ],
        ),
        ("serve_stale 10m verify", (3600, 1800, 600, "off"), &[]),
        ("serve_stale 0s", (3600, 1800, 0, "off"), &[]),
        (
            "serve_stale",
            (3600, 1800, 3600, "off"),
            &["upstreams are asked first, the stale answer is for when they fail"],
        ),
        (
            "prefetch 5 1m 20%",
            (3600, 1800, 0, "on"),
            &["when a name is worth it, and how early, is built in"],
        ),
        ("prefetch 0", (3600, 1800, 0, "off"), &[]),
        ("servfail 1s", (3600, 1800, 0, "off"), &["how long a failure is kept is built in"]),
        ("keepttl", (3600, 1800, 0, "off"), &["TTLs of cached answers count down"]),
    ];
    for (property, (positive, negative, stale, prefetch), notes) in cases {
        let settings = [
            format!("cache_negative_ttl_max_secs = {negative}"),
            format!("cache_prefetch = \"{prefetch}\""),
            format!("cache_stale_secs = {stale}"),
            format!("cache_ttl_max_secs = {positive}"),
        ];
        let notes: Vec<String> =
            notes.iter().map(|n| format!("line 4: cache {{ {property} }}: {n}")).collect();
        check_block(
            &format!("cache {{\n{property}\n}}"),
            &settings.each_ref().map(String::as_str),
            &notes.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn plugins_of_one_line_become_settings_or_notes() {
    type Case = (&'static str, &'static [&'static str], &'static [&'static str]);
    let cases: [Case; 33] = [
        ("autopath @kubernetes", &["search = \"complete\""], &[]),
        (
            "autopath /etc/resolv.conf",
            &[],
            &["autopath /etc/resolv.conf: left out: search paths are those of pods, not of \
               /etc/resolv.conf"],
        ),
        ("nsid a b", &["nsid = \"a b\""], &[]),
        ("nsid", &[], &["nsid: left out: the host's name is not known here, set dns.nsid"]),
        ("log", &["query_log = \"all\""], &[]),
        ("log { class error }", &["query_log = \"errors\""], &[]),
        (
            "log { class denial error }",
            &["query_log = \"errors\""],
            &["log { class denial error }: NXDOMAIN and empty answers are not logged"],
        ),
        (
            "log { class success }",
            &["query_log = \"all\""],
            &["log { class success }: answers of all classes are logged"],
        ),
        (
            "log a.b {common}",
            &["query_log = \"all\""],
            &[
                "log a.b {common}: the format is our own",
                "log a.b {common}: names of all zones are logged",
            ],
        ),
        ("errors", &[], &[]),
        (
            "errors { stacktrace }",
            &[],
            &["errors { stacktrace }: left out: how errors are logged is built in"],
        ),
        (
            "health :9 { lameduck 1500ms }",
            &["lameduck_secs = 2"],
            &["health :9: /health on :9 is /livez on admin.address"],
        ),
        (
            "health { lameduck 5 }",
            &[],
            &[
                "health: /health on :8080 is /livez on admin.address",
                "health { lameduck 5 }: left out: \"5\" is not a length of time",
            ],
        ),
        ("ready :9", &[], &["ready :9: /ready on :9 is /readyz on admin.address"]),
        ("prometheus", &["[admin]", "address = \"127.0.0.1:9153\""], &[]),
        ("prometheus [::]:9153", &["[admin]", "address = \"[::]:9153\""], &[]),
        (
            "prometheus host:9",
            &[],
            &["prometheus host:9: left out: \"host:9\" is not an IP address and port"],
        ),
        ("loop", &[], &[]),
        ("any", &[], &[]),
        ("cancel 1s", &[], &[]),
        ("loadbalance round_robin", &[], &[]),
        ("loadbalance weighted f", &[], &["loadbalance weighted f: addresses are shuffled evenly"]),
        ("bufsize", &["udp_payload_max = 1232"], &[]),
        ("bufsize 4096", &["udp_payload_max = 4096"], &[]),
        (
            "bufsize 5000",
            &[],
            &["bufsize 5000: left out: \"5000\" is not a whole number in 512..=4096"],
        ),
        ("multisocket", &["workers = 0"], &[]),
        ("multisocket 4", &["workers = 4"], &[]),
        (
            "timeouts {\nidle 10s\nread 1s\n}",
            &["tcp_idle_secs = 10"],
            &["timeouts { read 1s }: left out: only dns.tcp_idle_secs can be set"],
        ),
        (
            "tls {\nacme example.org\n}",
            &[],
            &[
                "tls: left out: a certificate and its key have to be files",
                "tls { acme example.org }: certificates are not fetched by ACME",
            ],
        ),
        ("dnssec", &[], &["dnssec: answers are not signed"]),
        (
            "import x/*",
            &[],
            &["import x/*: left out: other files are not read, put them into this one"],
        ),
        (
            "view a { expr true }",
            &[],
            &["view a: clients are not told apart: this block is taken as one for all"],
        ),
        ("unheard of", &[], &["unheard of: no such plugin known here"]),
    ];
    for (body, settings, notes) in cases {
        let corefile = format!(". {{\nbind 127.0.0.1\n{body}\n}}\n");
        let import = import(&corefile).expect("a Corefile");
        let found: Vec<String> =
            import.notes.iter().map(|n| format!("{}: {}", n.directive, n.text)).collect();
        assert_eq!(found, notes, "{body}");
        let notes: Vec<String> = import.notes.iter().map(Note::to_string).collect();
        check_block(body, settings, &notes.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
