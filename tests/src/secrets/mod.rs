//! Made-up secrets and what looks like them, for `guardctl scan`.

pub mod chance;
pub mod corpus;
mod filler;
pub mod kinds;
pub mod made;
mod wrap;
