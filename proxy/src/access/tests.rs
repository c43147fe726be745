//! Records as bytes, and what happens to them on their way.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::{LogMetrics, MAX_WAITING, Pen};
use super::record::Record;
use super::{AccessFormat, AccessLog, AccessTo, Log, Writing};

const TIME: &[u8; 24] = b"2026-11-26T18:32:41.123Z";

fn full() -> Record<'static> {
    Record {
        listener: "http",
        protocol: "HTTP/1.1",
        client: "10.0.0.9",
        port: 4711,
        method: b"GET",
        authority: b"web.shop",
        path: b"/a?b=c",
        status: 200,
        grpc_status: Some(0),
        bytes_in: 12,
        bytes_out: 345,
        took: Duration::from_micros(1_234_005),
        head: Some(Duration::from_micros(999)),
        endpoint: Some(([10, 1, 0, 255], 8080).into()),
        cluster: "shop/web:80",
        tries: 2,
        reason: None,
        request_id: b"id",
        identity: "spiffe://a/b",
        user_agent: b"curl/8",
        forwarded_for: b"1.1.1.1",
    }
}

fn put(record: &Record<'_>, format: AccessFormat) -> String {
    let mut out = Vec::new();
    record.put(format, TIME, Some(7), &mut out);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn a_record_is_a_line_of_text() {
    assert_eq!(
        put(&full(), AccessFormat::Text),
        "[2026-11-26T18:32:41.123Z] \"GET /a?b=c HTTP/1.1\" 200 0 - 12 345 1234.005 0.999 \
         \"1.1.1.1\" \"curl/8\" \"id\" \"web.shop\" 10.0.0.9:4711 10.1.0.255:8080 \"http\" \
         \"shop/web:80\" 2 7\n"
    );
    let refused = Record {
        protocol: "TCP",
        client: "fd00::9",
        reason: Some("no_cluster"),
        ..Record::default()
    };
    assert_eq!(
        put(&refused, AccessFormat::Text),
        "[2026-11-26T18:32:41.123Z] \"- TCP\" - - no_cluster 0 0 0.000 - \"-\" \"-\" \"-\" \"-\" \
         [fd00::9]:0 - \"\" \"\" 0 7\n"
    );
}

#[test]
fn a_record_is_a_line_of_json() {
    let value: serde_json::Value =
        serde_json::from_str(&put(&full(), AccessFormat::Json)).expect("JSON");
    let expected = serde_json::json!({
        "time": "2026-11-26T18:32:41.123Z", "listener": "http", "protocol": "HTTP/1.1",
        "client": "10.0.0.9:4711", "method": "GET", "authority": "web.shop", "path": "/a?b=c",
        "status": 200, "grpc_status": 0, "bytes_in": 12, "bytes_out": 345, "duration_ms": 1234.005,
        "head_ms": 0.999, "endpoint": "10.1.0.255:8080", "cluster": "shop/web:80", "tries": 2,
        "request_id": "id", "identity": "spiffe://a/b",
        "user_agent": "curl/8", "forwarded_for": "1.1.1.1", "generation": 7,
    });
    assert_eq!(value, expected);
}

/// A hostile value, and how it reads in text and in JSON.
const HOSTILE: &[(&[u8], &str, &str)] = &[
    (b"a\nb", r"a\x0ab", "a\nb"),
    (b"a\r\n[x] \"GET", r"a\x0d\x0a[x] \x22GET", "a\r\n[x] \"GET"),
    (b"\\\"", r"\x5c\x22", "\\\""),
    (b"\\x0a", r"\x5cx0a", "\\x0a"),
    (b"\0\x1b[2J\x7f", r"\x00\x1b[2J\x7f", "\0\x1b[2J\x7f"),
    ("ä\u{2028}€".as_bytes(), r"\xc3\xa4\xe2\x80\xa8\xe2\x82\xac", "ä\u{2028}€"),
    (b"\xff\xfe\n", r"\xff\xfe\x0a", "ÿþ\n"),
    (b"ab\xe2\x82", r"ab\xe2\x82", "abâ\u{82}"),
    (b"{\"a\":1}, ", r"{\x22a\x22:1}, ", "{\"a\":1}, "),
];

#[test]
fn no_value_breaks_a_line_or_leaves_its_quotes() {
    for (value, text, json) in HOSTILE {
        let record = Record {
            method: value,
            authority: value,
            path: value,
            request_id: value,
            user_agent: value,
            forwarded_for: value,
            ..full()
        };
        let line = put(&record, AccessFormat::Text);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{line}");
        // The request, four quoted values, and two names.
        assert_eq!(line.matches('"').count(), 14, "{line}");
        assert_eq!(line.matches(text).count(), 6, "{line}");
        let line = put(&record, AccessFormat::Json);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        for name in ["method", "authority", "path", "request_id", "user_agent", "forwarded_for"] {
            assert_eq!(read[name], *json, "{name} of {line}");
        }
    }
}

#[test]
fn every_byte_is_written_so_that_it_can_be_read_back() {
    for byte in 0..=u8::MAX {
        let record = Record { path: &[byte], ..full() };
        let line = put(&record, AccessFormat::Text);
        assert_eq!(line.matches('"').count(), 14, "{line}");
        let read: serde_json::Value =
            serde_json::from_str(&put(&record, AccessFormat::Json)).expect("JSON");
        assert_eq!(read["path"], char::from(byte).to_string());
    }
}

#[test]
fn values_are_bounded() {
    let long = vec![b'"'; 100_000];
    let record = Record {
        method: &long,
        authority: &long,
        path: &long,
        request_id: &long,
        user_agent: &long,
        forwarded_for: &long,
        ..full()
    };
    for format in [AccessFormat::Text, AccessFormat::Json] {
        let line = put(&record, format);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < 4 * (2048 + 4 * 512 + 32) + 512, "{} bytes", line.len());
    }
}

#[test]
fn a_path_is_cut_between_characters() {
    let path = "€".repeat(1000);
    let record = Record { path: path.as_bytes(), ..full() };
    let read: serde_json::Value =
        serde_json::from_str(&put(&record, AccessFormat::Json)).expect("JSON");
    assert_eq!(read["path"], "€".repeat(2048 / 3));
}

fn config(to: &Path, sample_per_million: u32) -> AccessLog {
    AccessLog { to: AccessTo::File(to.into()), format: AccessFormat::Text, sample_per_million }
}

#[test]
fn failures_are_always_written_and_successes_by_their_share() {
    for (share, random, success) in [
        (0, 0, false),
        (10_000, 9_999, true),
        (10_000, 10_000, false),
        (10_000, 1_009_999, true),
        (999_999, 999_999, false),
        (1_000_000, 999_999, true),
    ] {
        let log = Log::new(&config(Path::new("unused"), share), 1, Arc::default());
        let pen = Pen::new(Arc::new(log), 0);
        assert_eq!(pen.wants(false, || random), success, "{share} {random}");
        assert!(pen.wants(true, || random), "{share}");
    }
}

#[test]
fn what_nobody_writes_is_dropped_and_counted() {
    let metrics = Arc::new(LogMetrics::default());
    let log = Arc::new(Log::new(&config(Path::new("unused"), 0), 1, Arc::clone(&metrics)));
    let pen = Pen::new(Arc::clone(&log), 0);
    let line = put(&full(), AccessFormat::Text).len() - "7".len() + "-".len();
    let room = u64::try_from(MAX_WAITING.div_ceil(line)).expect("small");
    for _ in 0..room + 10 {
        pen.write(&full());
    }
    let mut bytes = 0;
    log.take(Vec::new(), |piece| bytes += piece.len());
    assert_eq!((metrics.records.get(), metrics.dropped.get()), (room, 10));
    assert!((MAX_WAITING..MAX_WAITING + line).contains(&bytes), "{bytes}");
    pen.write(&full());
    log.take(Vec::new(), |piece| assert_eq!(piece.len(), line));
    assert_eq!(metrics.records.get(), room + 1, "there is room again");
}

/// Waits for a file to have so many lines.
fn lines(path: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "not {count} lines in {path:?}: {text}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_file_is_opened_anew_when_it_was_renamed_and_ends_whole() {
    let folder = std::env::temp_dir().join(format!("portolan-access-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (path, old) = (folder.join("access.log"), folder.join("access.log.1"));
    let metrics = Arc::new(LogMetrics::default());
    let writing = Writing::start(&config(&path, 0), 2, Arc::clone(&metrics)).expect("opened");
    let pens = [0, 1].map(|worker| Pen::new(Arc::clone(&writing.log), worker));
    pens.iter().for_each(|pen| pen.write(&full()));
    lines(&path, 2);
    std::fs::rename(&path, &old).expect("renamed");
    pens[0].write(&full());
    lines(&path, 1);
    lines(&old, 2);
    for _ in 0..100 {
        pens.iter().for_each(|pen| pen.write(&full()));
    }
    writing.finish().await;
    lines(&path, 201);
    assert_eq!((metrics.records.get(), metrics.failures.get()), (203, 0));
    let nowhere = config(&folder.join("no/such/file"), 0);
    assert!(Writing::start(&nowhere, 1, Arc::default()).is_err());
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// Run by hand in release mode: what a record costs a worker.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_record() {
    let agent = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let id = b"0af7651c-d43d-4a65-9c4c-8f3e1b2a7d10";
    let record =
        Record { user_agent: agent, request_id: id, path: b"/api/v1/users/42?a=b", ..full() };
    for format in [AccessFormat::Text, AccessFormat::Json] {
        let config = AccessLog { to: AccessTo::Stdout, format, sample_per_million: 0 };
        let log = Arc::new(Log::new(&config, 1, Arc::default()));
        let pen = Pen::new(Arc::clone(&log), 0);
        let mut spare = Vec::new();
        let mut spent = Duration::ZERO;
        let (rounds, each) = (1_000_u32, 2_000_u32);
        for _ in 0..rounds {
            let start = Instant::now();
            for _ in 0..each {
                pen.write(std::hint::black_box(&record));
            }
            spent += start.elapsed();
            spare = log.take(spare, |_| ());
        }
        println!("{format:?}: {:?} a record", spent / (rounds * each));
    }
}
