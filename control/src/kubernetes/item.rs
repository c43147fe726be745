//! An object as the API server sends it, converted while it is read: nothing of it that is not
//! used outlives its own parsing, and one that cannot be read spoils nobody else's list.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::convert::{Draft, convert};
use crate::object::{Fault, Kind, ObjectId, decode_served};

/// A kind as a type, for kube's typed API.
pub(super) trait Watched: Send + Sync + 'static {
    const KIND: Kind;
}

/// Makes one type per kind.
macro_rules! watched {
    ($($name:ident),*) => {$(
        #[derive(Debug)]
        pub(super) enum $name {}
        impl Watched for $name {
            const KIND: Kind = Kind::$name;
        }
    )*};
}

watched!(Namespace, Node, Pod, Service, ServiceImport, EndpointSlice);
watched!(GatewayClass, Gateway, HttpRoute, GrpcRoute, TcpRoute, TlsRoute, ReferenceGrant);
watched!(BackendTlsPolicy, AccessPolicy, Secret, ConfigMap);

/// What became of an object.
#[derive(Clone, Debug)]
pub struct Read {
    /// Which object.
    pub id: ObjectId,
    /// Its `metadata.uid`.
    pub uid: Option<String>,
    /// Its draft with the settings of it that are not in force, `None` when it concerns us no more
    /// than an object that is not there, or why it is refused.
    pub outcome: Result<Option<(Draft, Vec<Fault>)>, Fault>,
}

/// An object of the API.
pub(super) struct Item<K> {
    /// Name, namespace and resource version, and nothing else.
    meta: ObjectMeta,
    read: Read,
    kind: PhantomData<K>,
}

impl<K: Watched> Item<K> {
    pub(super) fn into_read(self) -> Read {
        self.read
    }

    fn new(value: &Value) -> Self {
        let text = |name: &str| {
            let found = value.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str);
            found.map(str::to_owned)
        };
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        let id = ObjectId {
            kind: K::KIND,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let outcome = decode_served(K::KIND, value).and_then(|object| {
            if object.is_nobodys() { Ok(None) } else { convert(&object).map(Some) }
        });
        let uid = text("uid");
        Self { meta, read: Read { id, uid, outcome }, kind: PhantomData }
    }
}

impl<'de, K: Watched> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::new(&value))
    }
}

impl<K> Clone for Item<K> {
    fn clone(&self) -> Self {
        Self { meta: self.meta.clone(), read: self.read.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Item<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read.fmt(f)
    }
}

impl<K: Watched> Resource for Item<K> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.as_str().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::KIND.group_version().0.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::KIND.group_version().1.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::KIND.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
