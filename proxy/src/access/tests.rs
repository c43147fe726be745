//! Records as bytes, and what happens to them on their way.
