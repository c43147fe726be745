//! The objects of a set of manifest files, with the last good version of each kept in force.
//!
//! Pure: file texts in, index operations out. The rules, in the order they are applied:
//! 1. A file that cannot be read or parsed keeps all its last good objects; so do all files of a
//!    folder that cannot be listed.
//! 2. An object that is refused keeps its last good version; the rest of its file is applied.
//! 3. A file with an object that does not say which object it is takes nothing out.
//! 4. An object that stands in two places is in force where it was first (before this reload,
//!    else by path and document); the other one is refused.
//! 5. An object the index refuses (its address is taken) keeps its last good version and is tried
//!    again at every reload.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::convert::{Draft, convert};
use crate::document;
use crate::gateway::status::Status;
use crate::index::Index;
use crate::intern::Interner;
use crate::object::{Decoded, Fault, ObjectId, decode};
use crate::rejection::{Origin, Rejection, Severity};
use crate::report::{Counts, Report};
use crate::view;

/// A file as it was found at a reload.
#[derive(Clone, Debug)]
pub enum FileRead {
    /// As at the reload before.
    Unchanged,
    /// New or changed.
    Text(String),
    /// It cannot be read: the reason.
    Failed(String),
    /// A folder (its path ends in `/`) that cannot be listed: the reason. What was in force from
    /// files below it stays.
    FolderFailed(String),
}

/// All files and what of them is in force.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<Arc<str>, File>,
    /// The file each object is in force from.
    owners: BTreeMap<ObjectId, Arc<str>>,
    /// What the index holds.
    applied: BTreeMap<ObjectId, Arc<Draft>>,
    /// Drafts the index refused, with why.
    refused: BTreeMap<ObjectId, (Arc<Draft>, Fault)>,
    interner: Interner,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectId, Placed>,
    rejections: Vec<Rejection>,
    unused: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Placed {
    origin: Origin,
    draft: Arc<Draft>,
}

impl Manifests {
    /// Takes in the files as they are now and brings the index in line.
    pub fn reload(&mut self, found: BTreeMap<Arc<str>, FileRead>, index: &mut Index) -> Report {
        let unread: Vec<&str> = found
            .iter()
            .filter(|(_, read)| matches!(read, FileRead::FolderFailed(_)))
            .map(|(path, _)| path.trim_start_matches("./"))
            .collect();
        self.files.retain(|path, _| {
            let below = || unread.iter().any(|folder| path.starts_with(folder));
            found.contains_key(path) || (!path.ends_with('/') && below())
        });
        for (path, read) in found {
            let file = self.files.entry(path.clone()).or_default();
            match read {
                FileRead::Unchanged => {}
                FileRead::Text(text) => file.replace(&path, &text, &mut self.interner),
                FileRead::Failed(reason) | FileRead::FolderFailed(reason) => {
                    file.hold(Origin::file(&path), reason);
                }
            }
        }
        let mut rejections = self.choose_owners();
        self.apply(index);
        rejections.extend(self.files.values().flat_map(|f| f.rejections.iter().cloned()));
        rejections.extend(self.refused.iter().filter_map(|(id, (_, fault))| {
            Some(fault.clone().at(self.placed(id)?.origin.clone(), Some(id)))
        }));
        rejections.extend(self.orphans(index));
        rejections.sort();
        self.report(rejections)
    }

    /// Settles which file each object is in force from; returns the duplicates.
    fn choose_owners(&mut self) -> Vec<Rejection> {
        let mut owners: BTreeMap<ObjectId, Arc<str>> = BTreeMap::new();
        for (id, path) in &self.owners {
            if self.files.get(path).is_some_and(|f| f.objects.contains_key(id)) {
                owners.insert(id.clone(), path.clone());
            }
        }
        let mut duplicates = Vec::new();
        for (path, file) in &self.files {
            for (id, placed) in &file.objects {
                match owners.entry(id.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(path.clone());
                    }
                    Entry::Occupied(entry) if entry.get() == path => {}
                    Entry::Occupied(entry) => {
                        let first = self.files[entry.get()].objects[id].origin.clone();
                        duplicates.push(duplicate(placed.origin.clone(), id, &first));
                    }
                }
            }
        }
        self.owners = owners;
        duplicates
    }

    /// Makes the index hold what is wanted: what left is taken out first, then services, then
    /// slices; a service whose address was given up by another one in the same reload gets it.
    fn apply(&mut self, index: &mut Index) {
        self.refused.clear();
        let owners = &self.owners;
        let gone: Vec<ObjectId> =
            self.applied.keys().filter(|id| !owners.contains_key(id)).cloned().collect();
        for id in gone {
            if let Some(draft) = self.applied.remove(&id) {
                index.delete(&draft);
            }
        }
        let mut pending = self.pending();
        loop {
            let before = pending.len();
            pending.retain(|(id, draft)| match self.apply_one(id, draft, index) {
                Ok(()) => false,
                Err(fault) => {
                    self.refused.insert(id.clone(), (draft.clone(), fault));
                    true
                }
            });
            if pending.is_empty() || pending.len() == before {
                return;
            }
            for (id, _) in &pending {
                self.refused.remove(id);
            }
        }
    }

    /// What is wanted and not yet in the index: named addresses before those to be found.
    fn pending(&self) -> Vec<(ObjectId, Arc<Draft>)> {
        let mut pending: Vec<(ObjectId, Arc<Draft>)> = self
            .owners
            .iter()
            .filter_map(|(id, path)| {
                let draft = &self.files.get(path)?.objects.get(id)?.draft;
                let same = self.applied.get(id).is_some_and(|a| Arc::ptr_eq(a, draft));
                (!same).then(|| (id.clone(), draft.clone()))
            })
            .collect();
        pending.sort_by_key(|(id, draft)| (id.kind, !names_addresses(draft)));
        pending
    }

    fn apply_one(
        &mut self,
        id: &ObjectId,
        draft: &Arc<Draft>,
        index: &mut Index,
    ) -> Result<(), Fault> {
        index.apply(self.applied.get(id).map(|old| &**old), draft)?;
        self.applied.insert(id.clone(), draft.clone());
        self.refused.remove(id);
        Ok(())
    }

    fn placed(&self, id: &ObjectId) -> Option<&Placed> {
        self.files.get(self.owners.get(id)?)?.objects.get(id)
    }

    /// Slices of services that do not exist: kept, and said.
    fn orphans(&self, index: &Index) -> Vec<Rejection> {
        let orphan = |(id, draft): (&ObjectId, &Arc<Draft>)| {
            let Draft::Slice(slice) = &**draft else { return None };
            if index.has_service(&slice.service) {
                return None;
            }
            let field = format!("metadata.labels[{}]", crate::convert::slice::SERVICE_NAME_LABEL);
            let reason = format!("there is no service {}", slice.service);
            Some(Fault::warning(field, reason).at(self.placed(id)?.origin.clone(), Some(id)))
        };
        self.applied.iter().filter_map(orphan).collect()
    }

    /// What of the Gateway API is not in force as it is written.
    pub(crate) fn not_in_force(&self, statuses: &[Status]) -> Vec<Rejection> {
        let found = view::not_in_force(statuses).into_iter();
        found
            .filter_map(|(status, condition)| {
                let origin = self.placed(&status.id)?.origin.clone();
                let reason = format!("{} ({})", condition.message, condition.reason);
                let fault = Fault { field: None, reason, severity: Severity::Warning };
                Some(fault.at(origin, Some(&status.id)))
            })
            .collect()
    }

    fn report(&self, rejections: Vec<Rejection>) -> Report {
        let mut unused: BTreeMap<String, usize> = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|f| &f.unused) {
            *unused.entry(kind.clone()).or_default() += count;
        }
        let mut objects = Counts::default();
        for id in self.applied.keys() {
            objects.add(id.kind, 1);
        }
        Report { objects, unused, rejections, ..Report::default() }
    }
}

impl File {
    /// Keeps everything as it was and says why.
    fn hold(&mut self, origin: Origin, reason: String) {
        let severity = Severity::Rejected;
        let (object, field, subject) = (None, None, None);
        self.rejections = vec![Rejection { origin, object, field, reason, severity, subject }];
    }

    fn replace(&mut self, path: &Arc<str>, text: &str, interner: &mut Interner) {
        let documents = match document::parse(text) {
            Ok(documents) => documents,
            Err(error) => {
                let origin = Origin { document: Some(error.document), ..Origin::file(path) };
                self.hold(origin, error.reason);
                return;
            }
        };
        let old = std::mem::take(self);
        let mut keep = BTreeSet::new();
        let mut keep_all = false;
        for document in documents {
            let origin = Origin {
                file: path.clone(),
                document: Some(document.document),
                item: document.item,
            };
            match decode(&document.value) {
                Decoded::Unused(kind) => *self.unused.entry(kind).or_default() += 1,
                Decoded::Refused(id, fault) => {
                    keep_all |= id.is_none();
                    keep.extend(id.clone());
                    self.rejections.push(fault.at(origin, id.as_ref()));
                }
                Decoded::Object(id, object, unknown) => match convert(&object) {
                    Ok((draft, faults)) => {
                        for fault in unknown.into_iter().chain(faults) {
                            self.rejections.push(fault.at(origin.clone(), Some(&id)));
                        }
                        let draft = Arc::new(interner.draft(draft));
                        self.place(id, Placed { origin, draft }, &old);
                    }
                    Err(fault) => {
                        // A name that cannot be one says as little as none.
                        let names = ["metadata.name", "metadata.namespace"];
                        keep_all |= fault.field.as_deref().is_some_and(|f| names.contains(&f));
                        keep.insert(id.clone());
                        self.rejections.push(fault.at(origin, Some(&id)));
                    }
                },
            }
        }
        for (id, placed) in old.objects {
            if keep_all || keep.contains(&id) {
                self.objects.entry(id).or_insert(placed);
            }
        }
    }

    /// Puts an object in force unless the file has it already. An object that did not change
    /// keeps its old value, so that the index need not look at it again.
    fn place(&mut self, id: ObjectId, mut placed: Placed, old: &Self) {
        if let Some(before) = old.objects.get(&id)
            && before.draft == placed.draft
        {
            placed.draft = before.draft.clone();
        }
        match self.objects.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(placed);
            }
            Entry::Occupied(entry) => {
                let first = entry.get().origin.clone();
                let rejection = duplicate(placed.origin, entry.key(), &first);
                self.rejections.push(rejection);
            }
        }
    }
}

impl Fault {
    pub(crate) fn at(self, origin: Origin, id: Option<&ObjectId>) -> Rejection {
        Rejection {
            origin,
            object: id.map(ToString::to_string),
            field: self.field,
            reason: self.reason,
            severity: self.severity,
            subject: None,
        }
    }
}

fn names_addresses(draft: &Draft) -> bool {
    use crate::convert::{AddressRequest, KindDraft};
    matches!(
        draft,
        Draft::Service(service)
            if matches!(service.kind, KindDraft::ClusterIp(AddressRequest::Named(_)))
    )
}

fn duplicate(origin: Origin, id: &ObjectId, first: &Origin) -> Rejection {
    let reason = format!("duplicate: in force from {first}");
    Fault { field: None, reason, severity: Severity::Rejected }.at(origin, Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::ServiceRanges;
    use portolan_model::ServiceKey;

    struct World {
        manifests: Manifests,
        index: Index,
    }

    impl World {
        fn new() -> Self {
            let range = "10.96.0.0/16".parse().expect("a range");
            let ranges = ServiceRanges::new(vec![range]).expect("valid");
            Self { manifests: Manifests::default(), index: Index::new(ranges) }
        }

        fn reload(&mut self, files: &[(&str, FileRead)]) -> (Report, Vec<String>) {
            let found = files.iter().map(|(p, r)| ((*p).into(), r.clone())).collect();
            let report = self.manifests.reload(found, &mut self.index);
            let (_, touched) = self.index.commit();
            (report, touched.iter().map(ToString::to_string).collect())
        }

        fn has(&self, name: &str) -> bool {
            self.index.has_service(&ServiceKey::new("shop", name).expect("valid"))
        }
    }

    fn service(name: &str, ip: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: {ip:?}, ports: [{{port: 80}}]}}\n"
        )
    }

    fn text(parts: &[String]) -> FileRead {
        FileRead::Text(parts.concat())
    }

    fn reasons(report: &Report) -> Vec<String> {
        report.rejections.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_that_cannot_be_parsed_keeps_all_its_objects() {
        let mut world = World::new();
        world.reload(&[("a.yaml", text(&[service("web", ""), service("api", "")]))]);
        let broken = FileRead::Text("kind: [".to_owned());
        let (report, touched) = world.reload(&[("a.yaml", broken)]);
        assert!(touched.is_empty(), "{touched:?}");
        assert!(world.has("web") && world.has("api"));
        assert_eq!(report.rejections.len(), 1);
        let failed = FileRead::Failed("cannot be read: gone".to_owned());
        let (report, touched) = world.reload(&[("a.yaml", failed)]);
        assert!(touched.is_empty(), "{touched:?}");
        assert_eq!(reasons(&report), ["a.yaml: cannot be read: gone"]);
    }

    #[test]
    fn a_folder_that_cannot_be_listed_takes_nothing_out() {
        let mut world = World::new();
        world.reload(&[("x/a.yaml", text(&[service("web", "")]))]);
        let failed = FileRead::FolderFailed("folder cannot be read: gone".to_owned());
        for folder in ["x/", "./"] {
            let (report, touched) = world.reload(&[(folder, failed.clone())]);
            assert!(touched.is_empty(), "{touched:?}");
            assert_eq!(reasons(&report), [format!("{folder}: folder cannot be read: gone")]);
        }
        let (_, touched) = world.reload(&[]);
        assert_eq!(touched, ["shop/web"]);
    }

    #[test]
    fn a_refused_object_stays_as_it_was_while_the_rest_of_its_file_moves_on() {
        let mut world = World::new();
        world.reload(&[("a.yaml", text(&[service("web", ""), service("old", "")]))]);
        let bad = service("web", "").replace("80", "0");
        let (report, touched) = world.reload(&[("a.yaml", text(&[bad, service("new", "")]))]);
        assert_eq!(touched, ["shop/new", "shop/old"]);
        assert!(world.has("web") && world.has("new") && !world.has("old"));
        assert_eq!(
            reasons(&report),
            ["a.yaml, document 1: Service shop/web: spec.ports[0].port: 0 is not in 1..=65535"]
        );
    }

    #[test]
    fn an_object_without_a_name_lets_nothing_be_taken_out_of_its_file() {
        let mut world = World::new();
        world.reload(&[("a.yaml", text(&[service("web", ""), service("api", "")]))]);
        let nameless = service("web", "").replace("name:", "nmae:");
        let (_, touched) = world.reload(&[("a.yaml", text(&[nameless, service("new", "")]))]);
        assert_eq!(touched, ["shop/new"]);
        assert!(world.has("web") && world.has("api"));
    }

    #[test]
    fn a_duplicate_is_refused_and_takes_over_once_the_first_is_gone() {
        let mut world = World::new();
        let b = ("b.yaml", text(&[service("web", "10.96.0.2")]));
        world.reload(std::slice::from_ref(&b));
        let a = ("a.yaml", text(&[service("web", "10.96.0.1")]));
        let (report, touched) = world.reload(&[a, ("b.yaml", FileRead::Unchanged)]);
        assert!(touched.is_empty(), "what was in force first stays: {touched:?}");
        assert_eq!(
            reasons(&report),
            ["a.yaml, document 1: Service shop/web: duplicate: in force from b.yaml, document 1"]
        );
        let (report, touched) = world.reload(&[("a.yaml", FileRead::Unchanged)]);
        assert_eq!(touched, ["shop/web"]);
        assert!(report.rejections.is_empty());
    }

    #[test]
    fn an_address_given_up_in_the_same_reload_can_be_taken() {
        let mut world = World::new();
        world.reload(&[("a.yaml", text(&[service("a", "10.96.0.1"), service("b", "10.96.0.2")]))]);
        let moved = text(&[service("a", "10.96.0.2"), service("b", "10.96.0.3")]);
        let (report, touched) = world.reload(&[("a.yaml", moved)]);
        assert!(report.rejections.is_empty(), "{:?}", reasons(&report));
        assert_eq!(touched, ["shop/a", "shop/b"]);
    }

    #[test]
    fn an_address_that_is_taken_is_tried_again_once_it_is_free() {
        let mut world = World::new();
        let a = ("a.yaml", text(&[service("a", "10.96.0.1")]));
        let b = ("b.yaml", text(&[service("b", "10.96.0.1")]));
        let (report, _) = world.reload(&[a, b]);
        assert_eq!(
            reasons(&report),
            ["b.yaml, document 1: Service shop/b: spec.clusterIP: 10.96.0.1 is taken by service \
              shop/a"]
        );
        let (report, touched) = world.reload(&[("b.yaml", FileRead::Unchanged)]);
        assert!(report.rejections.is_empty());
        assert_eq!(touched, ["shop/a", "shop/b"]);
    }
}
