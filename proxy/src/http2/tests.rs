//! The engine as a whole: against itself, against another implementation, cut and mutated.

mod bench;
mod cases;
mod endings;
mod interop;
mod limits;
mod random;
mod selfmade;
mod spec;
