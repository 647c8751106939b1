//! Reading what people write: fields of a document with their types, every misfit reported with its line.

mod reader;

pub use reader::{Broken, Reader};
