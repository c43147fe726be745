//! The folder source on a real file system: how files change under it in practice.

use std::path::Path;
use std::time::{Duration, Instant};

use portolan_control::report::{ControlMetrics, Reports};
use portolan_control::{Folder, ServiceRanges};
use portolan_model::ServiceKey;
use portolan_runtime::{Lifecycle, Metrics, Readiness, Subscriber, publish};

const PATIENCE: Duration = Duration::from_secs(20);

fn manifest(names: &[&str]) -> String {
    let one = |name: &&str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    names.iter().map(one).collect()
}

fn ranges() -> ServiceRanges {
    ServiceRanges::new(vec!["10.96.0.0/16".parse().expect("a range")]).expect("valid")
}

/// A control loop on a folder.
struct Running {
    subscriber: Subscriber,
    lifecycle: Lifecycle,
    task: tokio::task::JoinSet<()>,
}

impl Running {
    fn on(path: &Path) -> Self {
        let metrics = Metrics::new();
        let lifecycle = Lifecycle::new();
        let gate = Readiness::new(lifecycle.clone(), &metrics).gate("control");
        let own = ControlMetrics::new(&metrics);
        let folder = Folder::open(path, ranges(), Reports::default(), own).expect("opened");
        let (publisher, subscriber) = publish::channel();
        let mut task = tokio::task::JoinSet::new();
        let run = folder.run(publisher, gate, lifecycle.clone());
        task.spawn(async move { run.await.expect("ends well") });
        Self { subscriber, lifecycle, task }
    }

    /// Waits until exactly these services are published.
    async fn expect(&mut self, names: &[&str]) {
        let wanted: Vec<ServiceKey> =
            names.iter().map(|n| ServiceKey::new("shop", n).expect("valid")).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.subscriber.newest();
            if snapshot.generation().0 > 0 && snapshot.services().map(|(k, _)| k).eq(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "wanted {wanted:?}, there is {snapshot:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self) {
        self.lifecycle.drain();
        while let Some(ended) = self.task.join_next().await {
            ended.expect("no panic");
        }
    }
}

#[tokio::test]
async fn files_that_come_change_move_and_go_are_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.yaml"), manifest(&["one"])).expect("written");
    let mut running = Running::on(folder.path());
    running.expect(&["one"]).await;
    std::fs::write(at("b.yaml"), manifest(&["two"])).expect("written");
    running.expect(&["one", "two"]).await;
    // An object that moves from one file to another never goes away.
    std::fs::write(at("b.yaml"), manifest(&["one", "two"])).expect("written");
    std::fs::write(at("a.yaml"), manifest(&["three"])).expect("written");
    running.expect(&["one", "three", "two"]).await;
    std::fs::rename(at("b.yaml"), at("c.yaml")).expect("renamed");
    std::fs::create_dir(at("more")).expect("made");
    std::fs::write(at("more/d.json"), "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[]}")
        .expect("written");
    std::fs::write(at("more/e.yml"), manifest(&["four"])).expect("written");
    std::fs::write(at(".hidden.yaml"), manifest(&["hidden"])).expect("written");
    std::fs::write(at("notes.txt"), "no manifest").expect("written");
    running.expect(&["four", "one", "three", "two"]).await;
    std::fs::remove_file(at("a.yaml")).expect("removed");
    running.expect(&["four", "one", "two"]).await;
    running.end().await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let link = |to: &str, path: &Path| std::os::unix::fs::symlink(to, path);
    std::fs::create_dir(at("..v1")).expect("made");
    std::fs::write(at("..v1/web.yaml"), manifest(&["one"])).expect("written");
    link("..v1", &at("..data")).expect("linked");
    link("..data/web.yaml", &at("web.yaml")).expect("linked");
    let mut running = Running::on(folder.path());
    running.expect(&["one"]).await;
    // As the kubelet does it: a new folder, then one rename.
    std::fs::create_dir(at("..v2")).expect("made");
    std::fs::write(at("..v2/web.yaml"), manifest(&["two"])).expect("written");
    link("..v2", &at("..data_tmp")).expect("linked");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
    running.expect(&["two"]).await;
    running.end().await;
}

#[tokio::test]
async fn a_folder_that_is_moved_away_takes_nothing_out_and_its_successor_is_followed() {
    let parent = tempfile::tempdir().expect("a folder");
    let at = |name: &str| parent.path().join(name);
    std::fs::create_dir(at("m")).expect("made");
    std::fs::write(at("m/web.yaml"), manifest(&["one"])).expect("written");
    let mut running = Running::on(&at("m"));
    running.expect(&["one"]).await;
    std::fs::rename(at("m"), at("old")).expect("moved");
    // Twice the time in which it is looked at without an event.
    tokio::time::sleep(Duration::from_secs(6)).await;
    running.expect(&["one"]).await;
    std::fs::create_dir(at("next")).expect("made");
    std::fs::write(at("next/web.yaml"), manifest(&["two"])).expect("written");
    std::fs::rename(at("next"), at("m")).expect("moved");
    running.expect(&["two"]).await;
    std::fs::write(at("m/web.yaml"), manifest(&["three"])).expect("written");
    running.expect(&["three"]).await;
    running.end().await;
}

#[tokio::test]
async fn a_single_file_is_followed_when_another_is_renamed_over_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("web.yaml"), manifest(&["one"])).expect("written");
    std::fs::write(at("beside.yaml"), manifest(&["beside"])).expect("written");
    let mut running = Running::on(&at("web.yaml"));
    running.expect(&["one"]).await;
    std::fs::write(at("draft"), manifest(&["two"])).expect("written");
    std::fs::rename(at("draft"), at("web.yaml")).expect("renamed");
    running.expect(&["two"]).await;
    running.end().await;
}
