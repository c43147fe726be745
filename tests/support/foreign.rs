//! Programs that are not ours, as clients. A test whose program is missing is skipped and, with
//! `CI=true`, fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program of the system, where it is installed.
pub(crate) fn program(name: &str) -> Option<Command> {
    // What it says of `-V` is no matter.
    match Command::new(name).arg("-V").output() {
        Ok(_ran) => Some(Command::new(name)),
        Err(error) => skip(&format!("{name}: {error}")),
    }
}

/// Says that a test is skipped for want of something.
fn skip<T>(missing: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    println!("skipped: {missing}");
    None
}

/// Whether `tests/interop/setup.sh` has made the peer of this language.
pub(crate) fn peer(language: &str) -> Option<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = root.join(format!("target/interop-{language}/installed.txt"));
    if made.is_file() {
        return Some(());
    }
    skip(&format!("{}: not there; run tests/interop/setup.sh", made.display()))
}

/// The interpreter of `tests/interop/setup.sh` where it has these modules.
pub(crate) fn python(modules: &[&str]) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("PORTOLAN_INTEROP_PYTHON")
        .map_or_else(|| root.join("target/interop-venv/bin/python"), PathBuf::from);
    let command = || {
        let mut command = Command::new(&path);
        command.current_dir(root);
        command
    };
    // Isolated from the folder it runs in and from the caller's PYTHON variables.
    let probe = command().args(["-I", "-c", &format!("import {}", modules.join(", "))]).output();
    let missing = match probe {
        Ok(output) if output.status.success() => return Some(command()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(&format!("{}: {missing}; run tests/interop/setup.sh", path.display()))
}

/// Runs it to a good end; what it printed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {said}{}", String::from_utf8_lossy(&stdout));
    stdout
}
