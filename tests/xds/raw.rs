//! Resources put in by hand with `portolan raw`.

use std::path::Path;

use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::protobuf::Any;
use prost::Message;

use crate::kit::{CDS, EDS, Talk, channel, command, control, shop};
use crate::support::{Process, output};

fn put(
    process: &mut Process,
    folder: &Path,
    kind: &str,
    name: &str,
    bytes: &[u8],
) -> (i32, String) {
    let file = folder.join("resource");
    std::fs::write(&file, bytes).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (code, _, said) = command(process, &["raw", "put", kind, name, file]);
    (code.expect("an end of its own"), said)
}

fn cluster(name: &str, stat: &str) -> Vec<u8> {
    Cluster { name: name.to_owned(), alt_stat_name: stat.to_owned(), ..Cluster::default() }
        .encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_in_reaches_clients_over_what_is_made_and_gives_way_when_taken_out() {
    let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
    let mut process = control(folder.path(), &["--set", "xds.raw_resources=on"]).await;
    let mut talk = Talk::ads(&channel(process.address("xds")).await, "a").await;
    let made = talk.get(CDS, &[]).await.expect("clusters").resources;

    let (new, over) = (cluster("by-hand", "one"), cluster("shop/web:80", "two"));
    assert_eq!(put(&mut process, files.path(), "cds", "by-hand", &new), (0, String::new()));
    let reply = talk.until(|reply| reply.resources.len() == 4).await;
    assert_eq!(reply.resources["by-hand"], new);
    let any = Any { type_url: CDS.to_owned(), value: over.clone() }.encode_to_vec();
    assert_eq!(put(&mut process, files.path(), CDS, "shop/web:80", &any), (0, String::new()));
    talk.until(|reply| reply.resources["shop/web:80"] == over).await;
    let list = command(&mut process, &["raw", "list"]).1;
    let rows: Vec<Vec<&str>> = list.lines().map(|l| l.split_whitespace().collect()).collect();
    let names: Vec<_> = rows.iter().map(|row| (row[0], row[1])).collect();
    assert_eq!(names, [("cds", "by-hand"), ("cds", "shop/web:80")], "{list}");

    let remove = ["raw", "remove", "cds", "shop/web:80"];
    assert_eq!(command(&mut process, &remove).0, Some(0));
    let reply = talk.until(|reply| reply.resources["shop/web:80"] != over).await;
    assert_eq!(reply.resources["shop/web:80"], made["shop/web:80"]);
    assert_eq!(command(&mut process, &["raw", "clear"]).0, Some(0));
    let reply = talk.until(|reply| !reply.resources.contains_key("by-hand")).await;
    assert_eq!(reply.resources, made);
    assert_eq!(command(&mut process, &["raw", "list"]).1, "");

    let foreign = Any { type_url: EDS.to_owned(), value: over.clone() }.encode_to_vec();
    let long = "n".repeat(1025);
    let cases: [(&str, &str, &[u8], &str); 5] = [
        ("cds", "a", b"\x0a\xff", "cds a: not a protobuf message"),
        ("cds", "a", &foreign, "cds a: the bytes are of type type.googleapis.com/envoy.config.end"),
        ("xyz", "a", &new, "type \"xyz\" is not served"),
        ("cds", &long, &new, "name: 1025 octets; a name has 1 to 1024"),
        ("cds", "", &new, "name: 0 octets"),
    ];
    for (kind, name, bytes, expected) in cases {
        let (code, said) = put(&mut process, files.path(), kind, name, bytes);
        assert!(code == 1 && said.contains(expected), "{expected:?}: {code} {said}");
    }
    let (code, _, said) = command(&mut process, &remove);
    let expected = "cds shop/web:80: was not put in by hand";
    assert!(code == Some(1) && said.contains(expected), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_in_where_it_is_off_or_the_admin_port_is_open() {
    let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
    let mut process = control(folder.path(), &[]).await;
    let (code, said) = put(&mut process, files.path(), "cds", "a", &cluster("a", ""));
    assert!(code == 1 && said.contains("takes no resources: set xds.raw_resources"), "{said}");
    for (admin, is_refused) in [("0.0.0.0:1", true), ("[::1]:1", false), ("127.0.0.2:1", false)] {
        let args = ["config", "print", "--set", "xds.raw_resources=on", "--set"];
        let address = format!("admin.address={admin}");
        let output = output(&[&args[..], &[&address]].concat());
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        let expected = "xds.raw_resources: is only for an admin.address on loopback";
        assert_eq!(said.contains(expected), is_refused, "{admin}: {said}");
        assert_eq!(output.status.code(), Some(if is_refused { 2 } else { 0 }), "{admin}: {said}");
    }
}
