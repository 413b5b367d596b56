//! How each customer's connection is: a fold of the events that tell it, published in a compacted topic.
//!
//! [`status`] folds; the sink in [`crate::sink`] writes; [`list`] looks from outside.

mod labels;
pub mod list;
pub mod status;

pub use self::labels::Labels;
pub use self::status::{Standing, Teller, Told};

/// The key of the record by which a partition of the topic says how far it is and whose it is. No connection has it:
/// a source's name has no colon.
pub const FENCE_KEY: &str = "hookline:fence";
