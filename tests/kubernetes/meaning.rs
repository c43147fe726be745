//! What each field means: one table of cases, over both sources, manifests and the API.
