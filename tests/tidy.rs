//! Rules about the project itself: the import star, file sizes, and what may not stand in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates of ours that each crate may use. What is not listed may use none.
const STAR: &[(&str, &[&str])] = &[
    ("portolan-model", &[]),
    ("portolan-proto", &[]),
    ("portolan-runtime", &["portolan-model"]),
    ("portolan-control", &["portolan-model", "portolan-runtime"]),
    ("portolan-dns", &["portolan-model", "portolan-runtime"]),
    ("portolan-proxy", &["portolan-model", "portolan-runtime"]),
    ("portolan-xds", &["portolan-model", "portolan-runtime", "portolan-proto"]),
    // For users' own programs: nothing of the product's inside.
    ("portolan-client", &["portolan-proto"]),
    ("portolan-backends", &["portolan-runtime", "portolan-proto"]),
    (
        "portolan",
        &[
            "portolan-model",
            "portolan-runtime",
            "portolan-control",
            "portolan-dns",
            "portolan-xds",
            "portolan-proxy",
            "portolan-backends",
        ],
    ),
];

/// Libraries that only some crates may know. The demo's backends are servers and a client of
/// their own, apart from the product.
const KNOWN_BY: &[(&str, &[&str])] = &[
    ("kube", &["portolan-control"]),
    ("k8s-openapi", &["portolan-control"]),
    ("hickory-proto", &["portolan-dns"]),
    ("hickory-server", &["portolan-dns"]),
    ("tonic", &["portolan-xds", "portolan-proto", "portolan-client", "portolan-backends"]),
    ("prost", &["portolan-xds", "portolan-proto", "portolan-backends"]),
    ("envoy-types", &["portolan-proto"]),
    ("hyper", &["portolan-backends"]),
    ("h2", &["portolan-proxy", "portolan-dns"]),
    ("quinn", &["portolan-dns"]),
    ("anyhow", &["portolan"]),
];

/// Crates that must stay free of I/O and of any runtime.
const PURE: &[&str] = &["portolan-model"];
const IMPURE: &[&str] = &["tokio", "tokio-util", "socket2", "libc", "notify", "hyper", "axum"];

/// Licences that a dependency may be under; the same list stands in deny.toml.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Zlib",
];
/// Crates that are not to be used, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "TLS is rustls"),
    ("openssl-sys", "TLS is rustls"),
    ("serde_yaml", "no longer maintained"),
];

/// The only files with `unsafe` code: the system calls.
const UNSAFE_FILES: &[&str] = &["dns/src/udp/sys.rs", "proxy/src/splice/sys.rs"];
/// Longest source file, in lines, its unit tests apart.
const MAX_LINES: usize = 420;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(args)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Direct dependencies (not those for tests or builds) of each crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps", "--offline"]);
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let direct = package["dependencies"].as_array().expect("dependencies");
            let names = direct
                .iter()
                .filter(|d| d["kind"].is_null())
                .map(|d| d["name"].as_str().expect("a name").to_owned());
            (package["name"].as_str().expect("a name").to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn the_crates_form_a_star_around_the_model() {
    let dependencies = dependencies();
    let listed: BTreeSet<&str> = STAR.iter().map(|(name, _)| *name).collect();
    let actual: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(listed, actual, "every crate has its place in the star");
    for (name, allowed) in STAR {
        let ours = dependencies[*name].iter().filter(|d| d.starts_with("portolan"));
        for dependency in ours {
            assert!(allowed.contains(&dependency.as_str()), "{name} may not use {dependency}");
        }
    }
}

#[test]
fn each_library_is_known_only_where_it_belongs() {
    for (name, direct) in dependencies() {
        for (library, crates) in KNOWN_BY {
            let fine = !direct.contains(*library) || crates.contains(&name.as_str());
            assert!(fine, "{name} may not know {library}");
        }
        if PURE.contains(&name.as_str()) {
            let impure = IMPURE.iter().find(|i| direct.contains(**i));
            assert_eq!(impure, None, "{name} is to stay pure");
        }
    }
}

/// Whether a licence expression (SPDX) can be met with the licences allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (allowed, rest) = any_of(&words);
    assert!(rest.is_empty(), "{expression}: not understood from {rest:?}");
    allowed
}

fn any_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut allowed, mut rest) = all_of(words);
    while let ["OR", after @ ..] = rest {
        let (other, left) = all_of(after);
        (allowed, rest) = (allowed || other, left);
    }
    (allowed, rest)
}

fn all_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut allowed, mut rest) = licence(words);
    while let ["AND", after @ ..] = rest {
        let (other, left) = licence(after);
        (allowed, rest) = (allowed && other, left);
    }
    (allowed, rest)
}

fn licence<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match any_of(inner) {
            (allowed, [")", rest @ ..]) => (allowed, rest),
            (_, rest) => panic!("a parenthesis is not closed before {rest:?}"),
        },
        [name, "WITH", exception, rest @ ..] => {
            (LICENCES.contains(&format!("{name} WITH {exception}").as_str()), rest)
        }
        [name, rest @ ..] => (LICENCES.contains(name), rest),
        [] => panic!("a licence is missing"),
    }
}

#[test]
fn dependencies_have_a_licence_a_source_and_no_ban() {
    assert!(is_allowed("(MIT OR Nope) AND Zlib") && !is_allowed("MIT AND (Nope OR GPL-3.0)"));
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let packages = metadata["packages"].as_array().expect("packages");
    let mut foreign = 0;
    for package in packages.iter().filter(|p| !p["source"].is_null()) {
        let name = package["name"].as_str().expect("a name");
        let source = package["source"].as_str().expect("a source");
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name}: no licence"));
        assert!(is_allowed(licence), "{name} is under {licence}");
        let banned = BANNED.iter().find(|(banned, _)| *banned == name);
        assert_eq!(banned, None, "{name} is banned");
        foreign += 1;
    }
    assert!(foreign > 100, "only {foreign} dependencies were looked at");
}

#[test]
fn source_files_are_rooms_and_say_what_they_own() {
    let mut seen = 0;
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        assert!(text.starts_with("//!") || name == "proto/build.rs", "{name} starts with //!");
        let body = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = body.lines().count();
        let is_test = name.contains("/tests/") || name.starts_with("tests/");
        assert!(is_test || lines <= MAX_LINES, "{name} has {lines} lines: split it");
        assert!(!name.ends_with("/mod.rs") || is_test, "{name}: name.rs stands beside name/");
        for word in ["utils.rs", "common.rs", "helpers.rs", "manager.rs"] {
            assert!(!name.ends_with(word), "{name}: a room without an owner");
        }
        let is_unsafe = text.contains("unsafe {") || text.contains("unsafe fn");
        let allowed = UNSAFE_FILES.contains(&name.as_str());
        assert!(!is_unsafe || allowed || name == "tests/tidy.rs", "{name} holds unsafe code");
        seen += 1;
    }
    assert!(seen > 60, "only {seen} files were looked at");
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "src", "model", "runtime", "control", "dns", "xds", "proxy", "proto", "client", "tests",
        "benches", "examples",
    ]
    .iter()
    .map(|f| root().join(f))
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}
